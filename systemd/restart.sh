#!/bin/sh
# quire-restart: restarts the daemons that run on this host one after the other, each only when the one before takes
# requests again, so that the store goes on. The package does so on an upgrade. Catalog replicas come first, the front end
# last: it is the one that asks others for what they may not know yet.
#
#   quire-restart [UNIT...]             default: all quire units that run
#
# Exit codes: 0 done; 69 a daemon did not come back within QUIRE_RESTART_LIMIT seconds (default 60): those after it are
# left alone, so that no majority is lost to a broken version.
set -eu

limit=${QUIRE_RESTART_LIMIT:-60}
running() { systemctl list-units --plain --no-legend --state=active "$1" | cut -d' ' -f1; }
# shellcheck disable=SC2046 # names of units have no spaces
[ $# -gt 0 ] || set -- $(running 'quire-catalog@*') $(running 'quire-order@*') $(running quire-frontend.service)

# Asks the daemon of a unit, by the settings that the daemon itself was started with.
healthy() { # unit
    role=${1#quire-}
    role=${role%%[@.]*}
    pid=$(systemctl show --property MainPID --value "$1")
    [ "$pid" != 0 ] && xargs -0 -a "/proc/$pid/environ" sh -c 'role=$0; exec env -i "$@" /usr/bin/quire health "$role"' "$role"
}

for unit; do
    echo "quire-restart: $unit"
    restarted=yes
    systemctl restart "$unit" || restarted=no
    left=$((limit * 5))
    until [ $restarted = yes ] && why=$(healthy "$unit" 2>&1); do
        left=$((left - 1))
        if [ $restarted = no ] || [ $left -le 0 ]; then
            echo "quire-restart: $unit is not back: ${why:-it does not start}; see journalctl -u $unit;" \
                "the units after it were left alone, quire-restart goes on when it is mended" >&2
            exit 69
        fi
        sleep 0.2
    done
done
