#!/bin/sh
# Waits for nothing, migrates what is there, then the command.
set -eu
if [ "${MIGRATE:-1}" = 1 ]; then
    python manage.py migrate --noinput --verbosity 1
fi
exec "$@"
