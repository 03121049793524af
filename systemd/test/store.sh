# The store inside the machine, as its customers see it. Sourced by systemd/test.sh.

front=http://127.0.0.1:5004
units="quire-catalog@123 quire-catalog@111 quire-catalog@114 quire-order@1 quire-order@2 quire-order@3 quire-frontend"

property() { inside systemctl show --property "$2" --value "$1"; }    # unit, name
each_unit() { local unit; for unit in $units; do "$@" "$unit" || { echo "($unit)"; return 1; }; done; }
active() { want "ActiveState of $1" "$(property "$1" ActiveState)" active; }

# Buys a copy of book 2 under this key; the answer must be 200.
buy() {
    local code
    code=$(inside curl -sS --max-time 10 -o /root/answer -w '%{http_code}' -X POST -H "Idempotency-Key: $1" "$front/buy/2")
    want "a buy" "$code $(inside cat /root/answer)" "200 $(inside cat /root/answer)" || return
    inside sh -c "echo \$(date +%s%3N) $1 >>/root/bought"
}
buys_again() { until_true "$1" buy "probe-$RANDOM-$RANDOM"; }    # within so many seconds

buying_begins() {
    inside touch /root/buying
    inside sh /root/buyer.sh "$front" &
    inside sh -c 'date +%s%3N >/root/since'
    sleep 1
}
buying_ends() {
    sleep 1
    inside rm /root/buying
    until_true 15 inside test ! -e /root/bought.open
}
# The longest time in ms between two answers since buying_begins.
gap() {
    inside awk 'NR == FNR { since = $1; next } $1 < since { next } last && $1 - last > gap { gap = $1 - last } { last = $1; n++ }
        END { if (n < 20) { print "only " n " buys" >"/dev/stderr"; exit 1 } print gap }' /root/since /root/bought
}

# Every buy that was answered is in the order book, once, and nothing else is.
books_agree() {
    inside sh -c 'after=0; while page=$(curl -sSf "'"$front"'/orders?limit=1000&after=$after"); do
        echo "$page" | grep -o "\"key\":\"[^\"]*\"" || true
        after=$(echo "$page" | grep -o "\"next\":[0-9]*" | cut -d: -f2); [ -n "$after" ] || exit 0
    done; exit 1' | cut -d'"' -f4 | sort >"$work/recorded"
    inside cut -d' ' -f2 /root/bought | sort -u >"$work/answered"
    diff "$work/answered" "$work/recorded" >"$work/difference" || { echo "answered (<) and recorded (>) differ:"; head -n 5 "$work/difference"; return 1; }
    [ -s "$work/note" ] || note "$(wc -l <"$work/recorded") orders"
}

# The unit of the catalog's primary.
primary() {
    local id
    id=$(inside curl -sSf "http://127.0.0.1:${1:-5001}/info" | grep -o '"coordinator":[0-9]*' | cut -d: -f2)
    [ -n "$id" ] && echo "quire-catalog@$id"
}
