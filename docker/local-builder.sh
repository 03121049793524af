#!/usr/bin/env bash
# Makes the image quire-builder from this machine, for building where no registry can be reached: a minimal Debian, its
# C compiler, the Rust toolchain that is installed here, and the sources of all crates that Cargo.lock names. Builds in
# it need no network. Takes debootstrap (apt-get install debootstrap), root, and a minute or two.
#
#   docker/local-builder.sh && docker-compose -f docker/compose.yml build --build-arg BUILDER=quire-builder
set -euo pipefail
cd "$(dirname "$0")/.."

image=${1:-quire-builder}
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
command -v debootstrap >/dev/null || { echo "debootstrap is not installed; apt-get install debootstrap" >&2; exit 69; }
[ "$(id -u)" = 0 ] || { echo "debootstrap wants root; run this with sudo" >&2; exit 77; }

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=gcc,libc6-dev,binutils "$suite" "$root" >"$root.log" 2>&1 \
    || { tail -n 20 "$root.log" >&2; rm -f "$root.log"; exit 69; }
rm -f "$root.log"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*

toolchain=$(rustc --print sysroot)
mkdir -p "$root/usr/local/rust" "$root/usr/local/cargo"
cp -a "$toolchain/bin" "$toolchain/lib" "$root/usr/local/rust/"
rm -rf "$root/usr/local/rust/lib/rustlib/src" "$root/usr/local/rust/share"
cargo vendor --locked --versioned-dirs "$root/usr/local/cargo/vendor" >/dev/null 2>&1
cat >"$root/usr/local/cargo/config.toml" <<TOML
[source.crates-io]
replace-with = "vendored"
[source.vendored]
directory = "/usr/local/cargo/vendor"
[net]
offline = true
TOML
tar -C "$root" -c . | docker import \
    --change 'ENV PATH=/usr/local/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'ENV CARGO_HOME=/usr/local/cargo' - "$image" >/dev/null
echo "$image: $(docker image inspect --format '{{.Size}}' "$image" | awk '{printf "%.0f MB", $1/1e6}')"
