"""Everything the cloud holds, of all projects, and the rules that more than one endpoint needs."""

from __future__ import annotations

import random
import secrets
import string
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import attrs

from . import catalogue, errors
from .actions import Action, Engine
from .billing import Bill, make_bill
from .clock import Clock
from .labels import Selector
from .machines import Backend, PaperBackend, Quirk
from .model import Firewall, Image, PrimaryIp, Resource, Server, SshKey, Usage, Volume

Json = dict[str, Any]
R = TypeVar("R", bound=Resource)
TOKEN_LENGTH: Final = 64


@attrs.define
class Timings:
    """Seconds of API time each action takes. The defaults are for quick tests."""

    create_server: float = 0.15
    start_server: float = 0.05
    stop_server: float = 0.05
    shutdown_server: float = 0.02
    reboot_server: float = 0.05
    guest_shutdown: float = 0.1
    """From the signal to `off`, on paper."""
    delete_server: float = 0.05
    deleting_visible: float = 0.0
    """How long a deleted server still shows, as `deleting`."""
    create_image: float = 0.2
    create_volume: float = 0.05
    attach_volume: float = 0.05
    detach_volume: float = 0.05
    resize_volume: float = 0.05
    change_protection: float = 0.0
    firewall: float = 0.03
    assign_primary_ip: float = 0.05


REALISTIC: Final = Timings(
    create_server=8,
    start_server=3,
    stop_server=3,
    shutdown_server=1,
    reboot_server=1,
    guest_shutdown=5,
    delete_server=4,
    create_image=90,
    create_volume=3,
    attach_volume=3,
    detach_volume=3,
    resize_volume=3,
    change_protection=0.3,
    firewall=2,
    assign_primary_ip=2,
)
"""research/hetzner.md, "Time figures" (none measured by us): use with a scaled clock."""


@attrs.define
class Quota:
    """Of a project (Hetzner's are of an account). None: no limit."""

    servers: int | None = 100
    cores: int | None = None
    dedicated_cores: int | None = 200
    primary_ips: int | None = 200
    volumes: int | None = 100
    volume_gb: int | None = None
    snapshots: int | None = 50
    ssh_keys: int | None = 100
    firewalls: int | None = 50


@attrs.define
class Project:
    name: str
    quota: Quota
    bucket: float
    """Requests left in it."""
    filled: float
    """API time it was last looked at."""


@attrs.define
class Token:
    value: str
    project: str
    readonly: bool = False
    revoked: bool = False
    name: str = ""


class World:
    """State and rules. Every method is called under `lock`, unless it says otherwise."""

    def __init__(self, clock: Clock, seed: int) -> None:
        self.lock = threading.RLock()
        self.clock = clock
        self.random = random.Random(seed)
        self._ids = self.random.randrange(40_000_000, 60_000_000)
        self.engine = Engine(clock, self.lock, self.next_id)
        self.timings = Timings()
        self.backend: Backend = PaperBackend(self.engine.later, lambda: self.timings.guest_shutdown)
        self.resources: dict[str, dict[int, Any]] = {
            kind.plural: {} for kind in (Server, Volume, SshKey, Firewall, PrimaryIp, Image)
        }
        self.projects: dict[str, Project] = {}
        self.tokens: dict[str, Token] = {}
        self.usages: list[Usage] = []
        self.capacity: dict[tuple[str, str], int] = {}
        """(type, location) to how many more can be had; absent: no end."""
        self.unavailable: set[tuple[str, str]] = set()
        """(type, location) whose `available` says false. Only a hint, as there."""
        self.no_volume_space: set[str] = set()
        self.holds: dict[tuple[str, int], float] = {}
        """Locks without an action, until when."""
        self.sticky_volumes: int = 0
        """That many of the next deleted servers keep their volumes `attached`."""
        self.stuck: set[int] = set()
        """Volumes that still count as attached to a server that is gone."""
        self.quirks: list[set[Quirk]] = []
        """Of the next servers to be created, one entry each."""
        self.lists_lag_s = 0.0
        self.rate_limit = 3600
        for image in catalogue.SYSTEM_IMAGES:
            self._system_image(image)

    def next_id(self) -> int:
        """Ids are unique over all kinds: one taken for the other is not found."""
        self._ids += self.random.randrange(1, 9)
        return self._ids

    # projects and tokens

    def add_project(self, name: str, quota: Quota | None = None) -> Project:
        project = Project(name, quota or Quota(), float(self.rate_limit), self.clock.now())
        return self.projects.setdefault(name, project)

    def add_token(self, project: str, *, readonly: bool = False, name: str = "") -> Token:
        self.add_project(project)
        alphabet = string.ascii_letters + string.digits
        value = "".join(secrets.choice(alphabet) for _ in range(TOKEN_LENGTH))
        self.tokens[value] = Token(value, project, readonly, name=name or f"{project}-{value[:4]}")
        return self.tokens[value]

    def take_request(self, project: Project) -> tuple[bool, dict[str, str]]:
        """Whether it is within the rate limit, and the headers that tell: a bucket refilled at
        limit/3600 a second."""
        now, rate = self.clock.now(), self.rate_limit / 3600
        grown = project.bucket + max(0.0, now - project.filled) * rate
        project.bucket, project.filled = min(float(self.rate_limit), grown), now
        allowed = project.bucket >= 1
        if allowed:
            project.bucket -= 1
        reset = now + (self.rate_limit - project.bucket) / rate
        return allowed, {
            "RateLimit-Limit": str(self.rate_limit),
            "RateLimit-Remaining": str(int(project.bucket)),
            "RateLimit-Reset": str(int(reset)),
        }

    # looking things up

    def of(self, kind: type[R], project: str) -> list[R]:
        """All of the project, by id; of images also the system's."""
        found = self.resources[kind.plural].values()
        mine = [entry for entry in found if entry.project in {project, ""}]
        return sorted(mine, key=lambda entry: int(entry.id))

    def get(self, kind: type[R], project: str, ident: int) -> R:
        """ApiError `not_found`, also for another project's."""
        found = self.resources[kind.plural].get(ident)
        if found is None or found.project not in {project, ""}:
            raise errors.not_found(kind.kind, ident)
        return found  # type: ignore[no-any-return]

    def listed(self, kind: type[R], project: str, selector: Selector | None) -> list[R]:
        """As a list shows them: new ones and changed labels may come `lists_lag_s` late."""
        moment = self.clock.now() - self.lists_lag_s
        found = [entry for entry in self.of(kind, project) if entry.created <= moment]
        if selector is None:
            return found
        return [entry for entry in found if selector(entry.labels_as_of(moment))]

    def unique(self, kind: type[Resource], project: str, name: str, besides: int = 0) -> None:
        """ApiError `uniqueness_error` if another of that kind has the name."""
        for entry in self.of(kind, project):
            if entry.name == name and entry.id != besides and entry.project:
                raise errors.uniqueness("name", f"{kind.kind} name is already used")

    def check_unlocked(self, *resources: tuple[str, int]) -> None:
        for kind, ident in resources:
            if self.is_locked(kind, ident):
                raise errors.locked(kind, ident)

    def is_locked(self, kind: str, ident: int) -> bool:
        held = self.holds.get((kind, ident), 0.0) > self.clock.now()
        return held or self.engine.locked(kind, ident)

    # birth and death

    def add(self, resource: Resource) -> None:
        self.resources[resource.plural][resource.id] = resource

    def remove(self, resource: Resource) -> None:
        self.resources[resource.plural].pop(resource.id, None)

    def bill_from_birth(self, resource: Resource, detail: str, place: str, gb: float = 0.0) -> None:
        """In whole seconds, as the API shows times: whoever knows those comes to the same sum."""
        start = float(int(resource.created))
        usage = Usage(
            resource.kind, resource.id, resource.name, resource.project, detail, place, start
        )
        usage.sizes.append((start, gb))
        self.usages.append(usage)

    def bill_size(self, ident: int, gb: float) -> None:
        for usage in self.usages:
            if usage.id == ident:
                usage.sizes.append((float(int(self.clock.now())), gb))

    def bill_until_now(self, ident: int) -> None:
        for usage in self.usages:
            if usage.id == ident and usage.end is None:
                usage.end = float(int(self.clock.now()))

    def bill(self, project: str | None = None) -> Bill:
        """Until now, of everything that ever was."""
        mine = [usage for usage in self.usages if project in {None, usage.project}]
        return make_bill(mine, self.clock.now())

    def check_quota(self, project: str, wanted: Mapping[str, int]) -> None:
        """ApiError `resource_limit_exceeded` for the first limit that would be passed."""
        quota, used = self.projects[project].quota, self._used(project)
        for name, more in wanted.items():
            limit = getattr(quota, name)
            if more and limit is not None and used[name] + more > limit:
                singular = name if name == "volume_gb" else name.removesuffix("s")
                raise errors.limit_exceeded(f"{singular}_limit")

    def _used(self, project: str) -> Counter[str]:
        servers = self.of(Server, project)
        return Counter(
            servers=len(servers),
            cores=sum(server.type.cores for server in servers),
            dedicated_cores=sum(
                server.type.cores for server in servers if server.type.cpu_type == "dedicated"
            ),
            primary_ips=len(self.of(PrimaryIp, project)),
            volumes=len(self.of(Volume, project)),
            volume_gb=sum(volume.size for volume in self.of(Volume, project)),
            snapshots=len([image for image in self.of(Image, project) if image.project]),
            ssh_keys=len(self.of(SshKey, project)),
            firewalls=len(self.of(Firewall, project)),
        )

    # actions

    def act(
        self,
        resource: Resource,
        command: str,
        seconds: float,
        *,
        others: Iterable[tuple[str, int]] = (),
        finish: Callable[[], None] | None = None,
        undo: Callable[[], None] | None = None,
        work: Callable[[], None] | None = None,
        after: Action | None = None,
        locks: bool = True,
    ) -> Action:
        """An action on the resource (and others it names)."""
        resources = ((resource.kind, resource.id), *others)
        if isinstance(self.backend, PaperBackend) and work is not None:
            finish, work = _both(work, finish), None
        return self.engine.start(
            resource.project,
            command,
            resources,
            seconds,
            finish=finish,
            undo=undo,
            work=work,
            after=after,
            locks=locks,
        )

    # one more

    def free_address(self) -> str:
        """The first nobody has: addresses are recycled at once, as there."""
        taken = {entry.ip for entry in self.resources["primary_ips"].values()}
        return next(address for address in self.backend.addresses() if address not in taken)

    def _system_image(self, image: catalogue.SystemImage) -> None:
        self.add(
            Image(
                id=image.id,
                project="",
                name=image.name,
                labels={},
                created=1_700_000_000.0,
                type="system",
                status="available",
                description=image.description,
                image_size=None,
                disk_size=5,
                os_flavor=image.os_flavor,
                os_version=image.os_version,
                architecture=image.architecture,
            )
        )


def _both(first: Callable[[], None], second: Callable[[], None] | None) -> Callable[[], None]:
    """Paper machines do their work in no time, at the end of the action."""

    def run() -> None:
        first()
        if second is not None:
            second()

    return run
