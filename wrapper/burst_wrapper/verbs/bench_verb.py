"""`cargo burst bench`: alone on the machine, with the processor noted for every baseline."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Final

from burst_protocol.errors import BurstError
from burst_wrapper.session_client import hook_path
from burst_wrapper.verbs import baselines
from burst_wrapper.verbs.hooks import RUNNER

if TYPE_CHECKING:
    from burst_wrapper.verbs.child import Ended
    from burst_wrapper.verbs.job import Job
    from burst_wrapper.verbs.stage import Stage

_PATIENCE_S: Final = 60


def run(job: Job, stage: Stage) -> Ended:
    """cargo's end. What concerns baselines never stops it."""
    target = "" if job.project is None else job.project.target_dir
    behind = () if job.line.behind is None else job.line.behind
    processor = _processor(job, stage) if target and not job.line.given("--no-run") else ""
    for sentence in baselines.foreign(
        baselines.read(target), baselines.compared(behind), processor
    ):
        job.voice.warning(sentence)
    before = baselines.stamps(target) if processor else {}
    ended = stage.start(job.plain_words)
    if processor:
        stage.afterwards.append(lambda: _record(job, target, before, processor))
    return ended


def _record(job: Job, target: str, before: dict[str, int], processor: str) -> None:
    """Once the reports are here."""
    measured = baselines.changed(before, baselines.stamps(target))
    try:
        baselines.record(target, measured, processor)
    except OSError as error:
        job.voice.warning(f"the processor of a baseline cannot be noted: {error.strerror}")


def _processor(job: Job, stage: Stage) -> str:
    """Of the machine that measures; empty if it cannot be had."""
    if not stage.elsewhere:
        return baselines.here()
    try:
        done = subprocess.run(
            [hook_path(RUNNER, job.cargo.environ), "/bin/cat", "/proc/cpuinfo"],
            env=stage.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError, BurstError):
        return ""
    text = done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""
    return baselines.model(text)
