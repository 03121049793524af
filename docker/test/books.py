"""Whether all replicas of the store on this host say the same: stocks, orders, and who is alive.

Prints what they agree on. Ends with code 1 and the first difference otherwise."""

import json
import sys
import urllib.request

CATALOGS = [5001, 5002, 5003]
ORDERS = [5007, 5006, 5005]
FRONT = 5004
BOOKS = range(1, 8)
PAGE = 1000


def ask(port, path):
    with urllib.request.urlopen(f"http://localhost:{port}{path}", timeout=10) as answer:
        return json.load(answer)


def order_book(port):
    orders, after = [], 0
    while after is not None:
        page = ask(port, f"/orders?limit={PAGE}&after={after}")
        orders += page["orders"]
        after = page.get("next")
    assert len(orders) == page["total"], f"port {port} lists {len(orders)} orders and says {page['total']}"
    return orders


def agree(what, answers):
    ports = list(answers)
    for port in ports[1:]:
        if answers[port] != answers[ports[0]]:
            sys.exit(f"{what} differ between the ports {ports[0]} and {port}")
    return answers[ports[0]]


def main():
    stocks = agree("stocks", {
        port: [ask(port, f"/catalog/query?id={book}")["stock"] for book in BOOKS] for port in CATALOGS
    })
    orders = agree("orders", {port: order_book(port) for port in ORDERS + [FRONT]})
    numbers, keys = [order["order"] for order in orders], {order["key"] for order in orders}
    if numbers != list(range(1, len(orders) + 1)) or len(keys) != len(orders):
        sys.exit(f"{len(orders)} orders have {len(keys)} keys, and numbers up to {max(numbers)}")
    for port in CATALOGS:
        info = ask(port, "/info")
        if len(info["neighbors"]) != 2 or info["coordinator"] == -1:
            sys.exit(f"the replica at port {port} sees {info}")
    print(f"the replicas agree: {len(orders)} orders, stocks {stocks}")


try:
    main()
except (OSError, AssertionError) as error:
    sys.exit(str(error))
