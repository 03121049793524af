# The scripts for EC2: against the real aws command with Amazon left out, and the user data in the booted machine. Sourced
# by systemd/test.sh.

awscli_version=1.45.11

test_ec2() {
    check "the aws command is there, version $awscli_version" aws_installs
    local instances
    for instances in 7 3; do
        check "launch.sh up with $instances instances: aws takes every option, the account is as docs/ec2.md says" launches $instances
        check "the user data of each, in the machine: a store with a first buy" nodes_run $instances
    done
    check "launch.sh down: nothing is left in the account" lands
    check "launch.sh up that fails half way says so, and down takes away what there was" fails_half_way
    check "launch.sh says what is wrong with its arguments" launch_refuses
    check "docs/ec2.md names the settings and commands that there are" ec2_page
}

aws_installs() {
    /usr/bin/python3 -m venv "$work/aws"
    "$work/aws/bin/pip" install --quiet --disable-pip-version-check "awscli==$awscli_version"
    # In the place of aws, for the scripts: the same, with the account of this test.
    mkdir "$work/bin"
    printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$work/aws/bin/python" "$PWD/$here/ec2/aws.py" >"$work/bin/aws"
    chmod +x "$work/bin/aws"
}

launch() {
    env -i PATH="$work/bin:/usr/sbin:/usr/bin:/sbin:/bin" HOME="$work" TMPDIR="$work" AWS_ACCOUNT="$work/account" AWS_DEFAULT_REGION=eu-central-1 \
        AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_EC2_METADATA_DISABLED=true AWS_REFUSES="${refused:-}" systemd/ec2/launch.sh "$@"
}

launches() { # instances
    rm -f "$work/account"
    local deb=$work/quire_$version-1_amd64.deb
    want "what it says" "$(launch up "$1" "$deb")" "http://203.0.113.7:5004"
    /usr/bin/python3 $here/ec2/story.py "$work/account" "$1" "$(sha256sum "$deb" | cut -d' ' -f1)"
    note "$(grep -c '"operation"' "$work/account") calls"
}

# Every instance's first boot, one after the other in the one machine, which has all of their addresses.
nodes_run() { # instances
    local number init begin=$EPOCHREALTIME
    /usr/bin/python3 $here/ec2/story.py "$work/account" "$work/machine/root"
    init=$(pgrep -P "$(cat "$work/machine.pid")" | head -n 1)
    inside ip link set lo up
    for number in 169.254.169.254 10.77.{1,2,3}.{11,21,31}; do inside ip address replace "$number/32" dev lo; done
    nsenter --target "$init" --net /usr/bin/python3 $here/ec2/metadata.py "$work/account" "$work/current" "$work/quire_$version-1_amd64.deb" 80 &
    metadata=$!
    trap 'kill $metadata' EXIT # of the check
    for ((number = 0; number < $1; number++)); do
        echo $number >"$work/current"
        # The metadata service is there before an instance boots; here it may need another moment.
        [ $number != 0 ] || until_true 10 inside curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token
        # cloud-init runs user data with next to no environment.
        inside bash "/root/user-data-$number"
    done
    if [ "$1" = 7 ]; then front=http://10.77.1.31:5004; else front=http://10.77.1.11:5004; fi
    until_true 20 buy first-on-ec2
    each_unit active
    want "who may read what there is" "$(inside curl -s "$front/orders/1" | grep -o '"key":"[^"]*"')" '"key":"first-on-ec2"'
    note "first buy $(awk "BEGIN { printf \"%.1f\", $EPOCHREALTIME - $begin }") s after the first instance's boot"
    # What an instance listens to is at its own private address.
    want "ports that are open elsewhere" "$(inside ss -Hltn | awk '{ print $4 }' | grep -v -e '^10\.77\.' -e '^169\.254\.' || true)" ""
    # Again, as after `cloud-init clean`: nothing changes, nothing breaks.
    inside bash "/root/user-data-$((number - 1))"
    until_true 20 buy second-on-ec2
    inside apt-get purge -y quire
}

lands() {
    launch down
    want "what is left" "$(/usr/bin/python3 -c 'import json, sys; left = json.load(open(sys.argv[1])); print(left["things"], left["buckets"])' "$work/account")" "{} {}"
}

fails_half_way() {
    rm -f "$work/account"
    local code=0
    refused=CreateSecurityGroup launch up 7 "$work/quire_$version-1_amd64.deb" >"$work/answer" 2>&1 || code=$?
    want "whether it failed" "$((code != 0))" 1
    grep -q 'launch.sh down" takes away' "$work/answer" || { cat "$work/answer"; return 1; }
    lands
}

launch_refuses() {
    local code=0
    launch up 7 "$work/no.deb" >"$work/answer" 2>&1 || code=$?
    want "exit code without a package" $code 66
    code=0
    launch up 5 "$work/quire_$version-1_amd64.deb" >"$work/answer" 2>&1 || code=$?
    want "exit code with five instances" "$code $(cat "$work/answer")" "64 launch.sh: '5' instances; wanted 7 or 3"
    launch down >/dev/null
}

ec2_page() {
    local page=docs/ec2.md word
    for word in QUIRE_STORE QUIRE_INSTANCE_TYPE QUIRE_IMAGE quire-daemons quire-catalogs quire-orders; do
        grep -q "$word" $page && grep -q "$word" systemd/ec2/*.sh || { echo "$word is not in the page or in no script"; return 1; }
    done
    commands_of $page "From nothing to the first buy" | grep -o 'systemd/[a-z0-9/_-]*\.sh' | while read -r word; do
        [ -x "$word" ] || { echo "the page names $word, which is not there"; return 1; }
    done
    # The aws commands that the page shows are ones that aws takes: asked for help on them, it knows each option.
    grep -o '^\$ aws .*' $page | cut -c3- >"$work/commands"
    rm -f "$work/account"
    while read -r word; do
        AWS_ACCOUNT="$work/account" AWS_DEFAULT_REGION=eu-central-1 AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test \
            PATH="$work/bin:$PATH" bash -c "$word" >"$work/answer" 2>&1 || { echo "$word"; cat "$work/answer"; return 1; }
    done <"$work/commands"
}
