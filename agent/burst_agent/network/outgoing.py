"""What gives a network of its own a way out: pasta or slirp4netns, both without privileges.

Both copy what programs send out of sockets of their own, as the agent's user. Neither opens a port
on the machine, and neither lets programs reach the machine's own loopback.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Final

import attrs

from burst_agent.network.holder import BIN, NETNS

NO_PROGRAM: Final = (
    "no outgoing traffic: neither pasta (Debian package passt) nor slirp4netns is installed there"
)

TUN: Final = "/dev/net/tun"
_FASTER: Final = ".avx2"
"""Pasta executes that one of the same name beside it, where the processor can."""
_RESOLV_CONF: Final = "/etc/resolv.conf"
_PASTA_DNS: Final = "198.51.100.53"
"""Nobody's address (RFC 5737): pasta takes what is sent there to the machine's own name server,
which is often on a loopback that cannot be reached from another network."""
_SLIRP_DNS: Final = "10.0.2.3"
_PASTA: Final = (
    f"{BIN}/pasta",
    *("--foreground", "--quiet", "--config-net", "--no-map-gw"),
    *("-t", "none", "-u", "none", "-T", "none", "-U", "none"),
    *("--dns-forward", _PASTA_DNS, "--netns-only", "--netns", NETNS),
)
_SLIRP: Final = (
    f"{BIN}/slirp4netns",
    *("--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path"),
    *(NETNS, "tap0"),
)


@attrs.frozen
class WayOut:
    """One of the two."""

    name: str
    programs: dict[str, str]
    """What is to be found in BIN."""
    argv: tuple[str, ...]
    resolv_conf: bytes


def find(which: Callable[[str], str | None] | None = None) -> WayOut | None:
    """What is installed; pasta first, which is faster and knows IPv6."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/bin", "/usr/local/bin"))
    look = which or (lambda name: shutil.which(name, path=path))
    for name, argv, server in (
        ("pasta", _PASTA, _PASTA_DNS),
        ("slirp4netns", _SLIRP, _SLIRP_DNS),
    ):
        program = look(name)
        if program is not None:
            program = os.path.realpath(program)
            programs = {name: program}
            if os.path.exists(program + _FASTER):
                programs[name + _FASTER] = program + _FASTER
            return WayOut(name, programs, argv, resolv_conf(server, _machines()))
    return None


def failure(name: str, said: str, tun: str = TUN) -> str:
    """What the user is told of one that made no route; `said`: its last words. Without the device
    both are of no use, and nothing else gives a network a way out without privileges."""
    try:
        os.close(os.open(tun, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        why = f"{tun} cannot be opened there ({error.strerror}), which {name} needs"
        return f"no outgoing traffic: {why}; a container gets it by `--device {tun}`"
    return f"no outgoing traffic: {name}: {said or 'it makes no route'}"


def _machines() -> bytes:
    try:
        with open(_RESOLV_CONF, "rb") as file:
            return file.read()
    except OSError:
        return b""


def resolv_conf(server: str, machines: bytes) -> bytes:
    """The machine's resolv.conf(5), with that server in place of its own."""
    kept = [
        line for line in machines.splitlines() if line.split()[:1] in ([b"search"], [b"options"])
    ]
    return b"\n".join((b"nameserver " + server.encode(), *kept, b""))
