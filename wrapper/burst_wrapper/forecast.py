"""How much compiling a build still has before it, as well as can be told.

Cargo tells nobody its plan ahead. What can be known while it runs: the packages its lock file
names, which of them this target directory has built before (cargo keeps a fingerprint folder of
each), what each cost the last time anybody here compiled it, and how many of the units so far had
to be compiled at all. The forecast decides one thing only, whether a server is worth its boot, so
it rather says too little: a package that has been built here counts only when cargo asks for it.
"""

from __future__ import annotations

import os
import struct
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import attrs

from burst_wrapper.argv import RustcCall
from burst_wrapper.index import Index

_FACT: Final = "seconds"
_UNASKED: Final = "unasked"
_GUESS_S: Final = 0.9
"""Without optimisation, on one core: about what a unit of `tests/projects/tool` takes (2 cores)."""
_OPTIMISED: Final = 2.5
"""How much longer with optimisation."""
_SANE_S: Final = 3600.0


class Durations:
    """Seconds of rustc per crate and kind of compile, remembered between daemons."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def learn(self, call: RustcCall, rustc_ms: int) -> None:
        """The later run counts for half: machines and crates change."""
        seconds = rustc_ms / 1000
        if not 0 < seconds < _SANE_S or not call.crate_name:
            return
        key = _key(call.crate_name, optimised(call))
        before = self._get(key)
        self._index.put_fact(
            _FACT, key, struct.pack("<d", seconds if before is None else (before + seconds) / 2)
        )

    def expected_s(self, crate: bytes, *, optimise: bool) -> float:
        """What it took, else what such a crate usually takes."""
        exact = self._get(_key(crate, optimise))
        if exact is not None:
            return exact
        other = self._get(_key(crate, not optimise))
        if other is not None:
            return other * _OPTIMISED if optimise else other / _OPTIMISED
        return _GUESS_S * (_OPTIMISED if optimise else 1)

    def _get(self, key: bytes) -> float | None:
        value = self._index.fact(_FACT, key)
        if value is None or len(value) != struct.calcsize("<d"):
            return None
        seconds: float = struct.unpack("<d", value)[0]
        return seconds if 0 < seconds < _SANE_S else None


@attrs.frozen
class Forecast:
    """`left_s`: of one core. The rest is for the reason that is recorded with a decision."""

    left_s: float
    expected_units: int
    running_units: int
    missing_share: float

    def wall_s(self, cores: int) -> float:
        """Seconds that home would need for it with all its cores."""
        return self.left_s / max(1, cores)

    @property
    def text(self) -> str:
        return (
            f"{self.left_s:.0f} core seconds left: {self.expected_units} units to come, "
            f"{self.running_units} running, {self.missing_share:.0%} of those so far in no store"
        )


class Outlook:
    """One build: what is expected of it, what came so far."""

    def __init__(
        self,
        packages: Iterable[bytes],
        durations: Durations,
        *,
        optimise: bool,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._expected = set(packages)
        self._durations = durations
        self._optimise = optimise
        self._now_s = now_s
        self._running: dict[object, tuple[float, float]] = {}
        self._hits = 0
        self._misses = 0

    def missed(self, unit: object, crate: bytes) -> None:
        """This unit has to be compiled, and begins."""
        self._expected.discard(crate)
        self._misses += 1
        expected_s = self._durations.expected_s(crate, optimise=self._optimise)
        self._running[unit] = (self._now_s(), expected_s)

    def ended(self, unit: object) -> None:
        self._running.pop(unit, None)

    def hit(self, crate: bytes) -> None:
        self._expected.discard(crate)
        self._hits += 1

    @property
    def unasked(self) -> frozenset[bytes]:
        """What was expected and cargo has not asked for: of other platforms, say."""
        return frozenset(self._expected)

    @property
    def idle(self) -> bool:
        return not self._running

    def forecast(self) -> Forecast:
        """As of now. A unit that takes longer than expected has nothing left: nobody knows."""
        seen = self._hits + self._misses
        share = self._misses / seen if seen else 0.0
        to_come = sum(
            self._durations.expected_s(crate, optimise=self._optimise) for crate in self._expected
        )
        now_s = self._now_s()
        running = sum(
            max(0.0, expected_s - (now_s - began_s))
            for began_s, expected_s in self._running.values()
        )
        return Forecast(to_come * share + running, len(self._expected), len(self._running), share)


class Expectations:
    """Which packages a build may still compile; learns which of a lock file it never does."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def of(self, lock_file: bytes, profile_dir: bytes) -> frozenset[bytes]:
        """Crate names that the lock file holds and this profile's folder has never built.

        Where it has built something, what earlier builds left unasked is not expected either: a
        lock file names what other platforms need, and tests. An unreadable lock file expects
        nothing. Names are packages' with `_` for `-`, which is what most crates are called.
        """
        built: set[bytes] = set()
        try:
            for name in os.listdir(os.path.join(profile_dir, b".fingerprint")):
                built.add(name.rsplit(b"-", 1)[0].replace(b"-", b"_"))
        except OSError:
            pass
        if built:
            built.update((self._index.fact(_UNASKED, profile_dir) or b"").split())
        return frozenset(locked_crates(lock_file)) - built

    def ended(self, profile_dir: bytes, unasked: frozenset[bytes]) -> None:
        """A build is over that did not fail, and never asked for these."""
        before = (self._index.fact(_UNASKED, profile_dir) or b"").split()
        self._index.put_fact(_UNASKED, profile_dir, b" ".join(sorted({*before, *unasked})))


def locked_crates(path: bytes) -> tuple[bytes, ...]:
    """Every package of a `Cargo.lock` by its crate's usual name, each once."""
    try:
        with open(path, "rb") as file:
            document = tomllib.loads(file.read().decode())
    except (OSError, ValueError):
        return ()
    packages = document.get("package")
    if not isinstance(packages, list):
        return ()
    names = [package.get("name") for package in packages if isinstance(package, Mapping)]
    return tuple(
        dict.fromkeys(
            name.replace("-", "_").encode() for name in names if isinstance(name, str) and name
        )
    )


def optimised(call: RustcCall) -> bool:
    """Whether this compile optimises: what takes a debug build a second takes three there."""
    return call.codegen_value(b"opt-level") not in (None, b"0")


def _key(crate: bytes, optimise: bool) -> bytes:
    return crate + (b" 1" if optimise else b" 0")
