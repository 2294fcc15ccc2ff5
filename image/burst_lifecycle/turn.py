"""One machine of an owner boots a server at a time: a mutex that the cloud keeps.

Names of firewalls are unique in a project and firewalls cost nothing, so one that nothing uses is a
lock: who could create it has it. It expires by its label as everything does; a machine whose
process was killed takes its own over at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final

import attrs

from burst_lifecycle import creation, labels
from burst_lifecycle.cloud.model import Firewall, Kind
from burst_lifecycle.context import Context
from burst_lifecycle.errors import Busy, CloudProblem, NameTaken, NotFound
from burst_lifecycle.firewall import shared_name
from burst_lifecycle.guard import Guard
from burst_lifecycle.labels import Claim, Role

TURN_S: Final = 180
LONGEST_S: Final = 1800
"""Whatever its label says: it may have been written by a wrong clock."""
_POLL_S: Final = 1.0
_TRIES: Final = 5


class TurnTaken(Busy):
    """{what} is busy: {detail}"""


@attrs.define
class Turn:
    """Held. `extend` before each create: whoever is slow must not lose it in the middle."""

    _context: Context
    _firewall: Firewall
    _skew_s: float
    _until_s: float

    def now_s(self) -> float:
        """API time: this very create has shown it, should it not have been known before."""
        cloud = self._context.cloud
        return cloud.now_s() + (self._skew_s if cloud.offset_s is None else 0.0)

    async def extend(self) -> None:
        """Keep it; asked before each create. TurnTaken if it was lost: nothing may be created."""
        cloud, now_s = self._context.cloud, self.now_s()
        if self._until_s - TURN_S / 2 > now_s > self._until_s - 2 * TURN_S:
            return
        until_s = int(now_s + TURN_S)
        try:
            fresh = await cloud.firewall(self._firewall.id)
        except NotFound as error:
            raise _taken() from error
        if fresh.labels.get(labels.CLIENT) != self._context.key.client:
            raise _taken()
        with self._context.effect("extend the turn"):
            await cloud.set_labels(
                Kind.FIREWALL,
                fresh.id,
                labels.merged(fresh.labels, **{labels.EXPIRES: str(until_s)}),
            )
        self._until_s = until_s


@contextlib.asynccontextmanager
async def turn(context: Context, guard: Guard) -> AsyncIterator[Turn]:
    """TurnTaken if another machine has it now."""
    held = await _take(context, guard)
    try:
        # Its label was written by a clock that may not have known the API's time yet.
        until_s = int(held.labels.get(labels.EXPIRES, 0))
        yield Turn(context, held, held.created_s - context.cloud.now_s(), until_s)
    finally:
        # When this fails it expires. When we are killed, too.
        with contextlib.suppress(CloudProblem):
            await guard.delete_lock(held.id)


async def _take(context: Context, guard: Guard) -> Firewall:
    cloud, owner = context.cloud, context.wishes.owner
    name = shared_name("turn", owner)
    for _ in range(_TRIES):
        claim = Claim(
            owner=owner,
            role=Role.ACCESS,
            operation=labels.new_operation(),
            expires_s=int(cloud.now_s() + TURN_S),
        )
        told = claim.labels(**{labels.CLIENT: context.key.client})
        try:
            return await creation.create(
                context,
                Kind.FIREWALL,
                claim,
                lambda taken, told=told: cloud.create_firewall(taken, [], told),  # type: ignore[misc]
                name=name,
            )
        except NameTaken:
            pass
        found = await cloud.find(Kind.FIREWALL, labels.selector(owner, role=str(Role.ACCESS)))
        for one in found:
            if one.name != name or not isinstance(one, Firewall):
                continue
            theirs = Claim.of(one.labels)
            if theirs is None:
                continue
            # This machine boots one at a time, so its own is of a process that was killed.
            mine = one.labels.get(labels.CLIENT) == context.key.client
            now_s = cloud.now_s()
            if mine or theirs.expires_s <= now_s or one.created_s + LONGEST_S <= now_s:
                with contextlib.suppress(Busy):
                    await guard.delete_lock(one.id)
            else:
                raise _taken()
        await context.time.sleep(_POLL_S)
    raise _taken()


def _taken() -> TurnTaken:
    return TurnTaken("another machine of yours does it", what="booting a server")
