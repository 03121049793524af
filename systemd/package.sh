#!/usr/bin/env bash
# Builds the Debian package: target/debian/quire_<version>_<architecture>.deb, with manual pages and completions made
# from the command line itself. Installs cargo-deb if it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v cargo-deb >/dev/null || cargo install cargo-deb --version 3.8.0 --locked --quiet
cargo build --release --locked --package quire
rm -rf target/package
mkdir -p target/package/completions
target/release/quire manpages target/package/man
target/release/quire completions bash >target/package/completions/quire.bash
target/release/quire completions zsh >target/package/completions/_quire
target/release/quire completions fish >target/package/completions/quire.fish
cargo deb --package quire --no-build --locked
