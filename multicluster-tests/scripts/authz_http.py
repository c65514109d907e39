"""An external authorizer over HTTP: authz_http.py <host> <port>. Lets in whoever sends `x-let: in`."""

import http.server
import sys


class Check(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        allowed = self.headers.get("x-let") == "in"
        body = b"" if allowed else b"not on the list"
        self.send_response(200 if allowed else 403)
        self.send_header("x-checked-by", f"http {self.command} {self.path}")
        self.send_header("x-why", "" if allowed else "list")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = answer


http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Check).serve_forever()
