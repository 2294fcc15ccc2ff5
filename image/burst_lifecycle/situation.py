"""What to do about the servers that are there before one is made: pure.

One server per owner. Names carry the operation, so a dying one is never in the way of a new name;
it is waited for all the same, because its cores count against the account's limit.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import attrs

from burst_lifecycle import labels
from burst_lifecycle.cloud.model import Server, ServerState
from burst_lifecycle.guard import Ground, boot_by_s, ground_of, is_booting, is_ready
from burst_lifecycle.hostkey import pins
from burst_lifecycle.labels import Claim, Role

WORTH_BOOTING_S = 900
"""A server whose hard end is nearer is not powered on again."""


class Move(enum.Enum):
    CREATE = "create"
    USE = "use"
    """Running; ready or on its way."""
    POWER_ON = "power-on"
    REMOVE = "remove"
    WAIT = "wait"
    """It changes by itself."""


@attrs.frozen
class Assessment:
    move: Move
    why: str
    server: Server | None = None
    ground: Ground | None = None
    """With REMOVE."""


_TRANSIENT = frozenset(
    {ServerState.DELETING, ServerState.STOPPING, ServerState.MIGRATING, ServerState.REBUILDING}
)
_ALIVE = frozenset({ServerState.RUNNING, ServerState.STARTING, ServerState.INITIALIZING})


def of_owner(servers: Sequence[Server], owner: str, role: Role = Role.BUILD) -> tuple[Server, ...]:
    """Those that are completely ours, the oldest first."""
    mine = [
        server
        for server in servers
        if (claim := Claim.of(server.labels)) is not None
        and claim.owner == owner
        and claim.role is role
    ]
    return tuple(sorted(mine, key=lambda server: server.id))


def can_power_on(server: Server, recipe: str, now_s: float) -> bool:
    """An `off` server bills as a running one, so its hour is paid: on again is the cheapest."""
    claim = Claim.of(server.labels)
    return (
        claim is not None
        and server.labels.get(labels.RECIPE, "") == recipe
        and claim.expires_s > now_s + WORTH_BOOTING_S
        and bool(pins(server.labels))
    )


def assess(servers: Sequence[Server], owner: str, recipe: str, now_s: float) -> Assessment:
    """The next move. Called again after each, until one is USE or CREATE."""
    mine = of_owner(servers, owner)
    alive = [
        server for server in mine if server.state in _ALIVE and ground_of(server, now_s) is None
    ]
    if alive:
        # Two can only be there when a machine was stopped in the middle of its turn: the ready one.
        best = min(alive, key=lambda server: (not is_ready(server), server.id))
        why = "it runs" if is_ready(best) else "it boots"
        return Assessment(Move.USE, why, best)
    for server in mine:
        if server.state in _TRANSIENT:
            return Assessment(Move.WAIT, f"it is {server.state.value}", server)
        if server.state is ServerState.OFF and is_booting(server, now_s):
            return Assessment(Move.POWER_ON, "its boot was interrupted", server)
        ground = ground_of(server, now_s)
        if ground is Ground.OFF and can_power_on(server, recipe, now_s):
            return Assessment(Move.POWER_ON, "it is off in its paid hour", server)
        if ground is not None:
            return Assessment(Move.REMOVE, ground.value, server, ground)
        return Assessment(Move.WAIT, f"it is {server.state.value}", server)
    return Assessment(Move.CREATE, "there is none")


def surplus(servers: Sequence[Server], owner: str, client: str, keep_id: int) -> tuple[Server, ...]:
    """Servers that this machine made beside the one that is used, and that never got ready."""
    return tuple(
        server
        for server in of_owner(servers, owner)
        if server.id != keep_id
        and not is_ready(server)
        and server.labels.get(labels.CLIENT) == client
        and server.state is not ServerState.DELETING
        and boot_by_s(server) > 0
    )
