# The package by itself, and the units in a machine that has it installed. Sourced by systemd/test.sh.

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
exposure_max=1.5

test_package() {
    check "the scripts are sound (shellcheck)" scripts_are_sound
    check "systemd/package.sh builds the package" package_builds
    check "it has what belongs there, as root's, and nothing that may be written by others" package_is_whole
    check "a Debian machine is made" machine_make
    check "where systemd does not run (a chroot, an image that is being built) it installs and goes" installs_in_chroot
    check "it boots" machine_boot
    check "docs/systemd.md, Install: without a network" package_installs
    check "systemd-analyze verify finds nothing" units_verify
    check "systemd-analyze security: exposure at most $exposure_max" units_are_hardened
    check "one_host.sh, and the sample settings, are accepted by the daemons" samples_are_accepted
}

scripts_are_sound() {
    # What is sourced sees the variables of others: SC2034, SC2154.
    shellcheck --severity=warning --exclude=SC1090,SC2034 systemd/*.sh systemd/ec2/*.sh systemd/debian/* systemd/test/buyer.sh
    shellcheck --severity=warning --shell=bash --exclude=SC2034,SC2154 systemd/test/{report,machine,store,package,life,upgrade,removal,ec2,release}.sh
}

package_builds() {
    systemd/package.sh >"$work/built" 2>"$work/building" || { tail -n 30 "$work/building"; return 1; }
    deb=$(cat "$work/built")
    want "the package" "$deb" "$PWD/target/debian/quire_$version-1_$(dpkg --print-architecture).deb"
    cp "$deb" "$work/quire_$version-1_amd64.deb"
    note "$(du -h "$deb" | cut -f1)"
}

package_is_whole() {
    local deb=$work/quire_$version-1_amd64.deb file
    dpkg-deb -c "$deb" >"$work/contents"
    awk '$2 != "0/0" || substr($1, 6, 1) == "w" || substr($1, 9, 1) == "w" { print; wrong = 1 } END { exit wrong }' "$work/contents"
    for file in usr/bin/quire usr/sbin/quire-restart usr/lib/systemd/system/quire.target usr/lib/sysusers.d/quire.conf \
        usr/lib/systemd/system/quire-{catalog@,order@,frontend}.service usr/share/doc/quire/copyright \
        usr/share/doc/quire/examples/{one_host.sh,env/catalog.env,env/order.env,env/frontend.env} \
        usr/share/man/man1/quire{,-catalog,-order,-frontend,-health}.1.gz usr/share/zsh/vendor-completions/_quire \
        usr/share/bash-completion/completions/quire usr/share/fish/vendor_completions.d/quire.fish \
        usr/share/doc/quire/docs/systemd.md; do
        grep -q " \./$file\$" "$work/contents" || { echo "$file is not in it"; return 1; }
    done
    dpkg-deb -f "$deb" Depends | grep -Eq '^libc6 \(>= [0-9.]+\)$' || { echo "it depends on: $(dpkg-deb -f "$deb" Depends)"; return 1; }
    # The manual pages that the units name.
    sed -n 's/^Documentation=man:\(.*\)(1)/\1/p' systemd/*.service systemd/*.target | while read -r manual; do
        grep -q "man1/$manual\.1\.gz" "$work/contents" || { echo "a unit names the manual page $manual"; return 1; }
    done
    at_most "size in bytes" "$(stat -c %s "$deb")" 5000000
}

installs_in_chroot() {
    cp "$work/quire_$version-1_amd64.deb" "$work/machine/root/"
    local inside=(chroot "$work/machine" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive)
    "${inside[@]}" dpkg -i "/root/quire_$version-1_amd64.deb"
    want "quire --version" "$("${inside[@]}" quire --version)" "quire $version"
    "${inside[@]}" dpkg --purge quire
    [ ! -e "$work/machine/etc/quire" ] || { echo "/etc/quire is left"; return 1; }
}

package_installs() {
    cp "$work"/quire_*.deb "$here/buyer.sh" "$work/machine/root/"
    inside_page "$page" Install
    want "quire --version" "$(inside quire --version)" "quire $version"
    want "owner of the data" "$(inside stat -c '%U:%G %a' /var/lib/quire)" "quire:quire 750"
    want "units that run" "$(inside systemctl list-units --plain --no-legend 'quire*')" ""
}

unit_names="quire-catalog@123.service quire-order@1.service quire-frontend.service quire.target"

units_verify() {
    # The manual pages were looked for above: the machine has no man.
    inside systemd-analyze verify --man=no $unit_names >"$work/verified" 2>&1 || { cat "$work/verified"; return 1; }
    want "its output" "$(cat "$work/verified")" ""
}

units_are_hardened() {
    local unit exposure all=""
    for unit in quire-catalog@123 quire-order@1 quire-frontend; do
        exposure=$(inside systemd-analyze security --no-pager "$unit.service" | sed -n 's/.*Overall exposure level.*: \([0-9.]*\) .*/\1/p')
        at_most "exposure of $unit" "${exposure:-10}" $exposure_max
        all+="$unit $exposure, "
    done
    note "${all%, }"
}

# `quire health` checks settings as the daemon does before it asks: with wrong ones it ends with 78, without a daemon 69.
samples_are_accepted() {
    local role code
    for role in catalog order frontend; do
        code=0
        inside quire health "$role" --env-file "/usr/share/doc/quire/examples/env/$role.env" || code=$?
        want "exit code with the sample of $role" $code 69
    done
}
