#!/usr/bin/env bash
# nginx and HAProxy in front of a front end, as people set them up: kept-alive connections to the front end, health checks,
# forwarded headers. Every request goes through each of them and must come back as it does without: heads of a browser's
# size, bodies of both framings, refusals, keys, conditions.
#
#   tests/proxies.sh [QUIRE]     default: target/debug/quire
#
# Wants curl, jq, nginx and haproxy, and the ports of `quire up` and 18081 and 18082 free.
set -euo pipefail
cd "$(dirname "$0")/.."

quire=${1:-target/debug/quire}
for tool in curl jq nginx haproxy "$quire"; do
    command -v "$tool" >/dev/null || { echo "$tool is missing" >&2; exit 69; }
done

work=$(mktemp -d)
chmod 755 "$work" # the workers of an nginx that root starts are nobody
pids=()
clean_up() {
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap clean_up EXIT

cat >"$work/nginx.conf" <<NGINX
daemon off; pid $work/nginx.pid; error_log $work/nginx.err; worker_processes 1;
events { worker_connections 256; }
http {
    access_log off;
    client_body_temp_path $work/t1; proxy_temp_path $work/t2; fastcgi_temp_path $work/t3;
    uwsgi_temp_path $work/t4; scgi_temp_path $work/t5;
    upstream front { server 127.0.0.1:5004; keepalive 4; }
    server {
        listen 127.0.0.1:18081;
        location / {
            proxy_pass http://front; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_set_header Host \$host; proxy_set_header X-Forwarded-For \$remote_addr;
            proxy_set_header Forwarded "for=\$remote_addr"; proxy_request_buffering off;
        }
    }
}
NGINX
cat >"$work/haproxy.cfg" <<HAPROXY
defaults
    mode http
    option forwardfor
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend in
    bind 127.0.0.1:18082
    default_backend out
backend out
    option httpchk
    http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host front
    server front 127.0.0.1:5004 check inter 200ms
HAPROXY

"$quire" up --data-dir "$work/store" >"$work/up.out" 2>&1 &
pids+=($!)
nginx -p "$work" -c "$work/nginx.conf" 2>>"$work/nginx.err" &
pids+=($!)
for _ in $(seq 300); do grep -q '^ready' "$work/up.out" && break; sleep 0.1; done
grep -q '^ready' "$work/up.out" || { cat "$work/up.out" >&2; exit 69; }
haproxy -f "$work/haproxy.cfg" 2>"$work/haproxy.err" &
pids+=($!)

# name, wanted status, a part of the answer, arguments of curl; the URL is a path
wrong=0
try() {
    local name=$1 status=$2 part=$3 path=${*: -1} got
    shift 3
    set -- "${@:1:$#-1}"
    got=$(curl -sS -i -m 10 "$@" "$url$path" 2>&1; echo)
    if ! grep -q "^HTTP/1.1 $status " <<<"$got" || ! grep -qF -- "$part" <<<"$got"; then
        printf 'wrong: %s, %s: wanted %s and %s\n%s\n' "$proxy" "$name" "$status" "$part" "$got"
        wrong=1
    fi
}

fields=()
for number in $(seq 20); do fields+=(-H "X-Field-$number: $number"); done
json='{"quantity": 2}'
long=$(printf 'a%.0s' $(seq 2000))
for proxy in none nginx haproxy; do
    case $proxy in
        none) url=http://127.0.0.1:5004 ;;
        nginx) url=http://127.0.0.1:18081 ;;
        haproxy) url=http://127.0.0.1:18082 ;;
    esac
    for _ in $(seq 50); do curl -sf -o /dev/null "$url/livez" && break; sleep 0.1; done
    try "a list" 200 '"search":' /
    try "a search" 200 '"Spring in Pioneer Valley.":7' /search/graduate-school
    try "20 fields and cookies" 200 '"title":"RPCs for Dummies."' "${fields[@]}" -b "session=$long; theme=dark" /lookup/2
    try "an escaped name" 200 '"items":' /search/graduate%20school
    try "lines for people" 200 '  "id": 2,' '/lookup/2?pretty'
    try "HEAD" 200 'etag: "' --head /lookup/2
    try "what is not there" 404 'Please enter a correct id' /lookup/99
    try "a wrong method" 405 'allow: ' -X DELETE /lookup/2
    try "a buy" 200 '"quantity":2' -d "$json" -H "Idempotency-Key: $proxy-1" /buy/2
    try "its retry" 200 'idempotency-replayed: true' -d "$json" -H "Idempotency-Key: $proxy-1" /buy/2
    try "the key for another" 422 '/problems/key-reused' -d "$json" -H "Idempotency-Key: $proxy-1" /buy/3
    try "a buy in chunks" 200 '"quantity":2' -d "$json" -H 'Transfer-Encoding: chunked' /buy/2
    try "a buy that asks first" 200 '"quantity":2' -d "$json" -H 'Expect: 100-continue' /buy/2
    try "a body that is too large" 413 '' -d "$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long$long" /buy/2
    try "its trace" 200 'traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01' \
        -H 'traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01' /lookup/2
    tag=$(curl -sS -i "$url/lookup/1" | sed -n 's/^etag: \(.*\)\r$/\1/Ip')
    try "a condition" 304 '' -H "If-None-Match: $tag" /lookup/1
    count=$(curl -sS -o /dev/null -w '%{http_code}\n' "$url/lookup/[1-7]?[1-20]" 2>/dev/null | grep -c '^200$')
    [ "$count" = 140 ] || { echo "wrong: $proxy answered $count of 140 requests on one connection"; wrong=1; }
done
left=$(curl -sS http://127.0.0.1:5004/lookup/2 | jq .stock)
[ "$left" = 982 ] || { echo "wrong: 9 buys of 2 copies left $left of 1000"; wrong=1; }
if [ "$wrong" = 0 ]; then echo "nginx and HAProxy: all as without"; fi
exit "$wrong"
