"""What is to be deleted, when, by whom: a pure decision, and its execution.

The same verdicts are what `status` shows. Servers go in the four cases of `guard` only; without an
answer over ssh nobody guesses whether one is idle: its dead man turns it off, or its end comes.
Every condition is "at or after": a reaper that comes late finds more to do, not less. What lacks
one of our labels is reported and never touched, as is all of other owners.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from burst_lifecycle import budget, firewall, labels, removal, situation
from burst_lifecycle.budget import Tariff
from burst_lifecycle.cloud.model import (
    Firewall,
    Inventory,
    Kind,
    PrimaryIp,
    Resource,
    Server,
    ServerState,
    Volume,
)
from burst_lifecycle.context import HOUR_S, Context
from burst_lifecycle.errors import Busy, CloudProblem, NotFound
from burst_lifecycle.events import Reap
from burst_lifecycle.guard import (
    Ground,
    Guard,
    VolumeGround,
    boot_by_s,
    clock_is_trusted,
    ground_of,
    ground_words,
    is_booting,
    is_ready,
)
from burst_lifecycle.host import Lease, Refusal
from burst_lifecycle.hostkey import bare
from burst_lifecycle.labels import Claim, Role
from burst_lifecycle.notices import Level
from burst_protocol.errors import BurstError

EDGE_S: Final = 50 * 60
"""From this second of a paid hour on it is worth ending it."""
WARN_S: Final = 600
_ASK_S: Final = 45.0


class Deed(enum.Enum):
    KEEP = "keep"
    DRAIN = "drain"
    """Case (a), if its agent grants it."""
    REMOVE = "remove"
    """Cases (b), (c), (d)."""
    DELETE = "delete"
    """What is no server."""
    TIDY = "tidy"
    """Expired rules of a firewall that is used; addresses without their labels."""
    REPORT = "report"
    """Not completely ours by its labels: shown, never touched."""
    FOREIGN = "foreign"
    """Another owner's."""


@attrs.frozen
class Verdict:
    """On one resource."""

    kind: Kind
    resource: Resource
    deed: Deed
    reason: str
    at_s: float | None = None
    """With KEEP: when it will be deleted if nobody comes (API time); None: not by time."""
    by: str = ""
    """With KEEP: who does it then."""
    ground: Ground | None = None
    min_idle_s: float = 0.0


@attrs.frozen
class Policy:
    """What the user wants, as far as deleting goes."""

    owner: str
    keep_alive_s: float = 300
    at_once: bool = False
    """Not at the edge of the paid hour, but as soon as it is idle."""
    watched: bool = False
    """Somebody comes by again before the edge (a daemon, a timer)."""
    drain_at_edge: frozenset[int] = frozenset()
    """Servers whose next hour is over the budget."""


def due_s(created_s: float, idle_enough_s: float) -> float:
    """When a server that is idle for long enough since `idle_enough_s` goes: at the 50th minute of
    the hour that was paid then, at once if that is past. Both are points in time, no windows."""
    age_s = max(0.0, idle_enough_s - created_s)
    edge_s = (age_s // HOUR_S) * HOUR_S + EDGE_S
    return created_s + max(age_s, edge_s)


def decide(
    inventory: Inventory,
    leases: Mapping[int, Lease],
    policy: Policy,
    now_s: float,
    *,
    trusted_clock: bool,
) -> tuple[Verdict, ...]:
    """On everything, in the order in which it may be deleted. Pure.

    `leases` has the servers that answered over ssh.
    """
    verdicts = []
    for kind, resource in inventory.everything():
        claim = Claim.of(resource.labels)
        if claim is None:
            found = Verdict(kind, resource, Deed.REPORT, "its labels are not all there")
        elif claim.owner != policy.owner:
            found = Verdict(kind, resource, Deed.FOREIGN, f"it is {claim.owner}'s")
        elif isinstance(resource, Server):
            found = _server(resource, claim, leases.get(resource.id), policy, now_s)
        elif isinstance(resource, Volume):
            found = _volume(resource, claim, now_s, trusted_clock=trusted_clock)
        else:
            found = _other(kind, resource, claim, inventory, now_s)
        verdicts.append(found)
    return tuple(verdicts)


def _server(
    server: Server, claim: Claim, lease: Lease | None, policy: Policy, now_s: float
) -> Verdict:
    def keep(reason: str, at_s: float | None = None, by: str = "the next reap") -> Verdict:
        return Verdict(Kind.SERVER, server, Deed.KEEP, reason, at_s, by)

    if server.state is ServerState.DELETING:
        return keep("it is being deleted")
    ground = ground_of(server, now_s)
    if ground is Ground.OFF:
        at_s = due_s(server.created_s, now_s)
        if policy.watched and not policy.at_once and at_s > now_s and claim.role is Role.BUILD:
            return keep("it is off, and on again quickly in its paid hour", at_s)
    if ground is not None:
        return Verdict(
            Kind.SERVER, server, Deed.REMOVE, ground_words(ground, server), ground=ground
        )
    if is_booting(server, now_s):
        what = "it boots" if claim.role is Role.BUILD else "an image is baked"
        return keep(what, boot_by_s(server))
    if server.state is not ServerState.RUNNING:
        return keep(f"it is {server.state.value}", claim.expires_s)
    if lease is None:
        return keep(
            "it does not answer over ssh, so nobody knows whether it is idle",
            claim.expires_s,
            "its dead man turns it off, then the next reap",
        )
    if lease.draining:
        return Verdict(Kind.SERVER, server, Deed.DRAIN, "its agent granted it before")
    if lease.busy:
        what = f"{lease.running + lease.detached} actions run"
        return keep(what, claim.expires_s)
    at_edge = (now_s - server.created_s) % HOUR_S >= EDGE_S
    if server.id in policy.drain_at_edge and at_edge:
        return Verdict(Kind.SERVER, server, Deed.DRAIN, "its next hour is over the budget")
    keep_alive_s = policy.keep_alive_s if lease.keep_alive_s is None else lease.keep_alive_s
    enough_s = now_s - lease.idle_s + keep_alive_s
    at_s = enough_s if policy.at_once else due_s(server.created_s, enough_s)
    if now_s >= at_s:
        return Verdict(
            Kind.SERVER,
            server,
            Deed.DRAIN,
            f"idle for {lease.idle_s:.0f} s",
            min_idle_s=keep_alive_s,
        )
    return keep(f"idle for {lease.idle_s:.0f} s", min(at_s, claim.expires_s))


def _volume(volume: Volume, claim: Claim, now_s: float, *, trusted_clock: bool) -> Verdict:
    if volume.server_id is not None:
        return Verdict(Kind.VOLUME, volume, Deed.KEEP, "a server has it")
    if claim.expires_s > now_s:
        return Verdict(
            Kind.VOLUME, volume, Deed.KEEP, "its project may need it", claim.expires_s, "a reap"
        )
    if not trusted_clock:
        return Verdict(
            Kind.VOLUME,
            volume,
            Deed.KEEP,
            "it seems idle for its time, but what time it is is not certain",
        )
    return Verdict(Kind.VOLUME, volume, Deed.DELETE, "nobody used it for its idle time")


def _other(
    kind: Kind, resource: Resource, claim: Claim, inventory: Inventory, now_s: float
) -> Verdict:
    def keep(reason: str) -> Verdict:
        return Verdict(kind, resource, Deed.KEEP, reason, claim.expires_s, "a reap")

    if kind is Kind.IMAGE and resource.labels.get(labels.STAGE) == "current":
        return Verdict(kind, resource, Deed.KEEP, "servers boot from it", None)
    if isinstance(resource, Firewall):
        alive = firewall.without_expired(resource.rules, now_s)
        if resource.server_ids or any(resource.id in s.firewall_ids for s in inventory.servers):
            if len(alive) < len(resource.rules):
                return Verdict(kind, resource, Deed.TIDY, "rules of clients that are gone")
            return keep("a server uses it")
    if isinstance(resource, PrimaryIp) and resource.assignee_id is not None:
        return keep("a server has it")
    if claim.expires_s <= now_s:
        return Verdict(kind, resource, Deed.DELETE, "its time is over")
    return keep("it is kept")


@attrs.frozen
class Report:
    """What a reap found and did."""

    verdicts: tuple[Verdict, ...]
    done: tuple[Verdict, ...] = ()
    refused: tuple[tuple[Verdict, str], ...] = ()
    """Somebody came in between; nothing is wrong."""
    failed: tuple[tuple[Verdict, str], ...] = ()

    @property
    def ok(self) -> bool:
        return not self.failed


@attrs.frozen(eq=False)
class Reaper:
    """Looks, decides, does."""

    context: Context
    guard: Guard
    policy: Policy

    async def look(self, *, ask: bool = True) -> tuple[Inventory, Mapping[int, Lease]]:
        """Everything with our mark, and the leases of the owner's servers that answer."""
        cloud = self.context.cloud
        inventory = await cloud.inventory(labels.selector())
        mine = situation.of_owner(inventory.servers, self.policy.owner)
        bakes = situation.of_owner(inventory.servers, self.policy.owner, Role.BAKE)
        if cloud.offset_s is None and (mine or bakes):
            await self.guard.learn_time((*mine, *bakes)[0].id)
        running = [
            server for server in mine if server.state is ServerState.RUNNING and is_ready(server)
        ]
        keys = [
            bare(key.public_key)
            for key in inventory.ssh_keys
            if (claim := Claim.of(key.labels)) is not None and claim.owner == self.policy.owner
        ]
        asked = (self._lease(server, keys) for server in running)
        found = await asyncio.gather(*asked) if ask else ()
        leases = {
            server.id: lease
            for server, lease in zip(running, found, strict=False)
            if lease is not None
        }
        return inventory, leases

    async def _lease(self, server: Server, keys: Sequence[str]) -> Lease | None:
        """None: it does not answer. Machines that came after its boot are let in on the way."""
        try:
            async with asyncio.timeout(_ASK_S):
                host = await removal.reach(self.context, server)
                if keys:
                    await host.authorize(keys)
                return await host.lease()
        except (BurstError, TimeoutError):
            return None

    async def verdicts(
        self, inventory: Inventory, leases: Mapping[int, Lease]
    ) -> tuple[Verdict, ...]:
        """As `decide`, with the budget."""
        cloud, wishes = self.context.cloud, self.context.wishes
        policy, now_s = self.policy, cloud.now_s()
        if wishes.budget_eur_per_month is not None and leases:
            tariff = Tariff(await cloud.server_types(), await cloud.prices())
            history = await asyncio.to_thread(self.context.ledger.read)
            already_eur = budget.spent(history.events, now_s)
            over = frozenset(
                server.id
                for server in inventory.servers
                if budget.next_hour_exceeds(
                    server,
                    inventory,
                    policy.owner,
                    tariff,
                    budget_eur=wishes.budget_eur_per_month,
                    already_eur=already_eur,
                    now_s=now_s,
                )
            )
            policy = attrs.evolve(policy, drain_at_edge=over)
        return decide(
            inventory, leases, policy, now_s, trusted_clock=clock_is_trusted(cloud.offset_s)
        )

    async def run(self) -> Report:
        """One pass. What fails is reported and left to the next one; nothing is raised for it.

        Raises only if not even looking was possible.
        """
        inventory, leases = await self.look()
        verdicts = await self.verdicts(inventory, leases)
        self._warn(verdicts)
        report = await self._all(verdicts)
        await self._label_addresses(inventory)
        await self.context.ledger.record(
            Reap(
                at_s=self.context.cloud.now_s(),
                ok=report.ok,
                deleted=len(report.done),
                failed=len(report.failed),
            )
        )
        return report

    async def overdue(self) -> tuple[Verdict, ...]:
        """Servers that bill and work for nobody any more, as the API alone says it: off, past their
        hard end, or never ready by their deadline. Nothing is asked over ssh."""
        inventory, leases = await self.look(ask=False)
        verdicts = await self.verdicts(inventory, leases)
        return tuple(one for one in verdicts if one.deed is Deed.REMOVE)

    async def remove(self, verdicts: Sequence[Verdict]) -> Report:
        """What `overdue` has found: for commands that come by on other business. It is no reap."""
        return await self._all(verdicts)

    async def _all(self, verdicts: Sequence[Verdict]) -> Report:
        done: list[Verdict] = []
        refused: list[tuple[Verdict, str]] = []
        failed: list[tuple[Verdict, str]] = []
        for verdict in verdicts:
            if verdict.deed in {Deed.KEEP, Deed.REPORT, Deed.FOREIGN}:
                continue
            try:
                why = await self._do(verdict)
            except Busy as error:
                refused.append((verdict, str(error)))
            except NotFound:
                done.append(verdict)
            except BurstError as error:
                failed.append((verdict, str(error)))
            else:
                if why:
                    refused.append((verdict, why))
                else:
                    done.append(verdict)
        return Report(tuple(verdicts), tuple(done), tuple(refused), tuple(failed))

    async def _do(self, verdict: Verdict) -> str:
        """Why not, or nothing."""
        context, guard, resource = self.context, self.guard, verdict.resource
        match verdict.deed, resource:
            case Deed.DRAIN, Server():
                refusal = await removal.drain(
                    context,
                    guard,
                    resource,
                    min_idle_s=verdict.min_idle_s,
                    reason=verdict.reason,
                )
                return refusal.why if isinstance(refusal, Refusal) else ""
            case Deed.REMOVE, Server():
                assert verdict.ground is not None
                if verdict.ground is Ground.HARD_END and is_ready(resource):
                    await removal.at_hard_end(context, guard, resource)
                else:
                    await removal.powered_off(context, guard, resource, verdict.ground)
            case Deed.DELETE, Volume():
                await guard.delete_volume(resource.id, VolumeGround.IDLE)
            case Deed.TIDY, Firewall():
                fresh = await context.cloud.firewall(resource.id)
                left = firewall.without_expired(fresh.rules, context.cloud.now_s())
                with context.effect("drop expired rules"):
                    await context.cloud.set_rules(resource.id, left)
            case _:
                await guard.delete_expired(verdict.kind, resource.id)
        return ""

    def _warn(self, verdicts: Iterable[Verdict]) -> None:
        now_s = self.context.cloud.now_s()
        for verdict in verdicts:
            claim = Claim.of(verdict.resource.labels)
            if verdict.deed is Deed.REPORT and verdict.kind is not Kind.SSH_KEY:
                self.context.tell(
                    f"stray:{verdict.kind.value}:{verdict.resource.id}",
                    f"{verdict.kind.value} {verdict.resource.name} carries our mark, but not all "
                    "of our labels; it is not touched",
                    level=Level.MONEY,
                    hint="look into the console",
                )
            elif (
                verdict.kind is Kind.SERVER
                and verdict.deed is Deed.KEEP
                and claim is not None
                and 0 < claim.expires_s - now_s <= WARN_S
            ):
                # Its clients hear it from their agent; this is for whoever looks here.
                self.context.tell(
                    f"hard-end:{verdict.resource.id}",
                    f"server {verdict.resource.name} ends in "
                    f"{(claim.expires_s - now_s) / 60:.0f} minutes, busy or not",
                    hint="`burst-admin extend` moves its end",
                )

    async def _label_addresses(self, inventory: Inventory) -> None:
        """Addresses whose labels were lost in a crash: found by their server, which is ours."""
        known = {address.id for address in inventory.primary_ips}
        wanted = {
            address_id: claim
            for server in situation.of_owner(inventory.servers, self.policy.owner)
            if (claim := Claim.of(server.labels)) is not None
            for address_id in (server.ipv4_id, server.ipv6_id)
            if address_id is not None and address_id not in known
        }
        if not wanted:
            return
        with contextlib.suppress(CloudProblem):
            for one in await self.context.cloud.find(Kind.PRIMARY_IP, f"!{labels.MARK}"):
                # One that somebody has labelled, or that outlives its server, is not ours.
                if one.id in wanted and isinstance(one, PrimaryIp) and one.auto_delete:
                    if one.labels:
                        continue
                    with self.context.effect("label the address"):
                        await self.context.cloud.set_labels(
                            Kind.PRIMARY_IP, one.id, wanted[one.id].labels()
                        )


def explicit_volumes(
    inventory: Inventory, owner: str, project: str | None = None
) -> tuple[Volume, ...]:
    """What `down --with-volumes` is about: of one project, or all of the owner's."""
    return tuple(
        volume
        for volume in inventory.volumes
        if (claim := Claim.of(volume.labels)) is not None
        and claim.owner == owner
        and claim.role is Role.STORE
        and (project is None or claim.project == project)
    )
