"""What a failed request means, and whether it may be sent again: by code, never by message. Pure.

Codes are those of Hetzner's OpenAPI document (copy of May 2026) and some met in the wild
(`volume_already_attached`, `limit_exceeded_error`: hetznercloud/csi-driver). Whatever we do not
know and whose status is below 500 is a refusal.

A create is never sent again: not even after a refusal that says so, since an answer that speaks of
another attempt is the one that we cannot tell from it.
"""

from __future__ import annotations

import enum
from typing import Final

import attrs

from burst_lifecycle.errors import (
    Ambiguous,
    Busy,
    CloudProblem,
    CloudUnreachable,
    NameTaken,
    NoCapacity,
    NotFound,
    QuotaExceeded,
    Unauthorized,
)

NO_CAPACITY: Final = frozenset(
    {"resource_unavailable", "placement_error", "no_space_left_in_location"}
)
QUOTA: Final = frozenset({"resource_limit_exceeded", "limit_exceeded_error"})
LOCKED: Final = frozenset({"locked", "conflict", "maintenance"})
"""Something is being done to it: that ends."""
IN_USE: Final = frozenset({"resource_in_use", "must_be_unassigned"})
"""Something else must end first; nobody knows whether it will."""
ELSEWHERE: Final = frozenset({"volume_already_attached"})
"""Waiting does not help; looking may show that it is as we want it."""
RATE: Final = "rate_limit_exceeded"
NO_ACCESS: Final = frozenset({"unauthorized", "token_readonly", "forbidden"})
TROUBLE: Final = frozenset(
    {"server_error", "unavailable", "service_error", "timeout", "bad_gateway", "unknown_error"}
)
"""Theirs. It may have been done nevertheless (packer-plugin-hcloud #400)."""
PLACE_FIELDS: Final = frozenset({"location", "server_type"})

_TROUBLE_S: Final = (0.5, 1.0, 2.0, 4.0)
_LOCKED_S: Final = (0.5, 1.0, 2.0, 3.0, 5.0)
_IN_USE_S: Final = (0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0)
_UNSENT_S: Final = (0.5, 1.0)
_RATE_S: Final = 2.0


class Safety(enum.Enum):
    """What happens if a request arrives twice."""

    READ = "read"
    REPEATABLE = "repeatable"
    """The second one finds it done."""
    CREATE = "create"
    """A second thing that costs money."""


_ANSWERED_BY_OTHERS: Final = (
    "the API is in trouble, or something before it answers (a proxy, a hotel's network): try later"
)


class Where(enum.Enum):
    """How far a request came."""

    UNSENT = "unsent"
    """No connection: certainly nothing was done."""
    LOST = "lost"
    """Sent, and no answer that we could read."""
    ANSWERED = "answered"


@attrs.frozen
class Failure:
    """A request that did not succeed."""

    where: Where
    code: str = ""
    """The API's; empty if its answer was no error of the API."""
    status: int | None = None
    text: str = ""
    fields: tuple[str, ...] = ()
    """Those that `invalid_input` and `uniqueness_error` complain about."""
    limits: tuple[str, ...] = ()
    """Those that `resource_limit_exceeded` names."""
    correlation: str = ""

    @property
    def uncertain(self) -> bool:
        """It may have been done."""
        if self.where is not Where.ANSWERED:
            return self.where is Where.LOST
        if self.code in TROUBLE:
            return True
        return self.status is None or self.status >= 500 or self.status < 400

    @property
    def detail(self) -> str:
        parts = [f"{self.code}: {self.text}" if self.code and self.text else self.code or self.text]
        if self.where is Where.ANSWERED and not self.code:
            parts[0] = f"status {self.status}, and no error of the API"
        if self.code == "token_readonly":
            parts[0] = "the token may only read"
        if self.limits:
            parts.append(f"limit {', '.join(self.limits)}")
        if self.correlation:
            parts.append(f"correlation id {self.correlation}")
        return "; ".join(parts)


def to_error(failure: Failure, what: str, safety: Safety) -> CloudProblem:
    """`facts` hold `api_code`, `fields`, `limits` and `correlation` for who decides on them."""
    error = _class_of(failure, safety)(
        failure.detail,
        what=what,
        api_code=failure.code,
        fields=failure.fields,
        limits=failure.limits,
        correlation=failure.correlation,
    )
    if isinstance(error, CloudUnreachable) and failure.where is Where.ANSWERED:
        error.hint = _ANSWERED_BY_OTHERS  # type: ignore[misc]  # it is no question of being online
    return error


def _class_of(failure: Failure, safety: Safety) -> type[CloudProblem]:
    if failure.where is Where.UNSENT:
        return CloudUnreachable
    code = failure.code
    if failure.where is Where.ANSWERED:
        if code in NO_CAPACITY or (code == "invalid_input" and PLACE_FIELDS & {*failure.fields}):
            return NoCapacity
        if code in QUOTA:
            return QuotaExceeded
        if code in LOCKED | IN_USE | ELSEWHERE or code == RATE or failure.status == 429:
            return Busy
        if code == "uniqueness_error":
            return NameTaken
        if code == "not_found":
            return NotFound
        # A 403 without a code is a proxy's or a hotel's: it says nothing about the token.
        if code in NO_ACCESS or failure.status == 401:
            return Unauthorized
    if failure.uncertain:
        return CloudUnreachable if safety is Safety.READ else Ambiguous
    return CloudProblem


def again_s(failure: Failure, safety: Safety, attempt: int) -> float | None:
    """Seconds until it may be sent again (`attempt` 0 was the first); None: it may not."""
    if safety is Safety.CREATE:
        return None
    if failure.where is Where.UNSENT:
        return _nth(_UNSENT_S, attempt)
    if failure.where is Where.ANSWERED:
        if failure.code == RATE or failure.status == 429:
            return _RATE_S  # pacing knows better; the operation's deadline ends it
        if failure.code in LOCKED:
            return _LOCKED_S[min(attempt, len(_LOCKED_S) - 1)]
        if failure.code in IN_USE:
            return _nth(_IN_USE_S, attempt)
    return _nth(_TROUBLE_S, attempt) if failure.uncertain else None


def worth_a_look(failure: Failure) -> bool:
    """Whether what was asked for may be so already: done by a request whose answer was lost, or
    before it. Some refusals of that kind are a mere `service_error`."""
    if failure.where is not Where.ANSWERED:
        return failure.where is Where.LOST
    return failure.code not in LOCKED | NO_ACCESS | {RATE} and failure.status != 429


def _nth(waits: tuple[float, ...], attempt: int) -> float | None:
    return waits[attempt] if attempt < len(waits) else None


def poll_s(elapsed_s: float) -> float:
    """Between two looks at an action: most end within seconds, a snapshot takes minutes."""
    if elapsed_s < 5:
        return 0.5
    return 2.0 if elapsed_s < 60 else 5.0


@attrs.define
class Pace:
    """The project's request budget, by the RateLimit headers: 3600 an hour, one more each second.

    It is shared with whoever else uses the project. Reads leave the last hundredth of it to what
    changes something: a delete must never wait for a status display.
    """

    _limit: int = 3600
    _remaining: float | None = None
    _at_s: float = 0.0

    def heard(self, limit: int, remaining: int, now_s: float) -> None:
        """Any monotonic clock."""
        self._limit, self._remaining, self._at_s = max(1, limit), remaining, now_s

    def wait_s(self, safety: Safety, now_s: float) -> float:
        """Seconds until a request of that kind may go."""
        if self._remaining is None:
            return 0.0
        per_s = self._limit / 3600
        have = min(self._limit, self._remaining + (now_s - self._at_s) * per_s)
        need = 1 + (self._limit // 100 if safety is Safety.READ else 0)
        return max(0.0, (need - have) / per_s)
