"""When a server is booted: a pure function with a recorded reason.

A token alone never boots anything. A boot costs a started hour, so it is worth it only when much
compile time is left, or when somebody asked. Metadata-only builds (`cargo check`, an editor on
every save) use a server that runs, but neither boot nor prolong one.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import attrs


class Ask(enum.Enum):
    """What wants a server."""

    UNITS = "units"
    """Compilations of a build."""
    VERB = "verb"
    """`cargo burst run|test|bench`: something that runs there."""
    UP = "up"
    """`burst-admin up`."""


class Course(enum.Enum):
    HOME = "home"
    USE = "use"
    """The server that runs."""
    BOOT = "boot"
    """Begin one; units compile at home meanwhile."""


class Reason(enum.Enum):
    """Why; the value is what journals and `explain` say."""

    NOT_CONFIGURED = "no-server-configured"
    NOT_TRUSTED = "not-trusted"
    NOTHING_TO_DO = "nothing-to-compile"
    METADATA_ONLY = "metadata-only"
    TOO_SHORT = "too-little-to-compile"
    RUNNING = "server-running"
    BOOTING = "server-booting"
    DRAINING = "server-draining"
    REFUSED_LATELY = "refused-lately"
    OVER_BUDGET = "over-budget"
    ENOUGH_TO_DO = "enough-to-compile"
    VERB = "verb-runs-there"
    ASKED = "asked-for"


@attrs.frozen
class Work:
    """What is left of a build, as known now."""

    ask: Ask = Ask.UNITS
    unit_s: Sequence[float] = ()
    """Recorded or estimated seconds of each unit that the home store lacks."""
    metadata_only: bool = False
    """`cargo check`, clippy, an editor: no code generation anywhere."""
    probe: bool = False
    """A version question, `clean`, `status`, `--help`: never boots."""


@attrs.frozen
class Situation:
    """What is known about servers, without asking the cloud."""

    configured: bool = False
    trusted: bool = True
    """False: only a project's file that nobody trusted asks for a server."""
    home_cores: int = 1
    running: bool = False
    booting: bool = False
    draining: bool = False
    over_budget: bool = False
    retry_in_s: float = 0.0
    """After no capacity, a quota or a failed boot: not before."""


@attrs.frozen
class Threshold:
    boot_after_s: float = 90.0
    boot_for_check: bool = False


@attrs.frozen
class Decision:
    course: Course
    reason: Reason
    prolongs: bool = False
    """Whether this keeps a running server from being idle."""
    left_s: float = 0.0
    """Seconds that home would need."""


def decide(work: Work, situation: Situation, threshold: Threshold) -> Decision:
    """The course for this work now."""
    left_s = sum(work.unit_s) / max(1, situation.home_cores)

    def decision(course: Course, reason: Reason, *, prolongs: bool = False) -> Decision:
        return Decision(course, reason, prolongs=prolongs, left_s=left_s)

    if not situation.configured:
        return decision(Course.HOME, Reason.NOT_CONFIGURED)
    asked = work.ask is not Ask.UNITS
    if work.probe or (not asked and not work.unit_s):
        return decision(Course.HOME, Reason.NOTHING_TO_DO)
    counts = asked or not work.metadata_only or threshold.boot_for_check
    if situation.running:
        return decision(Course.USE, Reason.RUNNING, prolongs=counts)
    if not situation.trusted:
        return decision(Course.HOME, Reason.NOT_TRUSTED)
    if situation.booting:
        return decision(Course.HOME, Reason.BOOTING)
    if situation.draining and not asked:
        return decision(Course.HOME, Reason.DRAINING)
    if not counts:
        return decision(Course.HOME, Reason.METADATA_ONLY)
    if situation.over_budget:
        return decision(Course.HOME, Reason.OVER_BUDGET)
    if work.ask is Ask.UP:
        return decision(Course.BOOT, Reason.ASKED)
    if situation.retry_in_s > 0:
        return decision(Course.HOME, Reason.REFUSED_LATELY)
    if work.ask is Ask.VERB:
        return decision(Course.BOOT, Reason.VERB)
    if left_s <= threshold.boot_after_s:
        return decision(Course.HOME, Reason.TOO_SHORT)
    return decision(Course.BOOT, Reason.ENOUGH_TO_DO)


def words(decision: Decision, threshold: Threshold, retry_in_s: float = 0.0) -> str:
    """Why there is no server, for people: what `cargo burst explain` says of units at home."""
    match decision.reason:
        case Reason.NOT_CONFIGURED:
            return "none may be made: `cargo burst enable hetzner` shows what it costs and asks"
        case Reason.NOT_TRUSTED:
            return "the project's configuration is not trusted: `cargo burst enable --trust`"
        case Reason.NOTHING_TO_DO:
            return "nothing is left to compile"
        case Reason.METADATA_ONLY:
            return "none is booted for a build without code generation (`boot_for_check`)"
        case Reason.TOO_SHORT:
            return (
                f"too little to compile: {decision.left_s:.0f} s at home, and one is booted for "
                f"more than {threshold.boot_after_s:g} s (`boot_after_s`)"
            )
        case Reason.REFUSED_LATELY:
            return f"none could be had lately; asked again in {retry_in_s:.0f} s"
        case Reason.OVER_BUDGET:
            return "the next hour would exceed `budget_eur_per_month`"
        case Reason.DRAINING:
            return "the last one is just going"
        case _:
            return str(decision.reason.value).replace("-", " ")
