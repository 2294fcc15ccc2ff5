"""Sessions at home: what `cargo burst` opens around cargo, with the real daemon."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from burst_protocol.errors import DaemonUnavailable
from burst_wrapper.session_client import SessionRequest, open_session
from space import Space

pytest_plugins = ("space_fixtures",)


def request_of(space: Space, verb: str = "build", **more: object) -> SessionRequest:
    """As `cargo burst VERB` would ask in this project."""
    root = os.fsencode(space.project)
    return SessionRequest(
        verb=verb,
        cwd=root,
        workspace_root=root,
        target_dir=root + b"/target",
        environ=tuple((os.fsencode(n), os.fsencode(v)) for n, v in space.env.items()),
        **more,  # type: ignore[arg-type]
    )


def env_of(added: dict[bytes, bytes]) -> dict[str, str]:
    return {os.fsdecode(name): os.fsdecode(value) for name, value in added.items()}


@pytest.mark.slow
def test_a_session_counts_what_its_cargo_does(space: Space) -> None:
    """Cold: compiled on this machine. Again from an empty target: hits. Others do not count."""
    with open_session(request_of(space)) as session:
        assert session.info.executor == "home"
        assert session.info.target_dir == os.fsencode(space.project / "target")
        space.cargo("build", **env_of(session.environ)).check()
        cold = session.close()
    assert cold.progress.local > 0
    assert cold.progress.hits == 0
    assert cold.progress.units_remote == 0
    assert cold.wall_ms > 0
    space.fresh_target()
    with open_session(request_of(space)) as session:
        space.cargo("build", **env_of(session.environ)).check()
        warm = session.progress()
        space.fresh_target()
        space.cargo("build").check()
        space.cargo("build", BURST_SESSION="0123456789abcdef").check()
        assert session.progress() == warm
        assert session.close().saved_ms >= 0
    assert warm.hits == cold.progress.local
    assert warm.local == 0


def test_a_daemon_that_goes_is_an_error(space: Space) -> None:
    with open_session(request_of(space)) as session:
        space.stop()
        with pytest.raises(DaemonUnavailable):
            session.progress()


def test_two_sessions_have_two_names(space: Space, tmp_path: Path) -> None:
    with open_session(request_of(space)) as one, open_session(request_of(space)) as two:
        assert one.info.id != two.info.id
