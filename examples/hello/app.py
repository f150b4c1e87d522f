"""A web application of one page.

app.py --serve   answers on $PORT (8000)
app.py --once    writes the page to stdout
app.py --check   says whether the application can start
"""

import html
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


def page():
    name = html.escape(os.environ.get("NAME", "nobody"))
    return f"<h1>Hello, {name}!</h1>\n"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = page().encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main():
    mode = sys.argv[1] if len(sys.argv) > 1 else "--serve"
    if mode == "--once":
        print(page(), end="")
    elif mode == "--check":
        print("ready, with Python", sys.version.split()[0])
    else:
        server = HTTPServer(("", int(os.environ.get("PORT", "8000"))), Handler)
        print(f"listening on port {server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
