"""What is known of one verb before cargo starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from burst_lifecycle.settings import Settings
from burst_wrapper.verbs import kinds
from burst_wrapper.verbs.cargo import Cargo, Project, for_external
from burst_wrapper.verbs.cargo_settings import CargoSettings
from burst_wrapper.verbs.command_line import CommandLine
from burst_wrapper.verbs.environment import Forwarded
from burst_wrapper.verbs.summary import Voice
from burst_wrapper.verbs.wanted_services import Wanted

if TYPE_CHECKING:
    from burst_wrapper.config import Config

NOTHING_WANTED = Wanted((), ())


@attrs.define
class Job:
    """Filled step by step; `project` is None for a verb that needs none."""

    line: CommandLine
    cargo: Cargo
    cargo_settings: CargoSettings
    external: bool = False
    """The verb is another program: `clippy`, `llvm-cov`."""
    project: Project | None = None
    settings: Settings | Config = attrs.field(factory=Settings)
    other_machine: str = ""
    """That is configured or named, reachable or not: a host, `a server`; empty if there is none."""
    forwarded: Forwarded = Forwarded((), ())
    wanted: Wanted = NOTHING_WANTED
    """Databases, and where programs find them."""
    voice: Voice = attrs.field(init=False)
    notes: list[str] = attrs.field(factory=list)
    """For the summary."""

    def __attrs_post_init__(self) -> None:
        color = (self.line.values("--color") or [""])[-1]
        self.voice = Voice(self.cargo.environ, color=color, quiet=kinds.is_quiet(self.line))

    @property
    def has_elsewhere(self) -> bool:
        return bool(self.other_machine)

    @property
    def plain_words(self) -> tuple[str, ...]:
        """The whole line for cargo, as it was meant."""
        line = for_external(self.line)
        verb = kinds.cargos_verb(line)
        return (*line.before, *attrs.evolve(line, verb=verb).words)
