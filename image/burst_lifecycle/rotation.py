"""The host key that a server's user data carried is replaced by one that never left the server.

Both pins are in the labels before the change, and the new one in those of its address, so whoever
looks meanwhile is right. Each step can be repeated, by any machine of the owner.
"""

from __future__ import annotations

from typing import Final

import attrs

from burst_lifecycle import hostkey, labels, newserver, readiness
from burst_lifecycle.cloud.model import Kind, Server
from burst_lifecycle.context import Context
from burst_lifecycle.errors import ServerProblem
from burst_lifecycle.guard import is_ready
from burst_lifecycle.host import Host

_TRIES: Final = 6


async def rotate(context: Context, server_id: int, host: Host) -> Host | None:
    """A login that the new key alone is right for. On a ready server nothing is changed.

    None: somebody else has done it since that login. ServerProblem, HostKeyProblem, and what
    `Ssh.run` raises.
    """
    server = await context.cloud.server(server_id)
    shown = hostkey.pin(host.login.host_key)
    next_pin = server.labels.get(labels.NEXT_PIN)
    if is_ready(server) and shown == server.labels.get(labels.PIN):
        return host
    if is_ready(server) and shown != next_pin:
        return None
    if next_pin is None or shown != next_pin:
        with context.effect("prepare the host key"):
            public = await host.prepare_host_key()
        next_pin = hostkey.pin(public)
        if not await _announce(context, server, next_pin):
            return None
        with context.effect("activate the host key"):
            await host.activate_host_key()
        host = await _shows(context, server, host, next_pin)
    login = attrs.evolve(host.login, pins=(next_pin,))
    return Host(context.ssh, login, server_id)


async def _announce(context: Context, server: Server, next_pin: str) -> bool:
    """Say what key it will show, twice. False: another machine was faster with all of this."""
    if await readiness.recall(context, server):
        return False
    fresh = await context.cloud.server(server.id)
    if is_ready(fresh):
        return False
    if fresh.labels.get(labels.NEXT_PIN) != next_pin:
        told = labels.merged(fresh.labels, **{labels.NEXT_PIN: next_pin})
        with context.effect("label the next pin"):
            await context.cloud.set_labels(Kind.SERVER, server.id, told)
    await readiness.promise(context, fresh, next_pin)
    return True


async def _shows(context: Context, server: Server, host: Host, wanted: str) -> Host:
    """Log in anew until that key is shown. Its labels may say something else by now."""
    both = attrs.evolve(host.login, pins=(hostkey.pin(host.login.host_key), wanted))
    for _ in range(_TRIES):
        await context.ssh.forget(host.login)
        host = Host(context.ssh, await Host(context.ssh, both, server.id).hello(), server.id)
        if hostkey.pin(host.login.host_key) == wanted:
            return host
        await context.time.sleep(newserver.POLL_S)
    raise ServerProblem("does not show its new host key", what=server.name)
