# The package goes. Sourced by systemd/test.sh.

test_removal() {
    check "docs/systemd.md, Uninstall: removed, data and settings stay" removes
    check "installed again: the store is as it was" installs_again
    check "purged: data and settings are gone, the user stays" purges
}

removes() {
    inside apt-get remove -y quire
    want "daemons" "$(inside pgrep -xc quire || true)" 0
    inside test -e /etc/quire/catalog-123.env
    inside test -e /var/lib/quire/catalog-123
    inside test ! -e /usr/bin/quire
}

installs_again() {
    inside apt-get install -y ./quire_0.1.1-1_amd64.deb
    inside systemctl start quire.target
    buys_again 20
    each_unit active
    books_agree
}

purges() {
    inside_page "$page" Uninstall
    inside rm -rf /etc/systemd/system/quire-catalog@.service.d /etc/systemd/system/quire-order@1.service.d
    local left
    left=$(inside sh -c 'find / -xdev -name "*quire*" -not -path "/root/*" -not -path "/proc/*" -not -path "/var/log/*" \
        -not -path "/var/cache/*" -not -path "/var/lib/systemd/*" -not -path "/tmp/*" -not -path "/run/*"')
    want "files that are left" "$left" ""
    inside getent passwd quire >/dev/null || { echo "the user is gone"; return 1; }
    want "units that systemd still knows" "$(inside systemctl list-units --all --plain --no-legend --state=active 'quire*')" ""
}
