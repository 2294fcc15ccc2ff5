"""Before a project is copied for the first time: `--sync-dry-run`, and a question about ballast."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import attrs

from burst_lifecycle.places import Places
from burst_protocol.errors import BurstError, UsageError
from burst_wrapper.mirror import answers

if TYPE_CHECKING:
    from burst_wrapper.mirror.snapshot import Project
    from burst_wrapper.mirror.weight import Heavy
    from burst_wrapper.verbs.job import Job


def listing(job: Job) -> int:
    """All that would be copied, on stdout. BurstError."""
    from burst_wrapper.mirror import before  # noqa: PLC0415 - takes longer than all of the rest

    project = _project(job)
    if project is None:
        raise UsageError("--sync-dry-run: there is no project here")
    said = answers.load(Places.of(dict(job.cargo.environ)), project.workspace_root)
    for line in before.preview(_with(project, said.exclude)).lines():
        print(line)  # noqa: T201 - what was asked for
    return 0


def ask(job: Job) -> None:
    """On the first run of a project on another machine, if somebody can answer. Never fails."""
    if job.project is None or job.line.own.yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty() and job.has_elsewhere):
        return
    places = Places.of(dict(job.cargo.environ))
    if answers.load(places, os.fsencode(job.project.root)).asked:
        return
    from burst_wrapper.mirror import before  # noqa: PLC0415 - as above

    project = _project(job)
    assert project is not None

    def agree(found: tuple[Heavy, ...]) -> bool:
        job.voice.note("these folders look like other tools' outputs:")
        for heavy in found:
            print(f"  {heavy}", file=sys.stderr)  # noqa: T201
        print("Keep them at home? [Y/n] ", end="", file=sys.stderr, flush=True)  # noqa: T201
        answer = sys.stdin.readline()
        return answer.strip().lower() in ("", "y", "yes") and answer != ""

    try:
        before.ask(project, places, agree)
    except (BurstError, OSError) as error:
        job.voice.warning(str(error))


def _project(job: Job) -> Project | None:
    if job.project is None:
        return None
    from burst_wrapper.mirror.snapshot import Project  # noqa: PLC0415 - as above

    return Project(
        workspace_root=os.fsencode(job.project.root),
        target_dir=os.fsencode(job.project.target_dir),
        exclude=job.settings.exclude,
        unexclude=job.settings.unexclude,
        environ=job.cargo.environ,
    )


def _with(project: Project, exclude: tuple[str, ...]) -> Project:
    return attrs.evolve(project, exclude=(*project.exclude, *exclude))
