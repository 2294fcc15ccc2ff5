"""Carries out what `testing` has planned."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from burst_wrapper.verbs.child import Ended
from burst_wrapper.verbs.testing import (
    EXIT_FAILED,
    EXIT_USAGE,
    NEXTEST_REFUSES,
    OwnHarness,
    Step,
    listing,
    not_built,
    own_harness,
    plan,
)

if TYPE_CHECKING:
    from burst_wrapper.verbs.cargo import Project
    from burst_wrapper.verbs.job import Job
    from burst_wrapper.verbs.stage import Stage


def run(job: Job, stage: Stage) -> Ended:
    """One step after the other; after a failure only with `--no-fail-fast`. 101 if one failed,
    or cargo's own code for it."""
    own = [] if job.project is None else list(harnesses(job.project))
    planned = partial(
        plan,
        job.line,
        job.project,
        own,
        nextest=job.cargo.has_command("nextest"),
        runner=job.settings.test_runner,
    )
    wanted = planned()
    notes, doubtful = wanted.notes, wanted.doubtful
    goes_on = job.line.given("--no-fail-fast")
    result = Ended(0)
    steps = list(wanted.steps)
    while steps:
        if steps[0].what == "own harness" and doubtful:
            # nextest has had all of them built by now: cargo only says which.
            known = planned(without=_not_built(job, stage, doubtful))
            notes, doubtful = known.notes, ()
            steps = [step for step in known.steps if step.what != "nextest"]
            continue
        step = steps.pop(0)
        ended = stage.start((*_before(job, step), *step.words))
        if step.what == "nextest" and ended.code in NEXTEST_REFUSES and wanted.instead is not None:
            job.notes.append("nextest would not run these: tests ran by `cargo test`")
            instead = wanted.instead
            return stage.start((*_before(job, instead), *instead.words))
        if ended.signal_number or (ended.interrupted and ended.good):
            return ended
        if ended.code:
            # As cargo: of one target that failed its own code, of several 101.
            alone = result.good and step.what != "nextest"
            result = Ended(ended.code if alone else EXIT_FAILED)
            if ended.interrupted or not goes_on:
                break
    if result.code != EXIT_USAGE:
        job.notes += notes
    return result


def _not_built(job: Job, stage: Stage, doubtful: Sequence[OwnHarness]) -> set[OwnHarness]:
    """Those that cargo passes over. If it cannot say: none, and it will tell why."""
    if job.project is None:
        return set()
    answer = stage.ask((*job.line.before, *listing(job.line)))
    return not_built(doubtful, answer.stdout, job.project) if answer.status == 0 else set()


def _before(job: Job, step: Step) -> tuple[str, ...]:
    """Cargo's options before the verb; nextest got them among its own."""
    return () if step.what == "nextest" else job.line.before


def harnesses(project: Project) -> Iterator[OwnHarness]:
    """All targets of the workspace with `harness = false`. A manifest that cannot be read has
    none: cargo has read it, and will say so."""
    for package in project.packages:
        try:
            with open(os.fsencode(package.manifest), "rb") as file:
                manifest = tomllib.load(file)
        except (OSError, ValueError):
            continue
        yield from own_harness(package, manifest)
