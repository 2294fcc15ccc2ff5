"""Hetzner Cloud: the one implementation of the port, and the only module that imports hcloud.

Import it late: the library takes a while to load. What it brings is the session, the headers and
the reading of error envelopes; what it does behind one's back is switched off, since it sends a
create again after a timeout, up to five times (measured, research/hetzner.md). See `_Session`.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

import attrs
import hcloud
import requests
import urllib3.exceptions

from burst_lifecycle.clock import ApiClock
from burst_lifecycle.cloud.calls import Calls, Reply, Timing
from burst_lifecycle.cloud.convert import Json
from burst_lifecycle.cloud.project import ProjectCloud
from burst_lifecycle.cloud.retry import Failure, Where
from burst_lifecycle.token import Token, is_loopback
from burst_protocol.version import BUILD

_UNSENT: Final = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    ssl.SSLCertVerificationError,
)
"""No request has left: no connection, or one to somebody who is not the API."""
_FRESH_S: Final = 20.0
"""A connection that was idle for longer may be ended by the other side in the very moment in which
we use it; for a create that would be an answer lost."""


class HetznerCloud(ProjectCloud):
    """One project, as one token sees it. `async with`, or `aclose` it: it keeps connections."""

    def __init__(
        self, token: Token, *, timing: Timing | None = None, clock: ApiClock | None = None
    ) -> None:
        timing, clock = timing or Timing(), clock or ApiClock()
        self._clients = _Clients(token, timing, clock.steady)
        super().__init__(Calls(self._clients, clock, timing))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def use(self, token: Token) -> None:
        """From the next request on: it was replaced where it is kept."""
        self._clients.use(token)

    async def aclose(self) -> None:
        self._clients.close()


# -- the library, tamed --------------------------------------------------------------------------


class _Session(requests.Session):
    """Sends what it has a ticket for, once; remembers what stood beside the answer.

    The library's own repetitions are set to zero as well, but that is a private field of it: should
    it ever be another one, the second send ends here, not at the API.
    """

    def __init__(self, *, direct: bool) -> None:
        super().__init__()
        self.ticket = False
        self.response: requests.Response | None = None
        # Proxies and certificates of the environment; never a ~/.netrc in place of our token, and
        # nothing of it at all on the way to this very machine.
        self.trust_env = not direct
        self.auth = _as_it_is

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        if not self.ticket:
            raise _Spent
        self.ticket = False
        # A redirected POST would arrive as a GET, and somewhere else.
        kwargs["allow_redirects"] = False
        self.response = super().request(*args, **kwargs)
        return self.response


class _Spent(Exception):
    """The library wanted to send something a second time."""


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


class _Client(hcloud.Client):
    """One at a time is used by one thread at a time: requests promises no more."""

    def __init__(self, token: Token, timing: Timing) -> None:
        super().__init__(
            token=token.value,
            api_endpoint=token.endpoint,
            application_name="burst",
            application_version=BUILD,
            timeout=(timing.connect_s, timing.read_s),
        )
        self.token = token
        self.session = _Session(direct=is_loopback(token.endpoint))
        self.used_s = 0.0
        self._client._session.close()
        self._client._session = self.session
        self._client._retry_max_retries = 0

    def close(self) -> None:
        self.session.close()
        self._client_hetzner._session.close()

    def once(
        self, method: str, path: str, params: Json | None, body: Json | None
    ) -> Mapping[str, Any] | Failure:
        """Whatever becomes of it, it is a value."""
        self.session.ticket, self.session.response = True, None
        more: dict[str, Any] = {}
        if params is not None:
            more["params"] = dict(params)
        if body is not None:
            more["json"] = dict(body)
        try:
            answer: object = self.request(method, path, **more)
        except hcloud.APIException as error:
            return _refusal(error, self._status())
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            unsent = any(isinstance(cause, _UNSENT) for cause in _causes(error))
            return Failure(Where.UNSENT if unsent else Where.LOST, text=_words(error))
        except Exception as error:  # an envelope that is none, or a second send
            status = self._status()
            if status is not None and status >= 400:
                return Failure(Where.ANSWERED, status=status)
            return Failure(Where.LOST, text=_words(error))
        status = self._status()
        if status is None or status >= 300:
            return Failure(Where.ANSWERED, status=status)
        if not isinstance(answer, dict):
            return Failure(Where.ANSWERED, status=status)
        return answer

    def _status(self) -> int | None:
        return None if self.session.response is None else self.session.response.status_code


@attrs.define
class _Clients:
    """As many as there are requests at a time; a thread takes one and brings it back.

    Threads of our own, not the loop's: those are waited for at exit, and a hung request must
    neither hold up a command nor fill the pool that everything else needs.
    """

    token: Token
    timing: Timing
    steady: Callable[[], float]
    _idle: list[_Client] = attrs.field(factory=list)
    _closed: bool = False

    async def send(
        self, method: str, path: str, *, params: Json | None, body: Json | None
    ) -> Reply:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Reply] = loop.create_future()

        def work() -> None:
            try:
                reply = self._send(method, path, params, body)
            except BaseException as error:  # ours, a bug; shown where it is awaited
                _post(loop, answered, None, error)
            else:
                _post(loop, answered, reply, None)

        threading.Thread(target=work, name="burst-cloud", daemon=True).start()
        return await answered

    def use(self, token: Token) -> None:
        self.token = token
        self._close_idle()

    def close(self) -> None:
        self._closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _send(self, method: str, path: str, params: Json | None, body: Json | None) -> Reply:
        try:
            client = self._idle.pop()
        except IndexError:
            client = _Client(self.token, self.timing)
        begun = self.steady()
        if begun - client.used_s > _FRESH_S:
            client.session.close()  # and opens anew by itself
        try:
            result = client.once(method, path, params, body)
            ended = client.used_s = self.steady()
            response = client.session.response
        finally:
            client.session.response = None
            if client.token is self.token:
                self._idle.append(client)
            else:
                client.close()
            if self._closed:
                self._close_idle()
        headers: Mapping[str, str] = {} if response is None else response.headers
        return Reply(
            result,
            begun,
            ended,
            date_s=_date(headers.get("Date", "")),
            limit=_count(headers.get("RateLimit-Limit", "")),
            remaining=_count(headers.get("RateLimit-Remaining", "")),
        )


def _post(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[Reply],
    reply: Reply | None,
    error: BaseException | None,
) -> None:
    """Into the loop, unless nobody waits any more, or the loop has gone."""

    def settle() -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        elif reply is not None:
            future.set_result(reply)

    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(settle)


def _refusal(error: hcloud.APIException, status: int | None) -> Failure:
    # Without an envelope the library puts the status in the place of the code.
    code, number = (error.code, None) if isinstance(error.code, str) else ("", error.code)
    details = error.details if isinstance(error.details, dict) else {}
    return Failure(
        Where.ANSWERED,
        code=code,
        status=number if status is None else status,
        text=str(error.message or "") if code else "",
        fields=_names(details.get("fields")),
        limits=_names(details.get("limits")),
        correlation=error.correlation_id or "",
    )


def _names(value: object) -> tuple[str, ...]:
    entries = value if isinstance(value, list) else []
    return tuple(
        str(entry["name"]) for entry in entries if isinstance(entry, dict) and "name" in entry
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """What stands behind an exception of requests: contexts, causes, and urllib3's `reason`s."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__, getattr(one, "reason", None)]
        waiting += [inner for inner in one.args if isinstance(inner, BaseException)]


def _words(error: BaseException) -> str:
    """Never the text of requests' exceptions: it repeats proxies' addresses with passwords."""
    innermost = [cause for cause in _causes(error) if isinstance(cause, OSError) and cause.strerror]
    if innermost:
        return innermost[-1].strerror or ""
    return type(error).__name__


def _date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() if text else None
    except (TypeError, ValueError):
        return None


def _count(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
