# Apache answers with what the application, its database and our extension make.
mica run --rm --network none -e APACHE_PORT=8080 -e GUESTBOOK_TITLE="Guests & more" "$IMAGE" sh -euc '
  setsid docker-entrypoint.sh apache2-foreground > /tmp/log 2>&1 &
  for i in $(seq 100); do curl -fso /dev/null http://127.0.0.1:8080/ && break; sleep 0.1; done
  curl -fsS -d "name=ada <lovelace>" http://127.0.0.1:8080/ > /tmp/page || { cat /tmp/log; exit 1; }
  grep -F "<title>Guests &amp; more</title>" /tmp/page
  grep -F "<p>Welcome, Ada &lt;Lovelace&gt;!</p>" /tmp/page
  stat -c "%U:%G" /var/lib/guestbook/book.db | grep www-data:www-data
  kill -WINCH $!; wait || true
  grep "POST / HTTP" /tmp/log
  ! command -v gcc
'
test "$(mica run --rm "$IMAGE" stat -c %h /srv/app/src/guestbook.php)" = 2
