# The server answers as its user; the program of the minimal root filesystem finds its libraries there.
mica run --rm "$IMAGE" --version | grep -Fx 'api 0.3.0 (0123abc)'
mica run --rm --network none --entrypoint bash "$IMAGE" -euc '
  test "$(id -un)" = api
  api &
  for i in $(seq 100); do exec 3<>/dev/tcp/127.0.0.1/8080 && break; sleep 0.1; done 2>/dev/null
  printf "POST /index HTTP/1.0\r\nContent-Length: 7\r\n\r\none ONE" >&3
  grep -F "{\"one\":[1,1]}" <&3
  kill $!
'
mica run --rm --user root --entrypoint chroot "$IMAGE" /opt/minimal /usr/local/bin/api --version | grep -F 'api 0.3.0'
