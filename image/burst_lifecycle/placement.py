"""Which server type where, in which order, and what an answer means for the rest: pure.

Types times locations in the user's order, one create at a time. Only a create proves capacity
(`locations[].available` is a hint), so what is marked unavailable is tried too, but last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

import attrs

from burst_lifecycle.cloud.model import ServerType
from burst_lifecycle.errors import NoCapacity, QuotaExceeded


@attrs.frozen
class Candidate:
    """One thing to ask for."""

    type: str
    location: str
    cores: int
    eur_per_hour: Decimal
    """Without VAT and address."""
    eur_per_month: Decimal
    """The most for a calendar month."""


@attrs.frozen
class Refused:
    """What is not even asked for, and why."""

    what: str
    why: str
    money: bool = False
    """It is a question of price, not of what is possible."""


@attrs.frozen
class Plan:
    candidates: tuple[Candidate, ...]
    refused: tuple[Refused, ...] = ()

    def why_nothing(self) -> str:
        """For people."""
        return "; ".join(f"{one.what}: {one.why}" for one in self.refused) or "nothing configured"


def plan(
    wanted_types: Sequence[str],
    locations: Sequence[str],
    known: Sequence[ServerType],
    *,
    architecture: str,
    max_eur_per_hour: Decimal,
    volume_location: str = "",
) -> Plan:
    """All candidates in order. An existing volume's location goes first, with all types."""
    types = {one.name: one for one in known}
    refused: list[Refused] = []
    usable: list[ServerType] = []
    for name in dict.fromkeys(wanted_types):
        server_type = types.get(name)
        if server_type is None:
            refused.append(Refused(name, "no such server type"))
        elif server_type.architecture != architecture:
            why = f"it is {server_type.architecture}, and programs for {architecture} are built"
            refused.append(Refused(name, why))
        else:
            usable.append(server_type)
    places = list(dict.fromkeys(locations))
    pairs = [(one, place) for one in usable for place in places]
    if volume_location:
        first = [(one, volume_location) for one in usable]
        pairs = first + [pair for pair in pairs if pair[1] != volume_location]
    available: list[Candidate] = []
    rest: list[Candidate] = []
    for server_type, place in pairs:
        what = f"{server_type.name} in {place}"
        offer = server_type.offer(place)
        if offer is None or offer.deprecated:
            refused.append(Refused(what, "not offered there"))
            continue
        eur = offer.hourly.net_eur
        if eur > max_eur_per_hour:
            why = f"{eur:.4f} euros per hour, and {max_eur_per_hour} are the limit"
            refused.append(Refused(what, why, money=True))
            continue
        one = Candidate(server_type.name, place, server_type.cores, eur, offer.monthly.net_eur)
        (available if offer.available else rest).append(one)
    if volume_location:
        # A hint does not move a build away from its warm volume: all types there come first.
        ordered = available + rest
        here = [one for one in ordered if one.location == volume_location]
        return Plan(
            (*here, *(one for one in ordered if one.location != volume_location)), tuple(refused)
        )
    return Plan((*available, *rest), tuple(refused))


class Search:
    """Goes through a plan: `next` gives a candidate, `failed` says what its answer leaves."""

    def __init__(self, plan: Plan) -> None:
        self._left = list(plan.candidates)
        self.notices: list[str] = []
        """What people should know: a quota, for one."""

    def __iter__(self) -> Iterator[Candidate]:
        while self._left:
            yield self._left.pop(0)

    def failed(self, candidate: Candidate, error: Exception) -> bool:
        """Whether to go on. False: the error is not about this candidate."""
        if isinstance(error, QuotaExceeded):
            before = len(self._left)
            self._left = [one for one in self._left if one.cores < candidate.cores]
            smaller = f"{self._left[0].type} is tried" if self._left else "nothing smaller is named"
            if before or not self._left:
                self.notices.append(
                    f"the account's limit does not allow {candidate.type} ({error.detail}); "
                    f"{smaller}. Ask for a higher limit in the console."
                )
            return True
        return isinstance(error, NoCapacity)
