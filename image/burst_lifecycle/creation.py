"""Creating one thing exactly once, though answers get lost and processes are killed.

Intent first: the ledger has operation and name on the disk before the request leaves. The name is
made of the operation and unique in the project, so repeating a request whose answer was lost cannot
make a second one; and what is there is found by its operation's label before anything is repeated.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, cast

from burst_lifecycle import labels, records
from burst_lifecycle.cloud.model import Created, Kind, Resource
from burst_lifecycle.context import Context
from burst_lifecycle.errors import Ambiguous, CloudProblem, DeadlinePassed, NameTaken
from burst_lifecycle.events import Settled
from burst_lifecycle.labels import Claim
from burst_lifecycle.pricing import Rate

R = TypeVar("R", bound=Resource)

_LOOKS_S: Final = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Lists lag behind creates for a moment (hetzner-k3s #39)."""
_TRIES: Final = 3


def name_of(claim: Claim) -> str:
    """`burst-build-0123456789`: unique as long as operations are."""
    return f"burst-{claim.role}-{claim.operation[:10]}"


async def create(
    context: Context,
    kind: Kind,
    claim: Claim,
    post: Callable[[str], Awaitable[R | Created[R]]],
    *,
    name: str = "",
    location: str = "",
    rate: Rate = records.FREE,
) -> R:
    """The new resource, or the one that an earlier, unanswered try of this call made.

    `post(name)` sends the request. NameTaken is raised when something that is not of this operation
    has the name (or the key); Ambiguous when it stays unknown: its labels carry an expiry.
    """
    made, _ = await create_with_actions(
        context, kind, claim, post, name=name, location=location, rate=rate
    )
    return made


async def create_with_actions(
    context: Context,
    kind: Kind,
    claim: Claim,
    post: Callable[[str], Awaitable[R | Created[R]]],
    *,
    name: str = "",
    location: str = "",
    rate: Rate = records.FREE,
) -> tuple[R, tuple[int, ...]]:
    """As `create`, with the actions to wait for (none when an earlier try had made it)."""
    noun = kind.name.lower().replace("_", " ")
    shared = bool(name) or kind is Kind.SSH_KEY  # others may have that name or that key: no wonder
    name = name or name_of(claim)
    await context.ledger.record(records.intent(context, kind, claim, name, location))
    actions: tuple[int, ...] = ()
    for attempt in range(_TRIES):
        try:
            with context.effect(f"create {noun}"):
                answer = await post(name)
        except (Ambiguous, DeadlinePassed):
            if (found := await _made_before(context, kind, claim)) is None:
                if attempt == _TRIES - 1:
                    raise
                continue
            made = cast("R", found)
        except NameTaken:
            # The first try had arrived after all, or it is somebody else's.
            look = _look if shared else _made_before
            if (found := await look(context, kind, claim)) is None:
                raise
            made = cast("R", found)
        except CloudProblem as error:
            # A clear no: nothing came of it, and nobody needs to look for it.
            await context.ledger.record(
                Settled(
                    at_s=context.cloud.now_s(),
                    operation=claim.operation,
                    kind=kind,
                    reason=error.code,
                )
            )
            raise
        else:
            if isinstance(answer, Created):
                made, actions = answer.resource, answer.actions
            else:
                made = answer
        await context.ledger.record(records.created(context, kind, made, rate))
        return made, actions
    raise AssertionError("unreachable")


async def _made_before(context: Context, kind: Kind, claim: Claim) -> Resource | None:
    for pause_s in _LOOKS_S:
        await context.time.sleep(pause_s)
        if found := await _look(context, kind, claim):
            return found
    return None


async def _look(context: Context, kind: Kind, claim: Claim) -> Resource | None:
    """By operation and owner both: a name alone proves nothing."""
    found = await context.cloud.find(kind, labels.selector(claim.owner, op=claim.operation))
    return min(found, key=lambda resource: resource.id, default=None)
