"""The pure parts of networks: who services are, what leads out, what databases are told."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from burst_agent.network import outgoing, users
from burst_agent.network.namespace import interpreter, tail
from burst_agent.network.services import SERVICES as STARTED
from burst_agent.network.services.postgresql import _version
from burst_agent.network.services.service import look
from burst_protocol.services import ALIASES, SERVICES


@pytest.mark.parametrize(
    ("uid", "uid_map", "user"),
    [
        (1000, b"         0          0 4294967295\n", 0),
        (0, b"         0          0 4294967295\n", users.USER),
        # Containers: as many ids as a system needs, in one piece or in two; or root alone.
        (0, b"0 100000 65536\n", 65_531),
        (0, b"0 1000 1\n1 100000 65536\n", 65_531),
        (0, b"0 1000 1\n", 0),
    ],
)
def test_whom_services_run_as(uid: int, uid_map: bytes, user: int) -> None:
    """Never root where there is anybody else; a number that exists in there."""
    assert users.service_user(uid, uid_map) == user


def test_databases_find_their_own_user() -> None:
    """Before whoever the machine knows by that number; the machine's others are there, too."""
    first, *others = users.files(4711)["/etc/passwd"].splitlines()
    assert first == "burst:x:4711:4711:burst:/tmp:/bin/sh"
    assert any(line.startswith("root:") for line in others)


@pytest.mark.parametrize(
    ("home", "hidden"),
    [("/home/me", True), ("/var/lib/builder", True), ("/usr/sbin", False), ("/", False)],
)
def test_a_system_users_home_may_be_what_all_need(
    home: str, hidden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Account:
        pw_dir = home

    monkeypatch.setattr("pwd.getpwuid", lambda _: Account)
    assert (home.encode() in users.private_folders()) is hidden


def test_pasta_first_and_what_it_executes() -> None:
    both = {"pasta": "/usr/bin/pasta", "slirp4netns": "/usr/bin/slirp4netns"}
    for installed, name in ((both, "pasta"), ({"slirp4netns": "/x"}, "slirp4netns")):
        found = outgoing.find(installed.get)
        assert found is not None
        assert found.argv[0] == f"/tmp/bin/{name}"
        assert name in found.programs
    assert outgoing.find(lambda _: None) is None


def test_the_machines_search_list_with_another_server() -> None:
    machines = b"# stub\nnameserver 127.0.0.53\noptions edns0\nsearch example.com\n"
    assert outgoing.resolv_conf("10.0.2.3", machines) == (
        b"nameserver 10.0.2.3\noptions edns0\nsearch example.com\n"
    )


def test_the_newest_postgresql() -> None:
    folders = [f"/usr/lib/postgresql/{n}/bin" for n in ("9.6", "15", "17", "16")]
    assert max(folders, key=_version).endswith("/17/bin")


def test_a_programs_own_name_in_its_real_folder(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/all-in-one").touch(0o755)
    (tmp_path / "store/server").symlink_to("all-in-one")
    (tmp_path / "run").symlink_to("store")
    assert look(("absent", "server"), [str(tmp_path / "run")]) == str(tmp_path / "store/server")


def test_both_ends_know_the_same_services() -> None:
    assert STARTED.keys() == SERVICES.keys()
    assert set(ALIASES.values()) <= SERVICES.keys()
    for name, service in STARTED.items():
        assert service.port == SERVICES[name].port
        assert f":{service.port}" in SERVICES[name].url


def test_the_python_that_runs_us() -> None:
    command = interpreter()
    assert command[-3:] == [sys.executable, "-I", "-S"]
    assert len(command) == 3  # no loader in front of it here


def test_the_last_words_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert tail(os.fsencode(path)) == ""
    path.write_text("x" * 10_000 + "\nFATAL: no\n\n  \n")
    assert tail(os.fsencode(path)) == "FATAL: no"


def test_why_there_is_no_way_out(tmp_path: Path) -> None:
    """The device that both programs need, or else what the program said itself."""
    (tmp_path / "tun").touch()
    said = outgoing.failure("pasta", "odd", str(tmp_path / "tun"))
    assert said == "no outgoing traffic: pasta: odd"
    missing = str(tmp_path / "nothing")
    assert outgoing.failure("pasta", "odd", missing) == (
        f"no outgoing traffic: {missing} cannot be opened there (No such file or directory), which "
        f"pasta needs; a container gets it by `--device {missing}`"
    )
