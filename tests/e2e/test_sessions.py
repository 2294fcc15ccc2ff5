"""Sessions at home: what `cargo burst` opens around cargo, with the real daemon."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from burst_protocol.errors import ConfigError, DaemonUnavailable, RemoteRequired
from burst_wrapper.daemon.forwards import PortTaken
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


def test_a_daemon_that_answers_was_started_well(space: Space) -> None:
    """However often it is stopped: only daemons that never answer are given up on."""
    for _ in range(5):
        with open_session(request_of(space)) as session:
            assert session.info.executor == "home"
        space.stop()


def test_two_sessions_have_two_names(space: Space, tmp_path: Path) -> None:
    with open_session(request_of(space)) as one, open_session(request_of(space)) as two:
        assert one.info.id != two.info.id


# --- a host that cannot be had ---


NOBODY = "nobody@127.0.0.1:1"


def test_a_host_that_does_not_answer_is_a_note(space: Space) -> None:
    """Programs run at home then, from the plain target directory, and the user knows why."""
    with open_session(request_of(space, "test", executes=True, host=NOBODY)) as session:
        assert session.info.executor == "home"
        assert session.info.target_dir == os.fsencode(space.project / "target")
        assert NOBODY in session.info.notes[0]
        assert "programs run on this machine" in session.info.notes[0]


def test_a_host_that_must_be_had_is_an_error(space: Space) -> None:
    space.env |= {"BURST_HOST": NOBODY, "BURST_REQUIRE_REMOTE": "1"}
    with pytest.raises(RemoteRequired, match=NOBODY):
        open_session(request_of(space, "test", executes=True))
    # Nothing is asked of it by a verb that starts no programs.
    with open_session(request_of(space, "build")) as session:
        assert session.info.executor == "home"


def test_a_wrong_configuration_is_an_error(space: Space) -> None:
    folder = space.home / ".config" / "burst"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('hots = "x"\n')
    with pytest.raises(ConfigError):
        open_session(request_of(space, "test", executes=True))


# --- ports ---


def test_a_port_that_is_taken_is_an_error(space: Space) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wanted = request_of(space, "run", executes=True, alone=True, forwards=((port, 80),))
        with pytest.raises(PortTaken, match=str(port)):
            open_session(wanted)


def test_a_port_leads_nowhere_after_the_session(space: Space) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    wanted = request_of(space, "run", executes=True, alone=True, forwards=((port, 80),))
    with open_session(wanted) as session, socket.create_connection(("127.0.0.1", port)):
        session.close()
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_at_home_a_port_of_another_number_leads_to_the_programs(space: Space) -> None:
    with socket.create_server(("127.0.0.1", 0)) as program, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        local, remote = probe.getsockname()[1], program.getsockname()[1]
        probe.close()
        wanted = request_of(space, "run", executes=True, forwards=((local, remote),))
        with open_session(wanted), socket.create_connection(("127.0.0.1", local)) as client:
            there, _ = program.accept()
            with there:
                client.sendall(b"question")
                client.shutdown(socket.SHUT_WR)
                assert there.makefile("rb").read() == b"question"
                there.sendall(b"answer")
            assert client.makefile("rb").read() == b"answer"
        same = request_of(space, "run", executes=True, forwards=((remote, remote),))
        with open_session(same) as session:
            assert not session.info.notes
