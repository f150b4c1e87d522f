#!/bin/sh
# Runs what lies in /docker-entrypoint.d, then the command.
set -e

log() {
    [ -n "${NGINX_ENTRYPOINT_QUIET_LOGS:-}" ] || echo "$@"
}

if [ "$1" = nginx ] || [ "$1" = nginx-debug ]; then
    for script in $(find /docker-entrypoint.d/ -follow -type f | sort -V); do
        case "$script" in
            *.envsh) log "$0: sourcing $script"; . "$script" ;;
            *.sh)
                if [ -x "$script" ]; then
                    log "$0: launching $script"
                    "$script"
                else
                    log "$0: ignoring $script, not executable"
                fi
                ;;
            *) log "$0: ignoring $script" ;;
        esac
    done
    log "$0: configuration complete"
fi

exec "$@"
