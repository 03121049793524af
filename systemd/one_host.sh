#!/bin/sh
# All seven daemons of a store on this host, under systemd: writes their settings to /etc/quire and enables them. Ports are
# those of `quire up`: 5001 to 5003 catalog, 5004 front end, 5005 to 5007 orders; others' settings are left alone.
set -eu

etc=${QUIRE_ETC:-/etc/quire}
catalogs=127.0.0.1:5001,127.0.0.1:5002,127.0.0.1:5003
orders=127.0.0.1:5007,127.0.0.1:5006,127.0.0.1:5005
install -d "$etc"

write() { # file, lines on stdin
    if [ -e "$etc/$1" ]; then echo "$etc/$1 is there already and is left alone"; cat >/dev/null; else cat >"$etc/$1"; fi
}
for id in 123 111 114; do
    write "catalog-$id.env" <<ENV
PROCESS_ID=$id
ALL_IDS=123,111,114
ALL_HOSTNAMES=$catalogs
QUIRE_LISTEN=127.0.0.1
ENV
done
for id in 1 2 3; do
    write "order-$id.env" <<ENV
PROCESS_ID=$id
ALL_IDS=1,2,3
ALL_HOSTNAMES=$orders
CATALOG_HOST_1=127.0.0.1:5001
CATALOG_HOST_2=127.0.0.1:5002
CATALOG_HOST_3=127.0.0.1:5003
QUIRE_LISTEN=127.0.0.1
QUIRE_NAME=order_service_$id
ENV
done
write frontend.env <<ENV
CATALOG_HOST_1=127.0.0.1:5001
CATALOG_HOST_2=127.0.0.1:5002
CATALOG_HOST_3=127.0.0.1:5003
ORDER_HOST_1=127.0.0.1:5007
ORDER_HOST_2=127.0.0.1:5006
ORDER_HOST_3=127.0.0.1:5005
QUIRE_LISTEN=127.0.0.1
ENV
systemctl enable quire.target quire-frontend quire-catalog@123 quire-catalog@111 quire-catalog@114 \
    quire-order@1 quire-order@2 quire-order@3
echo "now: systemctl start quire.target"
