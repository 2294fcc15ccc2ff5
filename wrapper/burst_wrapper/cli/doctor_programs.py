"""What `cargo burst doctor` finds out about running programs on this machine: by running one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from burst_protocol import messages as m
from burst_protocol import programs as p
from burst_protocol.errors import ServiceUnavailable
from burst_protocol.services import ALIASES, SERVICES
from burst_wrapper.cli.doctor import Check
from burst_wrapper.daemon.link import AgentLink

_MIRROR: Final = "doctor"
_TRUE: Final = b"/bin/true"
_OWN: Final = "a network of its own for each project with services"


@attrs.frozen
class _Tried:
    failure: str
    notes: tuple[str, ...]


async def look(link: AgentLink, services: Iterable[str]) -> Sequence[Check]:
    """The network of programs, and those services, each started once. BurstError: no agent."""
    names = list(dict.fromkeys(ALIASES.get(name, name) for name in services))
    plain = await _try(link)
    # Without services, programs run at home as cargo starts them.
    checks = [
        Check(
            "network of programs",
            ok=not names or not plain.failure,
            result=plain.failure or "; ".join((_OWN, *plain.notes)),
            hint="allow user namespaces on this machine",
        )
    ]
    for name in names:
        tried = await _try(link, name)
        address = SERVICES[name].url
        checks.append(
            Check(
                f"service {name}",
                ok=not tried.failure,
                result=tried.failure or f"starts, and answers at {address}",
                hint=ServiceUnavailable.hint,
            )
        )
    return checks


async def _try(link: AgentLink, *services: str) -> _Tried:
    identity = link.new_id()
    queue = link.open_stream(identity)
    notes: tuple[str, ...] = ()
    try:
        link.send(_request(identity, services))
        while True:
            match await queue.get():
                case None:
                    return _Tried("the agent ended", notes)
                case p.Running() as running:
                    notes = running.notes
                case m.Failed() as failed:
                    return _Tried(failed.detail, notes)
                case p.ProgramEnded() as ended:
                    status = ended.code or ended.signal
                    return _Tried(f"`true` ended with {status}" if status else "", notes)
                case _:
                    pass
    finally:
        link.close_stream(identity)


def _request(identity: int, services: tuple[str, ...]) -> p.StartProgram:
    return p.StartProgram(
        id=identity,
        mirror=_MIRROR,
        argv=(_TRUE,),
        env=(),
        cwd=b"/",
        terminals=0,
        rows=0,
        columns=0,
        trees=(),
        libraries=(),
        services=services,
        memory_bytes=0,
        wall_s=0,
        alone=False,
        shares_network=False,
        prolongs=False,
        detached=False,
    )
