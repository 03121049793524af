#!/usr/bin/env bash
# The previous release and this one in one store: every daemon is replaced in turn while buys go on, on the data that the
# previous one wrote. Then the way back: an old binary that meets an entry it does not know stops and says so, and the
# store goes on without it. Prints a line for each claim; ends with code 1 at the first that is wrong.
#
# The previous release is the commit in tests/previous_release; it is built from git, into target/previous. The store has
# a network of its own, which takes root. A way back for all daemons is not there yet: new kinds of entries are written
# without asking whether all members know them.
#
#   tests/rolling_upgrade.sh
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" != within ]; then
    [ "$(id -u)" = 0 ] || { echo "rolling_upgrade.sh: a network of its own takes root; run it with sudo" >&2; exit 77; }
    commit=$(cat tests/previous_release)
    cargo build --release --locked --package quire
    if [ ! -x "target/previous/$commit/quire" ]; then
        mkdir -p "target/previous/$commit/source"
        git archive "$commit" | tar -x -C "target/previous/$commit/source"
        CARGO_TARGET_DIR=$PWD/target/previous/target cargo build --release --locked --package quire \
            --manifest-path "target/previous/$commit/source/Cargo.toml"
        install target/previous/target/release/quire "target/previous/$commit/quire"
    fi
    exec unshare --net "$0" within "$PWD/target/previous/$commit/quire" "$PWD/target/release/quire"
fi
old=$2 new=$3
. systemd/test/report.sh
work=$(mktemp -d /tmp/quire-rolling.XXXXXX)
all="catalog-111 catalog-114 catalog-123 order-1 order-2 order-3 frontend"
front=http://127.0.0.1:5004
ended() { local daemon; rm -f "$work/buying"; for daemon in $all; do kill -KILL "$(cat "$work/$daemon.pid")" 2>/dev/null || true; done; rm -rf "$work"; }
trap ended EXIT
ip link set lo up

catalogs=127.0.0.1:5001,127.0.0.1:5002,127.0.0.1:5003
orders=127.0.0.1:5007,127.0.0.1:5006,127.0.0.1:5005
numbered() { tr , '\n' <<<"$2" | awk -v name="$1" '{ print name NR "=" $0 }'; }
port() { case $1 in catalog-123) echo 5001 ;; catalog-111) echo 5002 ;; catalog-114) echo 5003 ;; order-1) echo 5007 ;; order-2) echo 5006 ;; order-3) echo 5005 ;; frontend) echo 5004 ;; esac; }

start() { # daemon, binary
    local settings
    case $1 in
        catalog-*) settings="PROCESS_ID=${1#*-} ALL_IDS=123,111,114 ALL_HOSTNAMES=$catalogs" ;;
        order-*) settings="PROCESS_ID=${1#*-} ALL_IDS=1,2,3 ALL_HOSTNAMES=$orders $(numbered CATALOG_HOST_ $catalogs | paste -sd' ')" ;;
        frontend) settings="$(numbered CATALOG_HOST_ $catalogs | paste -sd' ') $(numbered ORDER_HOST_ $orders | paste -sd' ')" ;;
    esac
    # shellcheck disable=SC2086 # several settings
    env $settings QUIRE_DATA_DIR="$work" QUIRE_LISTEN=127.0.0.1 "$2" "${1%%-*}" >>"$work/$1.log" 2>&1 &
    echo $! >"$work/$1.pid"
}
ready() { curl -sf --max-time 1 "http://127.0.0.1:$(port "$1")/readyz"; }
gone() { case $(ps -o stat= -p "$(cat "$work/$1.pid")") in "" | Z*) ;; *) return 1 ;; esac; }
replace() { # daemon, binary
    kill -TERM "$(cat "$work/$1.pid")"
    until_true 10 gone "$1"
    start "$1" "$2"
    until_true 10 ready "$1" || { tail -n 5 "$work/$1.log"; return 1; }
}

buyer() {
    local n=0
    while [ -e "$work/buying" ]; do
        n=$((n + 1))
        until [ "$(curl -s -o "$work/answer" -w '%{http_code}' --max-time 10 -X POST -H "Idempotency-Key: key-$n" "$front/buy/$((n % 7 + 1))")" = 200 ]; do sleep 0.02; done
        echo "$(date +%s%3N) key-$n" >>"$work/bought"
    done
    touch "$work/bought.all"
}
gap() { awk 'last && $1 - last > gap { gap = $1 - last } { last = $1 } END { print gap }' "$work/bought"; }

old_store() {
    local daemon
    for daemon in $all; do start "$daemon" "$old"; done
    for daemon in $all; do until_true 10 ready "$daemon"; done
    touch "$work/buying"
    buyer &
    sleep 1
}
upgrade() {
    local daemon
    for daemon in $all; do replace "$daemon" "$new"; sleep 0.5; done
    note "longest time without a buy $(gap) ms"
    at_most "ms without a buy" "$(gap)" 5000
}
one_goes_back() {
    replace catalog-111 "$old"
    # A front end that starts is entered into the log, which the old one does not know.
    replace frontend "$new"
    until_true 15 gone catalog-111
    grep "which this binary does not know; run a newer one" "$work/catalog-111.log"
    until_true 10 more_bought $(($(wc -l <"$work/bought") + 10))
    start catalog-111 "$new"
    until_true 10 ready catalog-111
}
more_bought() { [ "$(wc -l <"$work/bought")" -ge "$1" ]; }
books_agree() {
    rm "$work/buying"
    until_true 15 test -e "$work/bought.all"
    local after=0 answer
    while [ -n "$after" ]; do
        answer=$(curl -sSf "$front/orders?limit=1000&after=$after")
        grep -o '"key":"[^"]*"' <<<"$answer" | cut -d'"' -f4 >>"$work/recorded" || true
        after=$(grep -o '"next":[0-9]*' <<<"$answer" | cut -d: -f2 || true)
    done
    want "answered or recorded, but not both once" "$(diff <(cut -d' ' -f2 "$work/bought" | sort) <(sort "$work/recorded"))" ""
    note "$(wc -l <"$work/recorded") orders"
}

check "a store of the previous release takes orders" old_store
check "catalog, orders, front end: each is replaced by this release, buys go on" upgrade
check "one catalog replica goes back: it stops and says why, the store goes on, and takes it again with this release" one_goes_back
check "every buy that was answered is recorded once" books_agree
echo "all as it should be, after ${SECONDS} s"
