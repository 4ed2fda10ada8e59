"""A web server on this machine that serves what it is told to, as badly as it is told to."""

import email.utils
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.files``; ``server.faults`` says by path what goes wrong, and how often (−1: always)."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server, path = self.server, self.path.partition("?")[0]
        with server.lock:
            server.asked[path] += 1
            server.targets.append(self.path)
            fault, left = server.faults.get(path, server.faults.get("*", ("", 0)))
            if left and self.command == "GET":
                server.faults[path] = (fault, left - 1)
            else:
                fault = fault if fault == "redirect" else ""
        if fault.isdigit():
            return self.answer(int(fault), b"leave me alone")
        if fault == "redirect":
            return self.answer(302, b"", {"Location": f"/moved{path}"})
        if fault == "hang":
            server.ended.wait(30)
            self.close_connection = True
            return None
        if fault == "drop":
            self.close_connection = True
            return self.connection.close()
        path = path.removeprefix("/moved")
        if server.key and server.key not in self.path:
            return self.answer(403, b"no")
        if path not in server.files:
            return self.answer(404, b"")
        return self.serve(server.files[path], "text/html" if path.endswith("/") else "application/octet-stream", fault)

    do_HEAD = do_GET  # noqa: N815 - the base class's name

    def serve(self, data, kind, fault):
        headers = {"Content-Type": kind, "ETag": f'"{hash(data) & 0xFFFFFF:x}"'}
        headers["Last-Modified"] = email.utils.formatdate(0, usegmt=True)
        status, asked = 200, self.headers.get("Range")
        if asked and self.server.ranges:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            whole, data = len(data), data[int(start) : int(end) + 1 if end else None]
            headers["Content-Range"] = f"bytes {start}-{int(start) + len(data) - 1}/{whole}"
            status = 206
        self.answer(status, data, headers, stop=len(data) // 2 if fault == "truncated" else None)

    def answer(self, status, data, headers=(), stop=None):
        self.send_response(status)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[:stop])
            if stop is not None:
                self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def serving(files):
    """A server of files by their paths; ``server.home`` is its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.files, server.faults, server.asked, server.targets = dict(files), {}, Counter(), []
    server.key, server.ranges, server.lock, server.ended = "", True, threading.Lock(), threading.Event()
    server.home = f"http://127.0.0.1:{server.server_port}"
    with running(server):
        try:
            yield server
        finally:
            server.ended.set()


@contextmanager
def running(server):
    """A server that answers in a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def page(*names):
    """A page with links to some files."""
    return "".join(f'<a href="{name}">{name}</a>' for name in names).encode()
