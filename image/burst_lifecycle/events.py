"""What a ledger's lines say: one class per event, each line one JSON object.

::

    event     fields beside `event` and `t`; `by` (the machine) may stand on any line
    intent    kind op role name owner project location token endpoint
    created   kind id op role name owner project location token endpoint type size_gb
              eur_per_hour eur_per_month eur_per_gb_month created_s
    settled   op reason            an intent that led to nothing
    ready     id how(cold|warm) took_s boot_s image
    seen      kind id
    resized   id size_gb
    labelled  kind id label value was change endpoint
    ending    kind id reason case endpoint     its deletion is about to be asked for
    deleted   kind id reason case
    gone      kind id              somebody looked, and it was not there any more
    session   id session start_s end_s project
    command   command id verb start_s end_s ok split{part: seconds} project
    reap      ok deleted failed
    refusal   code what

Times (`t`, `*_s`) are seconds since the epoch by the API's clock, as well as it was known. Euros
are text, exact, without VAT. Readers skip events and fields that they do not know, so a newer
version may add some; none is ever renamed. Lines of several copies can be put together in any
order.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, ClassVar, Final, TypeAlias

import attrs

from burst_lifecycle.cloud.model import Kind


class Part(StrEnum):
    """Where the wall time of a command went; every moment belongs to one of them."""

    WAIT = "wait"
    """For a server."""
    UPLOAD = "upload"
    REMOTE = "remote"
    HOME = "home"
    """Compiling at home, which includes all that a booting server does not hold up."""
    DOWNLOAD = "download"


class How(StrEnum):
    COLD = "cold"
    """Created from an image."""
    WARM = "warm"
    """Powered on again within its paid hour."""


Split: TypeAlias = tuple[tuple[Part, float], ...]


@attrs.frozen(kw_only=True)
class _Line:
    EVENT: ClassVar[str]
    at_s: float
    by: str = ""


@attrs.frozen(kw_only=True)
class Intent(_Line):
    """A create is about to be asked for. Without a `Created` or `Settled` of the same operation and
    kind: look for it."""

    EVENT = "intent"
    kind: Kind
    operation: str
    role: str = ""
    name: str = ""
    owner: str = ""
    project: str = ""
    location: str = ""
    token: str = ""
    """Keyed fingerprint, see `token.fingerprint`."""
    endpoint: str = ""


@attrs.frozen(kw_only=True)
class Created(_Line):
    """A resource exists since `created_s`: by our create, or found by its labels. What is unknown
    of it is empty or None. May be repeated (another machine, another token): the union counts."""

    EVENT = "created"
    kind: Kind
    id: int
    created_s: float | None = None
    operation: str = ""
    role: str = ""
    name: str = ""
    owner: str = ""
    project: str = ""
    location: str = ""
    token: str = ""
    endpoint: str = ""
    type: str = ""
    size_gb: Decimal | None = None
    eur_per_hour: Decimal | None = None
    """Of servers and addresses; at most `eur_per_month` in a calendar month."""
    eur_per_month: Decimal | None = None
    eur_per_gb_month: Decimal | None = None
    """Of volumes and images."""

    @property
    def key(self) -> tuple[Kind, int]:
        return self.kind, self.id


@attrs.frozen(kw_only=True)
class Settled(_Line):
    """That intent has led to nothing, and will not."""

    EVENT = "settled"
    operation: str
    kind: Kind
    reason: str = ""


@attrs.frozen(kw_only=True)
class Ready(_Line):
    EVENT = "ready"
    id: int
    how: How
    took_s: float
    boot_s: float | None = None
    """Of a cold start: from the create on, without what was waited for before."""
    image: str = ""
    """What it was made of: `stock`, or a recipe; empty: not known."""
    pin: str = ""
    """Of its host key from then on, and which boot it is, as labels have it: those that lose this
    boot's pin are put right by who has seen it."""
    boot_by: str = ""


@attrs.frozen(kw_only=True)
class Seen(_Line):
    EVENT = "seen"
    kind: Kind
    id: int
    endpoint: str = ""


@attrs.frozen(kw_only=True)
class Resized(_Line):
    """A volume grew, or an image's size became known."""

    EVENT = "resized"
    id: int
    size_gb: Decimal
    kind: Kind = Kind.VOLUME
    endpoint: str = ""


@attrs.frozen(kw_only=True)
class Labelled(_Line):
    """Somebody asked for another value of a label. `change` and `was` are `burst-change` after and
    before it: labels that have the latter again were written back by who had read them earlier."""

    EVENT = "labelled"
    kind: Kind
    id: int
    label: str
    value: str
    change: str
    was: str = ""
    endpoint: str = ""


@attrs.frozen(kw_only=True)
class Ending(_Line):
    """Its deletion is about to be asked for. Without a `Deleted`, and with the thing gone: whoever
    asked was stopped before the answer, and that was its end."""

    EVENT = "ending"
    kind: Kind
    id: int
    reason: str = ""
    case: str = ""
    endpoint: str = ""


@attrs.frozen(kw_only=True)
class Deleted(_Line):
    """By us; the API has confirmed it."""

    EVENT = "deleted"
    kind: Kind
    id: int
    reason: str = ""
    case: str = ""
    """`a` drained, `b` off, `c` hard end, `d` never ready; empty for what is no server."""
    endpoint: str = ""


@attrs.frozen(kw_only=True)
class Gone(_Line):
    """By other hands: somebody looked with a token that should see it, and it was not there."""

    EVENT = "gone"
    kind: Kind
    id: int
    endpoint: str = ""


@attrs.frozen(kw_only=True)
class Session(_Line):
    """A client was attached to a server. Known by `session`, of which the longest record counts."""

    EVENT = "session"
    session: str
    id: int
    start_s: float
    end_s: float
    project: str = ""


@attrs.frozen(kw_only=True)
class Command(_Line):
    EVENT = "command"
    command: str
    """Its own random name."""
    id: int | None = None
    """The server that it used, if any."""
    verb: str
    start_s: float
    end_s: float
    ok: bool
    split: Split = ()
    project: str = ""

    @property
    def wall_s(self) -> float:
        return max(0.0, self.end_s - self.start_s)


@attrs.frozen(kw_only=True)
class Reap(_Line):
    EVENT = "reap"
    ok: bool
    deleted: int = 0
    failed: int = 0


@attrs.frozen(kw_only=True)
class Refusal(_Line):
    """The cloud said no: `code` is that of the error tree (`quota`, `no-capacity`)."""

    EVENT = "refusal"
    code: str
    what: str = ""


Event: TypeAlias = (
    Intent
    | Created
    | Settled
    | Ready
    | Seen
    | Resized
    | Labelled
    | Ending
    | Deleted
    | Gone
    | Session
    | Command
    | Reap
    | Refusal
)
CLASSES: Final[Mapping[str, type[Event]]] = {
    cls.EVENT: cls
    for cls in (
        Intent,
        Created,
        Settled,
        Ready,
        Seen,
        Resized,
        Labelled,
        Ending,
        Deleted,
        Gone,
        Session,
        Command,
        Reap,
        Refusal,
    )
}
_SHORT: Final = {"at_s": "t", "operation": "op"}


class Unreadable(ValueError):
    """A line that is no event; counted, never fatal."""


class _Wrong(ValueError):
    """A field that is not of its form."""


class Unknown(ValueError):
    """An event of a newer version; skipped."""


def encode(event: Event) -> dict[str, Any]:
    """For one line. What has its default is left out."""
    line: dict[str, Any] = {"event": event.EVENT}
    for field in attrs.fields(type(event)):
        value = getattr(event, field.name)
        if value != field.default:
            line[_SHORT.get(field.name, field.name)] = _plain(value)
    return line


def decode(line: Mapping[str, Any]) -> Event:
    """Unreadable, or Unknown."""
    name = line.get("event")
    cls = CLASSES.get(name) if isinstance(name, str) else None
    if cls is None:
        raise (Unknown if isinstance(name, str) and name else Unreadable)(repr(name))
    values = {}
    for field in attrs.fields(cls):
        key = _SHORT.get(field.name, field.name)
        if line.get(key) is not None:
            values[field.name] = _read(str(field.type), key, line[key])
        elif field.default is attrs.NOTHING:
            raise Unreadable(key)
    return cls(**values)


def _plain(value: object) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, tuple):
        return {str(part): seconds for part, seconds in value}
    return value


def _read(type_name: str, key: str, value: object) -> Any:
    try:
        return _READERS[type_name](value)
    except (ValueError, TypeError, InvalidOperation):
        raise Unreadable(key) from None


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _Wrong
    return float(value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Wrong
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _Wrong
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Wrong
    return value


def _decimal(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | str | float):
        raise _Wrong
    found = Decimal(str(value))
    if not found.is_finite() or found < 0:
        raise _Wrong
    return found


def _split(value: object) -> Split:
    if not isinstance(value, dict):
        raise _Wrong
    return tuple((part, max(0.0, _number(value[part]))) for part in Part if part in value)


# By the annotation as it is written: `from __future__ import annotations` keeps them as text.
_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "float": _number,
    "float | None": _number,
    "int": _whole,
    "int | None": _whole,
    "str": _text,
    "bool": _flag,
    "Decimal": _decimal,
    "Decimal | None": _decimal,
    "Kind": Kind,
    "How": How,
    "Split": _split,
}
