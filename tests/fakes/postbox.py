"""A server on this machine that takes what Apprise sends to ``json://``, and keeps it."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "tok-5ecret"


class Postbox:
    """``url``: the address, with a secret in it. ``messages``: what came. ``status``: the answer;
    from 300 on nothing is kept."""

    def __init__(self):
        box = self
        self.empty()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if box.status < 300:
                    box.messages.append(json.loads(body))
                else:
                    box.refused += 1
                self.send_response(box.status)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02},
                         daemon=True).start()

    def empty(self):
        """Forget what came, and take what comes."""
        self.messages, self.status, self.refused = [], 200, 0

    @property
    def url(self):
        return f"json://127.0.0.1:{self.server.server_port}/{TOKEN}"

    def titles(self):
        return [message["title"] for message in self.messages]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def postbox():
    box = Postbox()
    try:
        yield box
    finally:
        box.close()
