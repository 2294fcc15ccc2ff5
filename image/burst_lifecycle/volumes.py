"""A project's volume: found, made, attached, mounted; its data is never formatted on a guess.

What a volume holds says its label: `new-<uuid>` may become a file system with exactly that uuid, if
its first MiB reads blank; `ready-<uuid>` is only ever mounted, checked by that uuid; what does not
match becomes `bad-<uuid>` and is left alone. Whenever there is no volume to be had, the store lies
on the server's own disk, which is gone with the server, and people are told.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Final

import attrs

from burst_lifecycle import creation, firewall, labelling, labels
from burst_lifecycle.cloud.model import Kind, Server, ServerState, Volume, VolumeSpec
from burst_lifecycle.context import Context
from burst_lifecycle.errors import (
    Ambiguous,
    Busy,
    CloudProblem,
    CloudUnreachable,
    DeadlinePassed,
    NameTaken,
    NotFound,
    NotOurs,
    ServerProblem,
)
from burst_lifecycle.events import Resized
from burst_lifecycle.host import Host, Mount
from burst_lifecycle.labels import Claim, Role
from burst_lifecycle.pricing import Rate
from burst_protocol.errors import EnvironmentProblem, LinkLost, Unreachable

SLOTS: Final = 16
"""The API attaches no more to one server."""
_ATTACH_TRIES: Final = 6
_MOUNT_TRIES: Final = 4
_SECOND_S: Final = 2.0
_PASSING: Final = (
    Ambiguous,
    Busy,
    CloudUnreachable,
    DeadlinePassed,
    LinkLost,
    Unreachable,
)
"""Errors after which the same may work a minute later."""


class Content(StrEnum):
    NEW = "new"
    READY = "ready"
    BAD = "bad"


@attrs.frozen
class FileSystem:
    """What the label says."""

    content: Content
    uuid: str

    @classmethod
    def of(cls, volume: Volume) -> FileSystem | None:
        """None if the label is missing or says nothing we know: then nothing is done to it."""
        content, _, uuid = volume.labels.get(labels.FILESYSTEM, "").partition("-")
        try:
            return cls(Content(content), str(uuids.UUID(uuid)))
        except ValueError:
            return None

    @property
    def label(self) -> str:
        return f"{self.content}-{self.uuid}"


@attrs.frozen
class Store:
    """Where the store of a project lies on a server."""

    volume_id: int | None
    """None: on the server's own disk."""
    why: str = ""
    """Why there, for people."""
    passing: bool = False
    """What keeps the volume away is likely to pass: it is worth bringing it later."""

    @property
    def folder(self) -> str:
        return "" if self.volume_id is None else f"/mnt/burst/{self.volume_id}"


def of_project(volumes: Sequence[Volume], owner: str, project: str) -> tuple[Volume, ...]:
    """Those of one project, the best first: ready before new before bad, then the oldest."""
    rank = {Content.READY: 0, Content.NEW: 1, Content.BAD: 2}

    def order(volume: Volume) -> tuple[int, int]:
        found = FileSystem.of(volume)
        return (3 if found is None else rank[found.content], volume.id)

    mine = [
        volume
        for volume in volumes
        if (claim := Claim.of(volume.labels)) is not None
        and claim.owner == owner
        and claim.role is Role.STORE
        and claim.project == project
    ]
    return tuple(sorted(mine, key=order))


def is_good(volume: Volume) -> bool:
    """Not known to be damaged."""
    found = FileSystem.of(volume)
    return found is not None and found.content is not Content.BAD


def pick(
    volumes: Sequence[Volume], owner: str, project: str, location: str
) -> tuple[Volume | None, str]:
    """The project's volume for a server there, or None and, if there are some, why not."""
    mine = of_project(volumes, owner, project)
    here = [volume for volume in mine if volume.location == location]
    if here:
        return here[0], ""
    if mine:
        return None, f"the project's volume is in {mine[0].location}, the server in {location}"
    return None, ""


async def mount_project(
    context: Context, server: Server, host: Host, *, make: bool = True
) -> Store:
    """See to the project's store on that server. Never fails for a volume's sake: local disk then.

    Each step can be repeated: what is there is found by its labels. `make`: a volume, where the
    project has none yet.
    """
    wishes = context.wishes
    if not wishes.project:
        return Store(None, "no project")
    try:
        volume = await _find_or_make(context, server, make=make)
        if volume is None:
            return Store(None, "the project has no volume yet")
        if isinstance(volume, str):
            return _local(context, volume)
        file_system = FileSystem.of(volume)
        if file_system is None or file_system.content is Content.BAD:
            state = "is damaged" if file_system else f"has no label {labels.FILESYSTEM}"
            return _local(context, f"volume {volume.name} {state}; nothing on it is touched")
        volume = await _attach(context, server, host, volume)
        if file_system.content is Content.READY:
            await _grow(context, host, volume)
        store = await _mount(context, host, volume, file_system)
    except (CloudProblem, EnvironmentProblem) as error:
        return _local(context, str(error), passing=isinstance(error, _PASSING))
    context.notices.withdraw(_local_key(context))
    return store


def _local(context: Context, why: str, *, passing: bool = False) -> Store:
    goes = "until its volume can be had" if passing else "and goes with it"
    context.tell(
        _local_key(context),
        f"the store of this project is on the server's own disk {goes}: {why}",
    )
    return Store(None, why, passing)


def _local_key(context: Context) -> str:
    return f"local-disk:{context.wishes.project}"


async def _find_or_make(context: Context, server: Server, *, make: bool) -> Volume | str | None:
    """The volume, or why there is none; None: it would have to be made."""
    cloud, wishes = context.cloud, context.wishes
    selector = labels.selector(wishes.owner, project=wishes.project)
    found = await cloud.find(Kind.VOLUME, selector)
    volumes = [one for one in found if isinstance(one, Volume)]
    volume, why = pick(volumes, wishes.owner, wishes.project, server.location)
    if volume is not None:
        return volume
    if why and not wishes.new_volume_elsewhere:
        return why
    if not make:
        return None
    fresh = FileSystem(Content.NEW, str(uuids.uuid4()))
    claim = Claim(
        owner=wishes.owner,
        role=Role.STORE,
        operation=labels.new_operation(),
        expires_s=_expiry(context, server),
        project=wishes.project,
    )
    told = claim.labels(
        **{labels.FILESYSTEM: fresh.label, labels.CLIENT: context.key.client},
    )
    rate = Rate.of_volume(await cloud.prices())

    async def create(name: str) -> Volume:
        return await creation.create(
            context,
            Kind.VOLUME,
            claim,
            lambda taken: cloud.create_volume(
                VolumeSpec(taken, wishes.volume_gb, server.location, told)
            ),
            name=name,
            location=server.location,
            rate=rate,
        )

    try:
        # A name that all machines agree on: two of them cannot make two volumes of a project.
        what = f"{wishes.owner}/{wishes.project}/{server.location}"
        return await create(firewall.shared_name("store", what))
    except NameTaken:
        found = await cloud.find(Kind.VOLUME, selector)
        volumes = [one for one in found if isinstance(one, Volume)]
        volume, _ = pick(volumes, wishes.owner, wishes.project, server.location)
        # Else it was adopted by another project since.
        return volume or await create("")


def _expiry(context: Context, server: Server) -> int:
    """Idle time counts from the end of its last server."""
    claim = Claim.of(server.labels)
    end_s = max(claim.expires_s if claim else 0, context.cloud.now_s())
    return int(end_s + context.wishes.volume_keep_alive_s)


async def keep(context: Context, volume: Volume, expires_s: int, **more: str) -> Volume:
    """Move its expiry, later or earlier. A fresh read is merged: others write labels as well."""
    fresh = await context.cloud.volume(volume.id)
    if Claim.of(fresh.labels) is None:
        raise NotOurs("its labels are not all there", what=f"volume {fresh.name}")
    told = labels.merged(fresh.labels, **{labels.EXPIRES: str(expires_s), **more})
    if told != dict(fresh.labels):
        with context.effect("keep the volume"):
            await context.cloud.set_labels(Kind.VOLUME, volume.id, told)
    return attrs.evolve(fresh, labels=told)


async def _attach(context: Context, server: Server, host: Host, volume: Volume) -> Volume:
    """Attached to this server, kept and protected. Busy if another server really uses it."""
    cloud = context.cloud
    used = {labels.USED: str(int(cloud.now_s()))}
    volume = await keep(context, volume, _expiry(context, server), **used)
    if not volume.delete_protected:
        with context.effect("protect the volume"):
            await cloud.protect(Kind.VOLUME, volume.id, delete=True)
    for attempt in range(_ATTACH_TRIES):
        volume = await cloud.volume(volume.id)
        if volume.server_id == server.id:
            return volume
        if volume.server_id is not None:
            await _let_go(context, volume, volume.server_id)
            continue
        if attempt == 0:
            await _make_room(context, server, host)
        try:
            with context.effect("attach the volume"):
                await cloud.attach(volume.id, server.id)
        except Busy:
            if attempt == _ATTACH_TRIES - 1:
                raise
            await context.time.sleep(_SECOND_S * (attempt + 1))
    raise Busy("it does not come off its last server", what=f"volume {volume.name}")


async def _let_go(context: Context, volume: Volume, holder_id: int) -> None:
    """Take it from a server that is off, dying or gone (it stays attached to those for a while)."""
    cloud = context.cloud
    try:
        holder = await cloud.server(holder_id)
    except NotFound:
        holder = None
    if holder is not None and holder.state not in {ServerState.OFF, ServerState.DELETING}:
        raise Busy(f"server {holder.name} uses it", what=f"volume {volume.name}")
    if holder is None or holder.state is ServerState.OFF:
        try:
            with context.effect("detach the volume"):
                await cloud.detach(volume.id)
        except (Busy, NotFound):
            pass
        else:
            return
    await context.time.sleep(_SECOND_S)


async def _make_room(context: Context, server: Server, host: Host) -> None:
    """The 17th project's volume: the least recently used one that is idle comes off."""
    fresh = await context.cloud.server(server.id)
    if len(fresh.volume_ids) < SLOTS:
        return
    found = await context.cloud.find(Kind.VOLUME, labels.selector(context.wishes.owner))
    mine = [one for one in found if isinstance(one, Volume) and one.id in fresh.volume_ids]
    for volume in sorted(mine, key=lambda one: (one.labels.get(labels.USED, ""), one.id)):
        # What a project reads or writes right now does not unmount.
        if await detach(context, host, volume.id):
            return
    raise Busy("all of its 16 volumes are in use", what=f"server {server.name}")


async def detach(context: Context, host: Host | None, volume_id: int) -> bool:
    """Unmount (where the server answers), sync, detach; its idle time begins. False: in use."""
    if host is not None and not await host.unmount(volume_id):
        return False
    await rest(context, volume_id)
    return True


async def rest(context: Context, volume_id: int) -> None:
    """Nothing has it mounted any more: its idle time begins, and it comes off."""
    cloud = context.cloud
    try:
        volume = await cloud.volume(volume_id)
        if Claim.of(volume.labels) is not None:
            until_s = int(cloud.now_s() + context.wishes.volume_keep_alive_s)
            volume = await keep(context, volume, until_s)
        if volume.server_id is not None:
            with context.effect("detach the volume"):
                await cloud.detach(volume_id)
    except NotFound:
        pass


async def _grow(context: Context, host: Host, volume: Volume) -> None:
    """To the size of the configuration, if it is smaller; volumes never shrink. What does not work
    is told, and the volume is used as it is."""
    cloud, wanted_gb = context.cloud, context.wishes.volume_gb
    growing = labels.GROWING in volume.labels
    if volume.size_gb >= wanted_gb and not growing:
        return
    try:
        if not growing:
            await _label(context, volume, **{labels.GROWING: "1"})
        if volume.size_gb < wanted_gb:
            with context.effect("enlarge the volume"):
                await cloud.resize_volume(volume.id, wanted_gb)
            await context.ledger.record(
                Resized(
                    at_s=cloud.now_s(),
                    id=volume.id,
                    size_gb=Decimal(wanted_gb),
                    endpoint=context.account.endpoint,
                )
            )
        with context.effect("grow the file system"):
            why = await host.grow(volume.id)
        if why:
            raise ServerProblem(why, what=host.login.host)
        await _label(context, volume, **{labels.GROWING: None})
        context.notices.withdraw(f"grow:{volume.id}")
    except (CloudProblem, ServerProblem) as error:
        context.tell(
            f"grow:{volume.id}",
            f"volume {volume.name} is not enlarged from {volume.size_gb} to {wanted_gb} GB, and is "
            f"used as it is: {error}",
        )


async def _label(context: Context, volume: Volume, **changes: str | None) -> None:
    fresh = await context.cloud.volume(volume.id)
    with context.effect("label the volume"):
        await context.cloud.set_labels(
            Kind.VOLUME, volume.id, labels.merged(fresh.labels, **changes)
        )


async def _mount(context: Context, host: Host, volume: Volume, file_system: FileSystem) -> Store:
    mount = await _prepared(context, host, volume, file_system)
    if mount.mounted:
        if file_system.content is Content.NEW:
            await _mark(context, volume, attrs.evolve(file_system, content=Content.READY))
        return Store(volume.id)
    if mount.is_bad:
        await _mark(context, volume, attrs.evolve(file_system, content=Content.BAD))
        context.tell(
            f"bad-volume:{volume.id}",
            f"volume {volume.name} does not hold what it should ({mount.why}: {mount.detail}); "
            "nothing on it was touched",
            hint="`burst-admin volume rm` deletes it; the next boot makes another",
        )
    if mount.may_pass:
        raise Busy(f"{mount.why}: {mount.detail}", what=f"volume {volume.name}")
    detail = f"volume {volume.name} cannot be mounted ({mount.why}: {mount.detail})"
    raise ServerProblem(detail, what=host.login.host)


async def _prepared(context: Context, host: Host, volume: Volume, file_system: FileSystem) -> Mount:
    """Formatted if it is new, and mounted. Its device may come late."""
    mount = Mount(mounted=False)
    for attempt in range(_MOUNT_TRIES):
        if file_system.content is Content.NEW:
            with context.effect("format the volume"):
                mount = await host.format(volume.id, file_system.label)
        if mount.mounted or file_system.content is not Content.NEW:
            with context.effect("mount the volume"):
                mount = await host.mount(volume.id, file_system.label)
        if mount.mounted or not mount.may_pass:
            return mount
        await context.time.sleep(_SECOND_S * (attempt + 1))
    return mount


async def _mark(context: Context, volume: Volume, file_system: FileSystem) -> None:
    fresh = await context.cloud.volume(volume.id)
    if FileSystem.of(fresh) == file_system:
        return
    told = labels.merged(fresh.labels, **{labels.FILESYSTEM: file_system.label})
    with context.effect("label the volume"):
        await context.cloud.set_labels(Kind.VOLUME, volume.id, told)


async def adopt(context: Context, volume_id: int, project: str) -> Volume:
    """Make it that project's, after its folder was renamed. NotOurs, or Busy if it has one."""
    cloud, owner = context.cloud, context.wishes.owner

    async def ours() -> Volume:
        volume = await cloud.volume(volume_id)
        claim = Claim.of(volume.labels)
        if claim is None or claim.owner != owner or claim.role is not Role.STORE:
            raise NotOurs("it is not a volume of this owner", what=f"volume {volume.name}")
        return volume

    volume = await ours()
    found = await cloud.find(Kind.VOLUME, labels.selector(owner, project=project))
    others = [one for one in found if one.id != volume_id]
    if others:
        raise Busy(f"that project has {others[0].name} already", what=f"volume {volume.name}")
    return await labelling.change(context, Kind.VOLUME, ours, labels.PROJECT, project)
