#!/usr/bin/env bash
set -Eeuo pipefail
[ -s "$PGDATA/PG_VERSION" ] || { echo "no database in $PGDATA" >&2; exit 1; }
