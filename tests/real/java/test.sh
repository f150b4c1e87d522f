# The service runs on the runtime that jlink made, as its user, from the archive of its classes.
mica run --rm --network none --entrypoint bash "$IMAGE" -euc '
  java -XX:SharedArchiveFile=/application/ledger.jsa -Xshare:on -cp /application/ledger.jar org.example.ledger.Main --port 8080 > /tmp/log 2>&1 &
  for i in $(seq 150); do exec 3<>/dev/tcp/127.0.0.1/8080 && break; sleep 0.1; done 2>/dev/null
  printf "POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\n250" >&3
  cat <&3 | tail -n 1 | grep -x 250
  grep -x "listening on 8080 as ledger" /tmp/log
  kill $!; wait || true
  test "$(stat -c "%U %s" /var/lib/ledger/sum)" = "ledger 4"
  test -f extracted/classes/org/example/ledger/Ledger.class
  ! test -e extracted/classes/META-INF
  ! command -v javac
'
mica run --rm "$IMAGE" --once | grep -x 'The ledger'
mica cat "$IMAGE" /usr/share/ledger/test-report | grep -x 'LedgerTest passed'
