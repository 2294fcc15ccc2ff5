"""`cargo burst doctor`: check what burst needs on this machine, and say how to get what lacks."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from burst_protocol.errors import BurstError, ConfigError
from burst_wrapper import paths
from burst_wrapper.config import Config, config_path, load, load_for
from burst_wrapper.daemon.agent_process import Place
from burst_wrapper.daemon.embedded import Embedded
from burst_wrapper.daemon.tools import Tools
from burst_wrapper.linkenv import LinkRequest
from burst_wrapper.platform_capture import PlatformCapture
from burst_wrapper.toolchain import Toolchain, resolve

_SANDBOX_HINT: Final = (
    "allow user namespaces (sysctl kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu) "
    "or install bubblewrap"
)

_XDG_HINT: Final = "XDG_CACHE_HOME and XDG_STATE_HOME"


@attrs.frozen
class Check:
    """One thing looked at; `hint` says what to do when it is not `ok`."""

    what: str
    ok: bool
    result: str
    hint: str = ""


def run(args: Sequence[str]) -> int:
    """0 if everything works, 1 if something lacks."""
    parser = argparse.ArgumentParser(
        prog="cargo burst doctor",
        description="Check what burst needs on this machine, and say how to get what lacks.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args(list(args))
    # What goes to the daemon's log in a build is said by the checks here.
    logging.getLogger("burst").addHandler(logging.NullHandler())
    checks = list(_checks())
    if options.json:
        print(json.dumps({"schema": 1, "checks": [attrs.asdict(check) for check in checks]}))
    else:
        for check in checks:
            print(f"{'ok  ' if check.ok else 'FAIL'} {check.what}: {check.result}")
            if not check.ok and check.hint:
                print(f"     hint: {check.hint}")
    return 0 if all(check.ok for check in checks) else 1


def _checks() -> Iterator[Check]:
    environ = dict(os.environb)
    config = Config()
    try:
        config = _config(environ)
        yield Check("configuration", ok=True, result=os.fsdecode(config_path(environ)))
    except ConfigError as error:
        yield Check("configuration", ok=False, result=str(error), hint=error.hint)
    try:
        toolchain = resolve(b"rustc", os.getcwdb(), environ)
        version = toolchain.version.split(b"\n", 1)[0].decode(errors="replace")
        yield Check("toolchain", ok=True, result=version)
        yield _links(toolchain, environ)
    except BurstError as error:
        yield Check("toolchain", ok=False, result=str(error), hint=error.hint)
    yield _wrapper()
    yield _folders(environ)
    yield _socket(environ)
    host = os.environ.get("BURST_HOST") or config.host
    elsewhere = bool(host) or config.hetzner is not None
    services = None if elsewhere else config.services
    yield from asyncio.run(_agent(paths.cache_dir(environ), services))
    if host:
        yield asyncio.run(_host(host, config))
    else:
        where = "on this machine" if config.hetzner is None else "on servers of your own"
        yield Check("host", ok=True, result=f"none configured: units run {where}")
    if config.hetzner is not None:
        yield from _servers()


def _servers() -> Iterator[Check]:
    """What `burst-admin doctor` looks at."""
    from burst_lifecycle.admin import doctor as servers  # noqa: PLC0415 - for who has servers
    from burst_lifecycle.admin.desk import Desk  # noqa: PLC0415 - likewise

    for check in asyncio.run(servers.look(Desk())):
        yield Check(f"servers: {check.what}", check.ok, check.result, check.hint)


def _wrapper() -> Check:
    wrapper = os.environ.get("RUSTC_WRAPPER", "")
    found = shutil.which("burst-rustc")
    if wrapper:
        return Check("wrapper", ok="burst-rustc" in wrapper, result=f"RUSTC_WRAPPER={wrapper}")
    return Check(
        "wrapper",
        ok=found is not None,
        result=found or "burst-rustc is not on PATH",
        hint="run `cargo burst enable`, or put the scripts of this environment on PATH",
    )


def _links(toolchain: Toolchain, environ: dict[bytes, bytes]) -> Check:
    """Try the link that every program needs, as the first build does."""
    capture = PlatformCapture(os.path.join(paths.cache_dir(environ), b"platform"))
    try:
        tools = capture.link(toolchain, LinkRequest(), os.getcwdb(), environ).tools
    except BurstError as error:
        return Check("linker", ok=False, result=str(error), hint=error.hint)
    return Check("linker", ok=True, result=os.fsdecode(tools.linker))


def _folders(environ: dict[bytes, bytes]) -> Check:
    """Without its folders burst compiles at home and remembers nothing, not even why."""
    for folder in (paths.cache_dir(environ), paths.state_dir(environ)):
        name = os.fsdecode(folder)
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(1 << 20))
        except OSError as error:
            hint = f"give that folder to this user and make room there, or set {_XDG_HINT}"
            return Check("folders", ok=False, result=f"{name}: {error.strerror}", hint=hint)
    return Check("folders", ok=True, result=os.fsdecode(paths.cache_dir(environ)))


def _config(environ: dict[bytes, bytes]) -> Config:
    """With this project's own, in one. ConfigError."""
    from burst_lifecycle.admin.desk import Desk  # noqa: PLC0415 - loads all that admins need
    from burst_lifecycle.admin.here import workspace_here  # noqa: PLC0415 - likewise

    root = workspace_here(Desk())
    path = config_path(environ)
    return load(path) if root is None else load_for(path, os.fsencode(root), environ)


def _socket(environ: dict[bytes, bytes]) -> Check:
    """Without it there is no daemon, and burst does nothing."""
    try:
        paths.check_private(paths.runtime_dir(environ))
    except Exception as error:  # the wrapper's own kind, which nobody else knows
        hint = "name a folder of this user that can be written to, or unset XDG_RUNTIME_DIR"
        return Check("socket", ok=False, result=str(error), hint=hint)
    return Check("socket", ok=True, result=os.fsdecode(paths.socket_path(environ)))


async def _agent(cache_dir: bytes, services: tuple[str, ...] | None) -> Sequence[Check]:
    """Start an embedded agent on an empty store and hear how it runs things. `services` are
    started, too; None if programs run elsewhere."""
    tools = Tools(cache_dir)
    built = await tools.get()
    checks = [
        Check(
            "compiler",
            ok=built.observer is not None,
            result=built.reason or "our native parts are built",
            hint="install a C compiler (cc); Rust needs one for linking anyway",
        )
    ]
    with tempfile.TemporaryDirectory(prefix="burst-doctor-") as folder:
        root = os.fsencode(folder)
        embedded = Embedded(Place.of(root, root), tools)
        try:
            link = (await embedded.get()).link
            ready = link.ready
            assert ready is not None
            isolated = ready.launcher not in ("", "none")
            checks.append(
                Check(
                    "sandbox",
                    ok=isolated,
                    result=f"{ready.launcher or 'none'} {ready.reason}".strip(),
                    hint=_SANDBOX_HINT,
                )
            )
            checks.append(
                Check(
                    "observer",
                    ok=ready.observer,
                    result="loaded" if ready.observer else "cannot be loaded",
                    hint="units whose macros are not known to read nothing run uncached",
                )
            )
            if services is not None:
                from burst_wrapper.cli import doctor_programs  # noqa: PLC0415 - they know Check

                checks.extend(await doctor_programs.look(link, services))
        except BurstError as error:
            checks.append(Check("agent", ok=False, result=str(error), hint=error.hint))
        finally:
            await embedded.close()
    return checks


async def _host(host: str, config: Config) -> Check:
    """Log in as a build would; nothing is installed."""
    # 0.2 s only with a host.
    from burst_lifecycle.remote.ssh.login import connect  # noqa: PLC0415
    from burst_lifecycle.remote.ssh.target import SshTarget  # noqa: PLC0415

    try:
        connection = await connect(
            SshTarget.parse(host),
            connect_timeout_s=config.connect_timeout_s,
            silence_s=config.silence_s,
        )
    except BurstError as error:
        return Check("host", ok=False, result=str(error), hint=error.hint)
    connection.close()
    await connection.wait_closed()
    return Check("host", ok=True, result=f"{host} lets us in")
