"""The recipe, run on a bake's server: sent, followed, its marker read; then identity taken away."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Final

import attrs

from burst_lifecycle import images, removal
from burst_lifecycle.baking.job import Job, last_line
from burst_lifecycle.baking.servers import RECIPE_S, BakeServers
from burst_lifecycle.cloud.model import Server
from burst_lifecycle.context import Login
from burst_lifecycle.errors import DeadlinePassed, ServerProblem
from burst_lifecycle.host import Host
from burst_lifecycle.recipe import WORK, Mirror
from burst_protocol.errors import (
    AuthenticationFailed,
    HostKeyProblem,
    LinkLost,
    Unreachable,
)

MARKER: Final = "/etc/burst/image.json"
_CLEAN_S: Final = 300.0
_SETTLE_S: Final = 300.0
_SEND_S: Final = 1800.0

# Arguments: the folder, and for the last one the recipe's hash and where the mirror is.
_UNPACK: Final = 'rm -rf "$1/recipe" && mkdir -p "$1" && tar -xf - -C "$1"'
_UNPACK_MIRROR: Final = (
    'rm -rf "$1/mirror" "$1/done/10-mirror" && mkdir -p "$1/mirror" && '
    # Over a slow line it takes longer than the dead man waits for a first client.
    '{ sh "$1/recipe/beat.sh" $$ </dev/null >/dev/null 2>&1 & } && '
    'tar --no-same-owner -xf - -C "$1/mirror" 2>&1'
)
_RUN: Final = 'exec sh "$1/recipe/run.sh" "$2" "$3" 2>&1'


@attrs.frozen(eq=False)
class Kitchen:
    """Where the recipe of one bake is run."""

    job: Job
    servers: BakeServers

    async def install_or_end(self, server: Server) -> None:
        """What the recipe is to blame for ends the server, and is raised."""
        try:
            await self._install(server)
        except (Unreachable, LinkLost) as error:
            self.job.again("install", error)
        except (ServerProblem, DeadlinePassed, HostKeyProblem):
            if self.job.wish.keep_server:
                self.job.tell(f"server {server.name} stays until its time is over; root may log in")
            else:
                await removal.abandon(self.job.context, self.job.guard, server)
            raise

    async def _install(self, server: Server) -> None:
        context = self.job.context
        host = await self.servers.reach(server)
        # What user data sets up comes a moment after sshd. Its status says nothing about our part.
        await context.ssh.run(host.login, ["cloud-init", "status", "--wait"], timeout_s=_SETTLE_S)
        with context.effect("bring the agent"):
            await context.agent.ensure(host.login)
        await self.servers.record_boot(server, images.STOCK)
        with context.effect("send the recipe"):
            answer = await context.ssh.run(
                host.login,
                ["sh", "-c", _UNPACK, "burst", WORK],
                stdin=self.job.recipe.archive(),
                timeout_s=_SETTLE_S,
            )
        if answer.status != 0:
            raise ServerProblem(f"takes no files: {last_line(answer.stderr)}", what=server.name)
        mirror = self.job.wish.mirror
        if mirror is not None and mirror.folder is not None:
            self.job.tell(f"sending {mirror.folder}")
            with context.effect("send the mirror"):
                await self._follow(host.login, ["sh", "-c", _UNPACK_MIRROR, "burst", WORK], mirror)
        self.job.tell(f"recipe {self.job.recipe.fingerprint}")
        word = "" if mirror is None else mirror.word
        with context.effect("run the recipe"):
            await self._follow(
                host.login,
                ["sh", "-c", _RUN, "burst", WORK, self.job.recipe.fingerprint, word],
            )
        await require_marker(self.job, host, server)
        await self.servers.label(server, images.BAKED)

    async def _follow(self, login: Login, argv: list[str], mirror: Mirror | None = None) -> None:
        answer = await self.job.context.ssh.follow(
            login,
            argv,
            stdin=_nothing() if mirror is None else mirror.stream(),
            show=self.job.log,
            timeout_s=RECIPE_S if mirror is None else _SEND_S,
        )
        if answer.status != 0:
            raise ServerProblem(f"the recipe failed: {last_line(answer.stdout)}", what=login.host)

    async def clean(self, server: Server) -> None:
        """What was stopped in the middle of it cannot be entered again: then all begins anew."""
        context = self.job.context
        self.job.tell("taking its identity away")
        try:
            host = await removal.reach(context, server)
            with context.effect("clean"):
                answer = await context.ssh.run(
                    host.login,
                    ["sh", "-s"],
                    stdin=self.job.recipe.files["clean.sh"],
                    timeout_s=_CLEAN_S,
                )
        except (
            AuthenticationFailed,
            HostKeyProblem,
            LinkLost,
            Unreachable,
            DeadlinePassed,
        ) as error:
            await removal.abandon(context, self.job.guard, server)
            self.job.again("clean", error)
            return
        await context.ssh.forget(host.login)
        if answer.status != 0 or not answer.stdout.rstrip().endswith(b"burst-clean ok"):
            await removal.abandon(context, self.job.guard, server)
            said = last_line(answer.stdout + answer.stderr)
            raise ServerProblem(f"is not clean: {said}", what=server.name)
        await self.servers.label(server, images.CLEAN)


async def require_marker(job: Job, host: Host, server: Server) -> None:
    """ServerProblem if the recipe has not come to its end there, or another one has."""
    answer = await job.context.ssh.run(host.login, ["cat", MARKER])
    try:
        found = json.loads(answer.stdout)["recipe"]
    except (ValueError, KeyError, TypeError):
        found = ""
    if found != job.recipe.fingerprint:
        raise ServerProblem(
            f"its marker is {found or 'missing'}, not {job.recipe.fingerprint}",
            what=server.name,
        )


async def _nothing() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for piece in nothing:
        yield piece
