"""What `burst-admin status` shows, as values: a pure function of what was found.

Nothing here reads a clock, a file or the cloud. `document` is the JSON form; its names are an
interface (`SCHEMA` counts what breaks it), the text made of it is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

import attrs

from burst_lifecycle.admin.endings import WITH_SERVER, Ending, Keepers, foresee
from burst_lifecycle.admin.tariff import Tariff
from burst_lifecycle.books import Account
from burst_lifecycle.cloud.model import (
    Image,
    Inventory,
    Kind,
    PrimaryIp,
    Resource,
    Server,
    Volume,
)
from burst_lifecycle.events import Created, Event
from burst_lifecycle.guard import clock_is_trusted
from burst_lifecycle.history import History, merge, observed
from burst_lifecycle.host import Lease
from burst_lifecycle.labels import FILESYSTEM, MARK, STAGE, Claim
from burst_lifecycle.pricing import per_hour
from burst_lifecycle.reaper import Policy

SCHEMA: Final = 1
OVERDUE_S: Final = 15 * 60
"""A last good reap older than this is worth a warning while something bills."""
_ZERO: Final = Decimal(0)
_PREFIX: Final = "burst-"
_NOUNS: Final = {
    Kind.SERVER: "server",
    Kind.VOLUME: "volume",
    Kind.IMAGE: "image",
    Kind.SSH_KEY: "key",
    Kind.FIREWALL: "firewall",
    Kind.PRIMARY_IP: "address",
}


def noun(kind: Kind) -> str:
    return _NOUNS[kind]


class Standing(StrEnum):
    OURS = "ours"
    STRAY = "stray"
    """Ours, but not where or as often as it should be."""
    OTHER = "other"
    """Completely labelled, of another owner."""
    LEFTOVER = "leftover"
    """Looks like ours and lacks labels: shown, never touched."""


@attrs.frozen
class ResourceLine:
    """One resource. Times are API times, money is euros net of VAT unless the tariff says gross."""

    kind: str
    id: int
    name: str
    standing: Standing
    detail: str
    """Type or size."""
    location: str
    state: str
    created_s: float
    age_s: float
    idle_s: float | None
    """Of servers, as the agent says; of volumes since the last recorded use. None: not known."""
    lease: Lease | None
    lease_problem: str
    """Why there is no lease, of a server that should have one."""
    eur_per_hour: Decimal | None
    """None: nobody knows."""
    eur_so_far: Decimal
    exact: bool
    """False: it was at least that."""
    ending: Ending | None
    """None: nobody deletes it by himself."""
    owner: str
    project: str
    role: str
    note: str = ""

    @property
    def bills(self) -> bool:
        return self.eur_per_hour is None or self.eur_per_hour > 0


@attrs.frozen
class ElsewhereLine:
    """Made with another token, and as far as we know still there."""

    kind: str
    id: int
    name: str
    location: str
    created_s: float
    eur_per_hour: Decimal | None
    token: str
    endpoint: str


@attrs.frozen
class ReaperState:
    """What is known of whoever reaps for this user."""

    last_good_s: float | None = None
    installed: str = ""
    """`systemd`, `cron`, or nothing."""

    def overdue(self, now_s: float) -> bool:
        return self.last_good_s is None or now_s - self.last_good_s > OVERDUE_S


@attrs.frozen
class Month:
    """This calendar month (UTC), as the budget counts it: what has ended, what is there until the
    end of its paid hour, volumes and images until the end of the month."""

    eur: Decimal
    budget_eur: Decimal


@attrs.frozen
class StatusReport:
    at_s: float
    owner: str
    owner_known: bool
    """False: no `owner` configured and no key of this machine, so all owners are shown."""
    lines: tuple[ResourceLine, ...]
    elsewhere: tuple[ElsewhereLine, ...]
    pending: tuple[str, ...]
    """Names that were asked for, with no answer on record."""
    reaper: ReaperState
    clock_offset_s: float | None
    month: Month | None = None
    """None: no budget is set, or prices are not known."""

    def of(self, *standings: Standing) -> tuple[ResourceLine, ...]:
        return tuple(line for line in self.lines if line.standing in standings)

    @property
    def mine(self) -> tuple[ResourceLine, ...]:
        return self.of(Standing.OURS, Standing.STRAY)

    @property
    def eur_per_hour(self) -> Decimal:
        """Of what is ours, as far as prices are known."""
        return sum((line.eur_per_hour or _ZERO for line in self.mine), _ZERO)

    @property
    def eur_so_far(self) -> Decimal:
        return sum((line.eur_so_far for line in self.mine), _ZERO)

    @property
    def exact(self) -> bool:
        return all(line.exact and line.eur_per_hour is not None for line in self.mine)

    @property
    def bills(self) -> bool:
        """Whether anything that this user may have to pay for exists."""
        return bool(self.elsewhere) or any(
            line.bills for line in self.of(Standing.OURS, Standing.STRAY, Standing.LEFTOVER)
        )

    @property
    def warn_of_reaper(self) -> bool:
        return self.bills and self.reaper.overdue(self.at_s)


@attrs.frozen
class Found:
    """All that a status is made of."""

    inventory: Inventory
    """Of everything in the project: `inventory("")`."""
    owner: str
    owner_known: bool = True
    account: Account = Account("", "")
    leases: Mapping[int, Lease] = attrs.field(factory=dict)
    lease_problems: Mapping[int, str] = attrs.field(factory=dict)
    """By server id."""
    events: tuple[Event, ...] = ()
    elsewhere: tuple[Created, ...] = ()
    pending: tuple[str, ...] = ()
    tariff: Tariff = Tariff()
    policy: Policy = Policy("")
    keepers: Keepers = Keepers()
    reaper: ReaperState = ReaperState()
    clock_offset_s: float | None = None
    month: Month | None = None


def status_report(found: Found) -> StatusReport:
    """Everything that is ours or may be, dearest kinds first, each with its end."""
    now_s = found.inventory.read_s
    history = merge(found.events)
    history = merge(found.events, observed(found.inventory, history.lives, found.account))
    view = _View(found, history, now_s)
    lines = [
        line
        for kind, resource in found.inventory.everything()
        if (line := view.line(kind, resource)) is not None
    ]
    order = {name: number for number, name in enumerate(Standing)}
    lines.sort(key=lambda line: order[line.standing])
    return StatusReport(
        at_s=now_s,
        owner=found.owner,
        owner_known=found.owner_known,
        lines=tuple(lines),
        elsewhere=tuple(elsewhere_line(created) for created in found.elsewhere),
        pending=found.pending,
        reaper=found.reaper,
        clock_offset_s=found.clock_offset_s,
        month=found.month,
    )


def elsewhere_line(created: Created) -> ElsewhereLine:
    amount = per_hour(created, created.at_s)
    return ElsewhereLine(
        kind=noun(created.kind),
        id=created.id,
        name=created.name,
        location=created.location,
        created_s=created.at_s if created.created_s is None else created.created_s,
        eur_per_hour=None if amount.at_least else amount.eur,
        token=created.token,
        endpoint=created.endpoint,
    )


class _View:
    """One report in the making."""

    def __init__(self, found: Found, history: History, now_s: float) -> None:
        self._found = found
        self._lives = {(life.kind, life.id): life for life in history.lives}
        self._recorded = {
            (event.kind, event.id) for event in found.events if isinstance(event, Created)
        }
        self._endings = foresee(
            found.inventory,
            found.leases,
            found.policy,
            found.keepers,
            trusted_clock=clock_is_trusted(found.clock_offset_s),
        )
        self._now_s = now_s
        self._ours = {
            server.id: claim
            for server in found.inventory.servers
            if (claim := Claim.of(server.labels)) is not None
        }
        self._last_use: dict[str, float] = {}
        uses = [(use.project, use.end_s) for use in history.sessions]
        uses += [(use.project, use.end_s) for use in history.commands if use.id is not None]
        for project, end_s in uses:
            self._last_use[project] = max(self._last_use.get(project, 0.0), end_s)

    def line(self, kind: Kind, resource: Resource) -> ResourceLine | None:
        """None for what has nothing to do with burst."""
        claim = self._claim(resource)
        standing, note = self._standing(kind, resource, claim)
        if standing is None:
            return None
        life = self._lives[kind, resource.id]
        cost = self._found.tariff.cost(life, self._now_s)
        lease = self._found.leases.get(resource.id) if kind is Kind.SERVER else None
        return ResourceLine(
            kind=noun(kind),
            id=resource.id,
            name=resource.name,
            standing=standing,
            detail=_detail(resource),
            location=life.location,
            state=_state(resource),
            created_s=resource.created_s,
            age_s=max(0.0, self._now_s - resource.created_s),
            idle_s=self._idle(resource, claim, lease),
            lease=lease,
            lease_problem=self._lease_problem(kind, resource),
            eur_per_hour=self._found.tariff.per_hour(life, self._now_s),
            eur_so_far=cost.amount.eur,
            exact=cost.exact,
            ending=self._ending(kind, resource),
            owner=claim.owner if claim else "",
            project=claim.project if claim else "",
            role=str(claim.role) if claim else "",
            note=note,
        )

    def _claim(self, resource: Resource) -> Claim | None:
        """An address that came with a server of ours is labelled a moment after it exists."""
        claim = Claim.of(resource.labels)
        if claim is None and isinstance(resource, PrimaryIp) and resource.auto_delete:
            return self._ours.get(resource.assignee_id or 0)
        return claim

    def _standing(
        self, kind: Kind, resource: Resource, claim: Claim | None
    ) -> tuple[Standing | None, str]:
        if claim is not None:
            if self._found.owner_known and claim.owner != self._found.owner:
                return Standing.OTHER, ""
            return self._stray(resource, claim)
        if (kind, resource.id) in self._recorded:
            return Standing.LEFTOVER, "in the ledger, but its labels are gone"
        if any(key == MARK or key.startswith(_PREFIX) for key in resource.labels):
            return Standing.LEFTOVER, "some of our labels lack"
        system = isinstance(resource, Image) and resource.system
        if resource.name.startswith(_PREFIX) and not system:
            return Standing.LEFTOVER, "a name like ours, without our labels"
        return None, ""

    def _stray(self, resource: Resource, claim: Claim) -> tuple[Standing, str]:
        if isinstance(resource, Volume):
            if resource.labels.get(FILESYSTEM, "").startswith("bad-"):
                return Standing.STRAY, "its filesystem is broken"
            others = [
                volume
                for volume in self._found.inventory.volumes
                if volume.id != resource.id
                and (other := Claim.of(volume.labels)) is not None
                and (other.owner, other.project) == (claim.owner, claim.project)
            ]
            if others and resource.server_id is None:
                where = others[0].location
                return Standing.STRAY, f"the project has another volume in {where}"
        if isinstance(resource, Server):
            servers = [
                server.id
                for server in self._found.inventory.servers
                if (other := Claim.of(server.labels)) is not None
                and (other.owner, other.role) == (claim.owner, claim.role)
            ]
            if resource.id != min(servers):
                return Standing.STRAY, "the owner has another server"
        if isinstance(resource, PrimaryIp) and resource.assignee_id is None:
            return Standing.STRAY, "belongs to no server"
        return Standing.OURS, ""

    def _idle(self, resource: Resource, claim: Claim | None, lease: Lease | None) -> float | None:
        if isinstance(resource, Server):
            return None if lease is None or lease.busy else lease.idle_s
        if isinstance(resource, Volume) and claim is not None and resource.server_id is None:
            last = self._last_use.get(claim.project)
            return None if last is None else max(0.0, self._now_s - last)
        return None

    def _ending(self, kind: Kind, resource: Resource) -> Ending | None:
        found = self._endings.get((kind, resource.id))
        with_server = isinstance(resource, PrimaryIp) and resource.assignee_id in self._ours
        return WITH_SERVER if found is None and with_server else found

    def _lease_problem(self, kind: Kind, resource: Resource) -> str:
        if kind is not Kind.SERVER:
            return ""
        return self._found.lease_problems.get(resource.id, "")


def _detail(resource: Resource) -> str:
    if isinstance(resource, Server):
        return resource.type
    if isinstance(resource, Volume):
        return f"{resource.size_gb} GB"
    if isinstance(resource, Image):
        return "" if resource.size_gb is None else f"{resource.size_gb.normalize():f} GB"
    if isinstance(resource, PrimaryIp):
        return resource.address
    return ""


def _state(resource: Resource) -> str:
    if isinstance(resource, Server):
        return resource.state.value
    if isinstance(resource, Volume):
        return "free" if resource.server_id is None else f"attached to {resource.server_id}"
    if isinstance(resource, Image):
        return resource.labels.get(STAGE, "") or resource.state.value
    if isinstance(resource, PrimaryIp):
        return "free" if resource.assignee_id is None else f"of {resource.assignee_id}"
    return ""


def document(report: StatusReport) -> dict[str, Any]:
    """For `--json`. Money is text, exact; times are epoch seconds of the API's clock."""
    return {
        "schema": SCHEMA,
        "at_s": report.at_s,
        "owner": report.owner,
        "owner_known": report.owner_known,
        "eur_per_hour": str(report.eur_per_hour),
        "eur_so_far": str(report.eur_so_far),
        "exact": report.exact,
        "resources": [plain(line) for line in report.lines],
        "elsewhere": [plain(line) for line in report.elsewhere],
        "pending": list(report.pending),
        "reaper": {
            "last_good_s": report.reaper.last_good_s,
            "installed": report.reaper.installed,
            "overdue": report.warn_of_reaper,
        },
        "clock_offset_s": report.clock_offset_s,
        "month": plain(report.month),
    }


def plain(value: Any) -> Any:
    """Frozen classes as objects, decimals as text."""
    if attrs.has(type(value)):
        return {
            field.name: plain(getattr(value, field.name)) for field in attrs.fields(type(value))
        }
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value
