"""What cargo says when a macro asks for the workspace of its package.

Macros built on proc-macro-crate 3.2 and later start, from inside rustc, `$CARGO locate-project
--workspace --message-format=plain --manifest-path=<package>/Cargo.toml`. The sandbox has no cargo,
and its answer depends on manifests all over the workspace, on cargo's configuration and on the
environment. So home's cargo is asked, with the unit's own environment and directory. Its answer,
whatever led to it, is an input of the unit: shown in a file, from which the observer answers
(`native/observer.c`), and part of the strong key.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import attrs

from burst_protocol.digest import Digest
from burst_wrapper.processes import run_program
from burst_wrapper.toolchain import signature

if TYPE_CHECKING:
    from burst_wrapper.argv import RustcCall
    from burst_wrapper.daemon.plan import Plan
    from burst_wrapper.toolchain import Signature

_QUESTION: Final = (b"locate-project", b"--workspace", b"--message-format=plain")
_MOST_BYTES: Final = 60_000
"""The observer has room for 64 KiB."""
_REMEMBERED: Final = 2048
_NO_EXIT: Final = 127
_CRATE: Final = b"libproc_macro_crate-"


def manifest_of(plan: Plan) -> bytes:
    """The one that a unit's macros may ask about: its own."""
    return os.path.join(plan.package_dir, b"Cargo.toml")


@attrs.frozen
class Answer:
    """`data` is what the sandbox shows: fields that each end with NUL, see `native/observer.c`."""

    data: bytes
    digest: Digest

    @classmethod
    def of(cls, manifest: bytes, cwd: bytes, status: int, said: tuple[bytes, bytes]) -> Answer:
        fields = (manifest, cwd, b"%d" % status, *said)
        data = b"".join(field + b"\0" for field in fields)
        return cls(data, Digest.of(data))


class Answers:
    """Asks home's cargo. An answer is remembered for one run of cargo, while no manifest on the way
    up from the package has changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[tuple[Signature, ...], Answer]] = {}
        self._macros: set[bytes] = set()
        """Stems of macros that are built on proc-macro-crate."""
        self._users: set[bytes] = set()
        """Stems of crates that name one of these, and may hand it on: num_enum does."""

    def ask(self, plan: Plan) -> Answer | None:
        """Blocking (16 ms of cargo). None if there is nobody to ask, or no answer to be shown."""
        cargo = plan.env.get(b"CARGO", b"")
        manifest = manifest_of(plan)
        if not os.path.isabs(cargo) or not os.path.isabs(manifest):
            return None
        caller = plan.caller
        key = (caller, cargo, manifest, plan.cwd)
        known = self._known.get(key)
        before = _signatures(manifest)
        if known is not None and known[0] == before:
            return known[1]
        done = run_program((cargo, *_QUESTION, b"--manifest-path=" + manifest), plan.cwd, plan.env)
        fields = (manifest, plan.cwd, done.stdout, done.stderr)
        if not 0 <= done.status < _NO_EXIT or b"\0" in b"".join(fields):
            return None
        answer = Answer.of(manifest, plan.cwd, done.status, (done.stdout, done.stderr))
        if len(answer.data) > _MOST_BYTES:
            return None
        if caller is not None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = (before, answer)
        return answer

    def made(self, call: RustcCall) -> None:
        """A crate was compiled: whether its macros will ask is known before they do."""
        names = _extern_stems(call)
        if call.is_proc_macro:
            asks = any(name.startswith(_CRATE) for name in names)
        else:
            asks = any(name in self._macros for name in names)
        if asks:
            (self._macros if call.is_proc_macro else self._users).add(call.lib_stem)

    def expected(self, plan: Plan) -> bool:
        """Whether a macro that this unit is likely to use will ask. One run is spared if so, and
        16 ms are lost if not: so macros of crates further down do not count."""
        if not self._macros:
            return False
        names = _extern_stems(plan.call)
        return any(name in self._macros or name in self._users for name in names)


def _extern_stems(call: RustcCall) -> list[bytes]:
    """`libserde-0123abcd` of each crate that the call names."""
    paths = (extern.path for extern in call.externs if extern.path is not None)
    return [os.path.splitext(os.path.basename(path))[0] for path in paths]


def _signatures(manifest: bytes) -> tuple[Signature, ...]:
    """Of the manifests that decide, as a rule: of the package and of all folders above it."""
    paths: list[bytes] = []
    folder = os.path.dirname(manifest)
    while True:
        paths.append(os.path.join(folder, b"Cargo.toml"))
        if len(folder) <= 1:
            return tuple(signature(path) for path in paths)
        folder = os.path.dirname(folder)
