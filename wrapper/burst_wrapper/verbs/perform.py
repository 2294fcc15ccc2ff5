"""One verb of cargo from beginning to end: a session around the local cargo with our hooks.

Cargo decides everything; what of ours fails before it starts is said in a note, and then it runs
without.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import attrs

from burst_lifecycle.places import Places
from burst_lifecycle.settings import Settings, load
from burst_protocol.errors import BurstError, EnvironmentProblem
from burst_wrapper.verbs import child, hooks, kinds, progress
from burst_wrapper.verbs.cargo import Cargo, NoProject, Project, for_external, project
from burst_wrapper.verbs.cargo_settings import CargoSettings
from burst_wrapper.verbs.child import Ended
from burst_wrapper.verbs.command_line import CommandLine
from burst_wrapper.verbs.environment import Forwarded, forwarded
from burst_wrapper.verbs.summary import Voice, sentence
from burst_wrapper.verbs.wanted_services import Wanted, wanted_services

if TYPE_CHECKING:
    from burst_wrapper.session_client import Session, SessionRequest, Summary

_NO_MANIFEST: Final = b"could not find `Cargo.toml`"
_EXIT_FAILED: Final = 101


class NotRemote(EnvironmentProblem):
    """`run-remote`: there is no other machine to run on{detail}"""

    code = "not-remote"
    hint = "name one: --host user@host, `host` in the configuration, or enable hetzner"


@attrs.define
class Job:
    """What is known before cargo starts."""

    line: CommandLine
    cargo: Cargo
    cargo_settings: CargoSettings
    external: bool = False
    """The verb is another program: `clippy`, `llvm-cov`."""
    project: Project | None = None
    settings: Settings = attrs.field(factory=Settings)
    forwarded: Forwarded = attrs.field(factory=lambda: Forwarded((), ()))
    wanted: Wanted = attrs.field(factory=lambda: Wanted((), ()))
    """Databases, and where programs find them."""
    voice: Voice = attrs.field(init=False)
    notes: list[str] = attrs.field(factory=list)
    """For the summary."""

    def __attrs_post_init__(self) -> None:
        color = (self.line.values("--color") or [""])[-1]
        self.voice = Voice(self.cargo.environ, color=color, quiet=kinds.is_quiet(self.line))

    @property
    def plain_words(self) -> tuple[str, ...]:
        """The whole line for cargo, as it was meant."""
        line = for_external(self.line)
        verb = kinds.cargos_verb(line)
        return (*line.before, *attrs.evolve(line, verb=verb).words)


@attrs.define
class Stage:
    """An open session, or none, and cargo's environment in it."""

    job: Job
    session: Session | None
    environ: Mapping[bytes, bytes]
    executor: str = "home"
    elsewhere: bool = False
    """Programs run on another machine."""
    afterwards: list[Callable[[], object]] = attrs.field(factory=list)
    """What is done once all that comes back has come back."""

    def start(self, words: Sequence[str]) -> Ended:
        """One cargo command, with the row above nothing of it."""
        with self._row():
            return child.run(self.job.cargo.argv(words), self.environ)

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


def perform(job: Job) -> int:
    """The exit code; -N if cargo, or what it started, was killed by signal N. BurstError."""
    line = job.line
    if not kinds.compiles(line, external=job.external):
        return _only_cargo(job)
    found = None if line.verb in kinds.WITHOUT_PROJECT else project(job.cargo, line)
    if isinstance(found, NoProject):
        return _without_project(job, found)
    job.project = found
    root = None if found is None else found.root
    job.settings = load(Places.of(dict(job.cargo.environ)), root)
    job.forwarded = forwarded(job.settings.forward_env, line.own.env, job.cargo.environ)
    if line.own.sync_dry_run:
        from burst_wrapper.verbs import first_copy  # noqa: PLC0415 - rare

        return first_copy.listing(job)
    if kinds.executes(line):
        job.wanted = _wanted(job)
        from burst_wrapper.verbs import first_copy  # noqa: PLC0415 - of verbs that execute

        first_copy.ask(job)
    for warning in job.forwarded.warnings:
        job.voice.warning(warning)
    with _stage(job) as stage:
        return _outcome(job, stage)


def _outcome(job: Job, stage: Stage) -> int:
    if job.line.verb == "test":
        from burst_wrapper.verbs import test_verb  # noqa: PLC0415 - of one verb

        ended = test_verb.run(job, stage)
    elif job.line.verb == "bench":
        from burst_wrapper.verbs import bench_verb  # noqa: PLC0415 - of one verb

        ended = bench_verb.run(job, stage)
    else:
        ended = stage.start(job.plain_words)
    _close(job, stage)
    return -ended.signal_number or ended.code


def _only_cargo(job: Job) -> int:
    """Nothing is compiled: cargo takes our place. What it may start after all is wrapped."""
    environ = {**job.cargo.environ, **hooks.wrapper(job.cargo_settings)}
    if job.line.verb == "clean":
        from burst_wrapper.verbs import clean_verb  # noqa: PLC0415 - of one verb

        return clean_verb.run(job, environ)
    return child.replace(job.cargo.argv(job.plain_words), environ)


def _without_project(job: Job, why: NoProject) -> int:
    """Cargo says what is wrong; we say what could help."""
    environ = {**job.cargo.environ, **hooks.wrapper(job.cargo_settings)}
    ended = child.run(job.cargo.argv(job.plain_words), environ)
    if ended.code and _NO_MANIFEST in why.said:
        job.voice.hint("run it in a project's folder, or name one with --manifest-path")
    return -ended.signal_number or ended.code


# -- the session -----------------------------------------------------------------------------------


@contextmanager
def _stage(job: Job) -> Iterator[Stage]:
    """Opens the session. BurstError if there must be one and is none."""
    environ = {**job.cargo.environ, **hooks.wrapper(job.cargo_settings)}
    triples = hooks.triples(job.cargo, job.line, job.cargo_settings) if _may_execute(job) else []
    users = hooks.users_runner(job.cargo, job.cargo_settings, triples)
    executes = bool(triples) and not users
    try:
        session = _open(job, executes=executes)
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
            raise NotRemote
        if users and elsewhere:
            job.notes.append(f"{users}: programs are started by your own runner, here")
        environ |= hooks.given(session, job.forwarded.variables)
        if executes and (elsewhere or job.settings.services):
            environ |= hooks.runners(triples, job.cargo_settings)
        yield Stage(job, session, environ, session.info.name, elsewhere)


def _may_execute(job: Job) -> bool:
    return kinds.executes(job.line)


def _open(job: Job, *, executes: bool) -> Session:
    from burst_wrapper.session_client import open_session  # noqa: PLC0415 - not for `fmt`

    return open_session(_request(job, executes=executes), job.voice.note)


def _request(job: Job, *, executes: bool) -> SessionRequest:
    from burst_wrapper.session_client import SessionRequest  # noqa: PLC0415 - as above

    own, cwd = job.line.own, job.cargo.cwd
    root = cwd if job.project is None else os.fsencode(job.project.root)
    target = os.path.join(cwd, b"target")
    if job.project is not None:
        target = os.fsencode(job.project.target_dir)
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
        env=tuple({**dict(job.forwarded.variables), **dict(job.wanted.variables)}.items()),
        forwards=own.forwards if executes else (),
        services=job.wanted.services if executes else (),
        alone=job.line.verb in ("bench", "nextest bench"),
        detach=own.detach,
        yes=own.yes,
        environ=tuple(job.cargo.environ.items()),
    )


def _wanted(job: Job) -> Wanted:
    given = {name: value for name, value in job.line.own.env if value is not None}
    names = dict(job.forwarded.variables).keys() | set(job.settings.forward_env)
    values = {name: job.cargo.environ.get(name) for name in names}
    return wanted_services(job.settings.services, values, given)


def _close(job: Job, stage: Stage) -> None:
    """What it used and saved. A user who presses Ctrl-C now waits no longer."""
    if stage.session is not None:
        try:
            summary = stage.session.close(job.voice.note)
        except KeyboardInterrupt:
            job.voice.warning("interrupted: what programs wrote may not have come back")
        except BurstError as error:
            job.voice.warning(str(error))
            if error.hint:
                job.voice.hint(error.hint)
        else:
            _say(job, stage, summary)
    for action in stage.afterwards:
        action()
    for note in dict.fromkeys(job.notes):
        job.voice.note(note)


def _say(job: Job, stage: Stage, summary: Summary) -> None:
    root = b"" if job.project is None else os.fsencode(job.project.root)
    job.voice.files("Fetched", summary.fetched, root)
    for path in summary.conflicts:
        job.voice.warning(f"{os.fsdecode(path)} was changed here meanwhile: left as it is")
    for note in summary.notes:
        job.voice.note(note)
    job.voice.status("Burst", sentence(summary, stage.executor))
