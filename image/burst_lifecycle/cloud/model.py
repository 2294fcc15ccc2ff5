"""What the cloud holds, as values: no client behind them, nothing that fetches by itself.

Times are seconds since the epoch *by the API's clock* (`clock.ApiClock` knows home's offset from
it); money is Decimal euros as the pricing endpoint says them, never a float.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from decimal import Decimal
from typing import Generic, TypeVar

import attrs


class Kind(enum.Enum):
    """Every kind of resource that we may own; the value is the API's path segment."""

    SERVER = "servers"
    VOLUME = "volumes"
    IMAGE = "images"
    SSH_KEY = "ssh_keys"
    FIREWALL = "firewalls"
    PRIMARY_IP = "primary_ips"


class ServerState(enum.Enum):
    """The API's words. `running` means powered, not that anything answers."""

    INITIALIZING = "initializing"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    OFF = "off"
    DELETING = "deleting"
    MIGRATING = "migrating"
    REBUILDING = "rebuilding"
    UNKNOWN = "unknown"


class ImageState(enum.Enum):
    CREATING = "creating"
    AVAILABLE = "available"
    UNAVAILABLE = "unavailable"


class ActionState(enum.Enum):
    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"


@attrs.frozen
class Resource:
    """What all kinds share."""

    id: int
    name: str
    labels: Mapping[str, str]
    created_s: float


@attrs.frozen
class Server(Resource):
    state: ServerState
    type: str
    location: str
    ipv4: str | None = None
    ipv4_id: int | None = None
    ipv6: str | None = None
    """The /64 as the API gives it; the server itself answers on `::1` of it."""
    ipv6_id: int | None = None
    volume_ids: tuple[int, ...] = ()
    firewall_ids: tuple[int, ...] = ()
    image_id: int | None = None
    locked: bool = False
    delete_protected: bool = False


@attrs.frozen
class Volume(Resource):
    size_gb: int
    location: str
    server_id: int | None
    device: str
    """`/dev/disk/by-id/…`: a hint, never an identity (csi-driver #1455)."""
    available: bool = True
    format: str | None = None
    delete_protected: bool = False


@attrs.frozen
class Image(Resource):
    """A snapshot, or one of the cloud's own (`system`), whose `name` is like `ubuntu-24.04`."""

    state: ImageState
    system: bool
    architecture: str
    disk_gb: int
    size_gb: Decimal | None = None
    """Billed, compressed; unknown until it is made."""
    delete_protected: bool = False


@attrs.frozen
class SshKey(Resource):
    fingerprint: str
    public_key: str


@attrs.frozen
class FirewallRule:
    """Inbound only. `port` is `22` or a range `a-b`; None for icmp."""

    protocol: str
    port: str | None
    sources: tuple[str, ...]
    description: str = ""


@attrs.frozen
class Firewall(Resource):
    rules: tuple[FirewallRule, ...]
    server_ids: tuple[int, ...] = ()


@attrs.frozen
class PrimaryIp(Resource):
    address: str
    version: int
    """4 or 6; only 4 bills."""
    location: str
    assignee_id: int | None
    auto_delete: bool
    delete_protected: bool = False


@attrs.frozen
class Action:
    """Something the cloud is doing. `error_code` and `error_text` are set with ERROR."""

    id: int
    command: str
    state: ActionState
    progress: int = 0
    started_s: float = 0.0
    finished_s: float | None = None
    error_code: str = ""
    error_text: str = ""


R_co = TypeVar("R_co", bound=Resource, covariant=True)


@attrs.frozen
class Created(Generic[R_co]):
    """A create that was accepted: it exists from now on, whatever becomes of its actions."""

    resource: R_co
    actions: tuple[int, ...]
    """To wait for; the first is the create itself. Empty if there are none."""


@attrs.frozen
class Price:
    """Euros without VAT, and with the owner's."""

    net_eur: Decimal
    gross_eur: Decimal


@attrs.frozen
class Offer:
    """One server type in one location."""

    location: str
    hourly: Price
    monthly: Price
    available: bool
    """A hint of the moment; only a create decides."""
    deprecated: bool = False


@attrs.frozen
class ServerType:
    id: int
    name: str
    cores: int
    memory_gb: Decimal
    disk_gb: int
    architecture: str
    """`x86` or `arm`."""
    dedicated: bool
    offers: tuple[Offer, ...]

    def offer(self, location: str) -> Offer | None:
        """None where the type does not exist."""
        return next((offer for offer in self.offers if offer.location == location), None)


@attrs.frozen
class Prices:
    """The pricing endpoint's answer, as far as we buy."""

    currency: str
    vat_percent: Decimal
    volume_gb_month: Price
    image_gb_month: Price
    ipv4_hourly: Mapping[str, Price]
    ipv4_monthly: Mapping[str, Price]
    """By location."""


@attrs.frozen
class Inventory:
    """Everything that one label selector finds, read at `read_s` (API time)."""

    servers: tuple[Server, ...] = ()
    volumes: tuple[Volume, ...] = ()
    images: tuple[Image, ...] = ()
    ssh_keys: tuple[SshKey, ...] = ()
    firewalls: tuple[Firewall, ...] = ()
    primary_ips: tuple[PrimaryIp, ...] = ()
    read_s: float = 0.0

    def everything(self) -> tuple[tuple[Kind, Resource], ...]:
        """All of it, in the order in which it may be deleted."""
        parts: tuple[tuple[Kind, tuple[Resource, ...]], ...] = (
            (Kind.SERVER, self.servers),
            (Kind.PRIMARY_IP, self.primary_ips),
            (Kind.VOLUME, self.volumes),
            (Kind.IMAGE, self.images),
            (Kind.FIREWALL, self.firewalls),
            (Kind.SSH_KEY, self.ssh_keys),
        )
        return tuple((kind, resource) for kind, found in parts for resource in found)


@attrs.frozen
class ServerSpec:
    """One server to create. Labels hold owner, role, operation and expiry already."""

    name: str
    type: str
    location: str
    image_id: int
    ssh_key_ids: tuple[int, ...]
    firewall_ids: tuple[int, ...]
    labels: Mapping[str, str]
    user_data: str = attrs.field(repr=False)
    """At most 32 KiB; holds a host key that is worth nothing after its rotation."""


@attrs.frozen
class VolumeSpec:
    name: str
    size_gb: int
    location: str
    labels: Mapping[str, str]
