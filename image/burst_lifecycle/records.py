"""What the ledger says about resources: events made of what the API says."""

from __future__ import annotations

from decimal import Decimal

from burst_lifecycle.cloud.model import Image, Kind, PrimaryIp, Resource, Server, Volume
from burst_lifecycle.context import Context
from burst_lifecycle.events import Created, Deleted, Ending, Gone, Intent
from burst_lifecycle.labels import Claim
from burst_lifecycle.pricing import Rate

FREE = Rate()


def intent(context: Context, kind: Kind, claim: Claim, name: str, location: str = "") -> Intent:
    """Before the request that creates leaves."""
    return Intent(
        at_s=context.cloud.now_s(),
        kind=kind,
        operation=claim.operation,
        role=str(claim.role),
        name=name,
        owner=claim.owner,
        project=claim.project,
        location=location,
        token=context.account.token,
        endpoint=context.account.endpoint,
    )


def created(context: Context, kind: Kind, resource: Resource, rate: Rate = FREE) -> Created:
    """It exists: made by us, or found."""
    claim = Claim.of(resource.labels)
    by_size = kind in {Kind.VOLUME, Kind.IMAGE}
    return Created(
        at_s=context.cloud.now_s(),
        kind=kind,
        id=resource.id,
        created_s=resource.created_s,
        operation=claim.operation if claim else "",
        role=str(claim.role) if claim else "",
        name=resource.name,
        owner=claim.owner if claim else "",
        project=claim.project if claim else "",
        location=resource.location if isinstance(resource, Server | Volume | PrimaryIp) else "",
        token=context.account.token,
        endpoint=context.account.endpoint,
        type=_type(resource),
        size_gb=_size(resource),
        eur_per_hour=None if by_size or rate is FREE else rate.per_hour,
        eur_per_month=None if by_size or rate is FREE else rate.per_month,
        eur_per_gb_month=rate.per_gb_month if by_size and rate is not FREE else None,
    )


def address(
    context: Context, server: Server, address_id: int, version: int, rate: Rate = FREE
) -> Created:
    """One that came with that server. Its own labels may be missing still."""
    return created(
        context,
        Kind.PRIMARY_IP,
        PrimaryIp(
            id=address_id,
            name="",
            labels=server.labels,
            created_s=server.created_s,
            address="",
            version=version,
            location=server.location,
            assignee_id=server.id,
            auto_delete=True,
        ),
        rate,
    )


def addresses_of(server: Server) -> tuple[tuple[int, int], ...]:
    """Ids, and which version of IP."""
    both = ((server.ipv4_id, 4), (server.ipv6_id, 6))
    return tuple((found, version) for found, version in both if found is not None)


def ending(context: Context, kind: Kind, resource_id: int, reason: str, case: str = "") -> Ending:
    """Before the request that deletes leaves."""
    return Ending(
        at_s=context.cloud.now_s(),
        kind=kind,
        id=resource_id,
        reason=reason,
        case=case,
        endpoint=context.account.endpoint,
    )


def deleted(context: Context, ended: Ending) -> Deleted:
    """By us, and confirmed."""
    return Deleted(
        at_s=context.cloud.now_s(),
        kind=ended.kind,
        id=ended.id,
        reason=ended.reason,
        case=ended.case,
        endpoint=ended.endpoint,
    )


def gone(context: Context, kind: Kind, resource_id: int) -> Gone:
    """It was not there any more."""
    return Gone(
        at_s=context.cloud.now_s(), kind=kind, id=resource_id, endpoint=context.account.endpoint
    )


def _type(resource: Resource) -> str:
    """Of addresses, which of the two: only one of them bills."""
    if isinstance(resource, PrimaryIp):
        return f"ipv{resource.version}"
    return resource.type if isinstance(resource, Server) else ""


def _size(resource: Resource) -> Decimal | None:
    if isinstance(resource, Volume):
        return Decimal(resource.size_gb)
    return resource.size_gb if isinstance(resource, Image) else None
