# The service answers as its user and keeps what it is told in its volume.
mica run --rm --network none "$IMAGE" sh -euc '
  catalog > /tmp/log 2>&1 &
  cat > /tmp/ask.py <<-"PY"
	import json, time, urllib.request as request
	def ask(path, data=None):
	    body = data and json.dumps(data).encode()
	    req = request.Request("http://127.0.0.1:8000" + path, body, {"Content-Type": "application/json"})
	    for _ in range(100):
	        try:
	            return json.load(request.urlopen(req))
	        except request.URLError:
	            time.sleep(0.1)
	assert ask("/health") == {"version": "2.1.0", "uid": 1000}
	assert ask("/items", {"name": "wheel"}) == {"id": 1, "name": "wheel"}
	assert ask("/items/wheel")["id"] == 1
	assert "/items/{name}" in ask("/openapi.json")["paths"]
	print("answered")
	PY
  python /tmp/ask.py | grep answered
  kill $!; wait || true
  test "$(stat -c "%U" /var/lib/catalog/catalog.db)" = catalog
'
test "$(mica cat "$IMAGE" /etc/catalog/MOTD)" = 'Costs $5 and `no` command.'
test "$(mica cat "$IMAGE" /etc/catalog/CONFIG | head -n 1)" = "# catalog's settings"
mica cat "$IMAGE" /usr/share/catalog/report.xml | grep 'tests="2"'
