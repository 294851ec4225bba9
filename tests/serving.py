"""A server on this machine that serves shards, and fails, stalls and truncates as it is told."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Answers(BaseHTTPRequestHandler):
    """Serves the dictionary `files` of its server, and counts; a path with "cut" promises more than it sends.

    HEAD is answered too, and not counted. `troubles` are what it does first, one at each asking: "busy", "cut" in the
    middle, or "silent" for a second.
    """

    files: dict[str, bytes]
    asked: list[str]
    troubles: list[str]

    def do_HEAD(self) -> None:
        """Tell the size of a file, and how often it was changed; with "no-head" in its path nothing."""
        if "no-head" in self.path:
            return self.send_error(405)
        content = self.files.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.send_header("ETag", str(zlib.crc32(content or b"")))
        self.end_headers()
        return None

    def do_GET(self) -> None:
        self.asked.append(self.path)
        content = self.files.get(self.path)
        trouble = self.troubles.pop(0) if self.troubles else ""
        if trouble == "busy":
            return self.send_error(503)
        if trouble and content is not None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            if trouble == "silent":
                self.wfile.flush()
                time.sleep(1)
            return None
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"") + 1000 * ("cut" in self.path)))
        self.end_headers()
        self.wfile.write(content or b"")
        return None

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[tuple[str, type[Answers]]]:
    """The address of a server on this machine, and what it answers."""
    answers = type("Answers", (Answers,), {"files": {}, "asked": [], "troubles": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), answers) as running:
        thread = threading.Thread(target=partial(running.serve_forever, poll_interval=0.01))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", answers
        running.shutdown()
        thread.join()
