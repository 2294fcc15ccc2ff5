"""The native client in real builds: who puts it there, who starts it, and life without it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from burst_wrapper.launcher import client_path
from projects import PROJECTS
from space import Space

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Stands where the client is, and says so.
COUNTING = """\
#!/bin/sh
echo "$2" >>{log}
exec {folder}/client-real "$@"
"""


def test_a_build_uses_it_and_survives_its_loss() -> None:
    """The first build's daemon publishes it, the next one's calls use it, then the cache goes."""
    if shutil.which("cargo") is None or shutil.which("cc") is None:
        pytest.skip("needs cargo and cc")
    with Space.open() as space:
        shutil.copytree(PROJECTS / "tiny", space.project, dirs_exist_ok=True)
        cache = space.home / ".cache" / "burst"
        client = Path(os.fsdecode(client_path(bytes(cache))))
        space.cargo("build", "--offline").check()
        log = space.folder / "log"
        shutil.copy(client, cache / "client-real")
        client.unlink()
        client.write_text(COUNTING.format(log=log, folder=cache))
        client.chmod(0o755)
        shutil.rmtree(space.project / "target")
        space.cargo("build", "--offline").check()
        assert {unit["where"] for unit in space.units()} == {"hit"}
        assert len(log.read_text().splitlines()) >= len(space.units())

        shutil.rmtree(cache)
        shutil.rmtree(space.project / "target")
        space.cargo("build", "--offline", BURST_REQUIRE_REMOTE="0").check()
        space.stop()
        shutil.rmtree(space.project / "target")
        space.cargo("build", "--offline").check()
        assert client.exists()
