#!/usr/bin/env bash
# Builds the Debian package and prints its path: target/debian/quire_<version>_<architecture>.deb; its debug symbols
# become a package of their own beside it, quire-dbgsym. Manual pages and completions in it are made from the command
# line itself.
#
#   systemd/package.sh [VERSION]        default: the workspace's version, revision 1
#
# The binary in it is linked with the C library of the machine that builds; built on Debian 12 it asks for glibc 2.34,
# which Debian 12 and Ubuntu 22.04 and all later ones have. Not the static one: a static glibc loads the host's name
# service modules when it resolves a name, and dies of SIGFPE in those of Debian 13 (libnss-myhostname).
#
# Installs what it needs: cargo-deb by cargo, dpkg-dev by apt if it may.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo_deb=3.8.0
if [ "$(cargo deb --version 2>/dev/null)" != "$cargo_deb" ]; then
    cargo install cargo-deb --version "$cargo_deb" --locked --quiet
fi
if ! command -v dpkg-shlibdeps >/dev/null; then
    [ "$(id -u)" = 0 ] || { echo "package.sh: dpkg-shlibdeps is not installed; apt-get install dpkg-dev" >&2; exit 69; }
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends dpkg-dev; } >/dev/null
fi

cargo build --release --locked --package quire
rm -rf target/package
mkdir -p target/package/completions
target/release/quire manpages target/package/man
target/release/quire completions bash >target/package/completions/quire.bash
target/release/quire completions zsh >target/package/completions/_quire
target/release/quire completions fish >target/package/completions/quire.fish
cargo deb --package quire --no-build --locked --quiet --dbgsym ${1:+--deb-version "$1"} | grep '\.deb$'
