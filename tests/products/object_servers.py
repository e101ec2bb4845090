"""Servers for tests of object stores: S3 and HTTP on this machine, counting bytes and failing on demand."""

import re
import threading
from contextlib import contextmanager

import fsspec
import zarr
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server


def s3_application():
    """Return moto's S3 and the class that handles its requests."""
    return DomainDispatcherApplication(create_backend_app), MotoRequestHandler


class Counted:
    """A server that writes down what it sends, and fails when it is told to."""

    def __init__(self, application):
        self.application = application
        self.sent = []
        self.failures = []
        self.patience = threading.Event()

    def __call__(self, environ, start_response):
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, int):
            self.sent.append((method, path, failure))
            start_response(f"{failure} by order", [("Content-Length", "0")])
            return [b""]
        if failure == "silence":
            self.sent.append((method, path, 0))
            self.patience.wait(20)
            failure = None
        answer = {}

        def note(status, headers, *_):
            answer.update(status=status, headers=headers)

        body = b"".join(self.application(environ, note))
        start_response(answer["status"], answer["headers"])
        self.sent.append((method, path, len(body) if method == "GET" else 0))
        # fewer bytes than announced: the connection breaks
        return [body[: len(body) // 2] if failure == "cut" else body]

    @property
    def n_bytes(self):
        return sum(n for _, _, n in self.sent)

    def gets(self, name=""):
        return [n for method, path, n in self.sent if method == "GET" and path.endswith(name)]

    def forget(self):
        self.sent.clear()
        self.failures.clear()


@contextmanager
def served(application, handler=None):
    """Serve an application on a free port, yield its address."""
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        application.patience.set()
        server.shutdown()
        thread.join()
        server.server_close()


def forget_connections():
    for protocol in ("s3", "http"):
        kind = fsspec.get_filesystem_class(protocol)
        for system in list(kind._cache.values()):
            if system.asynchronous and protocol == "s3":  # those of zarr, which nobody closes
                zarr.core.sync.sync(system._s3creator.__aexit__(None, None, None))
        kind.clear_instance_cache()


class Folder:
    """A web server for bytes in memory, with or without ranges, that lists folders."""

    def __init__(self, contents, ranges=True):
        self.contents, self.ranges = contents, ranges

    def __call__(self, environ, start_response):
        path = environ["PATH_INFO"]
        if path.endswith("/"):
            names = [name for name in self.contents if name.startswith(path)]
            page = "".join(f'<a href="{name.removeprefix(path)}">x</a>' for name in names).encode()
            start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(page)))])
            return [page]
        if path not in self.contents:
            start_response("404 Not Found", [("Content-Length", "0")])
            return [b""]
        body, total = self.contents[path], len(self.contents[path])
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", environ.get("HTTP_RANGE", ""))
        headers = [("Content-Type", "application/fits"), ("ETag", str(hash(body)))]
        if wanted and self.ranges:
            start, stop = int(wanted[1]), min(int(wanted[2]) + 1, total)
            body = body[start:stop]
            headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{total}"))
        start_response(
            "206 Partial" if wanted and self.ranges else "200 OK", [*headers, ("Content-Length", str(len(body)))]
        )
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]
