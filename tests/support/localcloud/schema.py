"""Hetzner's own description of its answers, trimmed to what this cloud offers.

Transcribed by hand from the OpenAPI document (github MaximilianKoestler/hcloud-openapi,
`openapi/hcloud.json`, commit 019800995536, a copy of Hetzner's of 2026 without datacenters): every
property it requires, with type, `nullable` and enumeration. Additions: `assignee_type: unassigned`
(changelog of August 2026), and of a server type's `locations[]` the keys that the documentation of
2026-04 lists. A trailing `?` marks what may be null, a leading one a property that may be absent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

Json = dict[str, Any]
Schema = Any
"""A type's name, a set of allowed strings, [schema of the items], a mapping of properties, or
(schema,) for null or that."""

_LABEL: Final = re.compile(r"(()|[a-z0-9A-Z]|([a-z0-9A-Z][a-z0-9A-Z\._-]{0,61}[a-z0-9A-Z]))")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|\+00:00)")

ERROR: Final = {"code": "string", "message": "string", "?details": ("object",)}
ACTION: Final = {
    "id": "id",
    "command": "string",
    "status": {"running", "success", "error"},
    "progress": "integer",
    "started": "time",
    "finished": ("time",),
    "resources": [{"id": "id", "type": "string"}],
    "error": ({"code": "string", "message": "string"},),
}
LOCATION: Final = {
    "id": "id",
    "name": "string",
    "description": "string",
    "country": "string",
    "city": "string",
    "latitude": "number",
    "longitude": "number",
    "network_zone": "string",
}
PRICE: Final = {"net": "decimal", "gross": "decimal"}
PRICE_PER_TIME: Final = {
    "location": "string",
    "price_hourly": PRICE,
    "price_monthly": PRICE,
    "included_traffic": "integer",
    "price_per_tb_traffic": PRICE,
}
DEPRECATION: Final = ({"announced": "time", "unavailable_after": "time"},)
SERVER_TYPE: Final = {
    "id": "id",
    "name": "string",
    "description": "string",
    "?category": "string",
    "cores": "integer",
    "memory": "number",
    "disk": "number",
    "?deprecated": ("boolean",),
    "?deprecation": DEPRECATION,
    "prices": [PRICE_PER_TIME],
    "storage_type": {"local", "network"},
    "cpu_type": {"shared", "dedicated"},
    "architecture": {"x86", "arm"},
    "locations": [
        {
            "id": "id",
            "name": "string",
            "deprecation": DEPRECATION,
            "available": "boolean",
            "recommended": "boolean",
        }
    ],
}
PROTECTION: Final = {"delete": "boolean"}
IMAGE: Final = {
    "id": "id",
    "type": {"system", "app", "snapshot", "backup", "temporary"},
    "status": {"available", "creating", "unavailable"},
    "name": ("string",),
    "description": "string",
    "image_size": ("number",),
    "disk_size": "number",
    "created": "time",
    "created_from": ({"id": "id", "name": "string"},),
    "bound_to": ("integer",),
    "os_flavor": {"alma", "centos", "debian", "fedora", "opensuse", "rocky", "ubuntu", "unknown"},
    "os_version": ("string",),
    "?rapid_deploy": "boolean",
    "protection": PROTECTION,
    "?deprecated": ("time",),
    "?deprecation": DEPRECATION,
    "deleted": ("time",),
    "labels": "labels",
    "architecture": {"x86", "arm"},
}
SERVER: Final = {
    "id": "id",
    "name": "string",
    "status": {
        *("deleting", "initializing", "migrating", "off", "rebuilding", "running"),
        *("starting", "stopping", "unknown"),
    },
    "created": "time",
    "public_net": {
        "ipv4": ({"id": "id", "ip": "string", "blocked": "boolean", "dns_ptr": "string"},),
        "ipv6": (
            {
                "id": "id",
                "ip": "string",
                "blocked": "boolean",
                "dns_ptr": ([{"ip": "string", "dns_ptr": "string"}],),
            },
        ),
        "floating_ips": ["integer"],
        "?firewalls": [{"id": "id", "status": {"applied", "pending"}}],
    },
    "private_net": ["object"],
    "server_type": SERVER_TYPE,
    "location": LOCATION,
    "image": (IMAGE,),
    "iso": ("object",),
    "rescue_enabled": "boolean",
    "locked": "boolean",
    "backup_window": ("string",),
    "outgoing_traffic": ("integer",),
    "ingoing_traffic": ("integer",),
    "included_traffic": ("integer",),
    "protection": {"delete": "boolean", "rebuild": "boolean"},
    "labels": "labels",
    "?volumes": ["integer"],
    "?load_balancers": ["integer"],
    "primary_disk_size": "integer",
    "?placement_group": ("object",),
}
VOLUME: Final = {
    "id": "id",
    "name": "string",
    "size": "number",
    "server": ("integer",),
    "status": {"available", "creating"},
    "location": LOCATION,
    "linux_device": "string",
    "format": ("string",),
    "labels": "labels",
    "protection": PROTECTION,
    "created": "time",
}
SSH_KEY: Final = {
    "id": "id",
    "name": "string",
    "fingerprint": "string",
    "public_key": "string",
    "labels": "labels",
    "created": "time",
}
_TARGET: Final = {"type": {"server"}, "server": {"id": "id"}}
FIREWALL: Final = {
    "id": "id",
    "name": "string",
    "?labels": "labels",
    "created": "time",
    "rules": [
        {
            "direction": {"in", "out"},
            "protocol": {"tcp", "udp", "icmp", "esp", "gre"},
            "port": ("string",),
            "source_ips": ["string"],
            "destination_ips": ["string"],
            "?description": ("string",),
        }
    ],
    "applied_to": [
        {
            "type": {"server", "label_selector"},
            "?server": {"id": "id"},
            "?label_selector": {"selector": "string"},
            "?applied_to_resources": [_TARGET],
        }
    ],
}
PRIMARY_IP: Final = {
    "id": "id",
    "name": "string",
    "ip": "string",
    "type": {"ipv4", "ipv6"},
    "assignee_id": ("integer",),
    "assignee_type": {"server", "unassigned"},
    "auto_delete": "boolean",
    "blocked": "boolean",
    "dns_ptr": [{"ip": "string", "dns_ptr": "string"}],
    "location": LOCATION,
    "labels": "labels",
    "protection": PROTECTION,
    "created": "time",
}
_PLACE: Final = {"location": "string", "price_hourly": PRICE, "price_monthly": PRICE}
PRICING: Final = {
    "currency": "string",
    "vat_rate": "decimal",
    "primary_ips": [{"type": {"ipv4", "ipv6"}, "prices": [_PLACE]}],
    "?floating_ip": "object",
    "?floating_ips": ["object"],
    "image": {"price_per_gb_month": PRICE},
    "volume": {"price_per_gb_month": PRICE},
    "server_backup": {"percentage": "decimal"},
    "?traffic": "object",
    "server_types": [{"id": "id", "name": "string", "prices": [PRICE_PER_TIME]}],
    "load_balancer_types": ["object"],
}
META: Final = {
    "pagination": {
        "page": "integer",
        "per_page": "integer",
        "previous_page": ("integer",),
        "next_page": ("integer",),
        "last_page": ("integer",),
        "total_entries": ("integer",),
    }
}
_KINDS: Final[Mapping[str, tuple[str, Schema]]] = {
    "servers": ("server", SERVER),
    "volumes": ("volume", VOLUME),
    "firewalls": ("firewall", FIREWALL),
    "primary_ips": ("primary_ip", PRIMARY_IP),
    "images": ("image", IMAGE),
    "ssh_keys": ("ssh_key", SSH_KEY),
    "locations": ("location", LOCATION),
    "server_types": ("server_type", SERVER_TYPE),
}
_CREATED: Final[Mapping[str, Schema]] = {
    "servers": {"action": ACTION, "next_actions": [ACTION], "root_password": ("string",)},
    "volumes": {"action": ACTION, "next_actions": [ACTION]},
    "firewalls": {"?actions": [ACTION]},
    "primary_ips": {"?action": (ACTION,)},
    "ssh_keys": {},
}


def expected(operation: str, status: int) -> Schema:
    """What the document promises for it; None for an answer without a body."""
    if status >= 400:
        return {"error": ERROR}
    method, _, path = operation.partition(" ")
    parts = path.strip("/").split("/")
    plural = parts[0]
    if plural == "pricing":
        return {"pricing": PRICING}
    if "actions" in parts:
        if method == "GET":
            if parts[-1] == "{id}":
                return {"action": ACTION}
            return {"actions": [ACTION], "?meta": META}
        if parts[-1] == "create_image":
            return {"action": ACTION, "image": IMAGE}
        return {"actions": [ACTION]} if plural == "firewalls" else {"action": ACTION}
    singular, schema = _KINDS[plural]
    if method == "DELETE":
        return {"action": ACTION} if plural == "servers" else None
    if method == "POST":
        return {singular: schema, **_CREATED[plural]}
    return {singular: schema} if parts[-1] == "{id}" else {plural: [schema], "meta": META}


def problems(schema: Schema, value: Any, where: str = "$") -> list[str]:
    """Every place at which the value is not of the schema."""
    if isinstance(schema, tuple):
        return [] if value is None else problems(schema[0], value, where)
    if isinstance(schema, str):
        return [] if _is(schema, value) else [f"{where}: {value!r} is no {schema}"]
    if isinstance(schema, set):
        return [] if value in schema else [f"{where}: {value!r} is none of {sorted(schema)}"]
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{where}: {value!r} is no array"]
        entries = enumerate(value)
        return [one for n, entry in entries for one in problems(schema[0], entry, f"{where}[{n}]")]
    if not isinstance(value, dict):
        return [f"{where}: {value!r} is no object"]
    found = []
    for key, inner in schema.items():
        name = key.removeprefix("?")
        if name in value:
            found += problems(inner, value[name], f"{where}.{name}")
        elif name == key:
            found.append(f"{where}.{name} is missing")
    known = {key.removeprefix("?") for key in schema}
    return found + [f"{where}.{name} is not in the document" for name in value if name not in known]


def _is(kind: str, value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = isinstance(value, int) and not isinstance(value, bool)
    match kind:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return whole
        case "number":
            return number
        case "id":
            return whole and 1 <= value <= 2**53 - 1
        case "decimal":
            return isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?", value) is not None
        case "time":
            return isinstance(value, str) and _TIME.fullmatch(value) is not None
        case "labels":
            return isinstance(value, dict) and all(_LABEL.fullmatch(v) for v in value.values())
        case _:
            return isinstance(value, dict)
