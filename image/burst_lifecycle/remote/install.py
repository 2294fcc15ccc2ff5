"""Home's agent on a server of our own: brought if it is another one, started as a service.

A baked image has an agent; a client of another version brings its own, so an upgrade needs no bake.
Versions lie in /opt/burst/agent/<identity>; `current` is the one that the plain service runs. Once
one is current it stays: others run beside it as `burst-agent@<identity>`, so nobody's work is cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import attrs

from burst_lifecycle.context import Answer, Login
from burst_lifecycle.errors import ServerProblem
from burst_lifecycle.remote import bootstrap
from burst_lifecycle.remote.pinned import PinnedSsh

if TYPE_CHECKING:
    from burst_lifecycle.remote.remote_bundle import Bundle

ROOT: Final = "/opt/burst/agent"
_RUN: Final = "/run/burst"
_SETTLE_S: Final = 120.0
_START_S: Final = 60.0
_BRING_S: Final = 60.0


@attrs.frozen(eq=False)
class ServiceInstaller:
    """Implements `context.AgentInstaller`."""

    ssh: PinnedSsh
    bundle: Callable[[], Awaitable[Bundle]]

    async def ensure(self, login: Login) -> str:
        """Installed, started and answering; its identity. ServerProblem, or what ssh raises."""
        await self.serve(login)
        return (await self.bundle()).identity

    async def serve(self, login: Login) -> str:
        """As `ensure`; the socket on which it answers there. `login` is root's."""
        identity = (await self.bundle()).identity
        await self._wait_for_setup(login)
        current = await self._run(login, "readlink", f"{ROOT}/current")
        if current.stdout.strip().decode("ascii", "replace") != identity:
            await self._bring(login)
            # The first one becomes current; -n and no -f: whoever was first stays.
            await self._run(login, "ln", "-sn", identity, f"{ROOT}/current")
            current = await self._run(login, "readlink", f"{ROOT}/current")
        name = current.stdout.strip().decode("ascii", "replace")
        unit = "burst-agent" if name == identity else f"burst-agent@{identity}"
        await self._must(login, "systemctl", "start", f"{unit}.service", timeout_s=_START_S)
        await self._must(login, "/usr/local/bin/burst-agent", "lease", "status")
        return f"{_RUN}/agent.sock" if name == identity else f"{_RUN}/agent-{identity}.sock"

    async def _wait_for_setup(self, login: Login) -> None:
        """sshd answers before cloud-init has ended; what it sets up is idempotent and has a lock of
        cloud-init's own, so it is waited for, not repeated."""
        answer = await self._run(login, "cloud-init", "status", "--wait", timeout_s=_SETTLE_S)
        if answer.status == 0:
            return
        # `error` or `degraded` says nothing about our part (it is so in containers): ask for it.
        await self._must(login, "test", "-x", "/usr/local/bin/burst-agent")

    async def _bring(self, login: Login) -> None:
        connection = await self.ssh.connection(login)
        channel, _ = await bootstrap.start_agent_with_facts(
            connection,
            self.bundle,
            agent_args=("lease", "--help"),
            answer_timeout_s=_BRING_S,
            root=ROOT,
        )
        with contextlib.suppress(Exception):
            while await channel.read(65536):
                pass
        channel.close()
        identity = (await self.bundle()).identity
        await self._must(login, "chmod", "755", f"{ROOT}/{identity}")

    async def _run(self, login: Login, *argv: str, timeout_s: float = 30.0) -> Answer:
        return await self.ssh.run(login, argv, timeout_s=timeout_s)

    async def _must(self, login: Login, *argv: str, timeout_s: float = 30.0) -> Answer:
        answer = await self._run(login, *argv, timeout_s=timeout_s)
        if answer.status != 0:
            said = answer.stderr.decode("utf-8", "replace").strip()[-200:]
            raise ServerProblem(f"`{argv[0]}` ended with {answer.status}: {said}", what=login.host)
        return answer
