#!/usr/bin/env bash
# What the open port costs: a store's front end answering a constant (/livez) against a bare server on the same library of
# coroutines, with as many workers and an answer of the same length, that keeps no limit, no deadline and no count.
# One tool for both (wrk), in turn; the table shows medians with ranges, and the ratios round by round.
#
#   tests/bench/open_port_cost.sh [ROUNDS [SECONDS [CONNECTIONS]]]     default: 7 rounds of 3 s at 64
#
# Wants: cargo build --release, cargo build --release -p tests --bin bare_http, wrk installed (Debian: apt-get install wrk);
# the ports of `quire up`, and 18083, free. Everything listens on 127.0.0.1 and ends with the script.
set -euo pipefail
cd "$(dirname "$0")/../.."

rounds=${1:-7}
seconds=${2:-3}
connections=${3:-64}
bare=${BARE_HTTP:-target/release/bare_http}

command -v wrk >/dev/null || { echo "wrk is not installed; apt-get install wrk" >&2; exit 69; }
[ -x "$bare" ] || { echo "$bare is missing; run cargo build --release -p tests --bin bare_http" >&2; exit 69; }
. tests/bench/store.sh
"$bare" 127.0.0.1:18083 &
bare_pid=$!
and_end() {
    kill -TERM "$bare_pid" 2>/dev/null || true
    wait "$bare_pid" 2>/dev/null || true
}
sleep 0.5

front_pid=$(pgrep -P "$up" -f frontend | head -1)
declare -A url=([port]=http://127.0.0.1:5004/livez [bare]=http://127.0.0.1:18083/livez)
declare -A pid=([port]=$front_pid [bare]=$bare_pid)
for name in port bare; do
    curl -si "${url[$name]}" >"$work/answer.$name" || { echo "$name does not answer" >&2; exit 69; }
done
[ "$(wc -c <"$work/answer.port")" = "$(wc -c <"$work/answer.bare")" ] || {
    echo "the answers differ in length; make tests/src/bin/bare_http.rs answer what /livez does" >&2
    cat "$work/answer.port" "$work/answer.bare" >&2
    exit 1
}

# Processor time that a process has had, in ticks of 10 ms: in all, and in the kernel.
ticks() { sed 's/.*) //' "/proc/$1/stat" | awk '{print $12 + $13, $13}'; }

for round in $(seq "$rounds"); do
    for name in $([ $((round % 2)) = 1 ] && echo port bare || echo bare port); do
        before=$(ticks "${pid[$name]}")
        wrk -t2 -c"$connections" -d"${seconds}s" --latency "${url[$name]}" >"$work/out"
        after=$(ticks "${pid[$name]}")
        if grep -q 'Non-2xx' "$work/out"; then echo "$name answered something else than 200" >&2; cat "$work/out" >&2; exit 1; fi
        rate=$(awk '/Requests\/sec/{print $2}' "$work/out")
        count=$(awk '/requests in/{print $1}' "$work/out")
        p99=$(awk '$1=="99%"{v=$2; f=1; if(v~/us$/)f=0.001; if(v~/[0-9]s$/)f=1000; sub(/[a-z]+$/,"",v); print v*f}' "$work/out")
        echo "$name $rate $p99 $count $before $after" >>"$work/figures"
    done
done

python3 - "$work/figures" <<'PYTHON'
import collections, statistics, sys
figures = collections.defaultdict(list)
for line in open(sys.argv[1]):
    name, *numbers = line.split()
    rate, p99, count, all_before, kernel_before, all_after, kernel_after = map(float, numbers)
    us, kernel_us = ((after - before) * 10_000 / count
                     for before, after in ((all_before, all_after), (kernel_before, kernel_after)))
    figures[name].append((rate, p99, us, kernel_us))
def told(numbers, digits):
    return f"{statistics.median(numbers):,.{digits}f} ({min(numbers):,.{digits}f} to {max(numbers):,.{digits}f})"
print(f"{'who':5} {'requests/s':28} {'p99 ms':22} {'us of processor time each':26} of them in the kernel")
for name, rows in figures.items():
    rate, p99, us, kernel_us = zip(*rows)
    print(f"{name:5} {told(rate, 0):28} {told(p99, 2):22} {told(us, 2):26} {told(kernel_us, 2)}")
for what, at in ("requests/s", 0), ("processor time each", 2):
    ratios = [port[at] / bare[at] for port, bare in zip(figures["port"], figures["bare"])]
    print(f"port / bare, {what}: {told(ratios, 3)}")
PYTHON
