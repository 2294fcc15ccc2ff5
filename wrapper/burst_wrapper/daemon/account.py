"""What became of one unit, for `explain`: where it ran, why, and what it cost."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

import attrs

from burst_wrapper.journal import UnitRecord

if TYPE_CHECKING:
    from burst_protocol.errors import BurstError
    from burst_wrapper.argv import RustcCall
    from burst_wrapper.callers import Caller
    from burst_wrapper.daemon.home_session import HomeSession
    from burst_wrapper.daemon.plan import Plan
    from burst_wrapper.daemon.services import Services

_HASHED: Final = frozenset({b"platform", b"extern", b"macro", b"file"})
"""Entries of a manifest whose values are digests; an argument can have 32 bytes, too."""


@attrs.define
class Account:
    """Filled in while a unit goes its way; written down once, before its wrapper ends."""

    services: Services
    cwd: bytes
    caller: Caller | None = None
    session: HomeSession | None = None
    call: RustcCall | None = None
    plan: Plan | None = None
    sent_bytes: int = 0
    received_bytes: int = 0
    spared_ms: int = 0
    """What rustc took for the result that was there already."""
    recorded: bool = False
    _notes: list[str] = attrs.field(factory=list, init=False)
    _began_s: float = attrs.field(factory=time.monotonic, init=False)
    _started_ms: int = attrs.field(factory=lambda: time.time_ns() // 1_000_000, init=False)

    def note(self, error: BurstError) -> None:
        """What did not go as it should, once each."""
        text = f"{error.code}: {error}"
        if text not in self._notes:
            self._notes.append(text)

    def say(self, text: str) -> None:
        """A step that nobody would guess."""
        self._notes.append(text)

    def why(self, text: str) -> str:
        """`text` with all that was noted."""
        notes = [note for note in self._notes if not note.endswith(f": {text}")]
        return "; ".join([text, *notes] if text else notes)

    def record(self, where: str, executor: str, why: str, reason: str, rustc_ms: int = 0) -> None:
        """Into the journal of the build, and the summary of a `cargo burst` around it."""
        call, plan, caller = self.call, self.plan, self.caller
        if caller is None and where == "cancelled":
            return  # of a build that was over before we came to it
        self.recorded = True
        if self.session is not None:
            away = executor not in ("embedded", "home", "home store")
            self.session.tally.unit(
                where,
                rustc_ms or self.spared_ms,
                self.sent_bytes,
                self.received_bytes,
                away=away,
            )
        build = (0, 0) if caller is None else (caller.pid, caller.start_ticks)
        self.services.journal.record(
            build,
            (b"" if caller is None else caller.cwd) or self.cwd,
            UnitRecord(
                crate=os.fsdecode(b"?" if call is None else call.crate_name or b"?"),
                kind="?" if call is None else _kind(call),
                where=where,
                executor=executor,
                why=why,
                reason=reason,
                wall_ms=round((time.monotonic() - self._began_s) * 1000),
                sent_bytes=self.sent_bytes,
                received_bytes=self.received_bytes,
                started_ms=self._started_ms,
                key="" if plan is None else plan.weak_key.hex(),
                manifest=() if plan is None else self._manifest_once(plan),
                detail="" if call is None else os.fsdecode(call.extra_filename),
                rustc_ms=rustc_ms,
            ),
        )

    def _manifest_once(self, plan: Plan) -> tuple[tuple[str, str], ...]:
        """Kilobytes per unit: written once per key, `explain` finds it again by the key."""
        if plan.weak_key in self.services.explained:
            return ()
        self.services.explained.add(plan.weak_key)
        return shown_manifest(plan)


def _kind(call: RustcCall) -> str:
    if call.is_test:
        return "test"
    if call.is_build_script:
        return "build script"
    return ",".join(os.fsdecode(kind) for kind in call.crate_types) or "bin"


def shown_manifest(plan: Plan) -> tuple[tuple[str, str], ...]:
    """Labels and values short enough to keep; files by their hash."""
    shown: list[tuple[str, str]] = []
    for label, value in plan.manifest:
        kind = label.partition(b" ")[0]
        is_hash = kind in _HASHED and len(value) == 32
        text = value.hex()[:16] if is_hash else value[:120].decode("utf-8", "replace")
        shown.append((label.decode("utf-8", "replace"), text))
    return tuple(shown)
