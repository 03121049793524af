# What a test says: a line for each claim, and the whole story of the first that is wrong. Sourced by systemd/test.sh.

# check CLAIM COMMAND...: the command, a function as a rule, must succeed. What it prints is shown when it fails; what it
# writes to $work/note is shown behind the claim: a measured figure.
check() {
    local claim=$1 begin=$EPOCHREALTIME
    shift
    : >"$work/note"
    set +e # in a condition, bash would ignore -e within the command
    (set -euo pipefail; "$@") >"$work/said" 2>&1
    local code=$?
    set -e
    if [ $code != 0 ]; then
        echo "FAIL     $claim"
        sed 's/^/    /' "$work/said"
        exit 1
    fi
    printf 'ok %5.1fs %s%s\n' "$(awk "BEGIN { print $EPOCHREALTIME - $begin }")" "$claim" "$(sed 's/^/: /' "$work/note")"
}

# A figure for the line of the claim that is being checked.
note() { echo "$*" >"$work/note"; }

# want WHAT FOUND WANTED: equal, or an error that says so.
want() { [ "$2" = "$3" ] || { echo "$1: found '$2', wanted '$3'"; return 1; }; }

# at_most WHAT FOUND LIMIT: numbers.
at_most() { awk "BEGIN { exit !($2 <= $3) }" || { echo "$1: found $2, wanted at most $3"; return 1; }; }

# until_true SECONDS COMMAND...: again and again until it succeeds.
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >"$work/last" 2>&1; do
        [ $SECONDS -lt $end ] || { echo "not in time: $*"; cat "$work/last"; return 1; }
        sleep 0.1
    done
}

# The commands of a section of a page: what follows "$ " in its console blocks.
commands_of() { # page, heading
    awk -v heading="## $2" '
        /^## / { here = $0 == heading }
        /^```/ { block = /^```console/ ? 1 : 0; next }
        here && block && /^\$ / { print substr($0, 3) }' "$1" | grep . || { echo "$1 has no commands under '$2'" >&2; return 1; }
}
