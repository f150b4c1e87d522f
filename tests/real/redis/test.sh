# The server runs as its user, keeps what it is told, and writes its file with the owner of the image.
mica run --rm --network none "$IMAGE" sh -euc '
  docker-entrypoint.sh redis-server --save "" > /tmp/log 2>&1 &
  for i in $(seq 100); do redis-cli ping 2>/dev/null | grep -q PONG && break; sleep 0.1; done
  redis-cli set answer 42 | grep OK
  redis-cli incr answer | grep 43
  redis-cli save | grep OK
  stat -c "%u:%g %a" /data/dump.rdb | grep "999:999 600"
  redis-cli info server | grep redis_version:7
  redis-cli shutdown nosave || true
  wait
'
mica run --rm "$IMAGE" redis-check-rdb --version
