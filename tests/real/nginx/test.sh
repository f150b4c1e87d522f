# The server answers, on the port that the environment names, with what the template and the site's stage made.
mica run --rm --network none -e NGINX_PORT=8080 "$IMAGE" sh -euc '
  /docker-entrypoint.sh nginx -g "daemon off;" > /tmp/log 2>&1 & 
  for i in $(seq 100); do curl -fs http://127.0.0.1:8080/healthz && break; sleep 0.1; done
  curl -fsS http://127.0.0.1:8080/ | grep -F "<h1>The \"mica\" site</h1>"
  curl -fsS -H "Accept-Encoding: gzip" http://127.0.0.1:8080/de.html | gzip -dc | grep "Stand r1"
  test "$(curl -s -o /dev/null -w "%{http_code}" http://127.0.0.1:8080/news.draft.html)" = 404
  kill -QUIT $!; wait
  grep "configuration complete" /tmp/log
  grep "GET /de.html" /tmp/log
'
mica run --rm --network none "$IMAGE" nginx -t
