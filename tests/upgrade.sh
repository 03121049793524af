#!/usr/bin/env bash
# A rolling upgrade from the previous release to this one, and back, under load: builds the commit that
# tests/previous_release names from git, then replaces daemon by daemon (tests/src/bin/upgrade.rs).
#
#   tests/upgrade.sh             about four minutes on two cores, most of it the two builds
set -euo pipefail
cd "$(dirname "$0")/.."

commit=$(grep -v '^#' tests/previous_release)
git cat-file -e "$commit^{commit}" 2>/dev/null || {
    echo "commit $commit, the previous release, is not in this clone; run git fetch --unshallow" >&2
    exit 69
}
source=target/previous/$commit
if [ ! -x "$source/quire" ]; then
    mkdir -p "$source/src"
    git archive "$commit" | tar -x -C "$source/src"
    cargo build --release --locked --package quire --manifest-path "$source/src/Cargo.toml" --target-dir "$source/target"
    cp "$source/target/release/quire" "$source/quire"
    rm -rf "$source/target" "$source/src"
fi
cargo build --release --locked --package quire --package tests --bin quire --bin upgrade
target/release/upgrade "$source/quire"
