"""The API's JSON to values and back. Pure.

Straight from the documents: the library's bound models fetch behind one's back whenever a partial
one is asked for something that is empty. Whatever is not understood is `Unexpected`.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeAlias, TypeVar

from burst_lifecycle.cloud.model import (
    Action,
    ActionState,
    Firewall,
    FirewallRule,
    Image,
    ImageState,
    Kind,
    Offer,
    Price,
    Prices,
    PrimaryIp,
    Resource,
    Server,
    ServerState,
    ServerType,
    SshKey,
    Volume,
)

Json: TypeAlias = Mapping[str, Any]
T = TypeVar("T")


class Unexpected(ValueError):
    """An answer that is not what the API promises."""


def read(convert: Callable[[Any], T], value: Any) -> T:
    """Unexpected for whatever goes wrong."""
    try:
        return convert(value)
    except (LookupError, TypeError, ValueError, AttributeError, InvalidOperation) as error:
        kind = "it lacks" if isinstance(error, LookupError) else f"{type(error).__name__}:"
        raise Unexpected(f"{kind} {error}") from error


def time_s(text: str) -> float:
    """ISO 8601 with its offset, as in `2026-01-30T23:50:00+00:00`."""
    at = dt.datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("time without zone")
    return at.timestamp()


def server(value: Json) -> Server:
    net = value["public_net"]
    ipv4, ipv6 = net.get("ipv4"), net.get("ipv6")
    image_ = value.get("image")
    try:
        state = ServerState(value["status"])
    except ValueError:
        state = ServerState.UNKNOWN  # a word of a newer API
    return Server(
        **_common(value),
        state=state,
        type=value["server_type"]["name"],
        location=value["location"]["name"],
        ipv4=ipv4["ip"] if ipv4 else None,
        ipv4_id=ipv4["id"] if ipv4 else None,
        ipv6=ipv6["ip"] if ipv6 else None,
        ipv6_id=ipv6["id"] if ipv6 else None,
        volume_ids=tuple(value.get("volumes") or ()),
        firewall_ids=tuple(entry["id"] for entry in net.get("firewalls") or ()),
        image_id=image_["id"] if image_ else None,
        locked=value["locked"],
        delete_protected=value["protection"]["delete"],
    )


def volume(value: Json) -> Volume:
    return Volume(
        **_common(value),
        size_gb=value["size"],
        location=value["location"]["name"],
        server_id=value["server"],
        device=value["linux_device"] or "",
        available=value["status"] == "available",
        format=value.get("format"),
        delete_protected=value["protection"]["delete"],
    )


def image(value: Json) -> Image:
    try:
        state = ImageState(value["status"])
    except ValueError:
        state = ImageState.UNAVAILABLE
    size = value.get("image_size")
    common = _common(value)
    common["name"] = value.get("name") or value.get("description") or ""
    return Image(
        **common,
        state=state,
        system=value["type"] == "system",
        architecture=value["architecture"],
        disk_gb=int(value["disk_size"]),
        size_gb=None if size is None else Decimal(str(size)),
        delete_protected=value["protection"]["delete"],
    )


def ssh_key(value: Json) -> SshKey:
    return SshKey(
        **_common(value), fingerprint=value["fingerprint"], public_key=value["public_key"]
    )


def firewall(value: Json) -> Firewall:
    """Inbound rules only; a firewall with label selectors applies to what it resolves to."""
    applied = value.get("applied_to") or ()
    resolved = (entry.get("applied_to_resources") or () for entry in applied)
    targets = [*applied, *itertools.chain.from_iterable(resolved)]
    servers = [target["server"]["id"] for target in targets if target.get("type") == "server"]
    rules = tuple(
        FirewallRule(
            protocol=rule["protocol"],
            port=rule.get("port"),
            sources=tuple(rule.get("source_ips") or ()),
            description=rule.get("description") or "",
        )
        for rule in value["rules"]
        if rule["direction"] == "in"
    )
    return Firewall(**_common(value), rules=rules, server_ids=tuple(dict.fromkeys(servers)))


def rules_json(rules: Sequence[FirewallRule]) -> list[dict[str, Any]]:
    shown = []
    for rule in rules:
        entry: dict[str, Any] = {
            "direction": "in",
            "protocol": rule.protocol,
            "source_ips": list(rule.sources),
        }
        if rule.port is not None:
            entry["port"] = rule.port
        if rule.description:
            entry["description"] = rule.description
        shown.append(entry)
    return shown


def primary_ip(value: Json) -> PrimaryIp:
    return PrimaryIp(
        **_common(value),
        address=value["ip"],
        version=4 if value["type"] == "ipv4" else 6,
        location=value["location"]["name"],
        assignee_id=value["assignee_id"],
        auto_delete=value["auto_delete"],
        delete_protected=value["protection"]["delete"],
    )


RESOURCES: Final[Mapping[Kind, tuple[str, Callable[[Json], Resource]]]] = {
    Kind.SERVER: ("server", server),
    Kind.VOLUME: ("volume", volume),
    Kind.IMAGE: ("image", image),
    Kind.SSH_KEY: ("ssh_key", ssh_key),
    Kind.FIREWALL: ("firewall", firewall),
    Kind.PRIMARY_IP: ("primary_ip", primary_ip),
}
"""The name of one in an answer (several are the kind's value), and what it becomes."""


def action(value: Json) -> Action:
    error = value.get("error") or {}
    finished = value.get("finished")
    return Action(
        id=_whole(value["id"]),
        command=value["command"],
        state=ActionState(value["status"]),
        progress=value["progress"],
        started_s=time_s(value["started"]),
        finished_s=None if finished is None else time_s(finished),
        error_code=str(error.get("code") or ""),
        error_text=str(error.get("message") or ""),
    )


def server_type(value: Json) -> ServerType:
    prices_ = {entry["location"]: entry for entry in value["prices"]}
    places = {entry["name"]: entry for entry in value.get("locations") or ()}
    offers = tuple(
        Offer(
            location=name,
            hourly=price(entry["price_hourly"]),
            monthly=price(entry["price_monthly"]),
            # Where the API does not say, the create will.
            available=bool(places.get(name, {}).get("available", name in places or not places)),
            deprecated=bool(places.get(name, {}).get("deprecation")),
        )
        for name, entry in prices_.items()
    )
    return ServerType(
        id=_whole(value["id"]),
        name=value["name"],
        cores=value["cores"],
        memory_gb=Decimal(str(value["memory"])),
        disk_gb=int(value["disk"]),
        architecture=value["architecture"],
        dedicated=value["cpu_type"] == "dedicated",
        offers=offers,
    )


def price(value: Json) -> Price:
    net, gross = Decimal(value["net"]), Decimal(value["gross"])
    if not (net.is_finite() and gross.is_finite()) or net < 0 or gross < 0:
        raise ValueError("a price that is none")
    return Price(net, gross)


def prices(value: Json) -> Prices:
    (ipv4,) = (entry["prices"] for entry in value["primary_ips"] if entry["type"] == "ipv4")
    return Prices(
        currency=value["currency"],
        vat_percent=Decimal(value["vat_rate"]),
        volume_gb_month=price(value["volume"]["price_per_gb_month"]),
        image_gb_month=price(value["image"]["price_per_gb_month"]),
        ipv4_hourly={entry["location"]: price(entry["price_hourly"]) for entry in ipv4},
        ipv4_monthly={entry["location"]: price(entry["price_monthly"]) for entry in ipv4},
    )


def _common(value: Json) -> dict[str, Any]:
    labels = value["labels"] or {}
    return {
        "id": _whole(value["id"]),
        "name": value.get("name") or "",
        "labels": {str(key): str(text) for key, text in labels.items()},
        "created_s": time_s(value["created"]),
    }


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("no number")
    return value
