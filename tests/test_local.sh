#!/usr/bin/env bash
# The reference's smoke session against a running store, with checks: prints each request and its answer, and exits 1
# at the first one that is wrong.
#
#   bash tests/test_local.sh [FRONT_END [CATALOG]]     default: http://localhost:5004 http://localhost:5002
#
# It buys a copy of book 1 and sets its stock and cost to 2000. Where that needs the admin token, QUIRE_ADMIN_TOKEN_FILE names
# the file that has it.
set -euo pipefail

front_end=${1:-http://localhost:5004}
catalog=${2:-http://localhost:5002}

# curl reads the token from a pipe: nobody sees it among the processes.
token() { [ -z "${QUIRE_ADMIN_TOKEN_FILE:-}" ] || printf 'header = "Authorization: Bearer %s"\n' "$(tr ', \n' '\n' <"$QUIRE_ADMIN_TOKEN_FILE" | head -n 1)"; }

# ask WANTED_PATTERN CURL_ARGUMENTS...: the answer must match the pattern (an extended regular expression).
ask() {
    local wanted=$1
    shift
    local shown=""
    for word in "$@"; do
        case $word in *[\ \{]*) shown+=" '$word'" ;; *) shown+=" $word" ;; esac
    done
    echo "\$ curl$shown"
    local answer
    answer=$(curl -sS --config <(token) --max-time 10 "$@") || { echo "no answer" >&2; exit 1; }
    echo "$answer"
    grep -Eq "$wanted" <<<"$answer" || { echo "wanted: $wanted" >&2; exit 1; }
}

ask '"How to finish Project 3 on time.":5,.*"RPCs for Dummies.":2' "$front_end/search/distributed-systems"
ask '"Spring in Pioneer Valley.":7' "$front_end/search/graduate-school"
ask '^\{"cost":[0-9.]+,"stock":[0-9]+,' "$front_end/lookup/1"
before=$(curl -sS "$front_end/lookup/1" | sed -E 's/.*"stock":([0-9]+).*/\1/')
ask 'successfully purchased the book How to get a good grade in 677 in 20 minutes a day\. from order_service_[123]' \
    -X POST "$front_end/buy/1"
ask "\"stock\":$((before - 1))," "$front_end/lookup/1"
ask '"message":"Done update"' -X PUT -H 'Content-Type: application/json' \
    -d "{\"book_id\": 1, \"request_id\": \"smoke-$(date +%s%N)\", \"stock\": 2000, \"cost\": 2000}" "$catalog/catalog/update"
ask '^\{"cost":2000\.0,"stock":2000,' "$front_end/lookup/1"
echo "all as it should be"
