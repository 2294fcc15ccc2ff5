"""Baking an image: steps that find by labels what there is, so each may be the last of a process.

A server with the smallest disk, from the stock image, with its dead man armed and an expiry as all
servers have; the recipe over ssh, its log as it comes; the marker read over ssh, for an `off` says
nothing; identity taken away; off; the snapshot, a candidate with an expiry; the server away; one
boot of the candidate, whose own agent must answer; current; what it replaces away.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Final

import attrs

from burst_lifecycle import (
    access,
    budget,
    creation,
    firewall,
    images,
    labels,
    newserver,
    placement,
    records,
    removal,
    userdata,
)
from burst_lifecycle.budget import Tariff
from burst_lifecycle.cloud.model import Image, ImageState, Kind, Server, ServerState
from burst_lifecycle.context import HOUR_S, Context, Login
from burst_lifecycle.errors import (
    ActionFailed,
    Busy,
    CloudProblem,
    DeadlinePassed,
    NoCapacity,
    NotFound,
    OverBudget,
    QuotaExceeded,
    ServerProblem,
)
from burst_lifecycle.events import How, Ready, Resized
from burst_lifecycle.guard import Guard
from burst_lifecycle.host import Host
from burst_lifecycle.images import Next, Step
from burst_lifecycle.labels import Claim, Role
from burst_lifecycle.placement import Plan
from burst_lifecycle.pricing import Rate
from burst_lifecycle.recipe import WORK, Mirror, Recipe
from burst_lifecycle.turn import TURN_S, Turn, TurnTaken, turn
from burst_protocol.errors import (
    AuthenticationFailed,
    BurstError,
    ConfigError,
    HostKeyProblem,
    LinkLost,
    Unreachable,
)

MARKER: Final = "/etc/burst/image.json"
RECIPE_S: Final = 3600.0
IMAGE_S: Final = 3600.0
"""Snapshots of 20 GB took up to an hour (terraform-provider-hcloud #312)."""
BAKE_S: Final = RECIPE_S + IMAGE_S + 900
"""All of a bake server's life; then anybody's reap removes it."""
VERIFY_S: Final = 3600.0
"""Booting a fresh snapshot may take minutes, or many."""
CANDIDATE_S: Final = 24 * HOUR_S
CURRENT_S: Final = 10 * 365 * 24 * HOUR_S
KEEP_ALIVE_S: Final = 900
_AGENT_S: Final = 180.0
_CLEAN_S: Final = 300.0
_SETTLE_S: Final = 300.0
_SEND_S: Final = 1800.0
_POLL_S: Final = 3.0
_IMAGE_POLL_S: Final = 5.0
_ROUNDS: Final = 60
_TRIES: Final = 3
"""Of what may fail by chance: a link that breaks, a snapshot that fails."""

_NO_WAY_IN: Final = (AuthenticationFailed, HostKeyProblem, LinkLost, Unreachable, DeadlinePassed)

# Arguments: the folder, and for the last one the recipe's hash and where the mirror is.
_UNPACK: Final = 'rm -rf "$1/recipe" && mkdir -p "$1" && tar -xf - -C "$1"'
_UNPACK_MIRROR: Final = (
    'rm -rf "$1/mirror" "$1/done/10-mirror" && mkdir -p "$1/mirror" && '
    # Over a slow line it takes longer than the dead man waits for a first client.
    '{ sh "$1/recipe/beat.sh" $$ </dev/null >/dev/null 2>&1 & } && '
    'tar --no-same-owner -xf - -C "$1/mirror" 2>&1'
)
_RUN: Final = 'exec sh "$1/recipe/run.sh" "$2" "$3" 2>&1'


@attrs.frozen
class Wish:
    """What the user may say about it."""

    server_type: str = ""
    """Empty: the smallest disk that will do."""
    location: str = ""
    mirror: Mirror | None = None
    keep_server: bool = False
    """Leave a failed bake's server until its expiry, to look at."""


@attrs.define(eq=False)
class Baker:
    """One `image build`, or the rest of one that was interrupted."""

    context: Context
    guard: Guard
    recipe: Recipe
    wish: Wish
    tell: Callable[[str], None]
    """Takes one line for people."""
    log: Callable[[bytes], None]
    """Takes what the recipe says, as it comes."""
    _made: dict[int, float] = attrs.field(factory=dict)
    """Servers that this process made, and when (monotonic)."""
    _seen_s: dict[int, float] = attrs.field(factory=dict)
    _recorded: set[int] = attrs.field(factory=set)
    _tries: dict[str, int] = attrs.field(factory=dict)

    async def run(self) -> Image:
        """The new current image. ServerProblem with why if there is none.

        Errors of the cloud or the link leave what there is, with its expiry: the next run carries
        on. What the recipe or the image is to blame for is removed first.
        """
        async with self.context.bake_lock():
            for _ in range(_ROUNDS):
                found = await self._look()
                done = await self._do(found)
                if done is not None:
                    return done
        raise ServerProblem("keeps changing; no image was made", what="of a bake")

    async def _look(self) -> Next:
        context, cloud, wishes = self.context, self.context.cloud, self.context.wishes
        servers = {
            one.id: one
            for one in await cloud.find(
                Kind.SERVER, labels.selector(wishes.owner, role=str(Role.BAKE))
            )
            if isinstance(one, Server)
        }
        for server_id in self._made:
            # Lists lag behind creates for a moment.
            if server_id not in servers:
                try:
                    servers[server_id] = await cloud.server(server_id)
                except NotFound:
                    continue
        if servers and cloud.offset_s is None:
            await self.guard.learn_time(min(servers))
        for server_id in servers:
            self._seen_s.setdefault(server_id, cloud.now_s())
        found = await cloud.find(Kind.IMAGE, labels.selector(wishes.owner, role=str(Role.IMAGE)))
        mine = [one for one in found if isinstance(one, Image)]
        for image in mine:
            await self._record_size(image)
        return images.next_step(
            list(servers.values()),
            mine,
            owner=wishes.owner,
            client=context.key.client,
            recipe=self.recipe.fingerprint,
            architecture=wishes.architecture,
            now_s=cloud.now_s(),
        )

    async def _do(self, found: Next) -> Image | None:
        context, server, image = self.context, found.server, found.image
        match found.step:
            case Step.OTHERS:
                assert server is not None
                raise Busy(f"another machine of yours bakes on {server.name}", what="baking")
            case Step.WAIT:
                await context.time.sleep(_POLL_S)
            case Step.CREATE:
                await self._create(None)
            case Step.CREATE_VERIFIER:
                await self._create(image)
            case Step.DROP_SERVER:
                assert server is not None
                self.tell(f"server {server.name} goes: {found.why}")
                await removal.abandon(context, self.guard, server)
            case Step.DROP_IMAGE:
                assert image is not None
                self.tell(f"image {image.id} goes: {found.why}")
                await self.guard.delete_image(image.id)
            case Step.INSTALL:
                assert server is not None
                await self._install_or_end(server)
            case Step.CLEAN:
                assert server is not None
                await self._clean(server)
            case Step.SHUT_DOWN:
                assert server is not None
                self.tell("shutting it down")
                await removal.shut_down(context, server.id)
            case Step.SNAPSHOT:
                assert server is not None
                await self._snapshot(server)
            case Step.AWAIT_IMAGE:
                assert image is not None
                await self._await_image(image)
            case Step.VERIFY:
                assert server is not None
                assert image is not None
                await self._verify_or_end(server, image)
            case Step.PRUNE:
                assert server is not None
                assert image is not None
                return await self._prune(server, image)
        return None

    def _try(self, what: str, error: BurstError) -> None:
        """Raises the error when that has failed often enough."""
        self._tries[what] = self._tries.get(what, 0) + 1
        if self._tries[what] >= _TRIES:
            raise error
        self.tell(f"again, since {error}")

    # -- servers -----------------------------------------------------------------------------------

    async def _create(self, image: Image | None) -> None:
        """To bake on, or to boot `image` once."""
        context, wishes = self.context, self.context.wishes
        everything = await context.cloud.inventory(labels.selector(wishes.owner))
        tariff = Tariff(await context.cloud.server_types(), await context.cloud.prices())
        plan = images.bake_plan(
            tariff.types,
            (self.wish.location,) if self.wish.location else wishes.locations,
            architecture=wishes.architecture,
            max_eur_per_hour=wishes.max_eur_per_hour,
            wanted=() if self.wish.server_type else wishes.server_types,
            only=self.wish.server_type if image is None else "",
            least_gb=0 if image is None else image.disk_gb,
        )
        if wishes.budget_eur_per_month is not None:
            history = await asyncio.to_thread(context.ledger.read)
            now_s = context.cloud.now_s()
            plan = budget.affordable(
                plan,
                everything,
                wishes.owner,
                tariff,
                budget_eur=wishes.budget_eur_per_month,
                already_eur=budget.spent(history.events, now_s),
                now_s=now_s,
                new_volume_gb=0,
            )
        if not plan.candidates:
            if any(one.money for one in plan.refused):
                raise OverBudget(plan.why_nothing())
            raise ConfigError(plan.why_nothing(), path="server_type, location")
        give_up_s = context.time.monotonic() + wishes.boot_deadline_s + TURN_S
        while True:
            try:
                # A boot of this machine has the first; one of another machine the second.
                async with context.lock(), turn(context, self.guard) as held:
                    return await self._search(plan, tariff, image, held)
            except TurnTaken:
                if context.time.monotonic() > give_up_s:
                    raise
            await context.time.sleep(_POLL_S)

    async def _search(self, plan: Plan, tariff: Tariff, image: Image | None, held: Turn) -> None:
        context, wishes = self.context, self.context.wishes
        if (await self._look()).step not in {Step.CREATE, Step.CREATE_VERIFIER}:
            return
        keys = await access.owner_keys(context)
        wall = await firewall.of_owner(context)
        source = image or await context.cloud.system_image(wishes.stock_image, wishes.architecture)
        last: CloudProblem | None = None
        search = placement.Search(plan)
        for candidate in search:
            await held.extend()
            began_s = context.time.monotonic()
            order = self._order(source, keys, wall.id, held.now_s(), verify=image is not None)
            try:
                made = await newserver.create(context, candidate, order)
            except (NoCapacity, QuotaExceeded) as error:
                last = error
                search.failed(candidate, error)
                continue
            verb = "baking" if image is None else f"booting image {source.id}"
            self.tell(
                f"{verb} on {made.server.name}, {candidate.type} in {candidate.location}, "
                f"€{candidate.eur_per_hour:.4f} an hour"
            )
            try:
                await newserver.finish(context, made, tariff)
            except ActionFailed as error:
                last = error
                await removal.abandon(context, self.guard, made.server)
                continue
            self._made[made.server.id] = began_s
            return
        if last is not None:
            raise last
        raise NoCapacity(plan.why_nothing(), what="a server")

    def _order(
        self,
        source: Image,
        keys: access.OwnerKeys,
        firewall_id: int,
        now_s: float,
        *,
        verify: bool,
    ) -> newserver.Order:
        life_s = VERIFY_S if verify else BAKE_S
        claim = Claim(
            owner=self.context.wishes.owner,
            role=Role.BAKE,
            operation=labels.new_operation(),
            expires_s=int(now_s + life_s),
        )
        stage = {labels.STAGE: images.VERIFY} if verify else {}
        return newserver.Order(
            claim=claim,
            image=source,
            keys=keys,
            firewall_id=firewall_id,
            # It never gets ready: until then it is let alone, after that it goes, whatever it is.
            boot_by_s=now_s + life_s,
            deadlines=userdata.Deadlines(KEEP_ALIVE_S, int(life_s)),
            more={labels.RECIPE: self.recipe.fingerprint, **stage},
        )

    async def _reach(self, server: Server) -> Host:
        """The first time, or again."""
        context = self.context
        host = await newserver.wait_for_ssh(
            context, self.guard, server, began_s=self._seen_s[server.id]
        )
        claim = Claim.of(server.labels)
        until_s = claim.expires_s if claim else context.cloud.now_s() + BAKE_S
        await newserver.narrow(context, server, host, until_s)
        return host

    async def _label(self, server: Server, stage: str) -> None:
        fresh = await self.context.cloud.server(server.id)
        told = labels.merged(fresh.labels, **{labels.STAGE: stage})
        with self.context.effect(f"label {stage}"):
            await self.context.cloud.set_labels(Kind.SERVER, server.id, told)

    async def _record_boot(self, server: Server, image: str) -> None:
        """How long it took, if all of it was seen by this process."""
        began_s = self._made.pop(server.id, None)
        if began_s is not None:
            took_s = self.context.time.monotonic() - began_s
            await self.context.ledger.record(
                Ready(
                    at_s=self.context.cloud.now_s(),
                    id=server.id,
                    how=How.COLD,
                    took_s=took_s,
                    boot_s=took_s,
                    image=image,
                )
            )

    # -- the recipe --------------------------------------------------------------------------------

    async def _install_or_end(self, server: Server) -> None:
        try:
            await self._install(server)
        except (Unreachable, LinkLost) as error:
            self._try("install", error)
        except (ServerProblem, DeadlinePassed, HostKeyProblem):
            if self.wish.keep_server:
                self.tell(f"server {server.name} stays until its time is over; root may log in")
            else:
                await removal.abandon(self.context, self.guard, server)
            raise

    async def _install(self, server: Server) -> None:
        context = self.context
        host = await self._reach(server)
        # What user data sets up comes a moment after sshd. Its status says nothing about our part.
        await context.ssh.run(host.login, ["cloud-init", "status", "--wait"], timeout_s=_SETTLE_S)
        with context.effect("bring the agent"):
            await context.agent.ensure(host.login)
        await self._record_boot(server, images.STOCK)
        with context.effect("send the recipe"):
            answer = await context.ssh.run(
                host.login,
                ["sh", "-c", _UNPACK, "burst", WORK],
                stdin=self.recipe.archive(),
                timeout_s=_SETTLE_S,
            )
        if answer.status != 0:
            raise ServerProblem(f"takes no files: {_last(answer.stderr)}", what=server.name)
        mirror = self.wish.mirror
        if mirror is not None and mirror.folder is not None:
            self.tell(f"sending {mirror.folder}")
            with context.effect("send the mirror"):
                await self._follow(host.login, ["sh", "-c", _UNPACK_MIRROR, "burst", WORK], mirror)
        self.tell(f"recipe {self.recipe.fingerprint}")
        word = "" if mirror is None else mirror.word
        with context.effect("run the recipe"):
            await self._follow(
                host.login,
                ["sh", "-c", _RUN, "burst", WORK, self.recipe.fingerprint, word],
            )
        await self._require_marker(host, server)
        await self._label(server, images.BAKED)

    async def _follow(self, login: Login, argv: list[str], mirror: Mirror | None = None) -> None:
        answer = await self.context.ssh.follow(
            login,
            argv,
            stdin=_nothing() if mirror is None else mirror.stream(),
            show=self.log,
            timeout_s=RECIPE_S if mirror is None else _SEND_S,
        )
        if answer.status != 0:
            raise ServerProblem(f"the recipe failed: {_last(answer.stdout)}", what=login.host)

    async def _require_marker(self, host: Host, server: Server) -> None:
        answer = await self.context.ssh.run(host.login, ["cat", MARKER])
        try:
            found = json.loads(answer.stdout)["recipe"]
        except (ValueError, KeyError, TypeError):
            found = ""
        if found != self.recipe.fingerprint:
            raise ServerProblem(
                f"its marker is {found or 'missing'}, not {self.recipe.fingerprint}",
                what=server.name,
            )

    async def _clean(self, server: Server) -> None:
        """What was stopped in the middle of it cannot be entered again: then all begins anew."""
        context = self.context
        self.tell("taking its identity away")
        try:
            host = await removal.reach(context, server)
            with context.effect("clean"):
                answer = await context.ssh.run(
                    host.login,
                    ["sh", "-s"],
                    stdin=self.recipe.files["clean.sh"],
                    timeout_s=_CLEAN_S,
                )
        except (
            AuthenticationFailed,
            HostKeyProblem,
            LinkLost,
            Unreachable,
            DeadlinePassed,
        ) as error:
            await removal.abandon(context, self.guard, server)
            self._try("clean", error)
            return
        await context.ssh.forget(host.login)
        if answer.status != 0 or not answer.stdout.rstrip().endswith(b"burst-clean ok"):
            await removal.abandon(context, self.guard, server)
            said = _last(answer.stdout + answer.stderr)
            raise ServerProblem(f"is not clean: {said}", what=server.name)
        await self._label(server, images.CLEAN)

    # -- the image ---------------------------------------------------------------------------------

    async def _snapshot(self, server: Server) -> None:
        """Asked for once: its operation is known before, and while one is made the server is
        locked. What was asked for twice all the same is found and deleted."""
        context, cloud = self.context, self.context.cloud
        fresh = await cloud.server(server.id)
        if fresh.state is not ServerState.OFF:
            raise Busy("it is not off", what=f"server {server.name}")
        operation = images.image_operation(server)
        found = await cloud.find(Kind.IMAGE, labels.selector(context.wishes.owner, op=operation))
        if found:
            return  # the list was late
        claim = Claim(
            owner=context.wishes.owner,
            role=Role.IMAGE,
            operation=operation,
            expires_s=int(cloud.now_s() + CANDIDATE_S),
        )
        told = claim.labels(
            **{labels.RECIPE: self.recipe.fingerprint, labels.STAGE: images.CANDIDATE}
        )
        rate = Rate.of_image(await cloud.prices())
        self.tell("making the image")
        try:
            await creation.create(
                context,
                Kind.IMAGE,
                claim,
                lambda name: cloud.create_image(server.id, name, told),
                rate=rate,
            )
        except (Busy, ActionFailed) as error:
            # One is being made already, or the cloud failed: the next look tells.
            await context.time.sleep(_IMAGE_POLL_S)
            self._try("snapshot", error)

    async def _await_image(self, image: Image) -> None:
        context, cloud = self.context, self.context.cloud
        give_up_s = image.created_s + IMAGE_S
        while image.state is ImageState.CREATING:
            if cloud.now_s() > give_up_s:
                raise DeadlinePassed(f"not within {IMAGE_S:g} s", what=f"image {image.id}")
            await context.time.sleep(_IMAGE_POLL_S)
            try:
                image = await cloud.image(image.id)
            except NotFound as error:
                self._try("image", error)  # it failed, so its server is asked again
                return

    async def _record_size(self, image: Image) -> None:
        """It bills from its birth, by a size that is known at its end only."""
        context = self.context
        if image.id in self._recorded or image.size_gb is None:
            return
        self._recorded.add(image.id)
        if image.labels.get(labels.STAGE) != images.CANDIDATE:
            return
        rate = Rate.of_image(await context.cloud.prices())
        await context.ledger.record(
            records.created(context, Kind.IMAGE, image, rate),
            Resized(
                at_s=context.cloud.now_s(),
                id=image.id,
                size_gb=image.size_gb,
                kind=Kind.IMAGE,
                endpoint=context.account.endpoint,
            ),
        )
        self.tell(f"image {image.id}: {image.size_gb} GB")

    async def _verify_or_end(self, server: Server, image: Image) -> None:
        try:
            await self._verify(server, image)
        except (ServerProblem, HostKeyProblem) as error:
            # The image first: without it a server that stays says nothing any more.
            await self.guard.delete_image(image.id)
            if not self.wish.keep_server:
                await removal.abandon(self.context, self.guard, server)
            raise ServerProblem(
                f"the image that it was booted from does not work, so it is deleted: {error}",
                what=server.name,
            ) from error
        except (Unreachable, LinkLost) as error:
            self._try("verify", error)

    async def _verify(self, server: Server, image: Image) -> None:
        """Its own agent answers; nothing is brought."""
        context, cloud = self.context, self.context.cloud
        host = await self._reach(server)
        await self._require_marker(host, server)
        await self._agent_answers(host)
        await self._record_boot(server, self.recipe.fingerprint)
        fresh = await cloud.image(image.id)
        told = labels.merged(
            fresh.labels,
            **{
                labels.STAGE: images.CURRENT,
                labels.EXPIRES: str(int(cloud.now_s() + CURRENT_S)),
            },
        )
        with context.effect("label current"):
            await cloud.set_labels(Kind.IMAGE, image.id, told)
        self.tell(f"image {image.id} works")

    async def _agent_answers(self, host: Host) -> None:
        give_up_s = self.context.time.monotonic() + _AGENT_S
        while True:
            try:
                await host.lease()
            except ServerProblem:
                if self.context.time.monotonic() > give_up_s:
                    raise
            else:
                return
            await self.context.time.sleep(_POLL_S)

    async def _prune(self, server: Server, image: Image) -> Image:
        """What it replaces; at last the server: while that is there, there is more to do."""
        context, wishes = self.context, self.context.wishes
        found = await context.cloud.find(
            Kind.IMAGE, labels.selector(wishes.owner, role=str(Role.IMAGE))
        )
        mine = [
            one
            for one in found
            if isinstance(one, Image) and one.architecture == image.architecture
        ]
        for old in images.outdated(mine, wishes.owner, 1, context.cloud.now_s()):
            if old.id != image.id:
                self.tell(f"image {old.id} goes: {image.id} replaces it")
                await self.guard.delete_image(old.id)
        await removal.abandon(context, self.guard, server)
        return image


async def _nothing() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for piece in nothing:
        yield piece


def _last(said: bytes) -> str:
    """The last line that is not empty."""
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][-300:] if lines else "it said nothing"
