#!/bin/sh
set -eu
[ "${NGINX_ENTRYPOINT_WORKER_PROCESSES_AUTOTUNE:-}" ] || exit 0
sed -i.bak -e "s/^worker_processes .*/worker_processes $(nproc);/" /etc/nginx/nginx.conf
