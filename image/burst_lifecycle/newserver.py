"""One server: asked for, and reached for the first time. For boots and bakes alike.

Each part can be repeated after any interruption. A server is born with all its labels and its dead
man; what goes wrong after that is ended by its deadline if by nobody else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import attrs

from burst_lifecycle import (
    access,
    creation,
    firewall,
    hostkey,
    labels,
    readiness,
    records,
    removal,
    userdata,
)
from burst_lifecycle.budget import Tariff
from burst_lifecycle.cloud.model import Image, Kind, Server, ServerSpec, ServerState
from burst_lifecycle.context import Context
from burst_lifecycle.errors import ActionFailed, Busy, NotFound, ServerProblem
from burst_lifecycle.guard import Guard, boot_by_s
from burst_lifecycle.host import Host
from burst_lifecycle.labels import Claim
from burst_lifecycle.placement import Candidate
from burst_lifecycle.pricing import Rate
from burst_protocol.errors import AuthenticationFailed, HostKeyProblem, LinkLost, Unreachable

WRONG_KEY_S: Final = 120.0
"""For so long after its boot began a server may still show another key (its image's)."""
_CREATE_S: Final = 900.0
POLL_S: Final = 1.5
_OFF_POLLS: Final = 10


@attrs.frozen
class Order:
    """What is wanted, besides where. Durations in seconds."""

    claim: Claim
    image: Image
    keys: access.OwnerKeys
    firewall_id: int
    boot_by_s: float
    """API time."""
    deadlines: userdata.Deadlines
    more: Mapping[str, str]
    """Labels."""


@attrs.frozen
class Made:
    server: Server
    actions: tuple[int, ...]
    claim: Claim


async def create(context: Context, candidate: Candidate, order: Order) -> Made:
    """Ask for it. NoCapacity, QuotaExceeded, … as the cloud says."""
    cloud = context.cloud
    host_key = hostkey.HostKey(*context.new_host_key())
    told = order.claim.labels(
        **{
            labels.BOOT_BY: str(int(order.boot_by_s)),
            labels.BOOT: str(int(order.boot_by_s)),
            labels.PIN: host_key.pin,
            labels.CLIENT: context.key.client,
            **order.more,
        }
    )
    user_data = userdata.render(
        host_key, order.keys.public_keys, order.deadlines, context.server_files
    )
    server, actions = await creation.create_with_actions(
        context,
        Kind.SERVER,
        order.claim,
        lambda name: cloud.create_server(
            ServerSpec(
                name=name,
                type=candidate.type,
                location=candidate.location,
                image_id=order.image.id,
                ssh_key_ids=order.keys.ids,
                firewall_ids=(order.firewall_id,),
                labels=told,
                user_data=user_data,
            )
        ),
        location=candidate.location,
        rate=Rate(candidate.eur_per_hour, candidate.eur_per_month),
    )
    return Made(server, actions, order.claim)


async def finish(context: Context, made: Made, tariff: Tariff) -> Server:
    """Until its create has ended. ActionFailed: it is there, and no good."""
    cloud = context.cloud
    labelled = await _label_addresses(context, made.server, made.claim, tariff, set())
    try:
        await cloud.wait(made.actions, _CREATE_S)
    except NotFound as error:
        raise ActionFailed("it was gone", what="creating a server") from error
    server = await cloud.server(made.server.id)
    await _label_addresses(context, server, made.claim, tariff, labelled)
    return server


async def _label_addresses(
    context: Context, server: Server, claim: Claim, tariff: Tariff, done: set[int]
) -> set[int]:
    """They come with the server and go with it; should they stay, they are found."""
    for address_id, version in records.addresses_of(server):
        if address_id in done:
            continue
        rate = Rate.of_ipv4(tariff.prices, server.location) if version == 4 else records.FREE
        await context.ledger.record(records.address(context, server, address_id, version, rate))
        try:
            with context.effect("label the address"):
                await context.cloud.set_labels(Kind.PRIMARY_IP, address_id, claim.labels())
        except (Busy, NotFound):
            continue  # the reaper labels it: it finds it by its server
        done.add(address_id)
    return done


async def wait_for_ssh(
    context: Context,
    guard: Guard,
    server: Server,
    *,
    began_s: float | None = None,
    meanwhile: Callable[[], Awaitable[None]] | None = None,
) -> Host:
    """Until its own host key answers. After its deadline it is given up and deleted.

    `began_s`: when its boot began (API time), if its deadline is that of more than a boot.
    `meanwhile` is called again and again.
    """
    cloud = context.cloud
    deadline_s = boot_by_s(server)
    if began_s is None:
        began_s = deadline_s - context.wishes.boot_deadline_s
    else:
        deadline_s = min(deadline_s, began_s + context.wishes.boot_deadline_s)
    last = "it was not powered on"
    off_polls = silent_polls = 0
    while True:
        if meanwhile is not None:
            await meanwhile()
        now = await cloud.server(server.id)
        if now.state is ServerState.RUNNING:
            host = Host(context.ssh, access.login(context, now), server.id)
            try:
                login = await host.hello()
                return Host(context.ssh, login, server.id)
            except (Unreachable, LinkLost, AuthenticationFailed) as error:
                last, silent_polls = str(error), silent_polls + 1
                if silent_polls % _OFF_POLLS == 0:
                    # Our address changed, or another machine wrote over our rule.
                    await firewall.reopen(context, now)
            except HostKeyProblem as error:
                last = str(error)
                if cloud.now_s() > began_s + WRONG_KEY_S:
                    if await readiness.recall(context, now):
                        continue
                    await removal.abandon(context, guard, now)
                    raise
        elif now.state is ServerState.DELETING:
            raise NotFound(what=f"server {now.name}")
        elif now.state is ServerState.OFF:
            # Before its start, or its boot was cut off between the label and the power.
            last, off_polls = "it is off", off_polls + 1
            if off_polls % _OFF_POLLS == 0:
                with context.effect("power on again"):
                    await cloud.power_on(server.id)
        if cloud.now_s() > deadline_s:
            await removal.abandon(context, guard, now)
            raise ServerProblem(f"was not ready in time: {last}", what=now.name)
        await context.time.sleep(POLL_S)


async def narrow(context: Context, server: Server, host: Host, until_s: float) -> None:
    """From its first verified login on, this client comes from one address only."""
    for firewall_id in server.firewall_ids:
        rules = await context.cloud.firewall(firewall_id)
        claim = Claim.of(rules.labels)
        if claim is None or claim.owner != context.wishes.owner:
            continue
        if not firewall.is_narrow(rules.rules, context.key.client):
            peer = await host.peer()
            await firewall.narrow(context, firewall_id, peer, until_s)
