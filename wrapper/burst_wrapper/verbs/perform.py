"""One verb of cargo from beginning to end: a session around the local cargo with our hooks.

Cargo decides everything; what of ours fails before it starts is said in a note, and then it runs
without.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from burst_protocol.errors import BurstError
from burst_wrapper.config import Config, config_path, load, load_for
from burst_wrapper.verbs import child, hooks, kinds
from burst_wrapper.verbs.cargo import NoProject, project
from burst_wrapper.verbs.environment import forwarded
from burst_wrapper.verbs.job import NOTHING_WANTED, Job
from burst_wrapper.verbs.stage import Stage, opened
from burst_wrapper.verbs.summary import sentence
from burst_wrapper.verbs.wanted_services import Wanted, wanted_services

if TYPE_CHECKING:
    from burst_wrapper.session_client import Summary

_NO_MANIFEST: Final = b"could not find `Cargo.toml`"


def perform(job: Job) -> int:
    """The exit code; -N if cargo, or what it started, was killed by signal N. BurstError."""
    line = job.line
    if line.wants_help or not kinds.compiles(line, external=job.external):
        return _only_cargo(job)
    found = None if line.verb in kinds.WITHOUT_PROJECT else project(job.cargo, line)
    if isinstance(found, NoProject):
        return _without_project(job, found)
    job.project = found
    settings = _settings(job)
    job.settings = settings
    named = line.own.host or os.fsdecode(job.cargo.environ.get(b"BURST_HOST", b"")) or settings.host
    job.other_machine = named or ("a server" if settings.hetzner else "")
    job.forwarded = forwarded(settings.forward_env, line.own.env, job.cargo.environ)
    if line.own.sync_dry_run:
        from burst_wrapper.verbs import first_copy  # noqa: PLC0415 - rare

        return first_copy.listing(job)
    if kinds.executes(line):
        job.wanted = _wanted(job)
        from burst_wrapper.verbs import first_copy  # noqa: PLC0415 - of verbs that execute

        first_copy.ask(job)
    for warning in (*job.forwarded.warnings, *_without_effect(job)):
        job.voice.warning(warning)
    with opened(job) as stage:
        return _outcome(job, stage)


def _without_effect(job: Job) -> Iterator[str]:
    """Options of ours that this verb can do nothing with."""
    own = job.line.own
    if not kinds.executes(job.line):
        if own.forwards:
            yield "-L: nothing of this runs elsewhere, so no port is forwarded"
        if own.detach:
            yield "--detach: nothing of this runs elsewhere"
    if own.fetch_all:
        yield "--fetch-all is for --driver remote: here all of target/ is at home anyway"


def _settings(job: Job) -> Config:
    """ConfigError."""
    environ = dict(job.cargo.environ)
    path = config_path(environ)
    if job.project is None:
        return load(path)
    return load_for(path, os.fsencode(job.project.root), environ)


def _wanted(job: Job) -> Wanted:
    """Without another machine a variable means what it says at home, unless programs run in a
    network of their own for the sake of what is configured."""
    if not job.has_elsewhere and not job.settings.services:
        return NOTHING_WANTED
    given = {name: value for name, value in job.line.own.env if value is not None}
    names = dict(job.forwarded.variables).keys() | set(job.settings.forward_env)
    values = {name: job.cargo.environ.get(name) for name in names}
    return wanted_services(job.settings.services, values, given)


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
    environ = {**job.cargo.environ, **hooks.wrapper(job.cargo.environ, job.cargo_settings)}
    if job.line.verb == "clean":
        from burst_wrapper.verbs import clean_verb  # noqa: PLC0415 - of one verb

        return clean_verb.run(job, environ)
    return child.replace(job.cargo.argv(job.plain_words), environ)


def _without_project(job: Job, why: NoProject) -> int:
    """Cargo says what is wrong; we say what could help."""
    environ = {**job.cargo.environ, **hooks.wrapper(job.cargo.environ, job.cargo_settings)}
    ended = child.run(job.cargo.argv(job.plain_words), environ)
    if ended.code and _NO_MANIFEST in why.said:
        job.voice.hint("run it in a project's folder, or name one with --manifest-path")
    return -ended.signal_number or ended.code


# -- the end ---------------------------------------------------------------------------------------


def _close(job: Job, stage: Stage) -> None:
    """What it used and saved. A user who presses Ctrl-C now waits no longer."""
    if stage.session is not None:
        try:
            with job.voice.waiting() as on_note:
                summary = stage.session.close(on_note)
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
