#!/bin/sh
# Fills in the variables of the environment in /etc/nginx/templates/*.template.
set -e
from="${NGINX_ENVSUBST_TEMPLATE_DIR:-/etc/nginx/templates}"
to="${NGINX_ENVSUBST_OUTPUT_DIR:-/etc/nginx/conf.d}"
defined=$(printf '${%s} ' $(awk "END { for (name in ENVIRON) print name }" < /dev/null))
find "$from" -follow -type f -name '*.template' | while read -r template; do
    name=${template#"$from"/}
    target="$to/${name%.template}"
    mkdir -p "$(dirname "$target")"
    envsubst "$defined" < "$template" > "$target"
done
