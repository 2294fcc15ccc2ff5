"""The real collaborators, put together: for the daemon and for `burst-admin`.

Imports of libraries that take a while (hcloud 0.2 s, asyncssh 0.2 s) happen when somebody opens a
lifecycle, not before.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from burst_lifecycle import access, machine, recipe, userdata
from burst_lifecycle.books import Account
from burst_lifecycle.context import Context, Wishes
from burst_lifecycle.errors import NotConfigured
from burst_lifecycle.ledger import Ledger
from burst_lifecycle.notices import Notices
from burst_lifecycle.places import Places
from burst_lifecycle.project import Project
from burst_lifecycle.session import Lifecycle
from burst_lifecycle.settings import Hetzner, Settings
from burst_lifecycle.token import Token, obtain
from burst_lifecycle.xdg import cache_dir

if TYPE_CHECKING:
    from burst_lifecycle.cloud.model import Server

_LOCK_POLL_S: Final = 0.25
_NOTHING: Final = Decimal(0)
_ARCHITECTURES: Final = {"x86_64": "x86", "aarch64": "arm"}
_TEST_PORTS: Final = "BURST_TEST_SSH_PORTS"


class RealTime:
    """The machine's own."""

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)


@attrs.frozen
class Request:
    """For whom a lifecycle is opened."""

    settings: Settings
    places: Places
    environ: Mapping[str, str]
    daemon: bool
    """Then no token is taken from the environment, unless the configuration says so."""
    project: Project | None = None
    step: Callable[[str], None] | None = None
    """For tests that stop us between two effects."""

    @property
    def hetzner(self) -> Hetzner:
        """NotConfigured without the table."""
        if self.settings.hetzner is None:
            raise NotConfigured("there is no [hetzner] in the configuration")
        return self.settings.hetzner


@contextlib.asynccontextmanager
async def open_lifecycle(request: Request) -> AsyncIterator[Lifecycle]:
    """NotConfigured, TokenProblem, ConfigError (of the burst key), OSError."""
    hetzner, places = request.hetzner, request.places
    token = await _token(request)
    secret = await asyncio.to_thread(machine.machine_key, places.cloud)
    key_path = Path(os.path.expanduser(hetzner.ssh_key_path or places.ssh_key))  # noqa: ASYNC240
    key = await asyncio.to_thread(access.load_or_make, key_path, new_key)
    from burst_lifecycle.cloud.hetzner import HetznerCloud  # noqa: PLC0415 - 0.2 s
    from burst_lifecycle.remote.install import ServiceInstaller  # noqa: PLC0415
    from burst_lifecycle.remote.pinned import PinnedSsh  # noqa: PLC0415
    from burst_lifecycle.remote.remote_bundle import HomeBundle  # noqa: PLC0415

    notices = Notices(places.cloud, request.settings.notify)
    async with HetznerCloud(token) as cloud, contextlib.AsyncExitStack() as stack:
        ssh = PinnedSsh()
        stack.push_async_callback(ssh.close)
        context = Context(
            cloud=cloud,
            ssh=ssh,
            agent=ServiceInstaller(ssh, HomeBundle(_bundles(request.environ))),
            ledger=Ledger(places.cloud, machine.machine_id(secret)),
            notices=notices,
            time=RealTime(),
            wishes=wishes(hetzner, hetzner.owner or access.default_owner(key), request.project),
            key=key,
            server_files=userdata.server_files(),
            new_host_key=new_key,
            lock=lambda: boot_lock(places.cloud),
            bake_lock=lambda: boot_lock(places.cloud, "bake.lock"),
            account=Account(token.endpoint, token.fingerprint(secret)),
        )
        if hetzner.self_delete_token.configured:
            context = attrs.evolve(context, self_delete=lambda: _self_delete(request))
        if request.step is not None:
            context = attrs.evolve(context, step=request.step)
        if address := _test_address(request.environ):
            context = attrs.evolve(context, address=address)
        yield Lifecycle(context)


async def renew_token(lifecycle: Lifecycle, request: Request) -> bool:
    """After a token was refused: use the one that is there by now. False if it is the same one.

    TokenProblem. What runs and who is connected stays as it is.
    """
    from burst_lifecycle.cloud.hetzner import HetznerCloud  # noqa: PLC0415 - as above

    context = lifecycle.context
    token = await _token(request)
    secret = await asyncio.to_thread(machine.machine_key, request.places.cloud)
    account = Account(token.endpoint, token.fingerprint(secret))
    if account == context.account or not isinstance(context.cloud, HetznerCloud):
        return False
    context.cloud.use(token)
    lifecycle.context = attrs.evolve(context, account=account)
    return True


async def _token(request: Request) -> Token:
    hetzner = request.hetzner
    return await obtain(
        hetzner.token, endpoint=hetzner.endpoint, environ=request.environ, daemon=request.daemon
    )


async def _self_delete(request: Request) -> Token:
    """Asked for when a server is booted, no earlier."""
    hetzner = request.hetzner
    return await obtain(
        hetzner.self_delete_token,
        endpoint=hetzner.endpoint,
        environ=request.environ,
        daemon=request.daemon,
    )


def home_architecture() -> str:
    """This machine's, as the cloud calls it: programs that are built there must run here."""
    machine_name = os.uname().machine
    return _ARCHITECTURES.get(machine_name, machine_name)


def wishes(hetzner: Hetzner, owner: str, project: Project | None) -> Wishes:
    """The configuration in the lifecycle's terms."""
    return Wishes(
        owner=owner,
        server_types=hetzner.server_type,
        locations=hetzner.location,
        max_eur_per_hour=_NOTHING if hetzner.max_eur_per_hour is None else hetzner.max_eur_per_hour,
        project="" if project is None else project.key,
        recipe=recipe.packaged().fingerprint,
        architecture=home_architecture(),
        stock_image=hetzner.base_image,
        keep_alive_s=hetzner.keep_alive_s,
        at_once=hetzner.reap == "at-once",
        volume_keep_alive_s=hetzner.volume_keep_alive_s,
        volume_gb=hetzner.volume_gb,
        hard_end_s=hetzner.hard_end_s,
        boot_deadline_s=hetzner.boot_deadline_s,
        budget_eur_per_month=hetzner.budget_eur_per_month,
        new_volume_elsewhere=hetzner.on_location_full == "new-volume",
        orphan_s=hetzner.orphan_s,
    )


def new_key() -> tuple[str, str]:
    """A fresh ed25519 pair: private half in OpenSSH's format, public half in one line."""
    from burst_lifecycle.remote.ssh.pinned_login import new_key_pair  # noqa: PLC0415 - 0.2 s

    return new_key_pair()


@contextlib.asynccontextmanager
async def boot_lock(folder: str, name: str = "lock") -> AsyncIterator[None]:
    """One boot at a time on this machine; ends with its holder, however that ends."""
    await asyncio.to_thread(os.makedirs, folder, 0o700, exist_ok=True)
    handle = os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(handle)


def _bundles(environ: Mapping[str, str]) -> bytes:
    words = {os.fsencode(name): os.fsencode(value) for name, value in environ.items()}
    return os.path.join(cache_dir(words), b"bundle")


def _test_address(environ: Mapping[str, str]) -> Callable[[Server], tuple[str, int]] | None:
    """A local cloud without root has its sshds on ports of its own: `{address: {"port": …}}`."""
    path = environ.get(_TEST_PORTS)
    if not path:
        return None

    def address(server: Server) -> tuple[str, int]:
        with open(path) as file:
            ports = json.load(file)
        host = server.ipv4 or ""
        return host, int(ports.get(host, {}).get("port", 22))

    return address


Opener = Callable[[Request], AbstractAsyncContextManager[Lifecycle]]
