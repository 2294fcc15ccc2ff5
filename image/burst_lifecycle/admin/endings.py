"""What will be deleted when, and by whom. Pure.

It says what the reaper's own decisions will come to if nothing changes until then, and it is honest
about whom that takes: a server that powered itself off still bills until somebody with the token
comes by.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

from burst_lifecycle.cloud.model import Image, PrimaryIp, Server, ServerState, Volume
from burst_lifecycle.labels import STAGE, Claim, Role
from burst_lifecycle.pricing import HOUR_S

EDGE_S: Final = 50 * 60
"""An idle server goes from this second of its paid hour on."""


@attrs.frozen
class Lease:
    """What the agent says of its server (`burst-agent lease status`)."""

    draining: bool = False
    clients: int = 0
    running: int = 0
    detached: int = 0
    idle_s: float = 0.0
    hard_end_in_s: float | None = None
    keep_alive_s: float | None = None
    actions: tuple[str, ...] = ()
    """What runs, in words, as far as the agent says."""

    @property
    def busy(self) -> bool:
        return self.running > 0 or self.detached > 0


@attrs.frozen
class Policy:
    """The settings that decide, in seconds."""

    keep_alive_s: float = 600
    volume_keep_alive_s: float = 14 * 86400
    boot_deadline_s: float = 900
    at_edge: bool = True
    """Idle servers go at the paid hour's edge; else at once."""


@attrs.frozen
class Keepers:
    """Who comes by with a token, as far as known."""

    reaper: bool = False
    """`burst-admin reap` runs by a timer, and did so well lately."""
    daemon: bool = False
    """The user's daemon runs; it stays while a server exists."""

    @property
    def name(self) -> str:
        if self.reaper:
            return "the reaper"
        return "the burst daemon" if self.daemon else "the next burst command"


@attrs.frozen
class Rules:
    """Under which an ending is foreseen."""

    policy: Policy
    keepers: Keepers
    now_s: float
    """API time."""


@attrs.frozen
class Ending:
    """`earliest_s` and `latest_s` are API times; None: not by time."""

    what: str
    """The condition, in words."""
    by: str
    earliest_s: float | None = None
    latest_s: float | None = None
    case: str = ""
    """`a` to `d`: see `guard`."""


def next_edge(created_s: float, from_s: float) -> float:
    """The first moment from then on at which an idle server goes."""
    hours = max(0, math.floor((from_s - created_s) / HOUR_S))
    begin = created_s + hours * HOUR_S
    return max(from_s, begin + EDGE_S)


def hour_end(created_s: float, at_s: float) -> float:
    """When the started hour that `at_s` lies in has passed."""
    return created_s + HOUR_S * (math.floor(max(0.0, at_s - created_s) / HOUR_S) + 1)


def server_ending(
    server: Server,
    claim: Claim,
    lease: Lease | None,
    rules: Rules,
    *,
    ready: bool,
) -> Ending:
    """Of a server of ours. `lease` None: nobody could ask its agent."""
    policy, now_s = rules.policy, rules.now_s
    hard_end_s = float(claim.expires_s)
    by = rules.keepers.name
    if server.state is ServerState.DELETING:
        return Ending("is being deleted", "the cloud", now_s, now_s)
    if hard_end_s <= now_s:
        return Ending("its hard end has passed", by, now_s, now_s, "c")
    if server.state is ServerState.OFF:
        edge_s = next_edge(server.created_s, now_s) if policy.at_edge else now_s
        return Ending("is off, and bills all the same", by, edge_s, hard_end_s, "b")
    if lease is None and not ready:
        deadline_s = min(server.created_s + policy.boot_deadline_s, hard_end_s)
        return Ending("if it is not ready by then", by, max(now_s, deadline_s), hard_end_s, "d")
    if lease is None:
        return Ending(
            "its agent does not answer: when it has powered itself off",
            by,
            None,
            hard_end_s,
            "b",
        )
    if lease.draining:
        return Ending("has been drained", by, now_s, hard_end_s, "a")
    if claim.role is Role.BAKE:
        return Ending("when its image is done", "the bake", None, hard_end_s, "c")
    keep_s = policy.keep_alive_s if lease.keep_alive_s is None else lease.keep_alive_s
    idle_s = 0.0 if lease.busy else lease.idle_s
    due_s = max(now_s, now_s - idle_s + keep_s)
    earliest_s = next_edge(server.created_s, due_s) if policy.at_edge else due_s
    what = "when its work has ended" if lease.busy else "if nobody uses it until then"
    return Ending(what, by, min(earliest_s, hard_end_s), hard_end_s, "a")


def volume_ending(volume: Volume, last_use_s: float | None, rules: Rules) -> Ending:
    """Of a volume of ours; `last_use_s` None: no record says when it was used."""
    if volume.server_id is not None:
        return Ending("is in use", "nobody")
    since_s = volume.created_s if last_use_s is None else last_use_s
    at_s = max(rules.now_s, since_s + rules.policy.volume_keep_alive_s)
    return Ending("if nobody uses it until then", rules.keepers.name, at_s, at_s)


def image_ending(image: Image, claim: Claim, rules: Rules) -> Ending:
    if image.labels.get(STAGE) == "current":
        return Ending("stays until a newer one has proved itself", "`burst-admin image prune`")
    at_s = max(rules.now_s, float(claim.expires_s))
    return Ending("unless a boot verifies it before", rules.keepers.name, at_s, at_s)


def address_ending(address: PrimaryIp, rules: Rules) -> Ending:
    if address.assignee_id is not None:
        if address.auto_delete:
            return Ending("with its server", "the cloud")
        return Ending("after its server", rules.keepers.name)
    return Ending("belongs to nothing", rules.keepers.name, rules.now_s, rules.now_s)
