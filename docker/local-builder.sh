#!/usr/bin/env bash
# Makes the image quire-builder from this machine, for building where no registry can be reached: a minimal Debian, its
# C compiler, the Rust toolchain that is installed here, and the sources of all crates that Cargo.lock names. Builds in
# it need no network. Takes debootstrap (apt-get install debootstrap), root, and a minute or two; does nothing if the
# image is there and was made of the same toolchain, crates and script.
#
#   docker/local-builder.sh [IMAGE]
set -euo pipefail
cd "$(dirname "$0")/.."

image=${1:-quire-builder}
fail() { echo "local-builder.sh: $2" >&2; exit "$1"; }

made_of=$(cat Cargo.lock docker/local-builder.sh <(rustc --version --verbose) | sha256sum | cut -d' ' -f1)
label=quire.made-of
if [ "$(docker image inspect --format "{{index .Config.Labels \"$label\"}}" "$image" 2>/dev/null)" = "$made_of" ]; then
    echo "$image is up to date"
    exit
fi
command -v debootstrap >/dev/null || fail 69 "debootstrap is not installed; apt-get install debootstrap"
[ "$(id -u)" = 0 ] || fail 77 "debootstrap wants root; run this with sudo"
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
[ -e "/usr/share/debootstrap/scripts/$suite" ] || fail 69 "debootstrap knows no release \"$suite\"; run this on Debian or Ubuntu"

root=$(mktemp -d)
log=$(mktemp)
trap 'rm -rf "$root" "$log"' EXIT
debootstrap --variant=minbase --include=gcc,libc6-dev,binutils "$suite" "$root" >"$log" 2>&1 \
    || { tail -n 20 "$log" >&2; fail 69 "debootstrap failed, see above"; }
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,locale,man}

toolchain=$(rustc --print sysroot)
mkdir -p "$root"/usr/local/rust/{bin,lib} "$root/usr/local/cargo"
cp -a "$toolchain"/bin/{cargo,rustc} "$root/usr/local/rust/bin/"
cp -a "$toolchain/lib/." "$root/usr/local/rust/lib/"
rm -rf "$root/usr/local/rust/lib/rustlib/src"
cargo vendor --locked --versioned-dirs "$root/usr/local/cargo/vendor" >"$log" 2>&1 \
    || { tail -n 20 "$log" >&2; fail 69 "cargo cannot fetch the crates, see above"; }
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
    --change 'ENV CARGO_HOME=/usr/local/cargo' \
    --change "LABEL $label=$made_of" - "$image" >/dev/null
echo "$image: $(docker image inspect --format '{{.Size}}' "$image" | awk '{printf "%.0f MB", $1/1e6}')"
