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
quire=${QUIRE:-target/release/quire}
[ -x "$quire" ] || { echo "$quire is missing; run cargo build --release" >&2; exit 69; }

work=$(mktemp -d)
clean_up() { kill -TERM "$up" 2>/dev/null || true; wait "$up" 2>/dev/null || true; rm -rf "$work"; }
"$quire" up --data-dir "$work/store" >"$work/up.out" 2>&1 &
up=$!
trap clean_up EXIT
for _ in $(seq 200); do grep -q '^ready' "$work/up.out" && break; sleep 0.1; done
grep -q '^ready' "$work/up.out" || { cat "$work/up.out" >&2; exit 69; }

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
