"""`cargo burst doctor`: says what makes builds slow before they are, and nothing else."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from networks import needs

pytestmark = pytest.mark.usefixtures("built_before")


def doctor(**env: str) -> subprocess.CompletedProcess[str]:
    return doctor_in(Path.cwd(), **env)


def doctor_in(cwd: Path, *before: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`before`: a command in front of it."""
    command = [*before, sys.executable, "-m", "burst_wrapper.cli.cargo_burst", "doctor", "--json"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {**os.environ, "PATH": path, **env}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environ, cwd=cwd
    )


def failures(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return {c["what"]: c["result"] for c in json.loads(done.stdout)["checks"] if not c["ok"]}


def test_all_is_well() -> None:
    """Status 0, and nothing on stderr."""
    done = doctor()
    assert (failures(done), done.returncode, done.stderr) == ({}, 0, "")


def test_without_a_linker(tmp_path: Path) -> None:
    """Every program is linked at home then, as `explain` says; so does doctor."""
    for name in ("cargo", "rustc", "burst-rustc"):
        found = subprocess.run(["which", name], capture_output=True, text=True, check=False)
        target = found.stdout.strip() or Path(sys.executable).with_name(name)
        (tmp_path / name).symlink_to(target)
    done = doctor(PATH=str(tmp_path))
    assert done.returncode == 1
    assert "linker `cc` not found" in failures(done)["linker"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ((64, 64), "only 64 files may be open at once, and it needs 128 (raise `ulimit -n`)"),
        ((64, 1024), ""),
    ],
    ids=["for good", "for now"],
)
def test_few_open_files(limits: tuple[int, int], complaint: str, tmp_path: Path) -> None:
    """`ulimit -n`: undone as far as it may be; else named, with what to do."""
    setting = f"import os, resource, sys; resource.setrlimit({resource.RLIMIT_NOFILE}, {limits})"
    before = (sys.executable, "-c", f"{setting}; os.execv(sys.argv[1], sys.argv[1:])")
    said = failures(doctor_in(tmp_path, *before)).get("agent", "")
    assert said.removeprefix("the agent ended: ") == complaint


def test_no_folder_for_the_socket() -> None:
    """No daemon could listen, and every unit would run at home."""
    done = doctor(XDG_RUNTIME_DIR="/proc/self/task")
    if not os.access("/proc/self/task", os.W_OK):  # not root's: then it counts as nobody's
        assert failures(done) == {}
    else:
        why = "/proc/self/task/burst: No such file or directory (see XDG_RUNTIME_DIR)"
        assert failures(done) == {"socket": f"there is no folder for its socket: {why}"}
    assert done.stderr == ""


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "XDG_STATE_HOME"])
def test_folders_that_cannot_be_made(tmp_path: Path, variable: str) -> None:
    """Units would run at home, uncached, and `explain` could not say why."""
    (tmp_path / "file").write_text("")
    done = doctor(**{variable: str(tmp_path / "file")})
    assert failures(done) == {"folders": f"{tmp_path}/file/burst: Not a directory"}
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.root
def test_services_of_the_project(tmp_path: Path) -> None:
    """Each is started once; what is not installed is named with its package."""
    needs("redis-server")
    (tmp_path / "src").mkdir()
    (tmp_path / "src/lib.rs").write_text("")
    (tmp_path / "Cargo.toml").write_text('[package]\nname = "app"\n')
    (tmp_path / ".config").mkdir()
    (tmp_path / ".config/burst.toml").write_text('services = ["redis", "mariadb"]\n')
    hide = (
        "for p in /usr/sbin/mariadbd /usr/sbin/mysqld; do"
        ' [ ! -e $p ] || mount --bind /dev/null $p; done; exec "$@"'
    )
    done = doctor_in(tmp_path, "unshare", "--mount", "sh", "-c", hide, "sh")
    lacking = "mysql: MySQL or MariaDB is not installed there (Debian package mariadb-server)"
    assert failures(done) == {"service mysql": lacking}
    checks = {c["what"]: c["result"] for c in json.loads(done.stdout)["checks"]}
    assert checks["service redis"] == "starts, and answers at redis://127.0.0.1:6379"
    assert checks["network of programs"].startswith("a network of its own for each project")
