"""`Lifecycle`: all that the daemon and `burst-admin` ask of servers.

Everything is found by labels, so with all local state lost it still works; the ledger only
remembers what was. Each method can be cancelled anywhere and called again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import attrs

from burst_lifecycle import labelling, labels, records, removal, situation, volumes
from burst_lifecycle.books import Books, add_up
from burst_lifecycle.boot import Boot, Booted
from burst_lifecycle.cloud.model import Inventory, Kind, Resource, Server, ServerState, Volume
from burst_lifecycle.context import Context
from burst_lifecycle.errors import CloudProblem, NotFound, OverBudget, ServerProblem
from burst_lifecycle.events import Created, Event, Settled
from burst_lifecycle.events import Refusal as Refused
from burst_lifecycle.guard import Guard, VolumeGround, is_ready
from burst_lifecycle.host import Lease, Refusal
from burst_lifecycle.labels import Claim, Role
from burst_lifecycle.notices import Notice
from burst_lifecycle.reaper import Policy, Reaper, Report, Verdict, explicit_volumes
from burst_protocol.errors import BurstError

INTENT_LIFE_S = 1800
"""A create that nobody has seen so long after its intent did not happen."""
RETRY_S = 600
"""After no capacity or a quota: builds do not ask again before."""


@attrs.frozen
class Status:
    """What there is. `verdicts` say what will be deleted, when and by whom; all owners, strays."""

    verdicts: tuple[Verdict, ...]
    leases: Mapping[int, Lease]
    owner: str
    now_s: float
    offset_s: float | None
    """Home's clock is off by so much; None: unknown."""

    def of_owner(self) -> tuple[Verdict, ...]:
        """Ours only."""
        return tuple(
            verdict
            for verdict in self.verdicts
            if (claim := Claim.of(verdict.resource.labels)) is not None
            and claim.owner == self.owner
        )


@attrs.frozen
class Down:
    """What `down` did."""

    deleted: tuple[Resource, ...] = ()
    refused: tuple[tuple[Resource, str], ...] = ()
    """With why: it runs actions, it does not answer, …"""


@attrs.define(eq=False)
class Lifecycle:
    """One owner's servers, as one machine looks after them."""

    context: Context
    watched: bool = False
    """Somebody comes by again before the edge of a paid hour: a daemon, or an installed timer."""
    _retry_at: float = 0.0

    @property
    def guard(self) -> Guard:
        return Guard(self.context, self.context.wishes.owner)

    @property
    def reaper(self) -> Reaper:
        wishes = self.context.wishes
        policy = Policy(
            owner=wishes.owner,
            keep_alive_s=wishes.keep_alive_s,
            at_once=wishes.at_once,
            watched=self.watched,
        )
        return Reaper(self.context, self.guard, policy)

    @property
    def retry_in_s(self) -> float:
        """How long builds should not ask for a server: it was refused lately."""
        return max(0.0, self._retry_at - self.context.time.monotonic())

    async def reconcile(self) -> Inventory:
        """Bring the ledger up to date with what there is. Begins every command."""
        context = self.context
        inventory = await context.cloud.inventory(labels.selector(context.wishes.owner))
        events = (await asyncio.to_thread(context.ledger.read)).events
        books = add_up(events)
        found = [
            *_answers(context, inventory, events),
            *_addresses(context, inventory, events),
            *_sizes(context, inventory, books),
        ]
        if found:
            await context.ledger.record(*found)
        if await labelling.repair(context, inventory, events):
            inventory = await context.cloud.inventory(labels.selector(context.wishes.owner))
        await self._bury(inventory, books)
        return inventory

    async def _bury(self, inventory: Inventory, books: Books) -> None:
        """What the ledger has and the cloud has not. A resource that only lost its labels bills
        on, so those that do are asked for by their id."""
        context = self.context
        present = {(kind, resource.id) for kind, resource in inventory.everything()}
        for thing in books.open:
            if not context.account.holds(thing) or thing.key in present:
                continue
            if thing.owner != context.wishes.owner or await self._exists(thing.kind, thing.id):
                continue
            await context.ledger.record(records.gone(context, thing.kind, thing.id))

    async def _exists(self, kind: Kind, resource_id: int) -> bool:
        cloud = self.context.cloud
        try:
            match kind:
                case Kind.SERVER:
                    await cloud.server(resource_id)
                case Kind.VOLUME:
                    await cloud.volume(resource_id)
                case Kind.IMAGE:
                    await cloud.image(resource_id)
                case Kind.PRIMARY_IP:
                    found = await cloud.find(kind, f"!{labels.MARK}")
                    return any(one.id == resource_id for one in found)
                case Kind.FIREWALL | Kind.SSH_KEY:
                    return False
        except NotFound:
            return False
        return True

    async def current(self) -> Booted | None:
        """The running server, verified, if there is one that takes work; nothing is changed for it.

        Errors of the cloud and of ssh are raised: units compile at home then.
        """
        found = await self.context.cloud.find(
            Kind.SERVER, labels.selector(self.context.wishes.owner, role="build")
        )
        servers = [one for one in found if isinstance(one, Server)]
        for server in situation.of_owner(servers, self.context.wishes.owner):
            if server.state is not ServerState.RUNNING or not is_ready(server):
                continue
            host = await removal.reach(self.context, server)
            lease = await host.lease()
            if lease.draining:
                continue
            store = await self._store(server, await host.mounted())
            login = attrs.evolve(host.login, user="burst")
            return Booted(server, login, store, lease.build, None)
        return None

    async def _store(self, server: Server, mounted: Sequence[int]) -> volumes.Store:
        wishes = self.context.wishes
        found = await self.context.cloud.find(
            Kind.VOLUME, labels.selector(wishes.owner, project=wishes.project)
        )
        mine = volumes.of_project(
            [one for one in found if isinstance(one, Volume)], wishes.owner, wishes.project
        )
        for volume in mine:
            if volume.id in mounted and volume.server_id == server.id:
                return volumes.Store(volume.id)
        return volumes.Store(None, "this project's volume is not mounted there")

    async def join(self, *, make_volume: bool) -> Booted | None:
        """As `current`, and this project's volume is brought there: for a project that did not
        boot the server. Nothing is booted. `make_volume`: also if it has none yet."""
        await self.reconcile()
        return await Boot(self.context, self.guard).join(make_volume=make_volume)

    async def up(self, reason: str) -> Booted:
        """A server that is ready for the project. `reason` goes into the ledger when it is refused.

        Raises what `Boot.run` raises; the same is told in a notice, since whoever waits for this
        may be a daemon that nobody looks at.
        """
        context = self.context
        await self.reconcile()
        try:
            booted = await Boot(context, self.guard).run()
        except BurstError as error:
            if isinstance(error, CloudProblem | OverBudget | ServerProblem):
                self._retry_at = context.time.monotonic() + RETRY_S
            refusal = Refused(at_s=context.cloud.now_s(), code=error.code, what=reason)
            await context.ledger.record(refusal)
            context.notices.post(Notice.of(error))
            raise
        self._retry_at = 0.0
        return booted

    async def reap(self) -> Report:
        """One pass of the reaper, over the ledger, too."""
        await self.reconcile()
        return await self.reaper.run()

    async def status(self, *, ask: bool = True) -> Status:
        """Everything with our mark, of every owner and place. `ask`: the servers, over ssh."""
        reaper, context = self.reaper, self.context
        inventory, leases = await reaper.look(ask=ask)
        return Status(
            await reaper.verdicts(inventory, leases),
            leases,
            context.wishes.owner,
            context.cloud.now_s(),
            context.cloud.offset_s,
        )

    async def extend(
        self, *, hard_end_in_s: float | None = None, keep_alive_s: float | None = None
    ) -> tuple[Server, ...]:
        """Move the hard end of the owner's servers, and how long they stay when idle.

        The label first: if we are stopped after it, the server's dead man is early, never late.
        """
        context, cloud = self.context, self.context.cloud
        inventory = await self.reconcile()
        mine = situation.of_owner(inventory.servers, context.wishes.owner)
        if not mine:
            raise NotFound(what="a server of yours")
        for server in mine:
            await self.guard.learn_time(server.id)
            fresh = await self._ours(server.id)
            if hard_end_in_s is None:
                end_s = int(fresh.labels[labels.EXPIRES])
            else:
                end_s = int(cloud.now_s() + hard_end_in_s)
                fresh = await self._move_end(server.id, end_s)
            if fresh.state is ServerState.RUNNING:
                host = await removal.reach(context, fresh)
                await host.extend(
                    hard_end_in_s=end_s - cloud.now_s(),
                    age_s=cloud.now_s() - fresh.created_s,
                    keep_alive_s=keep_alive_s,
                )
        return mine

    async def _ours(self, server_id: int) -> Server:
        """A fresh read. ServerProblem if its labels are not all there any more."""
        fresh = await self.context.cloud.server(server_id)
        claim = Claim.of(fresh.labels)
        if claim is None or claim.owner != self.context.wishes.owner:
            raise ServerProblem("its labels are not ours any more", what=fresh.name)
        return fresh

    async def _move_end(self, server_id: int, end_s: int) -> Server:
        """Of the server, its address, and what its volumes are kept for."""
        context, cloud = self.context, self.context.cloud
        fresh = await labelling.change(
            context, Kind.SERVER, lambda: self._ours(server_id), labels.EXPIRES, str(end_s)
        )
        for address in await cloud.find(Kind.PRIMARY_IP, labels.selector(context.wishes.owner)):
            if address.id in {fresh.ipv4_id, fresh.ipv6_id} and Claim.of(address.labels):
                told = labels.merged(address.labels, **{labels.EXPIRES: str(end_s)})
                with context.effect("move the address's end"):
                    await cloud.set_labels(Kind.PRIMARY_IP, address.id, told)
        for volume_id in fresh.volume_ids:
            volume = await cloud.volume(volume_id)
            until_s = int(end_s + context.wishes.volume_keep_alive_s)
            await volumes.keep(context, volume, until_s)
        return fresh

    async def down(
        self,
        *,
        with_volumes: bool = False,
        project: str | None = None,
        even_if_busy: bool = False,
    ) -> Down:
        """Delete the owner's servers now, by request; volumes stay unless asked for.

        One that works, or that cannot be asked, is left (and told) unless `even_if_busy`: that
        moves its hard end to now, as `extend` can.
        """
        context, guard = self.context, self.guard
        inventory = await self.reconcile()
        deleted: list[Resource] = []
        refused: list[tuple[Resource, str]] = []
        for server in situation.of_owner(inventory.servers, context.wishes.owner):
            try:
                why = await self._end(server, even_if_busy=even_if_busy)
            except BurstError as error:
                why = str(error)
            if why:
                refused.append((server, why))
            else:
                deleted.append(server)
        if with_volumes:
            for volume in explicit_volumes(inventory, context.wishes.owner, project):
                try:
                    await guard.delete_volume(volume.id, VolumeGround.EXPLICIT)
                except BurstError as error:
                    refused.append((volume, str(error)))
                else:
                    deleted.append(volume)
        return Down(tuple(deleted), tuple(refused))

    async def _end(self, server: Server, *, even_if_busy: bool) -> str:
        """Why not, or nothing."""
        context, guard = self.context, self.guard
        server = await context.cloud.server(server.id)
        await guard.learn_time(server.id)
        if not is_ready(server):
            await removal.abandon(context, guard, server)
            return ""
        if even_if_busy:
            await removal.end_now(context, guard, server)
            return ""
        verdicts = await self.reaper.verdicts(Inventory(servers=(server,)), {})
        ground = verdicts[0].ground
        if server.state is ServerState.OFF and ground is None:
            # Kept for its paid hour; who asks for its end does not want that.
            await removal.end_now(context, guard, server)
            return ""
        if ground is not None:
            await removal.powered_off(context, guard, server, ground)
            return ""
        refusal = await removal.drain(
            context, guard, server, min_idle_s=0, reason="burst-admin down"
        )
        if isinstance(refusal, Refusal):
            return f"it is in use ({refusal.why})"
        return ""

    async def adopt_volume(self, volume_id: int, project: str) -> Volume:
        """After the project's folder was renamed."""
        return await volumes.adopt(self.context, volume_id, project)

    async def remove_volume(self, volume_id: int) -> None:
        """By request. Busy while a server has it."""
        await self.guard.delete_volume(volume_id, VolumeGround.EXPLICIT)


def _answers(context: Context, inventory: Inventory, events: tuple[Event, ...]) -> list[Event]:
    """What became of intents whose answer was never seen."""
    books = add_up(events)
    account, now_s = context.account, context.cloud.now_s()
    present = {(kind, resource.id): resource for kind, resource in inventory.everything()}
    operations = {
        (kind, claim.operation): resource
        for (kind, _), resource in present.items()
        if (claim := Claim.of(resource.labels)) is not None
    }
    found: list[Event] = []
    for intent in books.pending:
        if not account.holds(intent) or intent.owner != context.wishes.owner:
            continue
        made = operations.get((intent.kind, intent.operation))
        if made is not None:
            found.append(records.created(context, intent.kind, made))
        elif intent.at_s < now_s - INTENT_LIFE_S:
            found.append(
                Settled(at_s=now_s, operation=intent.operation, kind=intent.kind, reason="absent")
            )
    return found


def _addresses(context: Context, inventory: Inventory, events: tuple[Event, ...]) -> list[Event]:
    """Those that nobody has recorded: they bill like their servers, and bear no label of ours when
    whoever asked for the server was stopped right after."""
    known = {
        event.id for event in events if isinstance(event, Created) and event.kind is Kind.PRIMARY_IP
    }
    owner = context.wishes.owner
    servers = [
        one
        for role in (Role.BUILD, Role.BAKE)
        for one in situation.of_owner(inventory.servers, owner, role)
    ]
    return [
        records.address(context, server, address_id, version)
        for server in servers
        for address_id, version in records.addresses_of(server)
        if address_id not in known
    ]


def _sizes(context: Context, inventory: Inventory, books: Books) -> list[Event]:
    """Of images whose size nobody knew while they were made: whoever made them was stopped."""
    unsized = {
        thing.id
        for thing in books.open
        if thing.kind is Kind.IMAGE and thing.size_gb is None and context.account.holds(thing)
    }
    return [
        records.created(context, Kind.IMAGE, image)
        for image in inventory.images
        if image.id in unsized and image.size_gb is not None
    ]
