# The API answers as its user and serves what Vite built, without what only development needs.
mica run --rm --network none "$IMAGE" sh -euc '
  docker-entrypoint.sh apps/api/dist/server.js > /tmp/log 2>&1 &
  for i in $(seq 100); do grep -q listening /tmp/log && break; sleep 0.1; done
  get() { node -e "fetch(\"http://127.0.0.1:3000$1\").then(r => r.text()).then(t => console.log(t))"; }
  get /api/health | grep "\"env\":\"production\""
  get /api/products/1 | grep -F "€12.50"
  get / | grep "<title>The shop</title>"
  get /robots.txt | grep Disallow
  ls public/assets | grep -E "^react-.*\.js$"
  kill $!; wait || true
  grep "listening on 3000 as 1001:1001" /tmp/log
  ! ls node_modules/typescript node_modules/vite public/assets/*.map apps/api/dist/app.test.js 2>/dev/null
'
