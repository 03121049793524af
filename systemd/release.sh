#!/usr/bin/env bash
# Builds the release archive and prints its path: target/release-archive/quire-<version>-<arch>.tar.gz, with its SHA-256
# beside it. In it: the static binary, the units with their settings, documents, completions, manual pages, the licence, a
# bill of materials (CycloneDX), and SHA256SUMS of all that.
#
# The binary is linked with musl: a static glibc would load the host's name service modules, and dies in those of another
# version. The archive's bytes depend on the commit and the compiler alone: files in order, owned by root, as old as the commit.
#
# Installs what it needs: the musl target by rustup, musl-tools by apt if it may, cargo-cyclonedx by cargo.
set -euo pipefail
cd "$(dirname "$0")/.."

arch=$(uname -m)
target=$arch-unknown-linux-musl
cyclonedx=0.5.9

rustup --quiet target add "$target" 2>/dev/null || { echo "release.sh: rustup cannot add the target $target" >&2; exit 69; }
if ! command -v musl-gcc >/dev/null; then
    [ "$(id -u)" = 0 ] || { echo "release.sh: musl-gcc is not installed; apt-get install musl-tools" >&2; exit 69; }
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends musl-tools; } >/dev/null
fi
if [ "$(cargo cyclonedx --version 2>/dev/null | awk '{ print $2 }')" != $cyclonedx ]; then
    cargo install cargo-cyclonedx --version $cyclonedx --locked --quiet
fi
cargo build --release --locked --package quire --target "$target"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
version=$("target/$target/release/quire" --version | awk '{ print $2 }')
name=quire-$version-$arch
root=$work/$name
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

install -D "target/$target/release/quire" "$root/bin/quire"
strip "$root/bin/quire"
install -D -m 644 -t "$root" README.md LICENSE
install -D -m 644 -t "$root/docs" docs/*.md
install -D -m 644 -t "$root/systemd" systemd/*.service systemd/quire.target systemd/quire.sysusers
install -D -m 755 -t "$root/systemd" systemd/one_host.sh systemd/restart.sh
install -D -m 644 -t "$root/systemd/env" systemd/env/*.env
"$root/bin/quire" manpages "$root/man"
mkdir "$root/completions"
"$root/bin/quire" completions bash >"$root/completions/quire.bash"
"$root/bin/quire" completions zsh >"$root/completions/_quire"
"$root/bin/quire" completions fish >"$root/completions/quire.fish"

# cargo-cyclonedx writes beside every manifest, so it gets a copy of the workspace; where that was must not show.
git ls-files -z | xargs -0 cp --parents -t "$(mkdir "$work/tree" && echo "$work/tree")"
(cd "$work/tree" && cargo cyclonedx --quiet --format json --target "$target" --manifest-path daemons/quire/Cargo.toml)
sed "s,$work/tree,/quire," "$work/tree/daemons/quire/quire.cdx.json" >"$root/quire.cdx.json"

(cd "$root" && find . -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs sha256sum >SHA256SUMS)
mkdir -p target/release-archive
archive=target/release-archive/$name.tar.gz
tar --create --directory "$work" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=go-w \
    --format=gnu "$name" | gzip -n9 >"$archive"
(cd target/release-archive && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")
echo "$PWD/$archive"
