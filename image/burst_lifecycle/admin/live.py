"""The real `Control`: what `burst-admin` does to clouds and servers, through the guard.

Everything that decides stands in `session`, `reaper`, `removal` and `guard`; this only chooses
among them for what a person has asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import attrs

from burst_lifecycle import jsonlines, labels, ledger, reaper, removal
from burst_lifecycle.admin.ports import ReapOutcome, Tell, Up
from burst_lifecycle.books import Account
from burst_lifecycle.cloud.model import Inventory, Kind, Server, ServerState, Volume
from burst_lifecycle.cloud.port import Cloud
from burst_lifecycle.context import Context, Wishes
from burst_lifecycle.errors import Busy, NotFound, ServerProblem
from burst_lifecycle.guard import Guard, VolumeGround, ground_of, is_ready
from burst_lifecycle.host import Lease, Refusal
from burst_lifecycle.labels import Role
from burst_lifecycle.reaper import Deed, Policy, Verdict
from burst_lifecycle.session import Lifecycle
from burst_protocol.errors import BurstError

_LEASE_S: Final = 45.0
_COPY_S: Final = 30.0
_COPY_BYTES: Final = 64 << 20


@attrs.frozen(eq=False)
class Live:
    """Over one lifecycle."""

    lifecycle: Lifecycle
    token_source: str
    owner_known: bool = True

    @property
    def context(self) -> Context:
        return self.lifecycle.context

    @property
    def cloud(self) -> Cloud:
        return self.context.cloud

    @property
    def account(self) -> Account:
        return self.context.account

    @property
    def owner(self) -> str:
        return self.context.wishes.owner

    @property
    def key_fingerprint(self) -> str:
        return self.context.key.fingerprint

    @property
    def policy(self) -> Policy:
        return self.lifecycle.reaper.policy

    async def lease(self, server: Server) -> Lease:
        try:
            async with asyncio.timeout(_LEASE_S):
                host = await removal.reach(self.context, server)
                return await host.lease()
        except TimeoutError:
            raise ServerProblem(f"no answer within {_LEASE_S:g} s", what=server.name) from None

    async def up(self, wish: Up, tell: Tell) -> Server:
        context = attrs.evolve(self.context, wishes=wished(self.context.wishes, wish))
        tell("until it is ready builds go on at home")
        booted = await attrs.evolve(self.lifecycle, context=context).up("burst-admin up")
        return booted.server

    async def reap(self, *, dry_run: bool) -> ReapOutcome:
        if not dry_run:
            return outcome(await self.lifecycle.reap())
        one = self.lifecycle.reaper
        inventory, leases = await one.look()
        return foreseen(await one.verdicts(inventory, leases))

    async def learn_time(self, inventory: Inventory) -> None:
        await self.lifecycle.guard.learn_time_of(inventory)

    async def come_by(self, tell: Tell) -> ReapOutcome:
        one = self.lifecycle.reaper
        found = await one.overdue()
        for verdict in found:
            tell(f"note: {_name(verdict)} bills for nothing and is deleted: {verdict.reason}")
        return outcome(await one.remove(found))

    async def remove(self, kind: Kind, resource_id: int, *, owner: str, force: bool) -> None:
        context = attrs.evolve(self.context, wishes=attrs.evolve(self.context.wishes, owner=owner))
        guard = Guard(context, owner)
        match kind:
            case Kind.SERVER:
                await _end_server(context, guard, resource_id, force=force)
            case Kind.VOLUME:
                await guard.delete_volume(resource_id, VolumeGround.EXPLICIT)
            case Kind.IMAGE:
                await guard.delete_image(resource_id)
            case Kind.SSH_KEY:
                await guard.delete_key(resource_id)
            case Kind.FIREWALL | Kind.PRIMARY_IP:
                await _expire(context, kind, resource_id, owner)
                await guard.delete_expired(kind, resource_id)

    async def extend(self, *, hard_end_in_s: float | None, keep_alive_s: float | None) -> None:
        await self.lifecycle.extend(hard_end_in_s=hard_end_in_s, keep_alive_s=keep_alive_s)

    async def adopt(self, volume: Volume, project: str) -> None:
        await self.lifecycle.adopt_volume(volume.id, project)

    async def copies(self) -> Sequence[ledger.History]:
        found = await self.cloud.find(
            Kind.SERVER, labels.selector(self.owner, role=str(Role.BUILD))
        )
        servers = [one for one in found if isinstance(one, Server)]
        running = [server for server in servers if server.state is ServerState.RUNNING]
        copies = await asyncio.gather(*(self._copies(server) for server in running))
        return [copy for some in copies for copy in some]

    async def _copies(self, server: Server) -> list[ledger.History]:
        copies: list[ledger.History] = []
        try:
            host = await removal.reach(self.context, server)
            for volume_id in server.volume_ids:
                answer = await self.context.ssh.run(
                    host.login,
                    ["cat", "--", f"/mnt/burst/{volume_id}/ledger.jsonl"],
                    timeout_s=_COPY_S,
                )
                if answer.status == 0 and len(answer.stdout) <= _COPY_BYTES:
                    copies.append(ledger.parse(jsonlines.parse(answer.stdout)))
        except BurstError:
            pass  # its sessions are in the copies of the machines that made them
        return copies


async def _expire(context: Context, kind: Kind, resource_id: int, owner: str) -> None:
    """Because its owner said so: its time is over now."""
    for found in await context.cloud.find(kind, labels.selector(owner)):
        if found.id == resource_id:
            past = str(int(context.cloud.now_s()) - 1)
            told = labels.merged(found.labels, **{labels.EXPIRES: past})
            with context.effect("end its time"):
                await context.cloud.set_labels(kind, resource_id, told)


async def _end_server(context: Context, guard: Guard, server_id: int, *, force: bool) -> None:
    """By one of the four cases; Busy if none holds now."""
    await guard.learn_time(server_id)
    try:
        server = await context.cloud.server(server_id)
    except NotFound:
        return
    ground = ground_of(server, context.cloud.now_s())
    if ground is not None:
        await removal.powered_off(context, guard, server, ground)
    elif not is_ready(server):
        await removal.abandon(context, guard, server)
    elif force or server.state is ServerState.OFF:
        # Off and kept for its paid hour: who asks for its end does not want that.
        await removal.end_now(context, guard, server)
    else:
        refusal = await removal.drain(context, guard, server, min_idle_s=0, reason="down")
        if isinstance(refusal, Refusal):
            raise Busy(f"its agent says: {refusal.why}", what=f"server {server.name}")


def wished(wishes: Wishes, wish: Up) -> Wishes:
    """What the command line says is stronger; never than the price that was agreed to."""
    return attrs.evolve(
        wishes,
        server_types=wish.server_types or wishes.server_types,
        locations=wish.locations or wishes.locations,
        keep_alive_s=wishes.keep_alive_s if wish.keep_alive_s is None else wish.keep_alive_s,
        hard_end_s=wishes.hard_end_s if wish.hard_end_s is None else wish.hard_end_s,
    )


def outcome(report: reaper.Report) -> ReapOutcome:
    """Of a run, for people."""
    kept = [(_name(v), v.reason) for v in report.verdicts if v.deed in {Deed.KEEP, Deed.REPORT}]
    kept += [(_name(verdict), why) for verdict, why in report.refused]
    return ReapOutcome(
        deleted=tuple((_name(v), v.reason) for v in report.done if v.deed is not Deed.TIDY),
        kept=tuple(kept),
        failed=tuple((_name(verdict), why) for verdict, why in report.failed),
    )


def foreseen(verdicts: Sequence[Verdict]) -> ReapOutcome:
    """What a run would do now."""
    doing = {Deed.DRAIN, Deed.REMOVE, Deed.DELETE}
    return ReapOutcome(
        deleted=tuple((_name(v), v.reason) for v in verdicts if v.deed in doing),
        kept=tuple((_name(v), v.reason) for v in verdicts if v.deed in {Deed.KEEP, Deed.REPORT}),
    )


def _name(verdict: Verdict) -> str:
    return f"{verdict.kind.name.lower().replace('_', ' ')} {verdict.resource.name}"
