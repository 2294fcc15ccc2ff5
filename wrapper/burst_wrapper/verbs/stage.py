"""A session around cargo: opened, with cargo's environment in it, and the row on the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Final

import attrs

from burst_protocol.errors import BurstError, EnvironmentProblem
from burst_wrapper.processes import Completed, run_program
from burst_wrapper.verbs import child, hooks, kinds, progress
from burst_wrapper.verbs.cargo_options import ends_at_first_word

if TYPE_CHECKING:
    from burst_wrapper.session_client import Session, SessionRequest
    from burst_wrapper.verbs.child import Ended
    from burst_wrapper.verbs.command_line import CommandLine
    from burst_wrapper.verbs.job import Job


_BUILD_DIR: Final = "build-dir"


class NotRemote(EnvironmentProblem):
    """`run-remote`: there is no other machine to run on{detail}"""

    code = "not-remote"
    hint = "name one: --host user@host, `host` in the configuration, or enable hetzner"


@attrs.define
class Stage:
    """An open session, or none where there could be none."""

    job: Job
    session: Session | None
    environ: Mapping[bytes, bytes]
    executor: str = "home"
    """Where units go and programs run, for people."""
    elsewhere: bool = False
    """Programs run on another machine."""
    afterwards: list[Callable[[], object]] = attrs.field(factory=list)
    """What is done once all that comes back has come back."""

    def start(self, words: Sequence[str]) -> Ended:
        """One cargo command. CannotStart."""
        words = self._for_cargo(words)
        with self._row():
            return child.run(self.job.cargo.argv(words), self.environ)

    def ask(self, words: Sequence[str]) -> Completed:
        """The same, for what it says. Blocks for up to 60 s."""
        words = self._for_cargo(words)
        return run_program(self.job.cargo.argv(words), self.job.cargo.cwd, self.environ)

    def _for_cargo(self, words: Sequence[str]) -> Sequence[str]:
        if not self.elsewhere or self.session is None:
            return words
        return with_target_dir(words, self.session.info.target_dir, _programs_words(self.job.line))

    @contextmanager
    def _row(self) -> Iterator[None]:
        line = self.job.line
        if self.session is None or not progress.wanted(
            self.job.cargo.environ,
            quiet=kinds.is_quiet(line),
            json=kinds.speaks_json(line),
            verb=line.verb,
        ):
            yield
            return
        row = progress.Row(self.session.progress, self.executor)
        row.start()
        try:
            yield
        finally:
            row.stop()


def _programs_words(line: CommandLine) -> int:
    """So many words at the end are a program's, without any `--` before them (`run word …`)."""
    if not ends_at_first_word(line.verb):
        return 0
    return sum(not name for name, _ in line.options())


def with_target_dir(words: Sequence[str], folder: bytes, programs: int = 0) -> list[str]:
    """Cargo's words for building into a folder that is none of the user's. `--target-dir` goes, as
    CARGO_TARGET_DIR names the folder; a `--config` is stronger than CARGO_BUILD_BUILD_DIR, so that
    is said once more behind it. The last `programs` words stay as they are."""
    end = len(words) - programs
    at = list(words[:end]).index("--") if "--" in words[:end] else end
    kept: list[str] = []
    options = iter(words[:at])
    for word in options:
        if word == "--target-dir":
            next(options, None)
            continue
        if word.startswith("--target-dir="):
            continue
        given = [word, *islice(options, 1)] if word == "--config" else [word]
        kept += given
        text = given[-1].removeprefix("--config=")
        if word.startswith("--config") and ("=" not in text or _BUILD_DIR in text):
            # JSON's strings are TOML's, too.
            kept += ["--config", f"build.{_BUILD_DIR}={json.dumps(os.fsdecode(folder))}"]
    return [*kept, *words[at:]]


@contextmanager
def opened(job: Job) -> Iterator[Stage]:
    """BurstError if there must be a session and is none."""
    environ = {**job.cargo.environ, **hooks.wrapper(job.cargo.environ, job.cargo_settings)}
    triples: list[str] = []
    if kinds.executes(job.line):
        triples = hooks.triples(job.cargo, job.line, job.cargo_settings)
    users = hooks.users_runner(job.cargo, job.cargo_settings, triples)
    foreign = "" if users else hooks.foreign_target(job.cargo, triples)
    executes = bool(triples) and not users and not foreign
    # Without another machine there is nothing to hold back from a program.
    at_home = executes and not job.has_elsewhere
    try:
        session = _open(job, executes=executes, everything=at_home)
    except BurstError as error:
        required = job.cargo.environ.get(b"BURST_REQUIRE_REMOTE", b"0") not in (b"", b"0")
        if required or not error.fallback:
            raise
        if job.line.verb == "run-remote":
            raise NotRemote(f": {error}") from error
        job.notes.append(f"{error}; cargo ran without a session")
        yield Stage(job, None, {**environ, **dict(job.forwarded.variables)})
        return
    with session:
        for note in session.info.notes:
            job.voice.note(note)
        elsewhere = session.info.executor == "remote"
        if job.line.verb == "run-remote" and not elsewhere:
            raise NotRemote(f" that runs programs for {foreign}" if foreign else "")
        if users and job.has_elsewhere:
            job.notes.append(f"{users}: programs are started by your own runner, here")
        if foreign and job.has_elsewhere:
            text = "cargo starts programs here: the other machine cannot run them"
            job.notes.append(f"{foreign}: {text}")
        environ |= hooks.given(session, job.forwarded.variables)
        if executes and (elsewhere or (at_home and _needs_agent(job))):
            environ |= hooks.runners(job.cargo.environ, triples, job.cargo_settings)
        executor = session.info.name if elsewhere else job.other_machine or "home"
        yield Stage(job, session, environ, executor, elsewhere)


def _needs_agent(job: Job) -> bool:
    """Whether programs at home are the embedded agent's: with databases, alone, or without us."""
    return bool(job.settings.services) or _alone(job) or job.line.own.detach


def _alone(job: Job) -> bool:
    return job.line.verb in ("bench", "nextest bench")


def _open(job: Job, *, executes: bool, everything: bool) -> Session:
    from burst_wrapper.session_client import open_session  # noqa: PLC0415 - not for `fmt`

    request = _request(job, executes=executes, everything=everything)
    with job.voice.waiting() as note:
        return open_session(request, note)


def _request(job: Job, *, executes: bool, everything: bool) -> SessionRequest:
    """`everything`: programs get all variables, as they run here."""
    from burst_wrapper.session_client import SessionRequest  # noqa: PLC0415 - as above

    own, cwd = job.line.own, job.cargo.cwd
    root = cwd if job.project is None else os.fsencode(job.project.root)
    target = os.path.join(cwd, b"target")
    if job.project is not None:
        target = os.fsencode(job.project.target_dir)
    named = {**dict(job.forwarded.variables), **dict(job.wanted.variables)}
    if everything:
        named = {**job.cargo.environ, **named}
    return SessionRequest(
        verb=job.line.verb,
        cwd=cwd,
        workspace_root=root,
        target_dir=target,
        host=own.host,
        keep_alive_s=own.keep_alive_s,
        reap=not own.no_reap,
        executes=executes,
        fetch=own.fetch,
        no_fetch=own.no_fetch,
        env=tuple(named.items()),
        forwards=own.forwards if executes else (),
        services=job.wanted.services if executes else (),
        alone=_alone(job),
        detach=own.detach,
        yes=own.yes,
        environ=tuple(job.cargo.environ.items()),
    )
