"""`cargo burst clean`: cargo's own, and the same for what verbs that run elsewhere have built.

They build into `<target>/burst`. Without options cargo removes that with the rest.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from burst_wrapper.verbs import child
from burst_wrapper.verbs.cargo import NoProject, project

if TYPE_CHECKING:
    from burst_wrapper.verbs.job import Job

BELOW = "burst"


def run(job: Job, environ: Mapping[bytes, bytes]) -> int:
    """The exit code of the first that fails; -N for a signal."""
    found = project(job.cargo, job.line)
    ended = child.run(job.cargo.argv(job.plain_words), environ)
    if not ended.good or isinstance(found, NoProject):
        return -ended.signal_number or ended.code
    ours = os.path.join(found.target_dir, BELOW)
    if os.path.isdir(ours):
        words = [
            *job.line.before,
            "clean",
            *job.line.own_words(("--target-dir",)),
            "--target-dir",
            ours,
        ]
        ended = child.run(job.cargo.argv(words), environ)
    return -ended.signal_number or ended.code
