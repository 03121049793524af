# A newer package over a running store. Sourced by systemd/test.sh.

test_upgrade() {
    check "docs/systemd.md, Upgrade: one daemon after the other, buys go on" upgrades
    check "an upgrade to a broken version stops at the first daemon, buys go on" broken_upgrade
    check "the version before, installed again, mends it" mends
}

# The package that was built, with another version and, if named, another binary.
repack() { # version, binary
    rm -rf "$work/unpacked"
    dpkg-deb -R "$work/quire_$version-1_amd64.deb" "$work/unpacked"
    sed -i "s/^Version: .*/Version: $1/" "$work/unpacked/DEBIAN/control"
    [ -z "${2:-}" ] || install -m 755 "$2" "$work/unpacked/usr/bin/quire"
    dpkg-deb --root-owner-group -Zgzip -b "$work/unpacked" "$work/machine/root/quire_$1_amd64.deb"
}

upgrades() {
    repack 0.2.1-1
    pids() { each_unit property_of_it MainPID | sort; }
    property_of_it() { property "$2" "$1"; }
    pids >"$work/pids"
    buying_begins
    inside_page "$page" Upgrade | tee "$work/upgrade"
    buying_ends
    want "daemons that were restarted" "$(sed -n 's/^quire-restart: quire-\([a-z]*\).*/\1/p' "$work/upgrade" | paste -sd' ')" \
        "catalog catalog catalog order order order frontend"
    want "daemons that went on with the old binary" "$(pids | comm -12 "$work/pids" -)" ""
    want "version" "$(inside dpkg-query -W -f '${Version}' quire)" 0.2.1-1
    each_unit active
    note "longest time without a buy $(gap) ms"
    at_most "ms without a buy" "$(gap)" 5000
    books_agree
}

broken_upgrade() {
    printf '#!/bin/sh\necho "I am broken" >&2\nexit 70\n' >"$work/broken"
    repack 0.2.2-1 "$work/broken"
    buying_begins
    inside apt-get install -y ./quire_0.2.2-1_amd64.deb >"$work/upgrade" 2>&1
    buying_ends
    grep -q "the units after it were left alone" "$work/upgrade" || { cat "$work/upgrade"; return 1; }
    want "daemons that run" "$(inside pgrep -xc quire)" 6
    note "longest time without a buy $(gap) ms"
    at_most "ms without a buy" "$(gap)" 5000
}

mends() {
    inside apt-get install -y --allow-downgrades ./quire_0.2.1-1_amd64.deb
    until_true 20 each_unit active
    until_true 20 inside sh -c 'for port in 5001 5002 5003 5004 5005 5006 5007; do quire health at http://127.0.0.1:$port; done'
    books_agree
}
