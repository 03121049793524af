#!/usr/bin/env bash
# Cached lookups at one rate for both: a store's front end and nginx's proxy_cache in front of it are asked as often, by
# 64 connections that each ask at their own times whether or not the answer before was slow. `cached_lookups.sh` lets
# each go as fast as it can, and whoever answers more gives the load's own threads more to do; here the work is the same.
# One tool for both (h2load), in turn; the table shows medians with ranges.
#
#   tests/bench/same_rate.sh [ROUNDS [SECONDS [RATES...]]]     default: 5 rounds of 3 s at 19200, 38400 and 57600 per second
#
# Wants: cargo build --release; h2load and nginx installed (Debian: apt-get install nghttp2-client nginx); the ports of
# `quire up`, and 18081, free. Everything listens on 127.0.0.1 and ends with the script.
set -euo pipefail
cd "$(dirname "$0")/../.."

rounds=${1:-5}
seconds=${2:-3}
rates=("${@:3}")
[ ${#rates[@]} -gt 0 ] || rates=(19200 38400 57600)
connections=64

for tool in h2load nginx; do
    command -v "$tool" >/dev/null || { echo "$tool is not installed; apt-get install nghttp2-client nginx" >&2; exit 69; }
done
. tests/bench/store.sh
. tests/bench/nginx.sh
and_end() {
    kill -TERM "$nginx_pid" 2>/dev/null || true
    wait "$nginx_pid" 2>/dev/null || true
}
sleep 1

declare -A url=([quire]=http://127.0.0.1:5004/lookup/2 [nginx]=http://127.0.0.1:18081/lookup/2)
for name in quire nginx; do
    for _ in 1 2; do
        curl -sf "${url[$name]}" >/dev/null || { echo "$name does not answer" >&2; cat "$work"/*.err >&2; exit 69; }
    done
done

for rate in "${rates[@]}"; do
    for round in $(seq "$rounds"); do
        for name in $([ $((round % 2)) = 1 ] && echo quire nginx || echo nginx quire); do
            rm -f "$work/requests"
            h2load --h1 -t2 -c"$connections" --rps=$((rate / connections)) -D "$seconds" --log-file="$work/requests" \
                "${url[$name]}" >"$work/out"
            # Of each request: when it began, its status, and how many us it took.
            awk '$2 != 200 {bad++} {print $3} END {exit bad > 0}' "$work/requests" >"$work/times.$rate.$name.$round" ||
                { echo "$name answered something else than 200" >&2; exit 1; }
        done
    done
done

python3 - "$seconds" "$work"/times.* <<'PYTHON'
import collections, statistics, sys
seconds, files = float(sys.argv[1]), sys.argv[2:]
figures = collections.defaultdict(list)
for file in files:
    times = sorted(int(line) / 1000 for line in open(file))
    share = lambda part: times[int(len(times) * part)]
    rate, name = file.split(".")[-3:-1]
    figures[int(rate), name].append((len(times) / seconds, share(0.5), share(0.99), share(0.999)))
print("wanted/s  who    got/s    p50 ms  p99 ms, median (range)   p99.9 ms, median (range)")
for (rate, name), rows in sorted(figures.items()):
    got, p50, p99, p999 = ([row[at] for row in rows] for at in range(4))
    shown = lambda times: f"{statistics.median(times):5.2f} ({min(times):.2f} to {max(times):.2f})"
    print(f"{rate:>8}  {name}  {statistics.median(got):7,.0f}    {statistics.median(p50):5.2f}   {shown(p99)}     {shown(p999)}")
PYTHON
