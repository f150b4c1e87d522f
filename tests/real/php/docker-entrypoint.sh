#!/usr/bin/env bash
# Writes the application's configuration from the environment, then runs the command.
set -Eeuo pipefail

if [[ "$1" == apache2* ]]; then
	: "${GUESTBOOK_TITLE:=Guests}"
	: "${APACHE_PORT:=80}"
	sed -i "s/^Listen 80$/Listen $APACHE_PORT/" /etc/apache2/ports.conf
	sed -i "s/<VirtualHost \*:80>/<VirtualHost *:$APACHE_PORT>/" /etc/apache2/sites-available/000-default.conf
	php -r 'file_put_contents("/srv/app/config.php", "<?php return ".var_export(["title" => $argv[1]], true).";");' -- "$GUESTBOOK_TITLE"
fi
exec "$@"
