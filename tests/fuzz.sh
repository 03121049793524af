#!/usr/bin/env bash
# Fuzzing with libFuzzer, on the stable toolchain: a C++ compiler is all it needs beside Rust.
#
#   tests/fuzz.sh quick               every target for QUIRE_FUZZ_S seconds (default: 60), from the kept corpora, as many
#                                     at a time as there are processors
#   tests/fuzz.sh long [TARGET...]    the same for these targets (default: all), QUIRE_FUZZ_RUNS executions each (default:
#                                     10000000)
#   tests/fuzz.sh TARGET [FLAG...]    one target until it is stopped, or as libFuzzer's flags say: -runs=1000
#   tests/fuzz.sh keep TARGET         adds to the kept corpus what the runs so far found that covers more
#
# Targets: tests/src/fuzz.rs. Runs collect in target/fuzz/<target>; what breaks a promise is left in target/fuzz/crash-*,
# and `tests/fuzz.sh TARGET FILE` runs it again.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v c++ >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends g++; }
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/fuzz"
# Only our own crates are compiled anew: optimized as far as makes a run quick; debug assertions and overflow checks stay.
RUSTC_WORKSPACE_WRAPPER="$PWD/tests/fuzz/instrument.sh" CARGO_PROFILE_DEV_OPT_LEVEL=1 \
    cargo build --quiet --locked --package tests --bin fuzz --features libfuzzer
fuzz=$target/fuzz/fuzz
cp "$target/debug/fuzz" "$fuzz"
targets="entry peer peer_head request settings snapshot"
# Memory beyond 1 GiB, an input beyond 10 s and an allocation beyond 256 MiB are faults, too.
# Beyond 4 KiB is nothing that a target takes otherwise: limits on longer input have tests of their own.
limits="-rss_limit_mb=1024 -malloc_limit_mb=256 -timeout=10 -max_len=4096"
# Instrumented places below which a build is taken for blind; there are tens of thousands.
counters_min=10000

# A network of one's own for the command: thousands of connections a second fill the system's table of those that it tracks
# for a firewall (Docker has one), after which nobody's are let through.
alone=(unshare --map-root-user --net sh -c 'ip link set lo up && exec "$@"' sh)

run() {
    local name=$1 where=()
    shift
    mkdir -p "$target/fuzz/$name" "tests/fuzz/$name"
    if [ "$name" = peer_head ] && "${alone[@]}" true 2>/dev/null; then where=("${alone[@]}"); fi
    # shellcheck disable=SC2086
    QUIRE_FUZZ_TARGET=$name RUST_BACKTRACE=1 "${where[@]}" "$fuzz" $limits -artifact_prefix="$target/fuzz/" "$@"
}

# Runs a target as the flags say, and tells how much it did and what memory it took at its start and at most, or what went
# wrong.
for_a_while() {
    local name=$1 log=$target/fuzz/$1.log counters
    shift
    # may_minihttp writes a line for each malformed head.
    if run "$name" "$@" -print_final_stats=1 "$target/fuzz/$name" "tests/fuzz/$name" 2>&1 |
        sed -u -e 's/failed to parse http request: [A-Za-z]*//' -e '/^$/d' >"$log"
    then
        counters=$(sed -n 's/.*(\([0-9]*\) inline 8-bit counters).*/\1/p' "$log")
        if [ "${counters:-0}" -lt "$counters_min" ]; then
            echo "fuzz: $name has ${counters:-no} coverage counters, $counters_min were wanted; look at tests/fuzz/instrument.sh"
            return 1
        fi
        stat() { sed -n "s/^stat::$1: *//p" "$log"; }
        printf 'fuzz: %-10s %s executions, %s per second, slowest %s s, memory %s to %s MB\n' "$name" \
            "$(stat number_of_executed_units)" "$(stat average_exec_per_sec)" "$(stat slowest_unit_time_sec)" \
            "$(sed -n 's/.*INITED.* rss: \([0-9]*\)Mb.*/\1/p' "$log")" "$(stat peak_rss_mb)"
    else
        printf 'fuzz: %s failed\n' "$name"
        tail -n 40 "$log"
        return 1
    fi
}

# All these targets with one flag, as many at a time as there are processors.
all() {
    local flag=$1 running=() failed=0 name one
    shift
    for name; do
        for_a_while "$name" "$flag" &
        running+=($!)
        if [ "${#running[@]}" -ge "$(nproc)" ]; then
            wait -n "${running[@]}" || failed=1
            local left=()
            for one in "${running[@]}"; do if kill -0 "$one" 2>/dev/null; then left+=("$one"); fi; done
            running=("${left[@]}")
        fi
    done
    for one in "${running[@]}"; do wait "$one" || failed=1; done
    return "$failed"
}

case ${1:-} in
    quick)
        # shellcheck disable=SC2086
        all "-max_total_time=${QUIRE_FUZZ_S:-60}" $targets
        ;;
    long)
        shift
        # shellcheck disable=SC2086
        all "-runs=${QUIRE_FUZZ_RUNS:-10000000}" ${*:-$targets}
        ;;
    keep)
        run "${2:?which target}" -merge=1 "tests/fuzz/$2" "$target/fuzz/$2"
        ;;
    "")
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
        exit 64
        ;;
    *)
        name=$1
        shift
        if [ -f "${1:-}" ]; then run "$name" "$@"; else run "$name" "$@" "$target/fuzz/$name" "tests/fuzz/$name"; fi
        ;;
esac
