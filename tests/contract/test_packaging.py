"""The wheel, and `burst-rustc` as pip, pipx and uv put it on PATH."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from burst_protocol.version import BUILD
from burst_wrapper import hot, native_build, paths
from burst_wrapper.daemon.tools import Tools
from burst_wrapper.launcher import (
    X86_MARK,
    client_path,
    launcher_path,
    python_launcher_path,
    write_launcher,
)
from fake_daemon import FakeDaemon, exit_frame, frame

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "wrapper" / "burst_wrapper" / "scripts" / "burst-rustc"
SCRIPTS = ("burst-rustc", "burst-runner", "burst-rustdoc", "burst-stub")
PACKAGES = {
    "burst_wrapper": ROOT / "wrapper",
    "burst_protocol": ROOT / "agent",
    "burst_agent": ROOT / "agent",
    "burst_lifecycle": ROOT / "image",
}
UNIT = ["rustc", "--crate-name", "x", "--json=artifacts", "src/lib.rs"]
ANSWER = frame(b"E", b"answered\n") + exit_frame(5)


def build_wheel(folder: Path, **variables: str) -> Path:
    """From this tree."""
    pytest.importorskip("hatchling", reason="building the wheel needs hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    env = {**os.environ, **variables}
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=env)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built once."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a virtual environment that has the wheel, as pip leaves it."""
    pytest.importorskip("pip", reason="installing the wheel needs pip")
    root = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(root, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(root / "bin" / "python3")]
    install = ["install", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)]
    subprocess.run(pip + install, check=True)
    return root / "bin"


def call(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(params=["python", "native"])
def way(request: pytest.FixtureRequest) -> str:
    """Without the native client, and with it where a daemon puts it."""
    if request.param == "native":
        request.getfixturevalue("published_client")
    return str(request.param)


def site_packages(bin_folder: Path) -> Path:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return bin_folder.parent / "lib" / version / "site-packages"


# --- the wheel ---


@pytest.mark.slow
def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    """Four packages with every source file of theirs, our scripts, and the metadata."""
    names = zipfile.ZipFile(wheel).namelist()
    data, info = f"burst_rustc-{BUILD}.data", f"burst_rustc-{BUILD}.dist-info"
    assert {name.partition("/")[0] for name in names} == {*PACKAGES, data, info}
    scripts = {f"{data}/scripts/{name}" for name in SCRIPTS}
    assert {name for name in names if name.startswith(data)} == scripts
    for package, root in PACKAGES.items():
        sources = {
            str(path.relative_to(root))
            for suffix in ("*.py", "*.c", "*.h", "*.S", "py.typed")
            for path in (root / package).rglob(suffix)
        }
        sources |= {
            str(path.relative_to(root))
            for path in (root / package / "server").glob("*")
            if path.is_file()
        }
        if package == "burst_lifecycle":
            recipe = ROOT / "image" / "recipe"
            sources |= {
                f"{package}/recipe/{path.relative_to(recipe)}"
                for path in recipe.rglob("*")
                if path.is_file()
            }
        built = {name for name in names if "/native/built/" in name}
        assert sources == {name for name in names if name.startswith(f"{package}/")} - built


@pytest.mark.slow
def test_wheel_holds_native_parts_of_the_machine_that_built_it(
    wheel: Path, installed: Path, tmp_path: Path
) -> None:
    """Whoever installs it waits for the C compiler, not the first build."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    assert wheel.name.endswith(f"-py3-none-linux_{os.uname().machine}.whl")
    script = f"""
from pathlib import Path
from burst_wrapper.native_build import build_native
print(build_native(None, Path({str(tmp_path)!r})).reason or "complete")
"""
    packages = next((installed.parent / "lib").glob("python*/site-packages"))
    sites = [str(packages), *(entry for entry in sys.path if entry.endswith("site-packages"))]
    done = call(sys.executable, "-P", "-c", script, PYTHONPATH=os.pathsep.join(sites))
    assert done.stdout == "complete\n", done.stderr


@pytest.mark.slow
def test_wheel_built_without_a_compiler_is_pure(tmp_path: Path) -> None:
    """It can be installed everywhere, and home builds the native parts later."""
    path = build_wheel(tmp_path, PATH=str(tmp_path / "empty"))
    assert path.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(path).namelist() if "/native/built/" in name]


@pytest.mark.slow
def test_wheel_metadata(wheel: Path) -> None:
    """The version is the one the code knows; both licences and all commands are in."""
    archive = zipfile.ZipFile(wheel)
    info = f"burst_rustc-{BUILD}.dist-info"
    assert f"\nVersion: {BUILD}\n" in archive.read(f"{info}/METADATA").decode()
    assert len(archive.read(f"{info}/licenses/LICENSE-APACHE")) > 10_000
    assert b"Permission is hereby granted" in archive.read(f"{info}/licenses/LICENSE-MIT")
    lines = archive.read(f"{info}/entry_points.txt").decode().splitlines()
    commands = {line.partition(" = ")[0] for line in lines if " = " in line}
    assert commands == {"cargo-burst", "burst", "burst-admin", "burst-agent"}


def test_version_is_written_down_once_more_only() -> None:
    """pyproject.toml and the code agree about the version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == BUILD


def test_script_is_valid_in_both_its_languages() -> None:
    """No warning of a newer Python may ever reach cargo, which would replay it for ever."""
    for name in SCRIPTS:
        script = SCRIPT.with_name(name)
        shell_part, _, python_part = script.read_text().partition("\n'''\n")
        if python_part:
            compile(script.read_text(), name, "exec")  # pytest turns warnings into errors
        shell = shell_part.replace("''':'", ":").encode()
        subprocess.run(["sh", "-n"], input=shell, check=True)
        assert script.stat().st_mode & 0o111


# --- the installed script ---


@pytest.mark.usefixtures("way")
@pytest.mark.slow
def test_installed_script_relays(installed: Path, fake_daemon: FakeDaemon) -> None:
    """From the folder pip installed it to, by path and from PATH."""
    fake_daemon.answers = [ANSWER]
    for answer in (
        call(installed / "burst-rustc", *UNIT),
        call("burst-rustc", *UNIT, PATH=f"{installed}:{os.environ['PATH']}"),
    ):
        assert (answer.stdout, answer.stderr, answer.returncode) == ("", "answered\n", 5)
    assert fake_daemon.requests[0].argv == [os.fsencode(part) for part in UNIT]


@pytest.mark.usefixtures("way")
@pytest.mark.slow
def test_installed_script_through_links(
    installed: Path, fake_daemon: FakeDaemon, tmp_path: Path
) -> None:
    """`uv tool` and pipx link all scripts; people link one, relatively, through other links."""
    fake_daemon.answers = [ANSWER]
    tool, own = tmp_path / "tool", tmp_path / "own"
    tool.mkdir()
    own.mkdir()
    for name in ("burst-rustc", "cargo-burst"):
        (tool / name).symlink_to(installed / name)
    (own / "first").symlink_to("../tool/burst-rustc")
    (own / "burst-rustc").symlink_to("first")
    for script in (tool / "burst-rustc", own / "burst-rustc"):
        answer = call(script, *UNIT)
        assert (answer.stderr, answer.returncode) == ("answered\n", 5)


@pytest.mark.usefixtures("way")
@pytest.mark.slow
@pytest.mark.parametrize("links", [False, True])
def test_environment_comes_through_the_shell(
    installed: Path, fake_daemon: FakeDaemon, tmp_path: Path, *, links: bool
) -> None:
    """dash drops names with a dash and changes PWD: neither may be seen, here or there."""
    script = installed / "burst-rustc"
    if links:
        (tmp_path / "burst-rustc").symlink_to(script)
        script = tmp_path / "burst-rustc"
    environ = {
        b"XDG_RUNTIME_DIR": os.environb[b"XDG_RUNTIME_DIR"],
        b"PATH": os.environb[b"PATH"],
        b"PWD": b"/elsewhere",
        b"CARGO_BIN_EXE_my-tool": b"/t/my-tool",
        b"x.y": b"two\nlines\n",
        b"NEWLINES": b"\n\n",
        b"CONTROL": b"\1\x7f\xff",
        b"EMPTY": b"",
        **dict.fromkeys([b"client", b"environ", b"interpreter", b"script"], b"not the script's"),
        # Only units with one of these two get odd names from cargo.
        (b"CARGO_TARGET_TMPDIR" if links else b"OUT_DIR"): b"/t/tmp",
    }
    subprocess.run([script, *UNIT], env=environ, check=True, cwd=tmp_path)
    assert fake_daemon.requests[0].variables() == environ
    shown = subprocess.run(
        [script, "env", "-0"], env=environ, check=True, cwd=tmp_path, capture_output=True
    ).stdout
    assert parsed(shown) == environ
    # A daemon that answers nonsense: the compiler runs here, after all that may have been tried.
    fake_daemon.answers = [frame(b"?")]
    compiler = tmp_path / "rustc"
    compiler.write_text("#!/bin/sh\ntr '\\0' '\\0' </proc/$$/environ\n")
    compiler.chmod(0o755)
    command = [str(script), str(compiler), *UNIT[1:]]
    shown = subprocess.run(
        command, env=environ, check=True, cwd=tmp_path, capture_output=True
    ).stdout
    assert parsed(shown) == environ


def parsed(shown: bytes) -> dict[bytes, bytes]:
    return dict(entry.split(b"=", 1) for entry in shown.removesuffix(b"\0").split(b"\0"))


CALLER = """
import os, subprocess, sys
unit = {**os.environb, b"CARGO_PKG_NAME": b"unit"}
sys.exit(subprocess.run(sys.argv[1:], env=unit).returncode)
"""


@pytest.mark.usefixtures("way")
@pytest.mark.slow
def test_what_the_caller_had_comes_through_the_shell(
    installed: Path, fake_daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Most units cost no extra process: what a shell drops or sets is read from the caller."""
    environ = {
        b"XDG_RUNTIME_DIR": os.environb[b"XDG_RUNTIME_DIR"],
        b"PATH": os.environb[b"PATH"],
        b"PWD": b"/elsewhere",
        b"x.y": b"two\nlines\n",
        b"BASH_FUNC_f%%": b"() { :; }",
        **dict.fromkeys([b"client", b"environ", b"interpreter", b"script"], b"not the script's"),
        b"LC_CTYPE": b"C.UTF-8",
    }
    script = str(installed / "burst-rustc")
    caller = [sys.executable, "-I", "-S", "-c", CALLER, script, *UNIT]
    subprocess.run(caller, env=environ, check=True, cwd=tmp_path)
    assert fake_daemon.requests[0].variables() == {**environ, b"CARGO_PKG_NAME": b"unit"}


@pytest.mark.usefixtures("way")
@pytest.mark.slow
def test_large_environment_and_arguments(installed: Path, fake_daemon: FakeDaemon) -> None:
    """What does not fit into one more argument is sent without its shell-proof copy."""
    fake_daemon.answers = [ANSWER]
    variables = {f"V{i}": "x" * 60_000 for i in range(4)}
    answer = call(installed / "burst-rustc", *UNIT, "y" * 100_000, **variables)
    assert (answer.stderr, answer.returncode) == ("answered\n", 5)
    assert fake_daemon.requests[0].variables()[b"V3"] == b"x" * 60_000


@pytest.mark.usefixtures("way")
@pytest.mark.slow
def test_python_variables_do_no_harm(installed: Path, fake_daemon: FakeDaemon) -> None:
    """What people set for their own Python programs neither breaks nor delays a compile."""
    fake_daemon.answers = [ANSWER]
    variables = {"PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere", "PYTHONVERBOSE": "1"}
    answer = call(installed / "burst-rustc", *UNIT, **variables)
    assert (answer.stderr, answer.returncode) == ("answered\n", 5)


@pytest.fixture
def copy(installed: Path, tmp_path: Path) -> Path:
    """Another installation to damage; its `cargo-burst` still names the first one's Python."""
    shutil.copytree(installed.parent, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy" / "bin"


@pytest.mark.slow
@pytest.mark.parametrize(
    "first_line", [None, "#!/bin/sh", "#!/usr/bin/env python3", "#!/gone/python3"]
)
def test_interpreter_is_found_without_help(
    copy: Path, fake_daemon: FakeDaemon, first_line: str | None
) -> None:
    """Moved and relocatable environments name no usable interpreter: the one beside us is used."""
    fake_daemon.answers = [ANSWER]
    (copy / "cargo-burst").unlink()
    if first_line:
        (copy / "cargo-burst").write_text(f"{first_line}\n")
    answer = call(copy / "burst-rustc", *UNIT)
    assert (answer.stderr, answer.returncode) == ("answered\n", 5)


@pytest.mark.slow
def test_interpreter_elsewhere(copy: Path, fake_daemon: FakeDaemon) -> None:
    """`pip install --user` puts no interpreter beside the script."""
    fake_daemon.answers = [ANSWER]
    for python in copy.glob("python*"):
        python.unlink()
    answer = call(copy / "burst-rustc", *UNIT)
    assert (answer.stderr, answer.returncode) == ("answered\n", 5)


@pytest.mark.usefixtures("way")
@pytest.mark.slow
@pytest.mark.parametrize("lost", ["interpreter", "package"])
def test_a_broken_installation_still_compiles(copy: Path, lost: str) -> None:
    """Half an uninstallation must not stop every cargo command of the user."""
    if lost == "interpreter":
        for path in [copy / "cargo-burst", *copy.glob("python*")]:
            path.unlink()
    else:
        shutil.rmtree(site_packages(copy) / "burst_wrapper")
    answer = call(copy / "burst-rustc", "/bin/echo", "compiled", "here")
    assert (answer.stdout, answer.stderr) == ("compiled here\n", "")


@pytest.mark.slow
def test_bytecode_is_cached_by_the_first_run(copy: Path, fake_daemon: FakeDaemon) -> None:
    """uv does not compile what it installs; the second run finds bytecode nevertheless."""
    fake_daemon.answers = [ANSWER]
    cache = site_packages(copy) / "burst_wrapper" / "__pycache__"
    shutil.rmtree(cache)
    (copy / "cargo-burst").unlink()
    call(copy / "burst-rustc", *UNIT, PYTHONDONTWRITEBYTECODE="1")
    assert [path.name.partition(".")[0] for path in cache.iterdir()] == ["hot"]


@pytest.mark.slow
def test_editable_installation(copy: Path, fake_daemon: FakeDaemon) -> None:
    """`-S` ignores .pth files, so the script reads the one hatchling writes."""
    fake_daemon.answers = [ANSWER]
    shutil.rmtree(site_packages(copy) / "burst_wrapper")
    lines = [str(ROOT / "wrapper"), str(ROOT / "agent"), ""]
    (site_packages(copy) / "_burst_rustc.pth").write_text("\n".join(lines))
    answer = call(copy / "burst-rustc", *UNIT)
    assert (answer.stderr, answer.returncode) == ("answered\n", 5)


@pytest.mark.usefixtures("way")
@pytest.mark.slow
def test_cargo_asks_the_installed_script(
    installed: Path, fake_daemon: FakeDaemon, tmp_path: Path
) -> None:
    """A real cargo, told nothing but RUSTC_WRAPPER=burst-rustc, sends its units to the daemon."""
    if shutil.which("cargo") is None:
        pytest.skip("needs cargo")
    fake_daemon.answers = [frame(b"L")]
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "lib.rs").write_text("pub fn f() {}\n")
    (tmp_path / "Cargo.toml").write_text('[package]\nname = "x"\nversion = "0.1.0"\n')
    path = f"{installed}:{os.environ['PATH']}"
    command = ["cargo", "build", "--quiet", "--offline"]
    for wrappers in ({}, {"RUSTC_WORKSPACE_WRAPPER": "burst-rustc"}):
        shutil.rmtree(tmp_path / "target", ignore_errors=True)
        environ = {**os.environ, **wrappers, "RUSTC_WRAPPER": "burst-rustc", "PATH": path}
        answer = subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
        )
        assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    assert [request.argv[1:3] for request in fake_daemon.requests] == [[b"--crate-name", b"x"]] * 2


# --- the native client behind the script ---


def test_script_and_daemon_agree_about_the_client(home: Path) -> None:
    """The name holds release and protocol: a client never meets a daemon it does not know."""
    path = os.fsdecode(client_path(b""))
    name, _, machine = path.rpartition("-")
    assert name == f"client-{BUILD}-{hot.PROTOCOL.decode()}"
    text = SCRIPT.read_text()
    assert f"client=$burst_client/burst/{name}\n" in text
    assert f"client=$burst_client-{machine}\n" in text
    assert f"[ -e {X86_MARK} ]" in text


@pytest.mark.slow
def test_script_prefers_the_native_client(
    copy: Path, published_client: Path, fake_daemon: FakeDaemon
) -> None:
    """No interpreter is started for the common case: it works without one."""
    fake_daemon.answers = [ANSWER]
    for path in [copy / "cargo-burst", *copy.glob("python*")]:
        path.unlink()
    answer = call(copy / "burst-rustc", *UNIT)
    assert (answer.stderr, answer.returncode) == ("answered\n", 5)
    # As the documentation says, without XDG_CACHE_HOME it is ~/.cache.
    for variables in ({"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "relative"}):
        assert call(copy / "burst-rustc", *UNIT, **variables).returncode == 5
    assert len(fake_daemon.requests) == 3


@pytest.mark.slow
@pytest.mark.parametrize("change", ["variable", "mode", "elsewhere", "gone"])
def test_script_does_without_the_native_client(
    installed: Path, published_client: Path, fake_daemon: FakeDaemon, change: str
) -> None:
    """Switched off, not executable, another cache folder, cache deleted: Python does it all."""
    fake_daemon.answers = [ANSWER]
    variables = {}
    published_client.write_text("#!/bin/sh\necho native\n")
    assert call(installed / "burst-rustc", *UNIT).stdout == "native\n"
    if change == "variable":
        variables["BURST_NATIVE"] = "0"
    elif change == "mode":
        published_client.chmod(0o644)
    elif change == "elsewhere":
        variables["XDG_CACHE_HOME"] = "/nowhere"
    else:
        shutil.rmtree(published_client.parent)
    answer = call(installed / "burst-rustc", *UNIT, **variables)
    assert (answer.stdout, answer.stderr, answer.returncode) == ("", "answered\n", 5)


@pytest.mark.root
@pytest.mark.slow
def test_another_users_client_is_not_run(
    installed: Path, published_client: Path, fake_daemon: FakeDaemon
) -> None:
    """`sudo -E` keeps the user's folders; root does not run what the user may have put there."""
    fake_daemon.answers = [ANSWER]
    published_client.write_text("#!/bin/sh\necho native\n")
    os.chown(published_client, 65534, 65534)
    assert call(installed / "burst-rustc", *UNIT).returncode == 5


@pytest.mark.slow
def test_a_rustc_on_path_that_is_the_script(
    installed: Path, published_client: Path, fake_daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Neither half starts the other for ever, whoever of them compiles here."""
    masked, real = tmp_path / "masked", tmp_path / "real"
    for folder in (masked, real):
        folder.mkdir()
    (masked / "rustc").symlink_to(installed / "burst-rustc")
    (real / "rustc").write_text("#!/bin/sh\necho real $*\n")
    (real / "rustc").chmod(0o755)
    path = f"{masked}:{real}:{os.environ['PATH']}"
    for said in (b"L", b"?"):
        fake_daemon.answers = [frame(said)]
        for arguments in (["-vV"], UNIT[1:]):
            for script in (installed / "burst-rustc", masked / "rustc"):
                answer = call(script, "rustc", *arguments, PATH=path)
                assert answer.stdout == f"real {' '.join(arguments)}\n"


# --- who puts it there ---


def programs(folder: Path, *names: str) -> str:
    """A PATH with nothing but these."""
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(shutil.which(name) or name)
    return str(folder)


@pytest.mark.usefixtures("built_before")
def test_daemon_publishes_and_refreshes_the_client(native_client: Path) -> None:
    """What the cache lost or has from another build is replaced when the next daemon starts."""
    cache = paths.cache_dir(os.environb)
    path = Path(os.fsdecode(client_path(cache)))
    for stale in (None, b"old"):
        if stale is not None:
            path.write_bytes(stale)
        tools = asyncio.run(Tools(cache).get())
        assert tools.client is not None
        assert path.read_bytes() == native_client.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o755


@pytest.mark.usefixtures("built_before")
def test_daemon_refreshes_a_native_launcher(native_client: Path) -> None:
    """An upgrade reaches the launcher; one in Python, or none at all, stays what it is."""
    cache = paths.cache_dir(os.environb)
    launcher, python = map(
        Path, map(os.fsdecode, (launcher_path(os.environb), python_launcher_path(os.environb)))
    )
    asyncio.run(Tools(cache).get())
    assert not launcher.exists()
    launcher.parent.mkdir(parents=True)
    launcher.write_bytes(b"other")
    asyncio.run(Tools(cache).get())
    assert launcher.read_bytes() == b"other"
    python.write_bytes(b"")
    asyncio.run(Tools(cache).get())
    assert launcher.read_bytes() == native_client.read_bytes()


def test_without_a_compiler_there_is_no_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none installed: nothing is published, and the launcher is the Python one."""
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", "sh", "tr"))
    monkeypatch.setattr(native_build, "SHIPPED", tmp_path / "nothing")
    cache = paths.cache_dir(os.environb)
    tools = asyncio.run(Tools(cache).get())
    assert tools.client is None
    assert not os.path.exists(client_path(cache))
    path = write_launcher(os.environb)
    assert Path(os.fsdecode(path)).read_bytes()[:2] == b"#!"
    assert not os.path.exists(python_launcher_path(os.environb))
