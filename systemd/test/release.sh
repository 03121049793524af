# The release archive. Sourced by systemd/test.sh.

test_release() {
    check "systemd/release.sh builds the archive" archive_builds
    check "its sums are right, its binary is static and runs in an empty root" archive_is_whole
    check "its bill of materials names what Cargo.lock names" materials
    check "built again it is the same, byte for byte; files in order, root's, as old as the commit" archive_is_the_same
    check "docs/systemd.md, From the release archive: the first buy" archive_installs
}

archive_builds() {
    systemd/release.sh >"$work/built" 2>"$work/building" || { tail -n 30 "$work/building"; return 1; }
    archive=$(cat "$work/built")
    want "the archive" "$archive" "$PWD/target/release-archive/quire-$version-$(uname -m).tar.gz"
    cp "$archive" "$archive.sha256" "$work/"
    mkdir "$work/release"
    tar -C "$work/release" -xzf "$archive"
    note "$(du -h "$archive" | cut -f1)"
}

archive_is_whole() {
    (cd "$work" && sha256sum --check --quiet quire-*.sha256)
    local root
    root=$work/release/quire-$version-$(uname -m)
    (cd "$root" && sha256sum --check --quiet --strict SHA256SUMS)
    want "files without a sum" "$(cd "$root" && find . -type f -printf '%P\n' | sort | comm -3 - <(awk '{ print $2 }' SHA256SUMS | sort))" SHA256SUMS
    local file
    for file in bin/quire LICENSE README.md docs/systemd.md systemd/quire-catalog@.service systemd/env/order.env systemd/one_host.sh \
        man/quire.1 completions/quire.bash quire.cdx.json; do
        [ -s "$root/$file" ] || { echo "$file is not in it"; return 1; }
    done
    mkdir "$work/empty"
    cp "$root/bin/quire" "$work/empty/"
    want "quire --version in an empty root" "$(chroot "$work/empty" /quire --version)" "quire $version"
    at_most "size of the binary" "$(stat -c %s "$root/bin/quire")" 15000000
    note "the binary has $(stat -c %s "$root/bin/quire" | awk '{ printf "%.1f MB", $1 / 1e6 }')"
}

materials() {
    /usr/bin/python3 - "$work/release/quire-$version-$(uname -m)/quire.cdx.json" <<'PYTHON' >"$work/note"
import json, re, sys
bill = json.load(open(sys.argv[1]))
assert bill["bomFormat"] == "CycloneDX", bill["bomFormat"]
locked = set(re.findall(r'\[\[package\]\]\nname = "(.*)"\nversion = "(.*)"', open("Cargo.lock").read()))
named = {(part["name"], part["version"]) for part in bill["components"]}
assert named <= locked, f"not in Cargo.lock: {named - locked}"
for crate in ("heed", "raft", "hyper", "may", "ureq", "clap", "wal", "kit"):
    assert any(name == crate for name, _ in named), f"{crate} is missing"
assert not any(name in ("proptest", "goldenscript") for name, _ in named), "the tests' crates are in it"
print(f"{len(named)} crates")
PYTHON
}

archive_is_the_same() {
    local first
    first=$(cat "$work"/quire-*.sha256)
    sleep 1
    systemd/release.sh >/dev/null 2>&1
    want "the sum of the second build" "$(cat target/release-archive/*.sha256)" "$first"
    tar -tvzf "$work/quire-$version-$(uname -m).tar.gz" --full-time --numeric-owner >"$work/listed"
    want "owners and times" "$(awk '{ print $2, $4, $5 }' "$work/listed" | sort -u)" \
        "0/0 $(date -d "@$(git log -1 --format=%ct)" '+%F %T')"
    want "order of the files" "$(awk '{ print $6 }' "$work/listed" | sed 's,/$,,' | LC_ALL=C sort -c 2>&1)" ""
}

archive_installs() {
    front=http://127.0.0.1:5004
    cp "$work"/quire-*.tar.gz* "$work/machine/root/"
    inside_page "$page" "From the release archive"
    each_unit active
    want "the first buy" "$(inside curl -s $front/orders/1 | grep -o '"key":"[^"]*"')" '"key":"my-first"'
}
