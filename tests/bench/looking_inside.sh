#!/usr/bin/env bash
# What clients notice while somebody looks inside a store: lookups and buys alone, beside `quire wal verify` of the catalog
# primary's directory, and beside `quire backup`, each again and again for as long as the load runs, in turn.
#
#   tests/bench/looking_inside.sh [ROUNDS [SECONDS]]     default: 5 rounds of 4 s
#
# Wants cargo build --release, and the ports of `quire up` free.
set -euo pipefail
cd "$(dirname "$0")/../.."

rounds=${1:-5}
seconds=${2:-4}
. tests/bench/store.sh

# A log that takes a while to read.
"$quire" bench buy --concurrency 64 --duration 15s --json >/dev/null 2>&1
directory=$(echo "$work"/store/catalog*1)
[ -d "$directory" ] || { echo "no directory of a catalog replica in:" "$work"/store/* >&2; exit 69; }

nothing() { sleep 0.1; }
verify() { "$quire" wal verify "$directory" >/dev/null 2>&1; }
backup() { rm -rf "$work/backup"; "$quire" backup "$work/backup" --data-dir "$work/store" >/dev/null 2>&1; }

while_looking() { # what
    rm -f "$work/done"
    (
        count=0
        until [ -e "$work/done" ]; do "$1" || { echo "$1 failed" >&2; exit 1; }; count=$((count + 1)); done
        echo "$count" >"$work/count"
    ) &
    local looking=$!
    "$quire" bench buy --concurrency 4 --duration "${seconds}s" --json >"$work/buy.$1" 2>/dev/null &
    local buying=$!
    "$quire" bench lookup --concurrency 8 --duration "${seconds}s" --json >"$work/lookup.$1" 2>/dev/null
    wait "$buying"
    touch "$work/done"
    wait "$looking"
    jq -r -s --arg what "$1" --arg count "$(cat "$work/count")" '
        "\($what) x \($count): lookups \(.[0].requests_per_second|round)/s p50 \(.[0].latency_ms.p50) p99 \(.[0].latency_ms.p99) ms,"
        + " buys \(.[1].requests_per_second|round)/s p50 \(.[1].latency_ms.p50) p99 \(.[1].latency_ms.p99) ms"' \
        "$work/lookup.$1" "$work/buy.$1"
}

for _ in $(seq "$rounds"); do
    for what in nothing verify backup; do while_looking "$what"; done
done
