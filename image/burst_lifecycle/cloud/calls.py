"""Requests with a policy: what is sent again, when, for how long, and what an answer teaches.

Between the port and the library. Each call has a deadline and can be cancelled at every await; a
request that is under way then ends by itself in its thread, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self, TypeVar

import attrs

from burst_lifecycle.clock import ApiClock
from burst_lifecycle.cloud import convert
from burst_lifecycle.cloud.convert import Json
from burst_lifecycle.cloud.model import Action, ActionState
from burst_lifecycle.cloud.retry import (
    LOCKED,
    Failure,
    Pace,
    Safety,
    Where,
    again_s,
    poll_s,
    to_error,
    worth_a_look,
)
from burst_lifecycle.errors import (
    ActionFailed,
    Ambiguous,
    CloudProblem,
    CloudUnreachable,
    DeadlinePassed,
    NotFound,
)

T = TypeVar("T")


@attrs.frozen
class Timing:
    """Seconds. Tests make waits shorter, never the policy."""

    connect_s: float = 5.0
    read_s: float = 30.0
    """Between two bytes of an answer."""
    request_s: float = 45.0
    """One request in all, however slowly it drips."""
    read_all_s: float = 120.0
    """A reading call, repetitions and pages included."""
    change_s: float = 120.0
    delete_s: float = 180.0
    poll: Callable[[float], float] = poll_s
    """Between two looks at an action, by the time it has taken."""
    factor: float = 1.0
    """Of the pauses before something is sent again."""


@attrs.frozen
class Reply:
    """What came back, with what every answer says beside it. `begun`, `ended`: steady seconds."""

    result: Json | Failure
    begun: float
    ended: float
    date_s: float | None = None
    limit: int | None = None
    remaining: int | None = None
    """Of the rate limit."""


class Sender(Protocol):
    """Sends one request once, in a thread; never raises but for a cancellation."""

    async def send(
        self, method: str, path: str, *, params: Json | None, body: Json | None
    ) -> Reply: ...


@attrs.define
class Calls:
    """One project's API. `clock` and `pace` learn from every answer."""

    sender: Sender
    clock: ApiClock
    timing: Timing
    pace: Pace = attrs.field(factory=Pace)

    async def read(self, what: str, path: str, params: Json | None = None) -> Json:
        """CloudUnreachable after some attempts; any other refusal at once."""
        async with _Patience(self.timing.read_all_s, what) as patience:
            return await self._repeat(patience, "GET", path, Safety.READ, params=params)

    async def read_all(self, what: str, path: str, key: str, params: Json) -> list[Json]:
        """Every page, with as many entries as the API allows on one (50)."""
        found: list[Json] = []
        page: int | None = 1
        async with _Patience(self.timing.read_all_s, what) as patience:
            while page is not None:
                values = {**params, "page": page, "per_page": 50}
                answer = await self._repeat(patience, "GET", path, Safety.READ, params=values)
                found += self.understood(what, Safety.READ, lambda a: list(a[key]), answer)
                page = self.understood(what, Safety.READ, _next_page, answer)
        return found

    async def create(self, what: str, path: str, body: Json, convert_: Callable[[Json], T]) -> T:
        """Sent once. Ambiguous if it may have been done without our knowing what."""
        await self._pace(Safety.CREATE)
        result = await self._send("POST", path, body=body)
        if isinstance(result, Failure):
            raise to_error(result, what, Safety.CREATE)
        return self.understood(what, Safety.CREATE, convert_, result)

    async def change(
        self,
        what: str,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        done: Callable[[], Awaitable[bool]] | None = None,
        deadline_s: float | None = None,
    ) -> None:
        """Until it is so, its actions included. `done` looks: after a refusal it may be so already.

        Repeated while somebody else's action holds a lock, be it that the request says so or its
        action does (terraform-provider-hcloud #469).
        """
        async with _Patience(deadline_s or self.timing.change_s, what) as patience:
            attempt = 0
            while True:
                try:
                    answer = await self._repeat(
                        patience, method, path, Safety.REPEATABLE, body=body, done=done
                    )
                    await self._wait(self.understood(what, Safety.REPEATABLE, actions, answer))
                except (ActionFailed, NotFound) as error:
                    if done is not None and await _already(done):
                        return
                    pause_s = _locked_action_s(error, attempt)
                    if pause_s is None:
                        raise
                    attempt += 1
                    patience.last = error
                    await self._pause(pause_s)
                else:
                    return

    async def until(
        self, what: str, done: Callable[[], Awaitable[bool]], deadline_s: float
    ) -> None:
        """Looks, at the pace of actions, until it is so. DeadlinePassed."""
        begun = self.clock.steady()
        async with _Patience(deadline_s, what):
            while not await done():  # noqa: ASYNC110 - nobody tells us
                await asyncio.sleep(self.timing.poll(self.clock.steady() - begun))

    async def wait(self, ids: Sequence[int], deadline_s: float) -> None:
        """Until all succeeded. ActionFailed for the first that did not, DeadlinePassed."""
        async with _Patience(deadline_s, f"action {', '.join(map(str, ids))}"):
            await self._wait(ids)

    async def action(self, ident: int) -> Action:
        what = f"action {ident}"
        answer = await self.read(what, f"/actions/{ident}")
        return self.understood(what, Safety.READ, lambda a: convert.action(a["action"]), answer)

    def understood(
        self, what: str, safety: Safety, convert_: Callable[[Json], T], answer: Json
    ) -> T:
        """A value of the model. An answer that we cannot read to a create is Ambiguous."""
        try:
            return convert.read(convert_, answer)
        except convert.Unexpected as error:
            detail = f"an answer that is not understood: {error}"
            raise (Ambiguous if safety is Safety.CREATE else CloudProblem)(
                detail, what=what, api_code=""
            ) from error

    # -- one request ---------------------------------------------------------------------------

    async def _repeat(
        self,
        patience: _Patience,
        method: str,
        path: str,
        safety: Safety,
        *,
        params: Json | None = None,
        body: Json | None = None,
        done: Callable[[], Awaitable[bool]] | None = None,
    ) -> Json:
        attempt = 0
        while True:
            await self._pace(safety)
            result = await self._send(method, path, params=params, body=body)
            if not isinstance(result, Failure):
                return result
            if done is not None and worth_a_look(result) and await _already(done):
                return {}
            error = to_error(result, patience.what, safety)
            pause_s = again_s(result, safety, attempt)
            if pause_s is None:
                raise error
            attempt += 1
            patience.last = error
            await self._pause(pause_s)

    async def _send(
        self, method: str, path: str, *, params: Json | None = None, body: Json | None = None
    ) -> Json | Failure:
        try:
            async with asyncio.timeout(self.timing.request_s):
                reply = await self.sender.send(method, path, params=params, body=body)
        except TimeoutError:
            return Failure(Where.LOST, text=f"no whole answer in {self.timing.request_s:g} s")
        self._learn(reply, own_action=method != "GET")
        return reply.result

    def _learn(self, reply: Reply, *, own_action: bool) -> None:
        if reply.date_s is not None:
            self.clock.heard(reply.date_s, reply.begun, reply.ended, own_action=False)
        if reply.limit is not None and reply.remaining is not None:
            self.pace.heard(reply.limit, reply.remaining, reply.ended)
        # Of the request that began it only: an action that is polled began long ago.
        if own_action and not isinstance(reply.result, Failure):
            started = reply.result.get("action") or next(iter(reply.result.get("actions") or ()), 0)
            if isinstance(started, Mapping):
                with contextlib.suppress(convert.Unexpected):
                    began_s = convert.read(convert.action, started).started_s
                    self.clock.heard(began_s, reply.begun, reply.ended, own_action=True)

    async def _pace(self, safety: Safety) -> None:
        wait_s = self.pace.wait_s(safety, self.clock.steady())
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self.timing.factor)

    async def _wait(self, ids: Sequence[int]) -> None:
        begun = self.clock.steady()
        for ident in ids:
            while True:
                try:
                    found = await self.action(ident)
                except CloudUnreachable:
                    found = None  # it goes on without us; the deadline ends our patience
                if found is not None and found.state is ActionState.SUCCESS:
                    break
                if found is not None and found.state is ActionState.ERROR:
                    detail = f"{found.error_code}: {found.error_text}"
                    raise ActionFailed(detail, what=found.command, api_code=found.error_code)
                await asyncio.sleep(self.timing.poll(self.clock.steady() - begun))


@attrs.define
class _Patience:
    """A deadline. When it passes, what we were told last is the better error, if there is one."""

    seconds: float
    what: str
    last: CloudProblem | None = None
    _timeout: asyncio.Timeout = attrs.field(init=False)

    async def __aenter__(self) -> Self:
        self._timeout = asyncio.timeout(self.seconds)
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            if self.last is not None:
                raise self.last from None
            raise DeadlinePassed(f"{self.seconds:g} s", what=self.what, api_code="") from None


def actions(answer: Json) -> tuple[int, ...]:
    """Ids of all actions that an answer speaks of: the one it began first."""
    found = [answer["action"]] if answer.get("action") else []
    found += [*(answer.get("actions") or ()), *(answer.get("next_actions") or ())]
    return tuple(dict.fromkeys(int(entry["id"]) for entry in found))


def _next_page(answer: Json) -> int | None:
    """None after the last one."""
    pagination = (answer.get("meta") or {}).get("pagination") or {}
    page = pagination.get("next_page")
    return None if page is None else int(page)


async def _already(done: Callable[[], Awaitable[bool]]) -> bool:
    """After a refusal. Where even looking is not possible, the refusal is what counts."""
    try:
        return await done()
    except CloudProblem:
        return False


def _locked_action_s(error: CloudProblem, attempt: int) -> float | None:
    """For an action that failed since another one held the lock."""
    if not isinstance(error, ActionFailed):
        return None
    failure = Failure(Where.ANSWERED, str(error.facts.get("api_code", "")), status=423)
    return again_s(failure, Safety.REPEATABLE, attempt) if failure.code in LOCKED else None
