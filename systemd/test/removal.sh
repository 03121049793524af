# The package goes. Sourced by systemd/test.sh.

test_removal() {
    check "docs/systemd.md, Uninstall: removed, data and settings stay" removes
    check "installed again: the store is as it was" installs_again
    check "purged: data and settings are gone, the user stays" purges
    check "docs/systemd.md, Several hosts: a replica alone has started, and says what it waits for" waits_for_others
}

removes() {
    inside apt-get remove -y quire
    want "daemons" "$(inside pgrep -xc quire || true)" 0
    inside test -e /etc/quire/catalog-123.env
    inside test -e /var/lib/quire/catalog-123
    inside test ! -e /usr/bin/quire
}

installs_again() {
    inside apt-get install -y ./quire_0.2.1-1_amd64.deb
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

waits_for_others() {
    inside apt-get install -y "./quire_$version-1_amd64.deb"
    inside ip address replace 10.0.1.11/32 dev lo
    inside_page "$page" "Several hosts"
    active quire-catalog@123
    local code=0
    inside quire health catalog --env-file /etc/quire/catalog-123.env >"$work/answer" 2>&1 || code=$?
    want "exit code of quire health" $code 1
    grep -q "10.0.1.12" "$work/answer" || { cat "$work/answer"; return 1; }
    inside apt-get purge -y quire
}
