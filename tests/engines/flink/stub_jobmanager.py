"""An HTTP server that answers as it is told, in place of a JobManager."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StubJobManager:
    """answers: by "METHOD /path?query" a list of (status, body), given one after the other; the last one stays.

    otherwise: answers what is not listed, by "METHOD /path?query" and body.
    """

    def __init__(
        self,
        answers: dict[str, list[tuple[int, Any]]],
        otherwise: Callable[[str, Any], tuple[int, Any]] = lambda request, _: (
            404,
            {"errors": ["Not found: " + request]},
        ),
    ) -> None:
        self.answers, self.requests = {key: list(values) for key, values in answers.items()}, list[tuple[str, Any]]()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = f"{self.command} {self.path}"
                sent = json.loads(body) if body else None
                stub.requests.append((request, sent))
                values = stub.answers.get(request)
                if values is None:
                    status, value = otherwise(request, sent)
                else:
                    status, value = values.pop(0) if len(values) > 1 else values[0]
                content = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = handle_one  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def serving(self) -> Iterator[StubJobManager]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
