# What the parts of docker/test.sh share: saying, waiting, asking, and leaving nothing behind.

catalogs="catalog_service_1 catalog_service_2 catalog_service_3"
orders="order_service_1 order_service_2 order_service_3"
replicas="$catalogs $orders"
daemons="$replicas front_end_service"
images="quire/catalog_service quire/order_service quire/front_end_service"
volumes="quire_catalog_1 quire_catalog_2 quire_catalog_3 quire_order_1 quire_order_2 quire_order_3 quire_front_end"
network=my-bridge-network
builder=quire-builder
front=http://localhost:5004
# Name prefix of containers that only take an address away.
placeholder=quire_test_placeholder

started=$SECONDS
say() { printf '== %4d s  %s\n' $((SECONDS - started)) "$*"; }
# fail CODE WHY: exit codes as the binary's.
fail() { echo "docker/test.sh: $2" >&2; exit "$1"; }
wrong() { fail 1 "$*"; }

# is WHAT FOUND WANTED
is() { [ "$2" = "$3" ] || wrong "$1 is \"$2\"; wanted \"$3\""; }

now_ms() { date +%s%3N; }

# until SECONDS WHAT COMMAND...: tries again and again.
until_done() {
    local end=$(($(now_ms) + $1 * 1000)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$(now_ms)" -lt "$end" ] || wrong "not in time: $what; the last try says: $("$@" 2>&1 || true)"
        sleep 0.1
    done
}

need_tools() {
    local tool
    for tool in docker docker-compose debootstrap curl openssl python3 cargo; do
        command -v "$tool" >/dev/null || fail 69 "$tool is missing; .ci/packaging installs what is needed"
    done
    docker info >/dev/null 2>&1 || fail 69 "no Docker engine answers; start it, for example with: service docker start"
}

# A store of somebody else's is not touched.
refuse_to_disturb() {
    local kind name
    for name in $daemons; do there container "$name"; done
    for name in $volumes; do there volume "$name"; done
    there network "$network"
    [ ! -e secrets ] || fail 75 "there is a folder docker/secrets already, which may be yours; move it away first"
    for name in 5001 5002 5003 5004 5005 5006 5007; do
        ! (exec 3<>"/dev/tcp/127.0.0.1/$name") 2>/dev/null \
            || fail 75 "port $name is in use, perhaps by a store on this machine; stop it first"
    done
}

exists() { docker "$1" inspect "$2" >/dev/null 2>&1; }
gone() { ! exists "$1" "$2" || wrong "the $1 $2 is still there"; }

there() {
    ! exists "$1" "$2" \
        || fail 75 "there is a $1 $2 already, which may be yours; remove it first: docker $1 rm $2"
}

kept=""
had_builder=""
remember_images() {
    local image
    for image in $images; do
        if docker tag "$image" "$image:before-test" 2>/dev/null; then kept+=" $image"; fi
    done
    ! docker image inspect "$builder" >/dev/null 2>&1 || had_builder=yes
    scratch=$(mktemp -d)
}

# Removes what this run made; with a failure, shows first what the daemons said. A builder that was there before stays,
# and so do the stages that were built on it: they make the next build quick.
clean_up() {
    local code=$? image
    set +e
    [ -z "${bench_pid:-}" ] || kill "$bench_pid" 2>/dev/null
    if [ "$code" != 0 ]; then
        docker ps -a
        for name in $daemons; do echo "--- $name" && docker logs --tail 15 "$name"; done 2>&1
    fi
    {
        # shellcheck disable=SC2086
        docker rm -f -v $daemons $(docker ps -aq --filter "name=$placeholder")
        # What a build that failed has left.
        # shellcheck disable=SC2046
        docker rm -v $(docker ps -aq --filter label=quire.made-of --filter status=exited)
        docker network rm "$network"
        # shellcheck disable=SC2086
        docker volume rm -f $volumes
        for image in $images; do docker rmi "$image"; done
        for image in $kept; do docker tag "$image:before-test" "$image" && docker rmi "$image:before-test"; done
        if [ -z "$had_builder" ]; then
            docker image prune -f --filter label=quire.made-of
            docker rmi "$builder"
        fi
        rm -rf "${scratch:?}" secrets
    } >/dev/null 2>&1
    exit "$code"
}

# The published port of a container's API.
port_of() {
    case $1 in
        catalog_service_*) echo "500${1##*_}" ;;
        order_service_*) echo $((5008 - ${1##*_})) ;;
        *) echo 5004 ;;
    esac
}

is_ready() { curl -sSf --max-time 3 "http://localhost:$(port_of "$1")/readyz"; }
healthy() { [ "$(docker inspect -f '{{.State.Health.Status}}' "$1")" = healthy ]; }
buy() { curl -sSf --max-time 10 -X POST "$front/buy/$1"; }
address_of() { docker inspect -f "{{(index .NetworkSettings.Networks \"$network\").IPAddress}}" "$1"; }

# Every daemon takes requests at its published port, and a buy goes through.
all_ready() {
    local name
    for name in $daemons; do until_done 30 "$name takes requests" is_ready "$name"; done
    until_done 30 "a buy" buy 7
}

# Replicas agree: python reads every order book and every stock.
replicas_agree() { until_done 20 "the replicas agree" python3 test/books.py; python3 test/books.py; }
