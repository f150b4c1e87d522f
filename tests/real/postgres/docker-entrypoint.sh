#!/usr/bin/env bash
# Makes the cluster at the first start, runs what lies in /docker-entrypoint-initdb.d, then the command.
set -Eeo pipefail

setup_env() {
	declare -g POSTGRES_USER="${POSTGRES_USER:-postgres}" POSTGRES_DB="${POSTGRES_DB:-${POSTGRES_USER:-postgres}}"
	export POSTGRES_USER POSTGRES_DB
	declare -g DATABASE_ALREADY_EXISTS=''
	if [ -s "$PGDATA/PG_VERSION" ]; then
		DATABASE_ALREADY_EXISTS=true
	fi
}

create_directories() {
	local user
	user="$(id -u)"
	mkdir -p "$PGDATA"
	chmod 00700 "$PGDATA" || :
	mkdir -p /var/run/postgresql || :
	chmod 03775 /var/run/postgresql || :
	if [ "$user" = '0' ]; then
		find "$PGDATA" \! -user postgres -exec chown postgres '{}' +
		find /var/run/postgresql \! -user postgres -exec chown postgres '{}' +
	fi
}

process_init_files() {
	local f
	for f; do
		case "$f" in
			*.sh)
				if [ -x "$f" ]; then
					"$f"
				else
					. "$f"
				fi
				;;
			*.sql) psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --no-password --no-psqlrc --dbname "$POSTGRES_DB" -f "$f" ;;
			*) echo "$0: ignoring $f" ;;
		esac
		echo "$0: ran $f"
	done
}

if [ "${1:0:1}" = '-' ]; then
	set -- postgres "$@"
fi
if [ "$1" = 'postgres' ]; then
	setup_env
	create_directories
	if [ "$(id -u)" = '0' ]; then
		exec setpriv --reuid postgres --regid postgres --init-groups -- "$BASH_SOURCE" "$@"
	fi
	if [ -z "$DATABASE_ALREADY_EXISTS" ]; then
		initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "${POSTGRES_PASSWORD:?must be set}") --auth-host=scram-sha-256
		pg_ctl -D "$PGDATA" -o "-c listen_addresses='' -p 5432" -w start
		process_init_files /docker-entrypoint-initdb.d/*
		pg_ctl -D "$PGDATA" -m fast -w stop
		echo 'PostgreSQL init process complete; ready for start up.'
	fi
fi
exec "$@"
