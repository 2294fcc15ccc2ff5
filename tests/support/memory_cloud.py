"""A cloud in memory whose time is virtual: strict about states, names, labels, locks and capacity.

Not a mock: it has its own idea of what is there and refuses what the real one refuses. Servers in
it are `memory_hosts.Box`es. `cloud.before` and `cloud.after` are called around every request with
its name, and may raise: before (nothing was done) or after (it was done, and the answer is lost).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import attrs

from burst_lifecycle.cloud.model import (
    Action,
    ActionState,
    Created,
    Firewall,
    FirewallRule,
    Image,
    ImageState,
    Inventory,
    Kind,
    Offer,
    Price,
    Prices,
    PrimaryIp,
    Resource,
    Server,
    ServerSpec,
    ServerState,
    ServerType,
    SshKey,
    Volume,
    VolumeSpec,
)
from burst_lifecycle.errors import (
    ActionFailed,
    Busy,
    CloudProblem,
    NameTaken,
    NoCapacity,
    NotFound,
    QuotaExceeded,
)
from burst_lifecycle.labels import Claim
from memory_bill import Bought, owner_of
from memory_hosts import Baked, Box

LOCATIONS = ("fsn1", "nbg1", "hel1")
_LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
START_S = 1_800_000_000.0


@attrs.define
class World:
    """Time, for everybody; it passes when somebody waits."""

    now_s: float = START_S
    """By the API's clock."""
    home_error_s: float = 0.0
    """How far home's clock is ahead."""
    watchers: list[Callable[[float], None]] = attrs.field(factory=list)

    def monotonic(self) -> float:
        return self.now_s - START_S

    async def sleep(self, duration_s: float) -> None:
        self.pass_time(duration_s)

    def pass_time(self, duration_s: float) -> None:
        """In steps, so that dead men act when it is their time."""
        end_s = self.now_s + duration_s
        while self.now_s < end_s:
            self.now_s = min(end_s, self.now_s + max(60, (end_s - self.now_s) / 200))
            for watcher in self.watchers:
                watcher(self.now_s)


def price(euros: str) -> Price:
    return Price(Decimal(euros), Decimal(euros) * Decimal("1.19"))


def server_type(
    number: int, name: str, cores: int, hourly: str, architecture: str = "x86"
) -> ServerType:
    offers = tuple(
        Offer(place, price(hourly), price(str(Decimal(hourly) * 624)), available=True)
        for place in LOCATIONS
    )
    return ServerType(
        number, name, cores, Decimal(cores * 4), cores * 20, architecture, True, offers
    )


TYPES = (
    server_type(1, "ccx63", 48, "1.3678"),
    server_type(2, "ccx53", 32, "0.8550"),
    server_type(3, "ccx43", 16, "0.4423"),
    server_type(4, "cax41", 16, "0.0657", "arm"),
    server_type(5, "cx23", 2, "0.0088"),
)


@attrs.define
class Account:
    """One project of one account; several `MemoryCloud`s may look at it."""

    world: World
    held: dict[Kind, dict[int, Any]] = attrs.field(factory=lambda: {kind: {} for kind in Kind})
    boxes: dict[int, Box] = attrs.field(factory=dict)
    no_capacity: set[tuple[str, str]] = attrs.field(factory=set)
    """(type, location)"""
    core_limit: int = 1000
    next_id: int = 100
    deleted: list[tuple[Kind, int, Mapping[str, str]]] = attrs.field(factory=list)
    born: dict[int, float] = attrs.field(factory=dict)
    """When each server could be used: started."""
    changed: dict[int, tuple[ServerState, float]] = attrs.field(factory=dict)
    """The state a server will have from then on."""
    most_servers: dict[str, int] = attrs.field(factory=dict)
    """By owner: how many were there at once, at most."""
    most_gb: int = 10_000
    boot_s: float = 8.0
    never_ssh: bool = False
    wrong_key: bool = False
    disks: dict[int, Any] = attrs.field(factory=dict)
    """By volume: see `memory_hosts.Disk`."""
    images: list[Image] = attrs.field(factory=list)
    baked: dict[int, Baked] = attrs.field(factory=dict)
    """By image."""
    recipe_works: bool = True
    snapshot_s: float = 90.0
    made_images: int = 0
    bought: list[Bought] = attrs.field(factory=list)
    """For its bill, see `memory_bill`."""

    def __attrs_post_init__(self) -> None:
        self.images.append(Image(1, "ubuntu-24.04", {}, 0, ImageState.AVAILABLE, True, "x86", 5))
        self.world.watchers.append(self._dead_men)

    def _dead_men(self, now_s: float) -> None:
        for server_id, box in self.boxes.items():
            server = self.held[Kind.SERVER].get(server_id)
            if server and self.state(server) is ServerState.RUNNING and box.wants_off(now_s):
                box.shut_down()
                self.change(server_id, ServerState.OFF)

    def state(self, server: Server) -> ServerState:
        planned = self.changed.get(server.id)
        return planned[0] if planned and planned[1] <= self.world.now_s else server.state

    def server(self, server_id: int) -> Server:
        found = self.held[Kind.SERVER].get(server_id)
        if found is None:
            raise NotFound(what=f"server {server_id}")
        volumes = tuple(
            volume.id for volume in self.held[Kind.VOLUME].values() if volume.server_id == server_id
        )
        server: Server = attrs.evolve(found, state=self.state(found), volume_ids=volumes)
        return server

    def change(self, server_id: int, state: ServerState, after_s: float = 0.0) -> None:
        server = self.held[Kind.SERVER][server_id]
        self.held[Kind.SERVER][server_id] = attrs.evolve(server, state=self.state(server))
        self.changed[server_id] = (state, self.world.now_s + after_s)

    def new_id(self) -> int:
        self.next_id += 1
        return self.next_id

    def ends(self, kind: Kind, resource_id: int) -> None:
        """From now on it is charged no more."""
        for one in self.bought:
            if (one.kind, one.id) == (kind, resource_id) and one.until_s is None:
                one.until_s = self.world.now_s

    def count(self) -> None:
        claims = [Claim.of(one.labels) for one in self.held[Kind.SERVER].values()]
        owners = [claim.owner for claim in claims if claim is not None]
        for owner in owners:
            self.most_servers[owner] = max(self.most_servers.get(owner, 0), owners.count(owner))


@attrs.define
class MemoryCloud:
    """One token's view. Implements `cloud.port.Cloud`."""

    account: Account
    before: Callable[[str], None] = lambda _name: None
    after: Callable[[str], None] = lambda _name: None
    calls: list[str] = attrs.field(factory=list)
    _offset_s: float | None = None
    pending: dict[int, tuple[float, Exception | None]] = attrs.field(factory=dict)
    fail_next_create: Exception | None = None

    async def aclose(self) -> None:
        """Nothing is open."""

    # -- time ----------------------------------------------------------------------------------

    @property
    def world(self) -> World:
        return self.account.world

    @property
    def offset_s(self) -> float | None:
        return self._offset_s

    def now_s(self) -> float:
        return self.world.now_s + self.world.home_error_s + (self._offset_s or 0.0)

    def _acted(self) -> None:
        self._offset_s = -self.world.home_error_s

    # -- helpers -------------------------------------------------------------------------------

    def _ask(self, name: str) -> None:
        self.calls.append(name)
        self.before(name)

    def _answer(self, name: str) -> None:
        self.after(name)

    def _check_labels(self, labels: Mapping[str, str]) -> None:
        for key, value in labels.items():
            if not _LABEL_KEY.fullmatch(key) or (value and not _LABEL_KEY.fullmatch(value)):
                raise CloudProblem(f"invalid_input: label {key}={value}", what="labels")
        assert all(type(value) is str for value in labels.values())

    def _check_name(self, kind: Kind, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise CloudProblem(f"invalid_input: name {name}", what=kind.value)
        if any(one.name == name for one in self.account.held[kind].values()):
            raise NameTaken(name, what=kind.value)

    def _all(self, kind: Kind) -> list[Resource]:
        account = self.account
        if kind is Kind.SERVER:
            return [account.server(server_id) for server_id in account.held[kind]]
        if kind is Kind.FIREWALL:
            return [self._firewall(firewall_id) for firewall_id in account.held[kind]]
        if kind is Kind.IMAGE:
            return [*map(self._image, account.held[kind].values()), *account.images]
        return list(account.held[kind].values())

    def _get(self, kind: Kind, resource_id: int) -> Any:
        for one in self._all(kind):
            if one.id == resource_id:
                return one
        raise NotFound(what=f"{kind.value} {resource_id}")

    def _image(self, image: Image) -> Image:
        if image.created_s + self.account.snapshot_s > self.world.now_s:
            return image
        return attrs.evolve(image, state=ImageState.AVAILABLE, size_gb=Decimal("2.5"))

    def _firewall(self, firewall_id: int) -> Firewall:
        found: Firewall | None = self.account.held[Kind.FIREWALL].get(firewall_id)
        if found is None:
            raise NotFound(what=f"firewall {firewall_id}")
        users = tuple(
            server.id
            for server in self.account.held[Kind.SERVER].values()
            if firewall_id in server.firewall_ids
        )
        return attrs.evolve(found, server_ids=users)

    # -- reading -------------------------------------------------------------------------------

    async def inventory(self, selector: str) -> Inventory:
        self._ask("inventory")
        found = {kind: tuple(self._matching(kind, selector)) for kind in Kind}
        self._answer("inventory")
        return Inventory(
            servers=found[Kind.SERVER],  # type: ignore[arg-type]
            volumes=found[Kind.VOLUME],  # type: ignore[arg-type]
            images=found[Kind.IMAGE],  # type: ignore[arg-type]
            ssh_keys=found[Kind.SSH_KEY],  # type: ignore[arg-type]
            firewalls=found[Kind.FIREWALL],  # type: ignore[arg-type]
            primary_ips=found[Kind.PRIMARY_IP],  # type: ignore[arg-type]
            read_s=self.now_s(),
        )

    def _matching(self, kind: Kind, selector: str) -> list[Resource]:
        return [one for one in self._all(kind) if matches(selector, one.labels)]

    async def find(self, kind: Kind, selector: str) -> tuple[Resource, ...]:
        name = f"find {kind.value}"
        self._ask(name)
        found = tuple(self._matching(kind, selector))
        self._answer(name)
        return found

    async def _read(self, kind: Kind, resource_id: int) -> Any:
        name = f"get {kind.value}"
        self._ask(name)
        found = self._get(kind, resource_id)
        self._answer(name)
        return found

    async def server(self, server_id: int) -> Server:
        found: Server = await self._read(Kind.SERVER, server_id)
        return found

    async def volume(self, volume_id: int) -> Volume:
        found: Volume = await self._read(Kind.VOLUME, volume_id)
        return found

    async def image(self, image_id: int) -> Image:
        found: Image = await self._read(Kind.IMAGE, image_id)
        return found

    async def firewall(self, firewall_id: int) -> Firewall:
        found: Firewall = await self._read(Kind.FIREWALL, firewall_id)
        return found

    async def system_image(self, name: str, architecture: str) -> Image:
        self._ask("system_image")
        for image in self.account.images:
            if image.system and image.name == name and image.architecture == architecture:
                return image
        raise NotFound(what=f"image {name}")

    async def ssh_key_by_fingerprint(self, fingerprint: str) -> SshKey | None:
        self._ask("ssh_key_by_fingerprint")
        for key in self.account.held[Kind.SSH_KEY].values():
            if key.fingerprint == fingerprint:
                found: SshKey = key
                return found
        return None

    async def server_types(self) -> tuple[ServerType, ...]:
        self._ask("server_types")
        return TYPES

    async def prices(self) -> Prices:
        self._ask("prices")
        return Prices(
            currency="EUR",
            vat_percent=Decimal(19),
            volume_gb_month=price("0.0572"),
            image_gb_month=price("0.0143"),
            ipv4_hourly={place: price("0.0008") for place in LOCATIONS},
            ipv4_monthly={place: price("0.50") for place in LOCATIONS},
        )

    async def action(self, action_id: int) -> Action:
        ends_s, error = self.pending[action_id]
        state = ActionState.ERROR if error else ActionState.SUCCESS
        return Action(action_id, "", ActionState.RUNNING if ends_s > self.world.now_s else state)

    async def wait(self, actions: Sequence[int], deadline_s: float) -> None:
        self._ask("wait")
        for number in actions:
            ends_s, error = self.pending[number]
            self.world.pass_time(max(0.0, ends_s - self.world.now_s))
            if error is not None:
                raise error
        self._answer("wait")

    # -- creating ------------------------------------------------------------------------------

    async def create_server(self, spec: ServerSpec) -> Created[Server]:
        self._ask("create server")
        account = self.account
        self._check_labels(spec.labels)
        self._check_name(Kind.SERVER, spec.name)
        assert len(spec.user_data) <= 32768
        server_type = next((one for one in TYPES if one.name == spec.type), None)
        if server_type is None or server_type.offer(spec.location) is None:
            raise CloudProblem("invalid_input", what="server")
        for key_id in spec.ssh_key_ids:
            self._get(Kind.SSH_KEY, key_id)
        for firewall_id in spec.firewall_ids:
            self._get(Kind.FIREWALL, firewall_id)
        self._get(Kind.IMAGE, spec.image_id)
        used = sum(
            next(t.cores for t in TYPES if t.name == one.type)
            for one in account.held[Kind.SERVER].values()
        )
        if used + server_type.cores > account.core_limit:
            raise QuotaExceeded("dedicated cores", what="a server")
        if (spec.type, spec.location) in account.no_capacity:
            raise NoCapacity("resource_unavailable", what=f"{spec.type} in {spec.location}")
        server_id, address_id = account.new_id(), account.new_id()
        now_s = float(int(self.world.now_s))
        account.held[Kind.PRIMARY_IP][address_id] = PrimaryIp(
            address_id,
            f"primary_ip-{address_id}",
            {},
            now_s,
            f"192.0.2.{server_id % 250}",
            4,
            spec.location,
            server_id,
            True,
        )
        account.held[Kind.SERVER][server_id] = Server(
            server_id,
            spec.name,
            dict(spec.labels),
            now_s,
            ServerState.INITIALIZING,
            spec.type,
            spec.location,
            f"192.0.2.{server_id % 250}",
            address_id,
            None,
            None,
            (),
            spec.firewall_ids,
            spec.image_id,
        )
        offer = server_type.offer(spec.location)
        assert offer is not None
        owner = owner_of(spec.labels)
        account.bought += [
            Bought(Kind.SERVER, server_id, owner, now_s, offer.hourly.net_eur,
                   offer.monthly.net_eur),
            Bought(Kind.PRIMARY_IP, address_id, owner, now_s, Decimal("0.0008"), Decimal("0.50")),
        ]  # fmt: skip
        account.boxes[server_id] = Box(account, server_id, spec.user_data)
        if spec.image_id in account.baked:
            image = self._get(Kind.IMAGE, spec.image_id)
            assert image.state is ImageState.AVAILABLE
            assert server_type.disk_gb >= image.disk_gb
            account.boxes[server_id].disk = attrs.evolve(account.baked[spec.image_id])
        account.changed[server_id] = (ServerState.RUNNING, self.world.now_s + account.boot_s)
        account.boxes[server_id].power_on(self.world.now_s + account.boot_s)
        account.count()
        self._acted()
        action = account.new_id()
        error, self.fail_next_create = self.fail_next_create, None
        self.pending[action] = (self.world.now_s + account.boot_s, error)
        self._answer("create server")
        return Created(account.server(server_id), (action,))

    async def create_volume(self, spec: VolumeSpec) -> Created[Volume]:
        self._ask("create volume")
        self._check_labels(spec.labels)
        self._check_name(Kind.VOLUME, spec.name)
        if not 10 <= spec.size_gb <= 10240:
            raise CloudProblem("invalid_input: size", what="volume")
        volume_id = self.account.new_id()
        volume = Volume(
            volume_id,
            spec.name,
            dict(spec.labels),
            float(int(self.world.now_s)),
            spec.size_gb,
            spec.location,
            None,
            f"/dev/disk/by-id/scsi-0HC_Volume_{volume_id}",
        )
        self.account.held[Kind.VOLUME][volume_id] = volume
        self.account.bought.append(
            Bought(
                Kind.VOLUME,
                volume_id,
                owner_of(spec.labels),
                volume.created_s,
                eur_per_gb_month=Decimal("0.0572"),
                sizes=[(volume.created_s, Decimal(spec.size_gb))],
            )
        )
        self._acted()
        self._answer("create volume")
        return Created(volume, ())

    async def create_image(
        self, server_id: int, description: str, labels: Mapping[str, str]
    ) -> Created[Image]:
        self._ask("create image")
        self._check_labels(labels)
        account, now_s = self.account, self.world.now_s
        server = account.server(server_id)
        if any(one.id // 1000 == server_id for one in self._making()):
            raise Busy("locked", what=server.name)
        box = account.boxes[server_id]
        assert server.state is ServerState.OFF, "a snapshot of a running server"
        assert not box.disk.identity, "a snapshot with an identity"
        account.made_images += 1
        image = Image(
            server_id * 1000 + account.made_images, "", dict(labels), now_s, ImageState.CREATING,
            False, "x86", 40,
        )  # fmt: skip
        account.held[Kind.IMAGE][image.id] = image
        account.baked[image.id] = attrs.evolve(box.disk)
        account.bought.append(
            Bought(
                Kind.IMAGE,
                image.id,
                owner_of(labels),
                now_s,
                eur_per_gb_month=Decimal("0.0143"),
                sizes=[(now_s, Decimal("2.5"))],
            )
        )
        self._acted()
        action = account.new_id()
        self.pending[action] = (now_s + account.snapshot_s, None)
        self._answer("create image")
        return Created(image, (action,))

    def _making(self) -> list[Image]:
        return [
            image
            for image in map(self._image, self.account.held[Kind.IMAGE].values())
            if image.state is ImageState.CREATING
        ]

    async def create_ssh_key(self, name: str, public_key: str, labels: Mapping[str, str]) -> SshKey:
        from burst_lifecycle.access import client_key

        self._ask("create ssh_key")
        self._check_labels(labels)
        self._check_name(Kind.SSH_KEY, name)
        fingerprint = client_key(None, public_key).fingerprint  # type: ignore[arg-type]
        if any(one.fingerprint == fingerprint for one in self.account.held[Kind.SSH_KEY].values()):
            raise NameTaken("fingerprint", what="ssh key")
        key = SshKey(
            self.account.new_id(),
            name,
            dict(labels),
            float(int(self.world.now_s)),
            fingerprint,
            public_key,
        )
        self.account.held[Kind.SSH_KEY][key.id] = key
        self._answer("create ssh_key")
        return key

    async def create_firewall(
        self, name: str, rules: Sequence[FirewallRule], labels: Mapping[str, str]
    ) -> Firewall:
        self._ask("create firewall")
        self._check_labels(labels)
        self._check_name(Kind.FIREWALL, name)
        self._check_rules(rules)
        wall = Firewall(
            self.account.new_id(), name, dict(labels), float(int(self.world.now_s)), tuple(rules)
        )
        self.account.held[Kind.FIREWALL][wall.id] = wall
        self._answer("create firewall")
        return wall

    def _check_rules(self, rules: Sequence[FirewallRule]) -> None:
        assert len(rules) <= 50
        for rule in rules:
            assert rule.sources
            assert len(rule.description) <= 255

    # -- changing ------------------------------------------------------------------------------

    def _replace(self, kind: Kind, resource_id: int, **changes: Any) -> None:
        held = self.account.held[kind]
        if resource_id not in held:
            raise NotFound(what=f"{kind.value} {resource_id}")
        held[resource_id] = attrs.evolve(held[resource_id], **changes)

    async def set_labels(self, kind: Kind, resource_id: int, labels: Mapping[str, str]) -> None:
        name = f"label {kind.value}"
        self._ask(name)
        self._check_labels(labels)
        self._replace(kind, resource_id, labels=dict(labels))
        self._answer(name)

    async def set_rules(self, firewall_id: int, rules: Sequence[FirewallRule]) -> None:
        self._ask("set_rules")
        self._check_rules(rules)
        self._replace(Kind.FIREWALL, firewall_id, rules=tuple(rules))
        self._acted()
        self._answer("set_rules")

    async def apply_firewall(self, firewall_id: int, server_id: int) -> None:
        raise NotImplementedError

    async def attach(self, volume_id: int, server_id: int) -> None:
        self._ask("attach")
        volume: Volume = self._get(Kind.VOLUME, volume_id)
        server = self.account.server(server_id)
        if volume.server_id is not None:
            raise Busy("volume_already_attached", what=volume.name)
        if volume.location != server.location:
            raise CloudProblem("invalid_input: location", what=volume.name)
        if len(server.volume_ids) >= 16:
            raise CloudProblem("limit_exceeded_error", what=volume.name)
        self._replace(Kind.VOLUME, volume_id, server_id=server_id)
        self._acted()
        self._answer("attach")

    async def detach(self, volume_id: int) -> None:
        self._ask("detach")
        volume: Volume = self._get(Kind.VOLUME, volume_id)
        box = self.account.boxes.get(volume.server_id or 0)
        if box is not None:
            box.pull(volume_id)
        self._replace(Kind.VOLUME, volume_id, server_id=None)
        self._acted()
        self._answer("detach")

    async def resize_volume(self, volume_id: int, size_gb: int) -> None:
        self._ask("resize_volume")
        if size_gb > self.account.most_gb:
            raise QuotaExceeded("resource_limit_exceeded", what=f"volume {volume_id}")
        assert size_gb > self.account.held[Kind.VOLUME][volume_id].size_gb
        self._replace(Kind.VOLUME, volume_id, size_gb=size_gb)
        for one in self.account.bought:
            if (one.kind, one.id) == (Kind.VOLUME, volume_id):
                one.sizes.append((self.world.now_s, Decimal(size_gb)))
        self._acted()
        self._answer("resize_volume")

    async def protect(self, kind: Kind, resource_id: int, *, delete: bool) -> None:
        name = f"protect {kind.value}" if delete else f"unprotect {kind.value}"
        self._ask(name)
        self._replace(kind, resource_id, delete_protected=delete)
        self._acted()
        self._answer(name)

    async def power_on(self, server_id: int) -> None:
        self._ask("power_on")
        self.account.server(server_id)
        self.account.change(server_id, ServerState.RUNNING)
        self.account.boxes[server_id].power_on(self.world.now_s)
        self._acted()
        self._answer("power_on")

    async def power_off(self, server_id: int) -> None:
        self._ask("power_off")
        self.account.server(server_id)
        self.account.change(server_id, ServerState.OFF)
        self.account.boxes[server_id].power_off()
        self._acted()
        self._answer("power_off")

    async def shutdown(self, server_id: int) -> None:
        self._ask("shutdown")
        self.account.server(server_id)
        box = self.account.boxes[server_id]
        if box.hears_acpi:
            box.shut_down()
            self.account.change(server_id, ServerState.OFF, 4.0)
        self._acted()
        self._answer("shutdown")

    async def delete(self, kind: Kind, resource_id: int) -> None:
        name = f"delete {kind.value}"
        self._ask(name)
        account = self.account
        if resource_id in account.held[kind]:
            found = self._get(kind, resource_id)
            if getattr(found, "delete_protected", False):
                raise Busy("protected", what=found.name)
            if isinstance(found, Volume) and found.server_id is not None:
                raise Busy("still attached", what=found.name)
            if isinstance(found, Firewall) and found.server_ids:
                raise Busy("resource_in_use", what=found.name)
            if isinstance(found, PrimaryIp) and found.assignee_id is not None:
                raise Busy("must_be_unassigned", what=found.name)
            if isinstance(found, Server):
                account.boxes[resource_id].power_off()
                for volume_id in found.volume_ids:
                    self._replace(Kind.VOLUME, volume_id, server_id=None)
                account.held[Kind.PRIMARY_IP].pop(found.ipv4_id or 0, None)
                account.ends(Kind.PRIMARY_IP, found.ipv4_id or 0)
                self._acted()
            account.ends(kind, resource_id)
            del account.held[kind][resource_id]
            account.deleted.append((kind, resource_id, found.labels))
        self._answer(name)


def matches(selector: str, labels: Mapping[str, str]) -> bool:
    """The part of the grammar that we use."""
    for part in selector.split(",") if selector else ():
        key, equals, value = part.partition("=")
        if key.startswith("!"):
            if key[1:] in labels:
                return False
        elif key not in labels or (equals and labels[key] != value):
            return False
    return True


def failed(detail: str = "boom") -> ActionFailed:
    return ActionFailed(detail, what="create_server")
