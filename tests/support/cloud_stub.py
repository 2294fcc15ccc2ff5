"""An API that says what the test told it to, request by request, and refuses everything else.

For what a faithful cloud cannot be made to do: answers that are none, drips, redirects, odd codes.
A request that nobody expected is answered with 418 and fails the test at the end.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs


@attrs.frozen
class Seen:
    """One request as it arrived. `path` with its query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any

    @property
    def line(self) -> str:
        return f"{self.method} {self.path}"


@attrs.frozen
class Say:
    """One answer. `then`: `answer`, `drop` (no byte of it), `half` (drop in its middle), `hang`
    (until the stub ends)."""

    status: int = 200
    body: Any = attrs.field(factory=dict)
    headers: Mapping[str, str] = attrs.field(factory=dict)
    then: str = "answer"


def refused(status: int, code: str, **details: Any) -> Say:
    """The API's envelope; the message is one that must not matter."""
    error = {"code": code, "message": "words that nobody matches", "details": details or None}
    return Say(status, {"error": error}, {"X-Correlation-Id": "c0ffee"})


def named(*names: str) -> list[dict[str, Any]]:
    """As in the details of `invalid_input` (`fields`) and limits."""
    return [{"name": name} for name in names]


class Stub:
    """`expect` in the order of requests; the last answer for a line may be `always`."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.arrived = threading.Event()
        """Something was asked."""
        self.unexpected: list[str] = []
        self._script: dict[str, list[Say]] = {}
        self._always: dict[str, Say] = {}
        self._end = threading.Event()
        self._lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # header and body leave together

            def log_message(self, *_: object) -> None:
                """Silent."""

            def do_GET(self) -> None:
                stub._serve(self)

            do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def expect(self, line: str, *answers: Say) -> None:
        """`POST /servers`; queries are not compared."""
        self._script.setdefault(line, []).extend(answers)

    def always(self, line: str, answer: Say) -> None:
        self._always[line] = answer

    def lines(self) -> list[str]:
        return [seen.line for seen in self.seen]

    def close(self) -> None:
        self._end.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        raw = handler.rfile.read(length)
        path = handler.path.removeprefix("/v1")
        seen = Seen(
            handler.command,
            path,
            {name.lower(): value for name, value in handler.headers.items()},
            json.loads(raw) if raw else None,
        )
        line = f"{seen.method} {path.partition('?')[0]}"
        with self._lock:
            self.seen.append(seen)
            self.arrived.set()
            waiting = self._script.get(line)
            say = waiting.pop(0) if waiting else self._always.get(line)
            if say is None:
                self.unexpected.append(line)
                say = Say(418, b"unexpected")
        self._answer(handler, say)

    def _answer(self, handler: BaseHTTPRequestHandler, say: Say) -> None:
        if say.then == "hang":
            self._end.wait()
        if say.then in {"hang", "drop"}:
            return self._hang_up(handler)
        data = say.body if isinstance(say.body, bytes) else json.dumps(say.body).encode()
        if say.status == 204:
            data = b""
        handler.send_response_only(say.status)  # no Date but the test's
        for name, value in say.headers.items():
            handler.send_header(name, value)
        if say.status != 204:
            handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: len(data) // 2] if say.then == "half" else data)
        handler.wfile.flush()
        if say.then == "half":
            self._hang_up(handler)
        return None

    @staticmethod
    def _hang_up(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        with contextlib.suppress(OSError):
            handler.connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def running() -> Iterator[Stub]:
    """Fails at its end if something was asked that nobody expected."""
    stub = Stub()
    try:
        yield stub
    finally:
        stub.close()
    assert stub.unexpected == []


# -- documents of the API, as small as they are complete ------------------------------------------

CREATED = "2026-09-10T12:00:00+00:00"


def server(ident: int = 7, **more: Any) -> dict[str, Any]:
    return {
        "id": ident,
        "name": f"burst-build-{ident}",
        "status": "running",
        "created": CREATED,
        "labels": {"burst": "1"},
        "server_type": {"name": "ccx43"},
        "location": {"name": "fsn1"},
        "image": {"id": 3},
        "locked": False,
        "protection": {"delete": False, "rebuild": False},
        "volumes": [8],
        "public_net": {
            "ipv4": {"id": 11, "ip": "203.0.113.7"},
            "ipv6": {"id": 12, "ip": "2001:db8::/64"},
            "floating_ips": [],
            "firewalls": [{"id": 5, "status": "applied"}],
        },
        **more,
    }


def volume(ident: int = 8, **more: Any) -> dict[str, Any]:
    return {
        "id": ident,
        "name": f"burst-store-{ident}",
        "status": "available",
        "created": CREATED,
        "labels": {},
        "size": 100,
        "location": {"name": "fsn1"},
        "server": None,
        "linux_device": f"/dev/disk/by-id/scsi-0HC_Volume_{ident}",
        "format": None,
        "protection": {"delete": False},
        **more,
    }


def image(ident: int = 3, **more: Any) -> dict[str, Any]:
    return {
        "id": ident,
        "name": None,
        "description": "burst image",
        "type": "snapshot",
        "status": "creating",
        "created": CREATED,
        "labels": {"burst": "1"},
        "architecture": "x86",
        "disk_size": 40.0,
        "image_size": None,
        "protection": {"delete": False},
        **more,
    }


def action(ident: int = 1, status: str = "running", **more: Any) -> dict[str, Any]:
    return {
        "id": ident,
        "command": "create_server",
        "status": status,
        "progress": 0 if status == "running" else 100,
        "started": CREATED,
        "finished": None if status == "running" else CREATED,
        "resources": [],
        "error": None,
        **more,
    }


def page(key: str, *entries: dict[str, Any], next_page: int | None = None) -> Say:
    pagination = {
        "page": 1,
        "per_page": 50,
        "previous_page": None,
        "next_page": next_page,
        "last_page": None,
        "total_entries": None,
    }
    return Say(200, {key: list(entries), "meta": {"pagination": pagination}})
