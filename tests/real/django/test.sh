# The application migrates its database, answers as its user and serves the collected files.
mica run --rm --network none -e DJANGO_SECRET_KEY=run "$IMAGE" sh -euc '
  gunicorn --bind 127.0.0.1:8000 config.wsgi > /tmp/log 2>&1 &
  cat > /tmp/get.py <<-"PY"
	import re, sys, time, urllib.request as request
	def get(path):
	    for _ in range(100):
	        try:
	            return request.urlopen("http://127.0.0.1:8000" + path).read().decode()
	        except request.URLError:
	            time.sleep(0.1)
	print(get("/health/"))
	page = get("/")
	assert "<li>welcome</li>" in page, page
	style = re.search(r"/static/notes\.[0-9a-f]+\.css", page)[0]
	assert "italic" in get(style)
	assert "Django" in get("/admin/login/")
	PY
  python /tmp/get.py | grep "\"notes\": 1, \"uid\": 10001"
  kill $!; wait || true
  test "$(stat -c "%u:%g" /app/var/db.sqlite3)" = 10001:10001
'
mica run --rm --entrypoint python "$IMAGE" -c 'import psycopg; print(psycopg.pq.__impl__)' | grep -x c
mica run --rm --entrypoint sh "$IMAGE" -c '! command -v gcc'
