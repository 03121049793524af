#!/usr/bin/env bash
# Ten times the buyers that saturate a store: what they get together, how long a buy takes, and whether anything else
# suffers. First the peak: the rate at 16, 32, 64, 128 and 256 buyers; saturated is the store by the fewest that reach 90 %
# of the best rate. Then ten times as many for SECONDS, while each daemon's health is asked four times a second.
#
#   tests/bench/overload.sh [SECONDS]     default: 60
#
# Wants cargo build --release, curl, jq, and the ports of `quire up` free. Fails if goodput is below 90 % of the peak, a
# primary changes, or the store's books do not add up.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:-60}
ulimit -n 8192
. tests/bench/store.sh

buy() { "$quire" bench buy --concurrency "$1" --duration "${2}s" --json 2>/dev/null; }
terms() { for port in 5001 5002 5003; do curl -sf "localhost:$port/info" | jq -c '[.coordinator, .term]'; done; }

for count in 16 32 64 128 256; do
    buy "$count" 4 >"$work/$count"
    jq -r '"\(.connections) buyers: \(.requests_per_second|round) buys/s, p99 \(.latency_ms.p99) ms"' "$work/$count"
done
best=$(cat "$work"/{16,32,64,128,256} | jq -s 'map(.requests_per_second)|max')
saturating=$(cat "$work"/{16,32,64,128,256} | jq -s "map(select(.requests_per_second >= 0.9 * $best))|map(.connections)|min")
many=$((saturating * 10))

terms >"$work/before"
(
    while [ ! -e "$work/done" ]; do
        for port in 5001 5002 5003 5004 5005 5006 5007; do
            curl -s -o /dev/null -m 5 -w '%{http_code} %{time_total}\n' "localhost:$port/healthcheck" || true
        done >>"$work/health"
        sleep 0.25
    done
) &
asking=$!
buy "$many" "$seconds" >"$work/many"
touch "$work/done"
wait "$asking"
terms >"$work/after"

jq -r --argjson best "$best" '
    "\(.connections) buyers for \(.seconds|round) s: \(.requests_per_second|round) buys/s, \(100 * .requests_per_second / $best|round) % of the peak; "
    + "p50 \(.latency_ms.p50), p99 \(.latency_ms.p99), longest \(.latency_ms.max) ms; "
    + "refused: \(.errors|to_entries|map("\(.key) \(.value.count)")|join(", ")); adds up: \(.adds_up)"' "$work/many"
sort -k2 -n "$work/health" | awk '{times[NR] = $2; if ($1 != 200) bad++}
    END {printf "health: %d answers, %d not 200, p99 %.0f ms, longest %.0f ms\n", NR, bad, 1000 * times[int(NR * 0.99)], 1000 * times[NR]}'
if cmp -s "$work/before" "$work/after"; then echo "no election"; else echo "a primary changed:"; cat "$work/before" "$work/after"; exit 1; fi
jq -e --argjson best "$best" '.adds_up and .requests_per_second >= 0.9 * $best' "$work/many" >/dev/null
