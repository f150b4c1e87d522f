# The cluster is made, its scripts run, and it answers over TCP with a password and over its socket as its user.
mica run --rm --network none -e POSTGRES_PASSWORD=secret "$IMAGE" bash -euc '
  docker-entrypoint.sh postgres > /tmp/log 2>&1 &
  for i in $(seq 300); do grep -q "init process complete" /tmp/log && pg_isready -q && break; sleep 0.1; done
  export PGPASSWORD=secret
  psql -h 127.0.0.1 -U postgres -Atc "SELECT count(*), sum(size) FROM layers" | grep "1000|512512000" || { cat /tmp/log; exit 1; }
  setpriv --reuid postgres --regid postgres --clear-groups psql -Atc "CREATE TABLE big AS SELECT g, repeat(md5(g::text), 20) t FROM generate_series(1, 20000) g; CHECKPOINT; SELECT count(DISTINCT t) FROM big" | grep 20000
  psql -h 127.0.0.1 -U postgres -Atc "SHOW server_encoding" | grep UTF8
  kill -INT $!; wait || true
  grep "database system is shut down" /tmp/log
'
mica run --rm "$IMAGE" stat -c '%U:%G %a' /var/lib/postgresql/data /run/postgresql | tr '\n' ' ' |
  grep 'postgres:postgres 1777 postgres:postgres 3777'
