#!/usr/bin/env bash
# Lookups of a book that is being bought all the time: 64 connections look book 2 up while a few buyers buy it.
#
#   tests/bench/hot_book.sh [ROUNDS [SECONDS [BUYERS]]]     default: 3 rounds of 4 s with 2 buyers
#
# Wants cargo build --release, and the ports of `quire up` free.
set -euo pipefail
cd "$(dirname "$0")/../.."

rounds=${1:-3}
seconds=${2:-4}
buyers=${3:-2}
. tests/bench/store.sh

for _ in $(seq "$rounds"); do
    "$quire" bench buy --books 2 --concurrency "$buyers" --duration "${seconds}s" --json >"$work/buy" 2>/dev/null &
    buying=$!
    "$quire" bench lookup --books 2 --concurrency 64 --duration "${seconds}s" --json >"$work/lookup" 2>/dev/null
    wait "$buying"
    python3 - "$work/buy" "$work/lookup" <<'PYTHON'
import json, sys
buy, lookup = (json.load(open(path)) for path in sys.argv[1:])
ms = lookup["latency_ms"]
print(f"{lookup['requests_per_second']:,.0f} lookups/s, p50 {ms['p50']:.2f} ms, p99 {ms['p99']:.2f} ms,"
      f" while {buy['requests_per_second']:,.0f} buys/s, p50 {buy['latency_ms']['p50']:.2f} ms")
PYTHON
done
