"""The resources, and how the API shows them (schemas of Hetzner's OpenAPI document).

Mutable, owned by `World`, touched under its lock only. Times are seconds of API time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import attrs

from . import catalogue
from .clock import stamp

Json = dict[str, Any]
GIGA: Final = 10**9


@attrs.define(kw_only=True)
class Resource:
    kind: ClassVar[str] = ""
    plural: ClassVar[str] = ""
    id: int
    project: str
    name: str
    labels: dict[str, str]
    created: float
    old_labels: dict[str, str] = attrs.Factory(dict)
    labelled: float = 0.0
    """When `labels` replaced `old_labels`: lists may lag behind (World.lists_lag_s)."""

    def label(self, labels: dict[str, str], now: float) -> None:
        self.old_labels, self.labels, self.labelled = self.labels, labels, now

    def labels_as_of(self, moment: float) -> Mapping[str, str]:
        return self.labels if self.labelled <= moment else self.old_labels


@attrs.define(kw_only=True)
class SshKey(Resource):
    kind = "ssh_key"
    plural = "ssh_keys"
    public_key: str
    fingerprint: str

    def json(self) -> Json:
        return {
            "id": self.id,
            "name": self.name,
            "fingerprint": self.fingerprint,
            "public_key": self.public_key,
            "labels": self.labels,
            "created": stamp(self.created),
        }


@attrs.define(kw_only=True)
class PrimaryIp(Resource):
    kind = "primary_ip"
    plural = "primary_ips"
    type: str
    ip: str
    location: catalogue.Location
    assignee: int | None
    auto_delete: bool
    protected: bool = False

    def json(self) -> Json:
        return {
            "id": self.id,
            "name": self.name,
            "ip": self.ip,
            "type": self.type,
            "assignee_id": self.assignee,
            # Since August 2026.
            "assignee_type": "unassigned" if self.assignee is None else "server",
            "auto_delete": self.auto_delete,
            "blocked": False,
            "dns_ptr": [],
            "location": self.location.json(),
            "labels": self.labels,
            "protection": {"delete": self.protected},
            "created": stamp(self.created),
        }

    def net_json(self) -> Json:
        """As it stands in a server's `public_net`."""
        pointer: Any = [] if self.type == "ipv6" else f"static.{self.ip}.clients.example"
        return {"id": self.id, "ip": self.ip, "blocked": False, "dns_ptr": pointer}


@attrs.define(kw_only=True)
class Image(Resource):
    """Snapshots of a project; system images belong to project ``."""

    kind = "image"
    plural = "images"
    type: str
    status: str
    description: str
    image_size: float | None
    """GB, compressed: what is billed."""
    disk_size: int
    os_flavor: str
    os_version: str | None
    architecture: str
    created_from: tuple[int, str] | None = None
    protected: bool = False
    layer: object = None
    """The backend's frozen disk."""

    def json(self) -> Json:
        origin = self.created_from
        return {
            "id": self.id,
            "type": self.type,
            "status": self.status,
            "name": self.name or None,
            "description": self.description,
            "image_size": self.image_size,
            "disk_size": self.disk_size,
            "created": stamp(self.created),
            "created_from": None if origin is None else {"id": origin[0], "name": origin[1]},
            "bound_to": None,
            "os_flavor": self.os_flavor,
            "os_version": self.os_version,
            "rapid_deploy": self.type == "system",
            "protection": {"delete": self.protected},
            "deprecated": None,
            "deprecation": None,
            "deleted": None,
            "labels": self.labels,
            "architecture": self.architecture,
        }


@attrs.define(kw_only=True)
class Volume(Resource):
    kind = "volume"
    plural = "volumes"
    size: int
    """GB."""
    location: catalogue.Location
    status: str
    format: str | None
    server: int | None
    protected: bool = False
    disk: object = None
    """The backend's."""

    @property
    def linux_device(self) -> str:
        return f"/dev/disk/by-id/scsi-0HC_Volume_{self.id}"

    def json(self) -> Json:
        return {
            "id": self.id,
            "name": self.name,
            "size": self.size,
            "server": self.server,
            "status": self.status,
            "location": self.location.json(),
            "linux_device": self.linux_device,
            "format": self.format,
            "labels": self.labels,
            "protection": {"delete": self.protected},
            "created": stamp(self.created),
        }


@attrs.define(kw_only=True)
class Firewall(Resource):
    kind = "firewall"
    plural = "firewalls"
    rules: list[Json]
    servers: dict[int, str]
    """Servers it was applied to by hand, each `pending` or `applied`."""
    selectors: list[str]


@attrs.define(kw_only=True)
class Server(Resource):
    kind = "server"
    plural = "servers"
    type: catalogue.ServerType
    location: catalogue.Location
    image: Image | None
    """Also after the image is gone, as it was."""
    disk_size: int
    status: str
    user_data: str | None
    ssh_keys: list[str]
    """Public keys."""
    volumes: list[int]
    machine: Any = None
    """The backend's."""
    protected: bool = False
    switched_off: bool = False
    """By itself, since it was powered on."""
    filtered: list[Json] | None = None
    """The firewall rules its machine was told last."""


@attrs.define
class Usage:
    """What the bill is made of: one resource from its birth to its end."""

    kind: str
    id: int
    name: str
    project: str
    detail: str
    """Server type, IP type."""
    location: str
    start: float
    end: float | None = None
    sizes: list[tuple[float, float]] = attrs.Factory(list)
    """GB from that moment on."""
