#!/usr/bin/env bash
# Cached lookups of a store's front end against the caches people run: nginx proxy_cache and HAProxy's cache, both in
# front of the same front end, and against the same server answering a constant (/livez). One tool for all (wrk), one
# run, in turn; the table shows the median of the rounds with the range.
#
#   tests/bench/cached_lookups.sh [ROUNDS [SECONDS [CONNECTIONS...]]]     default: 5 rounds of 3 s at 64 and 1000
#
# Wants: cargo build --release; wrk, nginx and haproxy installed (Debian: apt-get install wrk nginx haproxy); the ports
# of `quire up`, and 18081 and 18082, free. Everything listens on 127.0.0.1 and ends with the script.
set -euo pipefail
cd "$(dirname "$0")/../.."

rounds=${1:-5}
seconds=${2:-3}
connections=("${@:3}")
[ ${#connections[@]} -gt 0 ] || connections=(64 1000)
ulimit -n 8192

for tool in wrk nginx haproxy; do
    command -v "$tool" >/dev/null || { echo "$tool is not installed; apt-get install wrk nginx haproxy" >&2; exit 69; }
done
. tests/bench/store.sh
pids=()
and_end() {
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
}

. tests/bench/nginx.sh
pids+=("$nginx_pid")
cat >"$work/haproxy.cfg" <<HAPROXY
global
    maxconn 3000
    nbthread 2
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
cache lookups
    total-max-size 64
    max-age 3600
frontend in
    bind 127.0.0.1:18082
    http-request cache-use lookups
    http-response set-header Cache-Control max-age=3600
    http-response cache-store lookups
    default_backend out
backend out
    server front 127.0.0.1:5004
HAPROXY
haproxy -f "$work/haproxy.cfg" -q 2>"$work/haproxy.err" &
pids+=($!)
sleep 1

declare -A url=(
    [quire]=http://127.0.0.1:5004/lookup/2
    [constant]=http://127.0.0.1:5004/livez
    [nginx]=http://127.0.0.1:18081/lookup/2
    [haproxy]=http://127.0.0.1:18082/lookup/2
)
names=(quire constant nginx haproxy)
for name in "${names[@]}"; do
    for _ in 1 2; do
        curl -sf "${url[$name]}" >/dev/null || { echo "$name does not answer" >&2; cat "$work"/*.err >&2; exit 69; }
    done
done

for count in "${connections[@]}"; do
    for round in $(seq "$rounds"); do
        for offset in 0 1 2 3; do
            name=${names[$(((round + offset) % 4))]}
            wrk -t2 -c"$count" -d"${seconds}s" --latency "${url[$name]}" >"$work/out"
            rate=$(awk '/Requests\/sec/{print $2}' "$work/out")
            p99=$(awk '$1=="99%"{v=$2; f=1; if(v~/us$/)f=0.001; if(v~/[0-9]s$/)f=1000; sub(/[a-z]+$/,"",v); print v*f}' "$work/out")
            if grep -q 'Non-2xx' "$work/out"; then echo "$name answered something else than 200" >&2; cat "$work/out" >&2; exit 1; fi
            echo "$count $name $rate $p99" >>"$work/figures"
        done
    done
done

python3 - "$work/figures" <<'PYTHON'
import collections, statistics, sys
figures = collections.defaultdict(list)
for line in open(sys.argv[1]):
    count, name, rate, p99 = line.split()
    figures[count, name].append((float(rate), float(p99)))
print("connections  who        requests/s, median (range)      p99 ms, median   quire is so many times as fast")
for (count, name), rows in figures.items():
    rates, p99s = [row[0] for row in rows], [row[1] for row in rows]
    ratios = [mine[0] / its[0] for mine, its in zip(figures[count, "quire"], rows)]
    print(f"{count:>11}  {name:9}  {statistics.median(rates):9,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
          f"   {statistics.median(p99s):8.2f}         {statistics.median(ratios):.2f}")
PYTHON
