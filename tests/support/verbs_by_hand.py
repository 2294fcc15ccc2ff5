"""`cargo burst VERB` without its front end: a session, and cargo with the three hooks set."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from burst_wrapper.session_client import (
    Session,
    SessionRequest,
    Summary,
    hook_path,
    open_session,
)
from space import Done, Space

TRIPLE = subprocess.run(
    ["rustc", "-vV"], check=True, capture_output=True, text=True
).stdout.split("host: ")[1].split("\n")[0]  # fmt: skip
RUNNER = f"CARGO_TARGET_{TRIPLE.upper().replace('-', '_')}_RUNNER"


def request_of(space: Space, verb: str = "test", **more: object) -> SessionRequest:
    """As the front end would ask in this project."""
    root = os.fsencode(space.project)
    return SessionRequest(
        verb=verb,
        cwd=root,
        workspace_root=root,
        target_dir=root + b"/target",
        environ=tuple((os.fsencode(n), os.fsencode(v)) for n, v in space.env.items()),
        **more,  # type: ignore[arg-type]
    )


def hooks(space: Space, session: Session) -> dict[str, str]:
    """What cargo's environment gets."""
    environ = {os.fsencode(name): os.fsencode(value) for name, value in space.env.items()}
    found = {
        "RUSTC_WRAPPER": os.fsdecode(hook_path("burst-rustc", environ)),
        "RUSTDOC": os.fsdecode(hook_path("burst-rustdoc", environ)),
        RUNNER: os.fsdecode(hook_path("burst-runner", environ)),
    }
    found |= {os.fsdecode(n): os.fsdecode(v) for n, v in session.environ.items()}
    return found


@attrs.frozen
class Verb:
    done: Done
    summary: Summary
    session: Session


@contextmanager
def session_of(space: Space, verb: str = "test", **more: object) -> Iterator[Session]:
    with open_session(request_of(space, verb, executes=True, **more)) as session:
        yield session


def run(
    space: Space,
    *arguments: str,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    **more: object,
) -> Verb:
    """`cargo ARGUMENTS` in a session of its own."""
    with session_of(space, arguments[0], **more) as session:
        settings = {**hooks(space, session), **(env or {})}
        done = space.plain(*arguments, cwd=cwd, **settings)
        return Verb(done, session.close(), session)
