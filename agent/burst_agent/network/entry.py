"""A program's way into the network of its mirror."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

SHARED: int = -1
"""In place of a descriptor: the machine's own."""


@attrs.define(eq=False)
class Entry:
    """Held as long as the program runs; `leave` exactly once, then the descriptors are not valid.

    A child enters with setns(2), the user namespace first, while it has one thread:
    `setns(user_fd, CLONE_NEWUSER)` (allowed because the agent's user made it), then
    `setns(net_fd, CLONE_NEWNET)`. It has all capabilities over both namespaces then and must drop
    them before it executes anything: with CAP_NET_ADMIN a program could open the metadata service
    again. Mapped in the user namespace are the agent's own user and group and, if the agent is
    root, those that services run as.
    """

    user_fd: int
    """SHARED where no user namespace can be made: then `net_fd` is SHARED, too."""
    net_fd: int
    notes: tuple[str, ...]
    """For `Running.notes`: what this network lacks."""
    resolv_conf: bytes
    """What /etc/resolv.conf should hold in there; empty: what the machine's holds."""
    _leave: Callable[[], Awaitable[None]]

    async def leave(self) -> None:
        """The program has ended."""
        await self._leave()
