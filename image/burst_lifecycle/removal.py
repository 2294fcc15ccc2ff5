"""Taking a server away in good order: drain, unmount, sync, detach, delete.

Without ssh: shutdown, wait for `off`, power off, delete. Either can be interrupted anywhere: a
drained server says so when it is asked again, and what is off or past its time stays so.
"""

from __future__ import annotations

import contextlib
from typing import Final

from burst_lifecycle import access, labels, volumes
from burst_lifecycle.cloud.model import Kind, Server, ServerState
from burst_lifecycle.context import Context, Login
from burst_lifecycle.errors import Busy, CloudProblem, NotFound, ServerProblem
from burst_lifecycle.firewall import reopen
from burst_lifecycle.guard import Granted, Ground, Guard
from burst_lifecycle.host import Host, Refusal
from burst_lifecycle.labels import Claim
from burst_protocol.errors import BurstError, LinkLost, Unreachable

_OFF_WAIT_S: Final = 90.0
_POLL_S: Final = 2.0
_OPEN_WAIT_S: Final = 15.0
"""Until a changed rule is in force."""


async def reach(context: Context, server: Server) -> Host:
    """A host that answers. If it does not, and our address may have changed: open our rule, again.

    Raises what `Ssh.run` raises.
    """
    host = Host(context.ssh, access.login(context, server), server.id)
    try:
        login = await host.hello()
    except (Unreachable, LinkLost):
        if not await reopen(context, server):
            raise
        login = await _when_open(context, host)
    return Host(context.ssh, login, server.id)


async def _when_open(context: Context, host: Host) -> Login:
    give_up_s = context.time.monotonic() + _OPEN_WAIT_S
    while True:
        try:
            return await host.hello()
        except (Unreachable, LinkLost):
            if context.time.monotonic() >= give_up_s:
                raise
        await context.time.sleep(_POLL_S)


async def drained(
    context: Context, guard: Guard, server: Server, host: Host, granted: Granted
) -> None:
    """Case (a), after the grant."""
    if not await _unmount_all(context, server, host):
        # The agent refuses work, so nothing runs; its shutdown unmounts, then case (b) holds.
        await powered_off(context, guard, server, Ground.OFF, granted)
        return
    await _rest_volumes(context, server)
    await context.ssh.forget(host.login)
    await guard.delete_server(server.id, Ground.DRAINED, granted)


async def _unmount_all(context: Context, server: Server, host: Host) -> bool:
    """Whether nothing is mounted there any more."""
    try:
        for volume_id in {*await host.mounted(), *server.volume_ids}:
            with context.effect("unmount"):
                if not await host.unmount(volume_id):
                    return False
    except BurstError:
        return False
    return True


async def drain(
    context: Context, guard: Guard, server: Server, *, min_idle_s: float, reason: str
) -> Refusal | None:
    """Ask, and if it is granted delete it. The refusal otherwise. Errors of ssh are raised."""
    host = await reach(context, server)
    with context.effect("drain"):
        answer = await host.drain(min_idle_s, reason)
    if isinstance(answer, Refusal):
        return answer
    await drained(context, guard, server, host, answer)
    return None


async def powered_off(
    context: Context,
    guard: Guard,
    server: Server,
    ground: Ground,
    granted: Granted | None = None,
) -> None:
    """Cases (b), (c), (d): without ssh. Its processes get the chance to end and to write back.

    Busy if none of them holds any more (and its agent granted nothing): then nothing is touched.
    """
    try:
        now = await guard.require_ground(server.id, granted)
        if now.state is not ServerState.OFF and now.state is not ServerState.DELETING:
            await shut_down(context, server.id)
        if now.state is not ServerState.DELETING:
            await _rest_volumes(context, now)
    except NotFound:
        pass
    await guard.delete_server(server.id, ground)


async def shut_down(context: Context, server_id: int) -> None:
    """Until it is off: asked to first, by power after a while."""
    cloud = context.cloud
    with contextlib.suppress(Busy), context.effect("shut down"):
        await cloud.shutdown(server_id)
    give_up_s = context.time.monotonic() + _OFF_WAIT_S
    while context.time.monotonic() < give_up_s:
        if (await cloud.server(server_id)).state is ServerState.OFF:
            return
        await context.time.sleep(_POLL_S)
    with context.effect("power off"):
        await cloud.power_off(server_id)


async def _rest_volumes(context: Context, server: Server) -> None:
    """Detach all that is on it; what does not come off comes off with the deletion."""
    for volume_id in server.volume_ids:
        with contextlib.suppress(CloudProblem):
            await volumes.rest(context, volume_id)


async def at_hard_end(context: Context, guard: Guard, server: Server) -> None:
    """Case (c): in good order if its agent grants it now, else by power."""
    with contextlib.suppress(BurstError):
        if (await drain(context, guard, server, min_idle_s=0, reason="hard end")) is None:
            return
    await powered_off(context, guard, server, Ground.HARD_END)


async def abandon(context: Context, guard: Guard, server: Server) -> None:
    """Give up a boot: its deadline is now, so case (d) holds. NotOurs, or Busy if it is ready."""
    cloud = context.cloud
    try:
        if (claim := Claim.of(server.labels)) is not None and claim.owner == guard.owner:
            await guard.learn_time(server.id)
        # Nothing comes between this and the write: it may become ready at any moment.
        fresh = await cloud.server(server.id)
    except NotFound:
        return
    claim = Claim.of(fresh.labels)
    if labels.READY in fresh.labels:
        raise Busy("it is ready by now", what=f"server {fresh.name}")
    if claim is not None and claim.owner == guard.owner:
        told = labels.merged(fresh.labels, **{labels.BOOT_BY: str(int(cloud.now_s()) - 1)})
        with context.effect("give the boot up"):
            await cloud.set_labels(Kind.SERVER, server.id, told)
    await powered_off(context, guard, fresh, Ground.NEVER_READY)


async def end_now(context: Context, guard: Guard, server: Server) -> None:
    """Because its owner said so, busy or not: the hard end is moved to now, so case (c) holds."""
    cloud = context.cloud
    await guard.learn_time(server.id)
    try:
        fresh = await cloud.server(server.id)
    except NotFound:
        return
    claim = Claim.of(fresh.labels)
    if claim is None or claim.owner != guard.owner:
        raise ServerProblem("it is not ours", what=server.name)
    told = labels.merged(fresh.labels, **{labels.EXPIRES: str(int(cloud.now_s()) - 1)})
    with context.effect("move the hard end"):
        await cloud.set_labels(Kind.SERVER, server.id, told)
    await at_hard_end(context, guard, fresh)
