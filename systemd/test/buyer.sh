#!/bin/sh
# A customer who buys one copy after the other and never gives up: a buy that broke off is sent again with its key. Runs
# inside the machine while /root/buying exists; writes "MILLISECONDS KEY" for each answer 200 to /root/bought.
url=${1:-http://127.0.0.1:5004}
run=$(date +%s%N)
n=0
: >/root/bought.open
while [ -e /root/buying ]; do
    n=$((n + 1))
    until [ "$(curl -s -o /root/answer -w '%{http_code}' --max-time 10 -X POST -H "Idempotency-Key: $run-$n" "$url/buy/$((n % 7 + 1))")" = 200 ]; do
        sleep 0.02
    done
    echo "$(date +%s%3N) $run-$n" >>/root/bought
    sleep 0.02
done
rm /root/bought.open
