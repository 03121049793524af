# A Debian machine with systemd as its process 1, in a container with a network of its own. Sourced by systemd/test.sh.
#
# QUIRE_MACHINE_BASE names a directory with a root file system of an earlier run, to save the minute of making one.

machine_packages=systemd,systemd-sysv,dbus,curl,procps,iproute2,ca-certificates

# Makes the root file system $work/machine.
machine_make() {
    local base=${QUIRE_MACHINE_BASE:-}
    if [ -z "$base" ] || [ ! -d "$base" ]; then
        debootstrap --variant=minbase --include="$machine_packages" bookworm "$work/machine" || return
        [ -z "$base" ] || cp -a "$work/machine" "$base"
    else
        cp -a "$base" "$work/machine"
    fi
    # Files from here are in /root of the machine.
    mkdir -p "$work/machine/root"
}

machine_boot() {
    # Where systemd is not process 1, there is no service to register with or to be put into.
    local alone=()
    [ -d /run/systemd/system ] || alone=(--keep-unit)
    # As on Debian 12: the unified control group hierarchy, whatever the host has, and address filters that work.
    SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --directory="$work/machine" --machine="quire-test-$$" --register=no "${alone[@]}" \
        --private-network --capability=CAP_BPF,CAP_PERFMON,CAP_NET_ADMIN --system-call-filter=bpf --boot --console=pipe </dev/null >"$work/console" 2>&1 &
    echo $! >"$work/machine.pid"
    machine_up || { tail -n 20 "$work/console"; return 1; }
}

# Waits until the machine has booted.
machine_up() { until_true 60 machine_runs; }
machine_runs() { case $(inside systemctl is-system-running) in running | degraded) ;; *) return 1 ;; esac; }

# inside COMMAND...: in the machine, as root.
inside() {
    local init
    init=$(pgrep -P "$(cat "$work/machine.pid")" | head -n 1)
    [ -n "$init" ] || { echo "the machine is not up"; return 1; }
    nsenter --target "$init" --all --wdns=/root env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb "$@"
}

# Runs the commands of a page's section inside, as they stand there.
inside_page() { # page, heading
    commands_of "$1" "$2" >"$work/commands"
    sed 's/^/$ /' "$work/commands"
    inside bash -euo pipefail -c "$(cat "$work/commands")"
}

# Reboots the machine. nspawn does so itself, or ends with the wish that somebody does.
machine_reboot() {
    local nspawn
    nspawn=$(cat "$work/machine.pid")
    inside touch /run/of-this-boot
    inside systemctl reboot || true
    until_true 60 machine_went_down "$nspawn"
    if ended "$nspawn"; then machine_boot; else machine_up; fi
}
machine_went_down() { ended "$1" || inside test ! -e /run/of-this-boot; }
ended() { case $(ps -o stat= -p "$1") in "" | Z*) ;; *) return 1 ;; esac; }

# Ends the machine, however far it came.
machine_end() {
    [ -e "$work/machine.pid" ] || return 0
    local nspawn
    nspawn=$(cat "$work/machine.pid")
    inside systemctl poweroff >/dev/null 2>&1 || true
    for _ in $(seq 100); do ended "$nspawn" && break; sleep 0.1; done
    ended "$nspawn" || kill -KILL "$nspawn" || true
}
