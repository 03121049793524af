# A store on one host: start, failures, stop, a reboot. Sourced by systemd/test.sh.

test_life() {
    check "docs/systemd.md, One host: the first buy" one_host
    check "seven units are active, of the user quire, with data of their own" units_run
    check "replicas cannot be reached from a public address, the front end can" only_private
    check "docs/systemd.md, Health, logs" inside_page "$page" "Health, logs"
    check "kill -9 of a catalog replica: restarted, caught up, nothing lost" survives quire-catalog@111 5002
    check "kill -9 of an order replica: the same" survives quire-order@2 5006
    check "kill -9 of the front end: the same" survives quire-frontend 5004
    check "the catalog's primary stops: it hands over, buys go on" primary_stops
    check "wrong settings: not tried again, and the journal says why" wrong_settings
    check "docs/systemd.md, Settings of the units: a drop-in, a credential" drop_ins
    check "docs/systemd.md, Key and token: a running store gets both, in no file of everybody's, no environment, no journal" keys
    check "a replica that hangs: killed by the watchdog and back" hangs quire-catalog@114 5003 8
    if [ "$mode" = full ]; then
        check "the same with the watchdog as it is shipped, an order replica" hangs quire-order@3 5005 30
        check "and the front end" hangs quire-frontend 5004 30
    fi
    check "a replica whose directory is damaged: repaired from its peers, in the same process" repairs_itself
    check "docs/systemd.md, Stop: all at once, under load, within 10 s, with success" stops
    check "a reboot: the store is back with all its data" reboots
}

one_host() {
    inside_page "$page" "One host"
    inside sh -c 'echo "$(date +%s%3N) my-first" >>/root/bought'
    books_agree
}

units_run() {
    each_unit active
    want "users of the daemons" "$(inside ps -C quire -o user= | sort | uniq -c | awk '{ print $1, $2 }')" "7 quire"
    want "directories" "$(inside ls /var/lib/quire | grep -c -e '^catalog-' -e '^order-')" 6
    want "WatchdogSec" "$(property quire-catalog@123 WatchdogUSec)" 30s
}

only_private() {
    inside ip address replace 203.0.113.9/32 dev lo
    inside curl -sSf --max-time 5 --interface 203.0.113.9 "$front/readyz"
    local port code
    for port in 5001 5007 7001; do
        code=0
        inside curl -sS --max-time 0.5 --interface 203.0.113.9 http://127.0.0.1:$port/livez || code=$?
        want "exit code of curl from 203.0.113.9 to port $port" $code 28
    done
    inside curl -sSf --max-time 5 http://127.0.0.1:5001/livez
}

healthy() { inside quire health at "http://127.0.0.1:$1"; }

survives() { # unit, port
    local before
    before=$(property "$1" MainPID)
    buying_begins
    inside systemctl kill -s KILL "$1"
    until_true 10 restarted "$1" "$before"
    until_true 10 healthy "$2"
    buying_ends
    note "longest time without a buy $(gap) ms"
    at_most "ms without a buy" "$(gap)" 5000
    books_agree
}
restarted() { active "$1" && [ "$(property "$1" MainPID)" != "$2" ] && [ "$(property "$1" NRestarts)" -ge 1 ]; }

primary_stops() {
    local unit gap_ms
    unit=$(primary)
    buying_begins
    inside systemctl stop "$unit"
    buying_ends
    gap_ms=$(gap)
    stopped_well "$unit"
    inside systemctl start "$unit"
    until_true 10 other_primary "$unit"
    note "longest time without a buy $gap_ms ms"
    at_most "ms without a buy" "$gap_ms" 2000
    books_agree
}
other_primary() { local now; now=$(primary 5001) && [ "$now" != "$1" ]; }

stopped_well() {
    want "Result of $1" "$(property "$1" Result)" success
    want "how the process of $1 ended" "$(property "$1" ExecMainCode) $(property "$1" ExecMainStatus)" "1 0" \
        || { inside systemctl status --no-pager "$1"; inside systemctl show "$1" | grep -e Exec -e State -e Time; return 1; }
}

wrong_settings() {
    inside sh -c 'echo PROCESS_ID=99 >/etc/quire/catalog-99.env'
    ! inside systemctl start quire-catalog@99 || { echo "it started"; return 1; }
    sleep 2
    want "its state" "$(property quire-catalog@99 ActiveState) $(property quire-catalog@99 ExecMainStatus)" "failed 78"
    want "restarts" "$(property quire-catalog@99 NRestarts)" 0
    inside journalctl --no-pager -u quire-catalog@99 >"$work/journal"
    grep -q "quire catalog: .*ALL_IDS" "$work/journal" || { cat "$work/journal"; return 1; }
    inside systemctl reset-failed quire-catalog@99
    inside rm /etc/quire/catalog-99.env
}

drop_ins() {
    inside_page "$page" "Settings of the units"
    want "WatchdogSec with the drop-in" "$(property quire-catalog@123 WatchdogUSec)" 8s
    want "WatchdogSec of orders" "$(property quire-order@1 WatchdogUSec)" 30s
    until_true 10 bought_from order_service_in_private
    want "who may read the settings" "$(inside stat -c %a /root/order-1.private)" 600
}

keys() {
    local unit update=(curl -sS -o /dev/null -w '%{http_code}' -X PUT -d '{"book_id":3,"stock":500}' http://127.0.0.1:5002/catalog/update)
    inside_page "$page" "Key and token"
    buys_again 10
    books_agree
    want "a change without the token" "$(inside "${update[@]}")" 401
    want "a change with it" "$(inside bash -c 'exec "$@" -H "Authorization: Bearer $(cat /etc/quire/admin-token)"' bash "${update[@]}")" 200
    want "a stranger on the peer port" "$(inside curl -s -o /dev/null -w '%{http_code}' -X POST -d x http://127.0.0.1:7002/group/group)" 401
    want "secrets in the journal" "$(inside sh -c 'journalctl --no-pager | grep -cF -f /etc/quire/cluster-key -f /etc/quire/admin-token || true')" 0
    for unit in $(inside pgrep -x quire); do
        want "secrets in the environment of $unit" "$(inside sh -c "tr '\0' '\n' </proc/$unit/environ | grep -cF -f /etc/quire/cluster-key -f /etc/quire/admin-token || true")" 0
    done
    # What comes after is about other things, and takes the settings away in its own time.
    inside sh -c 'rm /etc/systemd/system/quire-*.service.d/keys.conf; rmdir --ignore-fail-on-non-empty /etc/systemd/system/quire-*.service.d; systemctl daemon-reload; systemctl restart "quire-*"'
    buys_again 20
}

# Replicas take turns.
bought_from() { buy "turn-$RANDOM-$RANDOM" && inside grep -q "\"replica\":\"$1\"" /root/answer; }

hangs() { # unit, port, WatchdogSec
    local before begin=$EPOCHREALTIME
    before=$(property "$1" MainPID)
    inside systemctl kill -s STOP "$1"
    [ "$1" = quire-frontend ] || buys_again 10
    until_true $(($3 + 10)) restarted "$1" "$before"
    note "back after $(awk "BEGIN { printf \"%.1f\", $EPOCHREALTIME - $begin }") s"
    inside journalctl --no-pager -u "$1" >"$work/journal"
    grep -q "Watchdog timeout (limit $3s)" "$work/journal" && grep -q "status=6/ABRT" "$work/journal" \
        || { echo "the journal tells of no watchdog:"; tail -n 20 "$work/journal"; return 1; }
    until_true 10 healthy "$2"
    books_agree
}

# A bit of every copy of a title, in the log and among the books, turns over while a backup is down.
repairs_itself() {
    local unit=quire-catalog@111 directory before begin=$EPOCHREALTIME
    [ "$(primary 5001)" != "$unit" ] || unit=quire-catalog@114
    directory=/var/lib/quire/catalog-${unit#*@}
    buying_begins
    inside systemctl stop "$unit"
    want "places that were damaged" "$(inside perl -e 'local $/; open my $file, "+<:raw", shift or die $!; my $bytes = <$file>;
        my $places = 0; while ($bytes =~ /Impatient Graduate/g) { seek $file, $-[0], 0; print $file "H"; $places++ }
        close $file or die $!; print $places >= 2 ? "some" : $places' "$directory/data.mdb")" some
    inside systemctl start "$unit"
    before="$(property "$unit" MainPID) $(property "$unit" NRestarts)"
    until_true 30 repaired "$unit" "$directory"
    want "process and restarts of $unit" "$(property "$unit" MainPID) $(property "$unit" NRestarts)" "$before"
    buying_ends
    note "whole again $(awk "BEGIN { printf \"%.1f\", $EPOCHREALTIME - $begin }") s after the stop"
    inside quire status | grep "catalog-${unit#*@} was repaired" || { inside quire status; return 1; }
    inside quire wal verify "$directory"
    books_agree
}
repaired() { active "$1" && inside test -e "$2/repaired" -a ! -e "$2/damaged"; }

stops() {
    local begin
    buying_begins
    begin=$EPOCHREALTIME
    inside_page "$page" Stop
    local took
    took=$(awk "BEGIN { printf \"%.1f\", $EPOCHREALTIME - $begin }")
    each_unit stopped_well
    at_most "seconds to stop" "$took" 10
    inside systemctl start quire.target
    buying_ends
    note "$took s"
    books_agree
    # And nobody buys: an idle store.
    begin=$EPOCHREALTIME
    inside systemctl stop quire.target 'quire-*'
    took=$(awk "BEGIN { printf \"%.1f\", $EPOCHREALTIME - $begin }")
    each_unit stopped_well
    at_most "seconds to stop when idle" "$took" 3
    note "$(cat "$work/note"), idle $took s"
    inside systemctl start quire.target
    buys_again 10
}

reboots() {
    local begin=$EPOCHREALTIME
    machine_reboot
    buys_again 20
    each_unit active
    note "buys $(awk "BEGIN { printf \"%.1f\", $EPOCHREALTIME - $begin }") s after the order to reboot"
    books_agree
}
