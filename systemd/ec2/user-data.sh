#!/bin/bash
# Makes a Quire node of a new Debian or Ubuntu instance: cloud-init runs this once, as root, at the first boot. It is the
# same for all instances; what an instance is to be, its tags say (instance tags in metadata must be on):
#
#   quire-daemons    what runs here: catalog-<id>, order-<id>, frontend; for example "catalog-123 order-1"
#   quire-catalogs   all catalog replicas, <id>=<private address>: "123=10.77.1.11 111=10.77.2.11 114=10.77.3.11"
#   quire-orders     all order replicas in the same form
#
# Where the package is, and its SHA-256 in hex; systemd/ec2/launch.sh fills these two in.
package_url='@PACKAGE_URL@'
package_sha256='@PACKAGE_SHA256@'
set -euo pipefail

metadata=http://169.254.169.254/latest
token=$(curl -sS -f --retry 10 --retry-all-errors -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 600' $metadata/api/token)
about() { curl -sS -f --retry 5 -H "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/$1"; }
address=$(about local-ipv4)
daemons=$(about tags/instance/quire-daemons)
catalogs=$(about tags/instance/quire-catalogs)
orders=$(about tags/instance/quire-orders)

# The private addresses and ids of "id=address ..." as the settings want them.
ids() { tr ' ' '\n' <<<"$1" | cut -d= -f1 | paste -sd,; }
hosts() { tr ' ' '\n' <<<"$1" | cut -d= -f2 | paste -sd,; }
numbered() { hosts "$2" | tr , '\n' | awk -v name="$1" '{ print name NR "=" $0 }'; }

if ! command -v quire >/dev/null; then
    curl -sS -f --retry 10 --retry-all-errors -o /root/quire.deb "$package_url"
    echo "$package_sha256  /root/quire.deb" | sha256sum --check --quiet
    dpkg -i /root/quire.deb
fi

units=()
for daemon in $daemons; do
    id=${daemon#*-}
    case $daemon in
        catalog-*)
            units+=("quire-catalog@$id")
            settings="PROCESS_ID=$id
ALL_IDS=$(ids "$catalogs")
ALL_HOSTNAMES=$(hosts "$catalogs")"
            ;;
        order-*)
            units+=("quire-order@$id")
            settings="PROCESS_ID=$id
ALL_IDS=$(ids "$orders")
ALL_HOSTNAMES=$(hosts "$orders")
QUIRE_NAME=order_service_$id
$(numbered CATALOG_HOST_ "$catalogs")"
            ;;
        frontend)
            units+=(quire-frontend)
            settings="$(numbered CATALOG_HOST_ "$catalogs")
$(numbered ORDER_HOST_ "$orders")"
            ;;
        *)
            echo "quire: the tag quire-daemons has '$daemon'; wanted catalog-<id>, order-<id> or frontend" >&2
            exit 78
            ;;
    esac
    printf '%s\nQUIRE_LISTEN=%s\n' "$settings" "$address" >"/etc/quire/$daemon.env"
done
systemctl enable --now quire.target "${units[@]}"
echo "quire: ${units[*]} run on $address"
