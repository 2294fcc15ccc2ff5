"""The only caller of `Cloud.delete`: re-reads, checks, then deletes, or refuses.

A server goes in exactly four cases: (a) its agent granted `drain`, (b) the API says `off`, (c) its
hard end has passed, (d) it was never ready by its boot deadline. Whatever lacks one of our labels,
or is another owner's, is never touched. What is gone already is a success.
"""

from __future__ import annotations

import contextlib
import enum
from typing import Final

import attrs

from burst_lifecycle import labels, readiness, records
from burst_lifecycle.books import BILLING_KINDS
from burst_lifecycle.cloud.model import (
    Firewall,
    Image,
    Inventory,
    Kind,
    PrimaryIp,
    Resource,
    Server,
    ServerState,
    SshKey,
)
from burst_lifecycle.context import Context
from burst_lifecycle.errors import Busy, CloudProblem, NotFound, NotOurs
from burst_lifecycle.labels import Claim, Role

DEFAULT_BOOT_S: Final = 30 * 60
"""For a server whose label with the boot deadline was lost."""
TRUSTED_OFFSET_S: Final = 300
"""Home's clock may differ from the API's by so much before volumes are left alone."""


class Ground(enum.Enum):
    """Why a server may be deleted."""

    DRAINED = "its agent granted it"
    OFF = "it is off"
    HARD_END = "its hard end has passed"
    NEVER_READY = "it was not ready by its boot deadline"


_CASES: Final = {"DRAINED": "a", "OFF": "b", "HARD_END": "c", "NEVER_READY": "d"}


class VolumeGround(enum.Enum):
    IDLE = "nobody used it for its idle time"
    EXPLICIT = "its owner said so"


@attrs.frozen
class Granted:
    """The agent of this server refuses all work from now on. Made by `host.drain` only."""

    server_id: int


def boot_by_s(server: Server) -> float:
    """When it must be ready, API time."""
    try:
        return int(server.labels[labels.BOOT_BY])
    except (KeyError, ValueError):
        return server.created_s + DEFAULT_BOOT_S


def is_ready(server: Server) -> bool:
    """It was, at some time of this boot."""
    return labels.READY in server.labels


def is_booting(server: Server, now_s: float) -> bool:
    """Somebody is at it; an `off` seen now is one of before its power-on."""
    return not is_ready(server) and boot_by_s(server) > now_s


def ground_of(server: Server, now_s: float) -> Ground | None:
    """Which of the cases (b), (c), (d) holds, judged by what the API says alone: pure."""
    claim = Claim.of(server.labels)
    if claim is None:
        return None
    if claim.expires_s <= now_s:
        return Ground.HARD_END
    if not is_ready(server) and boot_by_s(server) <= now_s:
        return Ground.NEVER_READY
    if server.state is ServerState.OFF and not is_booting(server, now_s):
        return Ground.OFF
    return None


def ground_words(ground: Ground, server: Server) -> str:
    """For people and the ledger. A bake's server is never ready: it goes when that is over."""
    if ground is Ground.NEVER_READY and server.labels.get(labels.ROLE) == Role.BAKE:
        return "its bake is over"
    return ground.value


def clock_is_trusted(offset_s: float | None) -> bool:
    """Whether times may decide about data."""
    return offset_s is not None and abs(offset_s) <= TRUSTED_OFFSET_S


@attrs.frozen(eq=False)
class Guard:
    """Deletes for one owner."""

    context: Context
    owner: str

    # -- servers -----------------------------------------------------------------------------------

    async def delete_server(
        self, server_id: int, ground: Ground, granted: Granted | None = None
    ) -> None:
        """Delete it if that ground holds on a fresh read. NotOurs, Busy (the ground is gone)."""
        cloud = self.context.cloud
        if ground in {Ground.HARD_END, Ground.NEVER_READY}:
            await self.learn_time(server_id)
        try:
            server = await cloud.server(server_id)
        except NotFound:
            await self._gone(Kind.SERVER, server_id)
            return
        self._require_ours(Kind.SERVER, server, roles={Role.BUILD, Role.BAKE})
        if ground is Ground.DRAINED:
            # Without `burst-ready` somebody has begun to boot it again since.
            holds = granted == Granted(server_id) and is_ready(server)
        else:
            holds = await self._holds(server)
        if not holds:
            raise Busy(f"it is {server.state.value} by now", what=f"server {server.name}")
        await self._delete(Kind.SERVER, server, ground_words(ground, server), ground.name)

    async def require_ground(self, server_id: int, granted: Granted | None = None) -> Server:
        """A fresh read of a server that may be ended now, before its power is touched.

        Busy, NotOurs or NotFound otherwise.
        """
        await self.learn_time(server_id)
        server = await self.context.cloud.server(server_id)
        self._require_ours(Kind.SERVER, server, roles={Role.BUILD, Role.BAKE})
        if granted == Granted(server_id) and is_ready(server):
            return server
        if not await self._holds(server):
            raise Busy(f"it is {server.state.value} and in use", what=f"server {server.name}")
        return server

    async def _holds(self, server: Server) -> bool:
        """Whether one of the cases (b), (c), (d) does. That it was never ready is not believed of
        its labels alone, which a slow writer may have written back."""
        ground = ground_of(server, self.context.cloud.now_s())
        if ground is Ground.NEVER_READY and server.state is not ServerState.OFF:
            return not await readiness.was_ready(self.context, server)
        return ground is not None

    async def learn_time(self, server_id: int) -> None:
        """Make sure that the API's time is known before it decides about a server.

        An action that changes nothing says what time it is there.
        """
        cloud = self.context.cloud
        if cloud.offset_s is not None:
            return
        try:
            server = await cloud.server(server_id)
            self._require_ours(Kind.SERVER, server, roles={Role.BUILD, Role.BAKE})
            with self.context.effect("learn the time"):
                await cloud.protect(Kind.SERVER, server_id, delete=False)
        except NotFound:
            return

    async def learn_time_of(self, inventory: Inventory) -> None:
        """As `learn_time`, from any server or protected volume of ours that is there. Never raises
        CloudProblem: a token may only read, and then it is home's clock that counts."""
        cloud = self.context.cloud
        with contextlib.suppress(CloudProblem):
            for server in inventory.servers:
                if cloud.offset_s is None and self._is_ours(server):
                    await self.learn_time(server.id)
            for volume in inventory.volumes:
                if cloud.offset_s is None and self._is_ours(volume) and volume.delete_protected:
                    with self.context.effect("learn the time"):
                        await cloud.protect(Kind.VOLUME, volume.id, delete=True)

    def _is_ours(self, resource: Resource) -> bool:
        claim = Claim.of(resource.labels)
        return claim is not None and claim.owner == self.owner

    # -- volumes -----------------------------------------------------------------------------------

    async def delete_volume(self, volume_id: int, ground: VolumeGround) -> None:
        """Unprotect, then delete. Busy while attached, or not idle for long enough any more."""
        cloud = self.context.cloud
        if ground is VolumeGround.IDLE and not clock_is_trusted(cloud.offset_s):
            raise Busy("what time it is is not certain", what=f"volume {volume_id}")
        try:
            volume = await cloud.volume(volume_id)
        except NotFound:
            await self._gone(Kind.VOLUME, volume_id)
            return
        claim = self._require_ours(Kind.VOLUME, volume, roles={Role.STORE})
        if volume.server_id is not None:
            raise Busy("it is attached to a server", what=f"volume {volume.name}")
        if ground is VolumeGround.IDLE and claim.expires_s > cloud.now_s():
            raise Busy("somebody uses it", what=f"volume {volume.name}")
        if volume.delete_protected:
            with self.context.effect("unprotect the volume"):
                await cloud.protect(Kind.VOLUME, volume_id, delete=False)
        await self._delete(Kind.VOLUME, volume, ground.value)

    # -- what costs little or nothing --------------------------------------------------------------

    async def delete_expired(self, kind: Kind, resource_id: int) -> None:
        """Keys, firewalls, images and addresses whose time is over and that nothing uses."""
        resource = await self._find(kind, resource_id)
        if resource is None:
            await self._gone(kind, resource_id)
            return
        claim = self._require_ours(kind, resource)
        if claim.expires_s > self.context.cloud.now_s():
            raise Busy("somebody uses it", what=f"{kind.value} {resource.name}")
        if isinstance(resource, Firewall) and resource.server_ids:
            raise Busy("a server uses it", what=f"firewall {resource.name}")
        if isinstance(resource, PrimaryIp) and resource.assignee_id is not None:
            raise Busy("a server uses it", what=f"address {resource.name}")
        if isinstance(resource, Image | PrimaryIp) and resource.delete_protected:
            with self.context.effect(f"unprotect {kind.value}"):
                await self.context.cloud.protect(kind, resource_id, delete=False)
        await self._delete(kind, resource, "expired")

    async def delete_image(self, image_id: int) -> None:
        """An image that a newer one replaced. NotOurs for the cloud's own."""
        try:
            image = await self.context.cloud.image(image_id)
        except NotFound:
            await self._gone(Kind.IMAGE, image_id)
            return
        if image.system:
            raise NotOurs("it is the cloud's", what=f"image {image.name}")
        self._require_ours(Kind.IMAGE, image)
        if image.delete_protected:
            with self.context.effect("unprotect the image"):
                await self.context.cloud.protect(Kind.IMAGE, image_id, delete=False)
        await self._delete(Kind.IMAGE, image, "replaced")

    async def delete_lock(self, firewall_id: int) -> None:
        """The firewall that is a mutex (`turn`): ours to give back, or expired."""
        try:
            firewall = await self.context.cloud.firewall(firewall_id)
        except NotFound:
            return
        claim = self._require_ours(Kind.FIREWALL, firewall, roles={Role.ACCESS})
        mine = firewall.labels.get(labels.CLIENT) == self.context.key.client
        if firewall.server_ids or not (mine or claim.expires_s <= self.context.cloud.now_s()):
            raise Busy("another machine of yours has it", what=f"firewall {firewall.name}")
        await self._delete(Kind.FIREWALL, firewall)

    async def delete_key(self, key_id: int) -> None:
        """A key of this owner, on demand."""
        resource = await self._find(Kind.SSH_KEY, key_id)
        if isinstance(resource, SshKey):
            self._require_ours(Kind.SSH_KEY, resource, roles={Role.ACCESS})
            await self._delete(Kind.SSH_KEY, resource)

    # -- common ------------------------------------------------------------------------------------

    def _require_ours(
        self, kind: Kind, resource: Resource, roles: set[Role] | None = None
    ) -> Claim:
        what = f"{kind.value} {resource.name}"
        claim = Claim.of(resource.labels)
        if claim is None:
            raise NotOurs("its labels are not all there", what=what)
        if claim.owner != self.owner:
            raise NotOurs(f"it is {claim.owner}'s", what=what)
        if roles is not None and claim.role not in roles:
            raise NotOurs(f"its role is {claim.role}", what=what)
        return claim

    async def _find(self, kind: Kind, resource_id: int) -> Resource | None:
        found = await self.context.cloud.find(kind, labels.selector())
        return next((one for one in found if one.id == resource_id), None)

    async def _delete(
        self, kind: Kind, resource: Resource, reason: str = "", case: str = ""
    ) -> None:
        noun = kind.name.lower().replace("_", " ")
        ending = records.ending(self.context, kind, resource.id, reason, _CASES.get(case, ""))
        if kind in BILLING_KINDS:
            await self.context.ledger.record(ending)
        with self.context.effect(f"delete {noun}"):
            await self.context.cloud.delete(kind, resource.id)
        await self.context.ledger.record(records.deleted(self.context, ending))

    async def _gone(self, kind: Kind, resource_id: int) -> None:
        await self.context.ledger.record(records.gone(self.context, kind, resource_id))
