# What happens to containers, under a load of buys: moved to another address, killed, paused, cut off.
#
# One run of `quire bench buy` each, which ends with code 1 unless stock taken = orders made = buys answered 200. Its
# buyers send a buy again with its key until it is decided, so nothing stays unknown.

bench_seconds=9
# From the start of the load, and how long a container is away.
settle=2
away=3
# Longest time without a sale while a replica is away. The front end's own absence is not counted.
gap_ms_max=3000

faults_under_load() {
    export BUILDER=$builder
    say "the images"
    ./local-builder.sh
    docker-compose build >"$scratch/build.log" 2>&1 || { tail -n 40 "$scratch/build.log"; wrong "the build failed"; }
    docker-compose up -d >"$scratch/up.log" 2>&1 || { tail -n 40 "$scratch/up.log"; wrong "it does not come up"; }
    local made name fault
    made=$(docker create quire/front_end_service)
    docker cp "$made:/quire" "$scratch/quire"
    docker rm -v "$made" >/dev/null
    all_ready

    [ $# -gt 0 ] || set -- swap move kill pause cut
    for fault in "$@"; do
        say "$fault"
        case $fault in
            swap) suffer swap "catalog_service_1 and _2" ;;
            move | kill | pause | cut) for name in $daemons; do suffer "$fault" "$name"; done ;;
            *) fail 64 "\"$fault\" is none of swap, move, kill, pause, cut" ;;
        esac
        replicas_agree
    done
    docker-compose down -v >/dev/null 2>&1
}

# suffer FAULT VICTIM
suffer() {
    "$scratch/quire" bench buy --concurrency 8 --retry-keys --json --warmup 1s --duration "${bench_seconds}s" \
        >"$scratch/bench.json" 2>"$scratch/bench.log" &
    bench_pid=$!
    sleep "$settle"
    "fault_$1" "$2"
    wait "$bench_pid" || {
        cat "$scratch/bench.json" "$scratch/bench.log"
        wrong "$1 $2: the load's figures do not add up"
    }
    bench_pid=""
    all_ready
    judge "$1" "$2"
}

# The figures of a run, and whether the store went on selling.
judge() {
    python3 - "$1" "$2" "$gap_ms_max" "$scratch/bench.json" <<'P' || wrong "$1 $2: no sale for too long"
import json, sys
fault, victim, most, path = sys.argv[1:]
run = json.load(open(path))
gap, check = run["longest_gap_ms"], run["check"]
print(f'{fault:5} {victim:26} {check["orders_made"]:6} orders, longest gap {gap:6.0f} ms, '
      f'{check["buys_unknown"]} unknown, errors {sum(error["count"] for error in run["errors"].values())}')
alone = victim == "front_end_service" or fault == "swap"
sys.exit(not alone and gap > float(most))
P
}

# SIGKILL from outside the container, as a crash: Docker starts it again.
fault_kill() {
    local before
    before=$(docker inspect -f '{{.RestartCount}}' "$1")
    kill -KILL "$(docker inspect -f '{{.State.Pid}}' "$1")"
    until_done 30 "Docker starts $1 again" restarted "$1" "$before"
}
restarted() { [ "$(docker inspect -f '{{.RestartCount}}' "$1")" -gt "$2" ]; }

fault_pause() {
    docker pause "$1" >/dev/null
    sleep "$away"
    docker unpause "$1" >/dev/null
}

fault_cut() {
    docker network disconnect "$network" "$1"
    sleep "$away"
    docker network connect "$network" "$1"
}

# It comes back at another address, and somebody who knows nothing of it has its old one.
fault_move() {
    local old new
    old=$(address_of "$1")
    docker stop "$1" >/dev/null
    occupy "$old"
    docker start "$1" >/dev/null
    new=$(address_of "$1")
    [ "$new" != "$old" ] || wrong "$1 is at $old again, although that was taken"
    until_done 30 "$1 takes requests at its new address" is_ready "$1"
    docker rm -f -v $(docker ps -aq --filter "name=$placeholder") >/dev/null
}

# occupy ADDRESS: containers that are front ends of nobody, until one has it.
occupy() {
    local count
    for count in 1 2 3 4 5 6 7 8; do
        docker run -d --name "$placeholder$count" --network "$network" --env-file env/front_end_service \
            quire/front_end_service >/dev/null
        if [ "$(address_of "$placeholder$count")" = "$1" ]; then return; fi
    done
    wrong "none of $count containers got the address $1"
}

# Each of two replicas comes back where the other was: calls to one arrive at the other unless its name is looked up.
fault_swap() {
    local first second
    first=$(address_of catalog_service_1)
    second=$(address_of catalog_service_2)
    docker stop catalog_service_1 catalog_service_2 >/dev/null
    docker start catalog_service_2 >/dev/null
    docker start catalog_service_1 >/dev/null
    is "the address of catalog_service_1" "$(address_of catalog_service_1)" "$second"
    is "the address of catalog_service_2" "$(address_of catalog_service_2)" "$first"
    until_done 30 "catalog_service_1 takes requests" is_ready catalog_service_1
    until_done 30 "catalog_service_2 takes requests" is_ready catalog_service_2
}
