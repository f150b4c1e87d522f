# A web application of one page, started by inetd for each request.
#
# app.sh --serve   reads a request, writes the answer
# app.sh --once    writes the page alone
# app.sh --check   says whether the application can start
page="<h1>Hello, ${NAME:-nobody}!</h1>"
case ${1:-} in
  --once) printf '%s\n' "$page" ;;
  --check) echo "ready, with sh" ;;
  *)
    while IFS= read -r line && [ "${#line}" -gt 1 ]; do :; done
    printf 'HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n%s\n' "$page"
    ;;
esac
