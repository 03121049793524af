#!/usr/bin/env bash
# Tests how Quire is installed and run without Docker: the Debian package and its units in a machine that boots systemd,
# the commands of docs/systemd.md, the scripts for EC2, the release archive. Prints a line for each claim; ends with code
# 1 at the first that is wrong, and cleans up.
#
#   systemd/test.sh [quick|full]        quick (default) leaves out what only takes time: the watchdog at its own 30 s
#
# For a bare Debian 12 with Rust and a C compiler, as root; installs by apt what else it needs. Only its own directory
# under /tmp and a container with a network of its own are touched.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=${1:-quick}
case $mode in quick | full) ;; *) echo "test.sh: '$mode' is no mode; wanted quick or full" >&2; exit 64 ;; esac
[ "$(id -u)" = 0 ] || { echo "test.sh: booting a machine takes root; run it with sudo" >&2; exit 77; }

work=$(mktemp -d /tmp/quire-systemd-test.XXXXXX)
here=systemd/test
page=$PWD/docs/systemd.md
for part in report machine store; do . "$here/$part.sh"; done
trap 'machine_end; rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM

needs() { # program=package...
    local missing=() need
    for need; do command -v "${need%=*}" >/dev/null || missing+=("${need#*=}"); done
    /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
    [ ${#missing[@]} = 0 ] || { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; }
}

check "what the test needs is installed" \
    needs debootstrap=debootstrap systemd-nspawn=systemd-container shellcheck=shellcheck /usr/bin/python3=python3 dpkg-deb=dpkg pgrep=procps nsenter=util-linux
for part in ${QUIRE_TEST_PARTS:-package life upgrade removal ec2 release}; do
    . "$here/$part.sh"
    "test_$part"
done
echo "all as it should be, after ${SECONDS} s"
