"""What will be deleted when, and by whom: the reaper's own verdicts, seen from now. Pure.

The same function decides here and in `reaper`, so what is shown is what will be done. It is honest
about whom that takes: a server that powered itself off still bills until somebody with the token
comes by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from burst_lifecycle import reaper
from burst_lifecycle.cloud.model import Inventory, Kind, PrimaryIp, Server, Volume
from burst_lifecycle.host import Lease
from burst_lifecycle.labels import Claim
from burst_lifecycle.reaper import Deed, Verdict


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
class Ending:
    """Times are API times."""

    what: str
    """Why now, or why not yet, in words."""
    by: str
    """Empty: nobody."""
    at_s: float | None = None
    """If nothing changes until then; None: not by time."""
    latest_s: float | None = None
    """Of servers: the hard end, busy or not."""
    due: bool = False
    """The next who comes by does it."""


WITH_SERVER: Final = Ending("with its server", "the cloud")


def foresee(
    inventory: Inventory,
    leases: Mapping[int, Lease],
    policy: reaper.Policy,
    keepers: Keepers,
    *,
    trusted_clock: bool,
) -> dict[tuple[Kind, int], Ending]:
    """Of all that is completely labelled, whoever's it is."""
    now_s = inventory.read_s
    claims = [Claim.of(resource.labels) for _, resource in inventory.everything()]
    found: dict[tuple[Kind, int], Ending] = {}
    for owner in sorted({claim.owner for claim in claims if claim is not None}):
        verdicts = reaper.decide(
            inventory,
            leases,
            attrs.evolve(policy, owner=owner),
            now_s,
            trusted_clock=trusted_clock,
        )
        for verdict in verdicts:
            if verdict.deed not in {Deed.FOREIGN, Deed.REPORT}:
                found[verdict.kind, verdict.resource.id] = ending(verdict, keepers, now_s)
    return found


def ending(verdict: Verdict, keepers: Keepers, now_s: float) -> Ending:
    """One verdict as something that is to come."""
    resource = verdict.resource
    claim = Claim.of(resource.labels)
    latest_s = float(claim.expires_s) if claim and isinstance(resource, Server) else None
    if verdict.deed is Deed.TIDY:
        return Ending(verdict.reason, "")
    if verdict.deed is not Deed.KEEP:
        return Ending(verdict.reason, keepers.name, now_s, latest_s, due=True)
    if isinstance(resource, PrimaryIp) and resource.assignee_id is not None:
        return WITH_SERVER if resource.auto_delete else Ending("after its server", keepers.name)
    if isinstance(resource, Volume) and resource.server_id is not None:
        return Ending(f"not while {verdict.reason}", "")
    if verdict.at_s is None:
        return Ending(verdict.reason, "")
    by = verdict.by if "dead man" in verdict.by else keepers.name
    return Ending(verdict.reason, by, verdict.at_s, latest_s)
