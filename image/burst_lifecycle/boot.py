"""A cold boot: small steps, each of which can be repeated after any interruption.

What is there is found by its labels, never by what this process remembers; so the next command of
any machine of the owner carries on where this one was stopped. Nothing is created before its
operation is in the ledger and its expiry in its labels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final

import attrs

from burst_lifecycle import (
    access,
    hostkey,
    labels,
    newserver,
    readiness,
    removal,
    rotation,
    situation,
    volumes,
)
from burst_lifecycle.cloud.model import (
    Kind,
    Server,
)
from burst_lifecycle.context import Context, Login
from burst_lifecycle.errors import (
    Busy,
    NotFound,
    ServerProblem,
    TokenProblem,
)
from burst_lifecycle.events import How, Ready
from burst_lifecycle.guard import Ground, Guard, is_booting, is_ready
from burst_lifecycle.host import Host, Lease
from burst_lifecycle.labels import Claim, Role
from burst_lifecycle.making import Maker
from burst_lifecycle.readiness import Proof
from burst_lifecycle.situation import Move
from burst_lifecycle.turn import TURN_S, Turn, TurnTaken, turn
from burst_protocol.errors import (
    AuthenticationFailed,
    HostKeyProblem,
    LinkLost,
    Unreachable,
)

_MOVES: Final = 12
_LABEL_TRIES: Final = 4
_END_S: Final = 120
"""A ready server whose idea of its end is off by more is told again: who booted it may not have
come so far, and its labels be somebody's who read them before that."""
_GONE_POLL_S: Final = 3.0


@attrs.frozen
class Booted:
    """A server that works, and how to get at it."""

    server: Server
    login: Login
    """Of user `burst`; its `known_hosts` are complete."""
    store: volumes.Store
    agent: str
    how: How | None
    """None: it ran already."""


@attrs.define(eq=False)
class Boot:
    """One `up`."""

    context: Context
    guard: Guard
    how: How | None = None
    began_s: float = 0.0
    _maker: Maker | None = None
    """Of the server, if it is this process that made it."""

    async def run(self) -> Booted:
        """A server that is ready for the project. Raises CloudProblem, ServerProblem, OverBudget, …

        Whatever it raises, what was begun carries its expiry, and the next `run` carries on.
        """
        context = self.context
        self.began_s = context.time.monotonic()
        give_up_s = self.began_s + context.wishes.boot_deadline_s + TURN_S
        async with context.lock():
            while context.time.monotonic() < give_up_s:
                servers = await self._servers()
                found = self._assess(servers)
                if found.move is Move.USE and found.server and is_ready(found.server):
                    booted = await self._use(found.server, servers, None)
                    if booted is None:
                        await context.time.sleep(newserver.POLL_S)
                elif found.move is Move.WAIT:
                    booted = None
                    await context.time.sleep(_GONE_POLL_S)
                else:
                    booted = await self._in_turn()
                if booted is not None:
                    return booted
        raise Busy("it is not ready yet, and another machine of yours boots it", what="the server")

    async def join(self, *, make_volume: bool) -> Booted | None:
        """The server that is ready, with what this machine and project lack there.

        Nothing is created but a volume (and that only if asked to), nothing is turned on: None if
        no server takes work now. Raises as `run` does.
        """
        context = self.context
        async with context.lock():
            servers = await self._servers()
            found = self._assess(servers)
            server = found.server
            if found.move is not Move.USE or server is None or not is_ready(server):
                return None
            try:
                host = await self._reach(server)
                lease = await host.lease()
                if lease.draining:
                    return None
                return await self._equip(server, host, lease, make_volume=make_volume)
            except NotFound:
                return None

    async def _in_turn(self) -> Booted | None:
        """Boot while no other machine of the owner does; None: look again."""
        try:
            async with turn(self.context, self.guard) as held:
                for _ in range(_MOVES):
                    booted = await self._move(await self._servers(), held)
                    if booted is not None:
                        return booted
        except TurnTaken:
            await self.context.time.sleep(_GONE_POLL_S)
        return None

    def _assess(self, servers: Sequence[Server]) -> situation.Assessment:
        wishes = self.context.wishes
        now_s = self.context.cloud.now_s()
        return situation.assess(servers, wishes.owner, wishes.recipe, now_s)

    async def _servers(self) -> tuple[Server, ...]:
        context = self.context
        found = await context.cloud.find(
            Kind.SERVER, labels.selector(context.wishes.owner, role=str(Role.BUILD))
        )
        servers = tuple(one for one in found if isinstance(one, Server))
        if servers and context.cloud.offset_s is None:
            # Deadlines in labels are of the API's clock: what home's says may be a day off.
            mine = situation.of_owner(servers, context.wishes.owner)
            if mine:
                await self.guard.learn_time(mine[0].id)
        return servers

    async def _move(self, servers: Sequence[Server], held: Turn) -> Booted | None:
        """One move; None: look again."""
        context = self.context
        found = self._assess(servers)
        server = found.server
        await held.extend()
        match found.move:
            case Move.CREATE:
                self._maker = Maker(context, self.guard)
                await self._maker.make(held)
                self.how = How.COLD
                return None
            case Move.USE:
                assert server is not None
                return await self._use(server, servers, held)
            case Move.POWER_ON:
                assert server is not None
                await self._power_on(server)
                return None
            case Move.REMOVE:
                assert server is not None
                assert found.ground is not None
                if found.ground is Ground.HARD_END:
                    await removal.at_hard_end(context, self.guard, server)
                else:
                    await removal.powered_off(context, self.guard, server, found.ground)
                return None
            case Move.WAIT:
                await context.time.sleep(_GONE_POLL_S)
                return None

    # -- one that is there -------------------------------------------------------------------------

    async def _power_on(self, server: Server) -> None:
        """First the labels: from then on nobody takes `off` for the end of it."""
        context = self.context
        fresh = await context.cloud.server(server.id)
        now_s = context.cloud.now_s()
        if not is_booting(fresh, now_s):
            boot = str(self._next_boot(fresh, now_s))
            told = labels.merged(
                fresh.labels, **{labels.BOOT_BY: boot, labels.BOOT: boot, labels.READY: None}
            )
            with context.effect("label the boot"):
                await context.cloud.set_labels(Kind.SERVER, server.id, told)
        with context.effect("power on"):
            await context.cloud.power_on(server.id)
        self.how = How.WARM

    def _next_boot(self, server: Server, now_s: float) -> int:
        """Later than the one before, whose machine may have waited longer."""
        by_s = int(now_s + self.context.wishes.boot_deadline_s)
        before = hostkey.boot_of(server.labels)
        return max(by_s, int(before) + 1) if before.isdigit() else by_s

    async def _use(
        self, server: Server, servers: Sequence[Server], held: Turn | None
    ) -> Booted | None:
        try:
            return await self._take_up(server, servers, held)
        except HostKeyProblem:
            # Another machine may have rotated it between our reading of its labels and now.
            fresh = server
            with contextlib.suppress(NotFound):  # given up for it, and gone
                fresh = await self.context.cloud.server(server.id)
            if hostkey.pins(fresh.labels) != hostkey.pins(server.labels):
                return None
            # Or one that was suspended meanwhile has taken that back.
            if not await readiness.recall(self.context, fresh):
                raise
            return None

    async def _take_up(
        self, server: Server, servers: Sequence[Server], held: Turn | None
    ) -> Booted | None:
        context = self.context
        for extra in situation.surplus(
            servers, context.wishes.owner, context.key.client, server.id
        ):
            await removal.abandon(context, self.guard, extra)
        try:
            if held is None or is_ready(server):
                host = await self._reach(server)
            else:
                host = await newserver.wait_for_ssh(
                    context, self.guard, server, meanwhile=held.extend
                )
        except NotFound:
            return None
        fresh = await context.cloud.server(server.id)
        lease = None
        if is_ready(fresh):
            lease = await host.lease()
            if lease.draining:
                # Somebody is about to delete it. It takes no work any more, so it goes now.
                await removal.drain(
                    context, self.guard, fresh, min_idle_s=0, reason="it drains already"
                )
                return None
        return await self._equip(fresh, host, lease)

    async def _reach(self, server: Server) -> Host:
        """A ready server. ServerProblem if it is older than this machine's key: then a machine that
        it knows lets us in with its next reap, if our key is registered by then."""
        context = self.context
        try:
            return await removal.reach(context, server)
        except (AuthenticationFailed, Unreachable, LinkLost) as error:
            known = await context.cloud.ssh_key_by_fingerprint(context.key.fingerprint)
            await access.owner_keys(context)
            if known is not None and not isinstance(error, AuthenticationFailed):
                raise
            detail = "does not know this machine's key yet; another machine of yours lets it in"
            raise ServerProblem(detail, what=server.name) from error

    async def _equip(
        self, server: Server, host: Host, lease: Lease | None, *, make_volume: bool = True
    ) -> Booted | None:
        """From the first login to `ready`. On a ready one, which has a lease: what this machine and
        project lack.

        None: somebody else is about it, look again.
        """
        context, cloud, wishes = self.context, self.context.cloud, self.context.wishes
        claim = Claim.of(server.labels)
        hard_end_s = claim.expires_s if claim else cloud.now_s() + wishes.hard_end_s
        await newserver.narrow(context, server, host, hard_end_s)
        with context.effect("bring the agent"):
            agent = await context.agent.ensure(host.login)
        if lease is None:
            with context.effect("tell its end"):
                await host.extend(
                    hard_end_in_s=hard_end_s - cloud.now_s(),
                    age_s=cloud.now_s() - server.created_s,
                    keep_alive_s=wishes.keep_alive_s,
                )
            await self._self_deletion(server, host)
        elif not _knows(lease, hard_end_s - cloud.now_s()):
            # Nothing else: when it is idle was told by who booted it.
            with context.effect("tell its end"):
                await host.extend(hard_end_in_s=hard_end_s - cloud.now_s())
        store = await volumes.mount_project(context, server, host, make=make_volume)
        rotated = await rotation.rotate(context, server.id, host)
        if rotated is None:
            return None
        pin = hostkey.pin(rotated.login.host_key)
        server = await self._say_ready(server.id, Proof(pin, hostkey.boot_of(server.labels)))
        return Booted(server, attrs.evolve(rotated.login, user="burst"), store, agent, self.how)

    async def _say_ready(self, server_id: int, proof: Proof) -> Server:
        """Label it, unless somebody has. What others take back at that very moment is put right:
        should we be killed, whoever comes next finds the proof."""
        context, cloud = self.context, self.context.cloud
        server = await cloud.server(server_id)
        if not (told := proof.lost(server.labels)):
            return server
        is_news = not is_ready(server)
        for _ in range(_LABEL_TRIES):
            server = attrs.evolve(server, labels=labels.merged(server.labels, **told))
            with context.effect("label ready"):
                await cloud.set_labels(Kind.SERVER, server_id, server.labels)
            if is_news:
                is_news = False
                await self._record_ready(server)
                await readiness.prove(context, server)
            server = await cloud.server(server_id)
            if not (told := proof.lost(server.labels)):
                break
        return server

    async def _record_ready(self, server: Server) -> None:
        context = self.context
        await context.ledger.record(
            Ready(
                at_s=context.cloud.now_s(),
                id=server.id,
                how=self.how or How.COLD,
                took_s=context.time.monotonic() - self.began_s,
                boot_s=self._boot_s(),
                image=self._maker.source if self._maker else "",
                pin=server.labels.get(labels.PIN, ""),
                boot_by=hostkey.boot_of(server.labels),
            )
        )

    async def _self_deletion(self, server: Server, host: Host) -> None:
        """Where the user wants it. A server without it is as safe as any other."""
        context = self.context
        if context.self_delete is None:
            return
        try:
            token = await context.self_delete()
            with context.effect("let it delete itself"):
                await host.may_delete_itself(token)
        except (ServerProblem, TokenProblem) as error:
            context.tell(
                f"self-delete:{server.id}",
                f"server {server.name} cannot delete itself: {error}; once off, it bills until "
                "somebody comes by",
            )

    def _boot_s(self) -> float | None:
        if self._maker is None or self._maker.asked_s is None:
            return None
        return self.context.time.monotonic() - self._maker.asked_s


def _knows(lease: Lease, hard_end_in_s: float) -> bool:
    told_s = lease.hard_end_in_s
    return told_s is not None and abs(told_s - hard_end_in_s) <= _END_S
