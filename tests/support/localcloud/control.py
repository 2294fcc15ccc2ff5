"""The control path: what a test does to the cloud from another process.

`POST {root}/_control/{what}` with a JSON object and the header `X-Control-Secret`
(LocalCloud.secret):

| what | body | does |
|---|---|---|
| fault | fields of `Fault` | adds it |
| clear | | removes faults, hooks and barriers |
| clock | advance, scale or set | moves the clock |
| capacity | type, location, left | as `set_capacity` |
| quota | project, and fields of `Quota` | changes them |
| timings | fields of `Timings` | changes them |
| hold | kind, id, seconds | as `hold` |
| fail_action | command, code, message, times, after_s | as `fail_action` |
| next_server | quirks | as `next_server` |
| keep_volumes_attached | servers | as the method |
| token | project, readonly | makes one: `token` |
| revoke | token | revokes it |
| guest_off, crash | server (its name) | as the methods |
| barrier | point, operation, nth | that call waits there: `barrier` is its number |
| reached | barrier | waits until a call is there: `call` |
| release | barrier | lets it go on |
| journal, bill, holdings, clock | | what is there |
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import attrs

from .faults import Call, Fault
from .world import Quota, Timings

if TYPE_CHECKING:
    from .cloud import LocalCloud

Json = dict[str, Any]
PATIENCE_S: Final = 60.0


@attrs.define(eq=False)
class Barrier:
    """Where a call waits for somebody."""

    arrived: threading.Event = attrs.Factory(threading.Event)
    released: threading.Event = attrs.Factory(threading.Event)
    call: Call | None = None

    def __call__(self, call: Call) -> None:
        self.call = call
        self.arrived.set()
        self.released.wait(PATIENCE_S)

    def wait(self) -> Call:
        """For a call to come. TimeoutError after a minute."""
        if not self.arrived.wait(PATIENCE_S) or self.call is None:
            raise TimeoutError("no call came to the barrier")
        return self.call

    def release(self) -> None:
        self.released.set()


class Control:
    """Callable by the HTTP side, without the cloud's lock."""

    def __init__(self, cloud: LocalCloud) -> None:
        self._cloud = cloud
        self._barriers: list[Barrier] = []

    def __call__(self, method: str, path: str, body: Json) -> Json:
        """KeyError, TypeError or ValueError for what is not understood."""
        del method
        return dict(getattr(self, f"do_{path.strip('/')}", self._unknown)(**body) or {})

    def _unknown(self, **_: Any) -> Json:
        raise KeyError("no such control")

    def do_fault(self, **values: Any) -> None:
        self._cloud.faults.add(Fault(**values))

    def do_clear(self) -> None:
        self._cloud.faults.clear()
        for barrier in self._barriers:
            barrier.release()

    def do_clock(
        self, advance: float | None = None, scale: float | None = None, set_: float | None = None
    ) -> Json:
        if advance is not None:
            self._cloud.clock.advance(advance)
        if scale is not None:
            self._cloud.clock.scale = scale
        if set_ is not None:
            self._cloud.clock.set(set_)
        return {"now": self._cloud.clock.now()}

    def do_capacity(self, type: str, location: str, left: int | None) -> None:  # noqa: A002
        self._cloud.set_capacity(type, location, left)

    def do_quota(self, project: str = "default", **values: int | None) -> None:
        _set(self._cloud.quota(project), Quota, values)

    def do_timings(self, **values: float) -> None:
        _set(self._cloud.world.timings, Timings, values)

    def do_hold(self, kind: str, id: int, seconds: float) -> None:  # noqa: A002
        self._cloud.hold(kind, id, seconds)

    def do_fail_action(self, **values: Any) -> None:
        self._cloud.fail_action(**values)

    def do_next_server(self, quirks: list[Any]) -> None:
        self._cloud.next_server(*quirks)

    def do_keep_volumes_attached(self, servers: int = 1) -> None:
        self._cloud.keep_volumes_attached(servers)

    def do_token(self, project: str = "default", readonly: bool = False) -> Json:
        return {"token": self._cloud.add_token(project, readonly=readonly).value}

    def do_revoke(self, token: str) -> None:
        self._cloud.revoke(token)

    def do_guest_off(self, server: str) -> None:
        self._cloud.guest_off(server)

    def do_crash(self, server: str) -> None:
        self._cloud.crash(server)

    def do_barrier(
        self, point: Any = "before", operation: str = "*", nth: int | None = None
    ) -> Json:
        barrier = Barrier()
        self._barriers.append(barrier)
        self._cloud.faults.on(point, barrier, operation=operation, nth=nth)
        return {"barrier": len(self._barriers) - 1}

    def do_reached(self, barrier: int) -> Json:
        return {"call": self._barriers[barrier].wait().json()}

    def do_release(self, barrier: int) -> None:
        self._barriers[barrier].release()

    def do_journal(self) -> Json:
        return {"calls": [call.json() for call in self._cloud.journal.calls]}

    def do_bill(self, project: str | None = None) -> Json:
        bill = self._cloud.bill(project)
        items = [{**attrs.asdict(item), "euros": str(item.euros)} for item in bill.items]
        return {"total": str(bill.total), "cents": str(bill.cents), "items": items}

    def do_holdings(self) -> Json:
        return {"holdings": self._cloud.holdings()}


def _set(target: Any, kind: type, values: Json) -> None:
    known = {field.name for field in attrs.fields(kind)}
    for name, value in values.items():
        if name not in known:
            raise KeyError(name)
        setattr(target, name, value)
