"""The HTTP side: loopback only, tokens, rate limit, faults, envelopes and headers."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import secrets
import socket
import socketserver
import threading
import traceback
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from . import errors, routes
from .errors import ApiError
from .exchange import Answer, Request
from .faults import Call, Fault, Faults, Journal
from .firewalls import filter_machines
from .world import Token, World

Json = dict[str, Any]
PREFIX: Final = "/v1"
CONTROL: Final = "/_control"
BODY_MAX: Final = 1 << 20
Control = Callable[[str, str, Json], Json]
"""Method, path after the prefix, body."""


class _NoAnswer(Exception):
    """The connection is to be closed without one."""


def is_loopback(host: str) -> bool:
    """Of an address or `localhost`, with or without a port."""
    name = urllib.parse.urlsplit(f"//{host}").hostname or ""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class ApiServer(ThreadingHTTPServer):
    """ValueError if the address is not loopback."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, world: World, faults: Faults, journal: Journal, control: Control, address: str
    ) -> None:
        if not is_loopback(address):
            raise ValueError(f"the local cloud refuses to bind to {address}: not loopback")
        self.world = world
        self.faults = faults
        self.journal = journal
        self.control = control
        self.secret = secrets.token_urlsafe(32)
        self.crashes: list[str] = []
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__((address, 0), _Handler)

    def server_bind(self) -> None:
        """Without the base class's look-up of our host's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is nothing to write about."""

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def close(self) -> None:
        """Ends all connections."""
        self.faults.closing.set()
        self.shutdown()
        self.server_close()
        with self._guard:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: ApiServer  # type: ignore[mutable-override]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    """Header and body leave together."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """The journal is our log."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The Date header, in API time."""
        return super().date_time_string(timestamp or int(self.server.world.clock.now()))

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_GET  # noqa: N815

    def _serve(self) -> None:
        # A peer that is not loopback cannot be there, as we bind to loopback; a name that was made
        # to point to us (DNS rebinding) can.
        if not is_loopback(str(self.client_address[0])) or not is_loopback(
            self.headers.get("Host", "")
        ):
            self._send(403, errors.forbidden("loopback only").body(), {})
            return
        length = int(self.headers.get("Content-Length") or 0)
        if length > BODY_MAX:
            self.close_connection = True
            self._send(413, errors.json_error().body(), {})
            return
        raw = self.rfile.read(length)
        split = urllib.parse.urlsplit(self.path)
        try:
            if split.path.startswith(f"{CONTROL}/"):
                self._control(split.path.removeprefix(CONTROL), raw)
            else:
                self._api(split, raw)
        except _NoAnswer:
            self._hang_up()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    # the API

    def _api(self, split: urllib.parse.SplitResult, raw: bytes) -> None:
        world = self.server.world
        path = split.path.removeprefix(PREFIX) if split.path.startswith(PREFIX) else "/-"
        operation, ids = routes.operation_of(self.command, path)
        query = urllib.parse.parse_qs(split.query, keep_blank_values=True)
        token = self._token()
        call = self.server.journal.add(
            lambda number: Call(
                number,
                operation,
                self.command,
                path,
                query,
                _quiet_json(raw),
                token.name if token else "",
                token.project if token else "",
                world.clock.now(),
            )
        )
        faults = self.server.faults
        faults.reach("before", call)
        fault = faults.meets(operation)
        call.injected = fault.kind if fault else None
        if fault and fault.kind == "drop":
            raise _NoAnswer
        if fault and fault.kind == "hang":
            faults.closing.wait(fault.seconds)
            raise _NoAnswer
        headers: dict[str, str] = {}
        body: Json | None
        if fault and fault.kind == "answer":
            status, body = fault.status, _envelope(fault)
        else:
            status, body = self._perform(call, token, ids, raw, headers)
            if fault is not None and fault.kind == "after":
                status, body = fault.status, _envelope(fault)
        call.answer = None if fault else body
        call.code = body["error"]["code"] if body and "error" in body else None
        faults.reach("performed", call)
        if fault and fault.kind == "lost":
            raise _NoAnswer
        if fault and fault.kind == "hang_lost":
            faults.closing.wait(fault.seconds)
            raise _NoAnswer
        if fault and fault.kind == "delay":
            faults.closing.wait(fault.seconds)
        call.status = status
        if fault and fault.raw is not None and fault.kind in {"answer", "after"}:
            self._send(status, fault.raw, headers)
        else:
            self._send(status, body, headers)
        faults.reach("answered", call)

    def _perform(
        self,
        call: Call,
        token: Token | None,
        ids: tuple[int, ...],
        raw: bytes,
        headers: dict[str, str],
    ) -> tuple[int, Json | None]:
        world = self.server.world
        with world.lock:
            try:
                if token is None or token.revoked:
                    raise errors.unauthorized()
                allowed, limits = world.take_request(world.projects[token.project])
                headers.update(limits)
                if not allowed:
                    raise errors.rate_limited()
                if token.readonly and call.method not in {"GET", "HEAD"}:
                    raise errors.token_readonly()
                world.engine.settle()
                handler = routes.find(call.operation)
                body = _parse(raw) if call.method in {"POST", "PUT", "DELETE"} else {}
                request = Request(world, token.project, ids, call.query, body, call.path)
                answer = handler(request)
                call.performed = True
                world.engine.settle()
                filter_machines(world)
            except ApiError as error:
                return error.status, error.body()
            except Exception:
                # A bug of ours: the test must not take it for the API's behaviour.
                self.server.crashes.append(traceback.format_exc())
                return 500, ApiError(500, "server_error", "the local cloud broke").body()
            # Under the lock: what it shows may change.
            shown = None if answer.body is None else json.loads(json.dumps(answer.body))
        if answer.page is not None:
            headers["Link"] = self._links(answer, call)
        return answer.status, shown

    def _links(self, answer: Answer, call: Call) -> str:
        assert answer.page is not None
        page, total = answer.page
        places = page.links(total)
        base = f"http://{self.headers['Host']}{PREFIX}{call.path}"
        names = (("prev", "previous_page"), ("next", "next_page"), ("last", "last_page"))
        links = []
        for relation, key in names:
            if places[key] is not None:
                query = {**call.query, "page": [str(places[key])], "per_page": [str(page.size)]}
                text = urllib.parse.urlencode(query, doseq=True)
                links.append(f'<{base}?{text}>; rel="{relation}"')
        return ", ".join(links)

    def _token(self) -> Token | None:
        word, _, value = self.headers.get("Authorization", "").partition(" ")
        return self.server.world.tokens.get(value) if word == "Bearer" else None

    # the control path

    def _control(self, path: str, raw: bytes) -> None:
        given = self.headers.get("X-Control-Secret", "")
        if not secrets.compare_digest(given, self.server.secret):
            self._send(403, {"error": "wrong secret"}, {})
            return
        try:
            self._send(200, self.server.control(self.command, path, _parse(raw)), {})
        except (KeyError, TypeError, ValueError, ApiError) as error:
            self._send(400, {"error": f"{type(error).__name__}: {error}"}, {})

    # bytes

    def _send(self, status: int, body: Json | str | None, headers: dict[str, str]) -> None:
        if isinstance(body, str):
            data, kind = body.encode(), "text/html"
        else:
            data, kind = (b"" if body is None else json.dumps(body).encode()), "application/json"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("X-Correlation-Id", secrets.token_hex(8))
        if status != 204:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.wfile.flush()

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def _envelope(fault: Fault) -> Json:
    return ApiError(fault.status, fault.code, fault.message, fault.details).body()


def _parse(raw: bytes) -> Json:
    if not raw:
        return {}
    try:
        body = json.loads(raw)
    except ValueError:
        raise errors.json_error() from None
    if not isinstance(body, dict):
        raise errors.json_error()
    return body


def _quiet_json(raw: bytes) -> Json | None:
    """For the journal."""
    try:
        body = json.loads(raw) if raw else None
    except ValueError:
        return {"raw": raw.decode(errors="replace")}
    return body if isinstance(body, dict) else {"raw": body}
