# shellcheck shell=bash
# An nginx with proxy_cache in front of the store's front end, on 127.0.0.1:18081; sourced after `store.sh`. Sets
# `nginx_pid`, which whoever sources it ends.

chmod 755 "$work" # the workers of an nginx that root starts are nobody
cat >"$work/nginx.conf" <<NGINX
daemon off; pid $work/nginx.pid; error_log $work/nginx.err; worker_processes 2; worker_rlimit_nofile 8192;
events { worker_connections 4096; }
http {
    access_log off; tcp_nodelay on; keepalive_requests 100000000; keepalive_timeout 60s;
    client_body_temp_path $work/t1; proxy_temp_path $work/t2; fastcgi_temp_path $work/t3;
    uwsgi_temp_path $work/t4; scgi_temp_path $work/t5;
    proxy_cache_path $work/cache keys_zone=lookups:10m;
    upstream front { server 127.0.0.1:5004; keepalive 16; }
    server {
        listen 127.0.0.1:18081 backlog=4096;
        location / {
            proxy_pass http://front; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_cache lookups; proxy_cache_valid 200 1h; proxy_ignore_headers Cache-Control Expires;
        }
    }
}
NGINX
nginx -p "$work" -c "$work/nginx.conf" 2>>"$work/nginx.err" &
nginx_pid=$!
