"""`cargo burst enable` and `disable`: what they change, and above all what they do not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burst_protocol.errors import BurstError
from burst_wrapper import cargo_config, native_build
from burst_wrapper.cargo_config import CannotEdit, NotToml, NotWritable
from burst_wrapper.cli import enable as module
from burst_wrapper.cli.cargo_burst import main
from burst_wrapper.launcher import launcher_path, launcher_text
from fake_daemon import FakeDaemon, exit_frame, frame

PATH = b"config.toml"
CONFIGS = {
    "nothing": "",
    "comments only": "# mine\n",
    "other tables": '# mine\n[net]\nretry = 3 # often\n\n[env]\nX = "1"\n',
    "no final newline": "[net]\nretry = 3",
    "a build table": "[build]\n# how many\njobs = 4\n\n[net]\nretry = 3\n",
    "a build table at the end": "[net]\nretry = 3\n[build] # mine",
    "an empty build table": "[build]\n[net]\n",
    "quoted and spaced": '[ "build" ]\n  "jobs" = 4\n',
    "dotted keys": "build.jobs = 4\n[net]\nretry = 3\n",
    "an inline table": 'build = { jobs = 4, target = "x" } # mine\n',
    "an empty inline table": "build = {}\n",
    "windows line ends": "[build]\r\njobs = 4\r\n",
    "a header in a string": '[env]\nX = """\n[build]\nrustc-wrapper = "no"\n"""\n',
    "a build table of a target": '[target.x.build]\nrustc-wrapper = "no"\n[build]\njobs = 4\n',
    "a key of the same ending": '[build]\nx-rustc-wrapper = "no"\n',
}
WITH_OTHER = {
    "plain": '[build]\nrustc-wrapper = "sccache" # fast\njobs = 4\n',
    "literal": "[build]\nrustc-wrapper='sccache'\n",
    "dotted": 'build.rustc-wrapper = "sccache"\n',
    "inline": 'build = { rustc-wrapper = "sccache", jobs = 4 }\n',
    "quoted": '[build]\n"rustc-wrapper" = "sccache"\n',
}


pytestmark = pytest.mark.usefixtures("built_before")


@pytest.fixture
def config(home: Path) -> Path:
    return home / ".cargo" / "config.toml"


@pytest.fixture
def launcher() -> Path:
    return Path(os.fsdecode(launcher_path(dict(os.environb))))


def wrapper_of(path: Path) -> object:
    return tomllib.loads(path.read_text()).get("build", {}).get("rustc-wrapper")


def put(path: Path, text: str) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return text.encode()


@pytest.mark.parametrize("name", CONFIGS)
def test_enable_and_disable_restore_every_byte(config: Path, launcher: Path, name: str) -> None:
    """Only `build.rustc-wrapper` changes, and `disable` brings back the same bytes."""
    before = put(config, CONFIGS[name])
    expected = tomllib.loads(CONFIGS[name])
    expected.setdefault("build", {})["rustc-wrapper"] = str(launcher)
    assert module.run([]) == 0
    assert expected == tomllib.loads(config.read_bytes().decode())
    after = config.read_bytes()
    assert module.run([]) == 0
    assert after == config.read_bytes()
    assert module.run_disable([]) == 0
    assert before == config.read_bytes()
    assert list(launcher.parent.iterdir()) == []


@pytest.mark.parametrize("name", WITH_OTHER)
def test_another_wrapper_needs_force_and_comes_back(config: Path, name: str) -> None:
    """sccache is not thrown out silently; `--force` replaces it and `disable` restores it."""
    before = put(config, WITH_OTHER[name])
    with pytest.raises(module.OtherWrapper, match="sccache"):
        module.run([])
    assert before == config.read_bytes()
    module.run(["--force"])
    assert str(wrapper_of(config)).endswith("/burst-rustc")
    module.run_disable([])
    assert before == config.read_bytes()


def test_created_file_and_folder_are_removed(config: Path, home: Path) -> None:
    """Where there was no configuration, `disable` leaves none, nor its folder."""
    module.run([])
    assert config.exists()
    module.run_disable([])
    assert not config.exists()
    assert not config.parent.exists()
    assert not (home / ".local/state/burst/enabled.json").exists()


@pytest.mark.parametrize(
    ("added", "left"),
    [
        ("jobs = 4\n", "[build]\njobs = 4\n"),
        ("[net]\nretry = 1\n", "[build]\n[net]\nretry = 1\n"),
    ],
)
def test_later_changes_survive_disable(config: Path, added: str, left: str) -> None:
    """What the user wrote after `enable` stays and keeps its meaning."""
    module.run([])
    with config.open("a") as file:
        file.write(added)
    module.run_disable([])
    assert tomllib.loads(left).items() >= tomllib.loads(config.read_text()).items()
    assert added in config.read_text()
    assert wrapper_of(config) is None


def test_disable_leaves_a_wrapper_chosen_later(config: Path) -> None:
    """After the user switched to another wrapper by hand, `disable` does not touch it."""
    module.run([])
    put(config, WITH_OTHER["plain"])
    module.run_disable([])
    assert config.read_text() == WITH_OTHER["plain"]


def test_legacy_file_is_edited_where_cargo_reads_it(config: Path) -> None:
    """`config` without extension wins in cargo, so it is the one that is changed."""
    legacy = config.with_suffix("")
    put(legacy, "[net]\nretry = 3\n")
    put(config, "")
    module.run([])
    assert str(wrapper_of(legacy)).endswith("/burst-rustc")
    assert config.read_text() == ""


def test_symlinked_configuration_stays_a_symlink(config: Path, tmp_path: Path) -> None:
    """Dotfiles kept elsewhere are edited there, with their mode."""
    real = tmp_path / "dotfiles.toml"
    put(real, "[net]\nretry = 3\n")
    real.chmod(0o600)
    config.parent.mkdir()
    config.symlink_to(real)
    module.run([])
    assert config.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600
    assert str(wrapper_of(real)).endswith("/burst-rustc")


@pytest.mark.parametrize("text", ["[build\n", "a = 1\na = 2\n", 'x = "\n'])
def test_invalid_toml_is_an_error_and_kept(config: Path, text: str) -> None:
    """A broken file is named, not repaired and not overwritten."""
    before = put(config, text)
    for command in (module.run, module.run_disable):
        with pytest.raises(NotToml):
            command([])
    assert before == config.read_bytes()


def test_not_utf8_is_an_error_and_kept(config: Path) -> None:
    """Bytes that are no text are somebody's data, too."""
    config.parent.mkdir()
    config.write_bytes(b"\xff\xfe")
    with pytest.raises(NotToml):
        module.run([])
    assert config.read_bytes() == b"\xff\xfe"


def test_project_uses_the_workspace_root(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--project` writes beside the workspace's Cargo.toml, from any folder below it."""
    root = tmp_path / "w"
    (root / "member" / "src").mkdir(parents=True)
    (root / "Cargo.toml").write_text('[workspace]\nmembers = ["member"]\nresolver = "2"\n')
    (root / "member" / "Cargo.toml").write_text('[package]\nname = "member"\nversion = "0.1.0"\n')
    (root / "member" / "src" / "lib.rs").write_text("")
    monkeypatch.chdir(root / "member" / "src")
    module.run(["--project"])
    assert str(wrapper_of(root / ".cargo" / "config.toml")).endswith("/burst-rustc")
    assert not (home / ".cargo" / "config.toml").exists()
    module.run_disable(["--project"])
    assert not (root / ".cargo").exists()


def test_project_outside_of_one_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a Cargo.toml there is no project to enable."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(module.NoProject, match=r"Cargo\.toml"):
        module.run(["--project"])


def test_without_launcher_the_name_is_set(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--no-launcher` writes the bare name, and only if PATH has it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(module.NotInstalled):
        module.run(["--no-launcher"])
    (tmp_path / "burst-rustc").write_text("#!/bin/sh\n")
    (tmp_path / "burst-rustc").chmod(0o755)
    module.run(["--no-launcher"])
    assert wrapper_of(config) == "burst-rustc"


def test_variable_that_overrides_is_mentioned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """RUSTC_WRAPPER in the environment would make the change look broken."""
    monkeypatch.setenv("RUSTC_WRAPPER", "sccache")
    module.run([])
    assert "RUSTC_WRAPPER=sccache" in capsys.readouterr().err


def test_launcher_is_only_written_when_different(launcher: Path) -> None:
    """Cargo asks a changed wrapper for rustc's version again: equal launchers stay untouched."""
    module.run([])
    first = launcher.stat()
    module.run([])
    assert (first.st_ino, first.st_mtime_ns) == (
        launcher.stat().st_ino,
        launcher.stat().st_mtime_ns,
    )
    assert first.st_mode & 0o777 == 0o755


def test_launcher_does_not_need_the_cache(launcher: Path, fake_daemon: FakeDaemon) -> None:
    """Neither the native client nor what it goes on with lies where it may be deleted."""
    fake_daemon.answers = [exit_frame(5), frame(b"E", b"told\n")]
    module.run([])
    shutil.rmtree(os.environ["XDG_CACHE_HOME"])
    unit = ["--crate-name", "x", "--json=artifacts", "src/lib.rs"]
    command = [str(launcher), "/bin/rustc-1", *unit]
    assert subprocess.run(command, check=False).returncode == 5
    # Lost in the middle, and no such compiler: Python says so.
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    assert answer.returncode == 127
    assert answer.stderr.startswith("told\nerror: cannot execute `/bin/rustc-1`: No such file")


def test_native_launcher_becomes_python_where_the_compiler_is_gone(
    launcher: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Enabling again always gives what this machine can do now."""
    module.run([])
    assert launcher.read_bytes()[:4] == b"\x7fELF"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(native_build, "SHIPPED", tmp_path / "nothing")
    module.run([])
    assert launcher.read_bytes()[:2] == b"#!"
    assert list(launcher.parent.iterdir()) == [launcher]


@pytest.mark.parametrize("folder", ["plain", "with space", "x" * 140])
def test_launcher_survives_any_interpreter_path_and_uninstalling(
    tmp_path: Path, folder: str
) -> None:
    """Spaces and length do not fit a first line; without `hot.py` the compiler still runs."""
    place = tmp_path / folder
    place.mkdir()
    interpreter = place / "python3"
    interpreter.symlink_to(sys.executable)
    launcher = place / "burst-rustc"
    launcher.write_bytes(launcher_text(bytes(interpreter), bytes(tmp_path / "gone.py")))
    launcher.chmod(0o755)
    command = [str(launcher), "/bin/echo", "a b", "c"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (answer.stdout, answer.stderr) == ("a b c\n", "")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_any_path_can_be_quoted(value: str) -> None:
    """Whatever a path holds, TOML gives it back."""
    assert tomllib.loads(f"x = {cargo_config.quoted(value)}")["x"] == value


KEYS = st.sampled_from(
    ["jobs = 1", 'target = "x"', "# note", "", 'rustc-wrapper = "other"', "[build]"]
)
LINES = st.lists(KEYS | st.sampled_from(["[net]", "build.jobs = 2", "build = {}", "a = [\n1,\n]"]))


@given(LINES, st.sampled_from(["\n", "\r\n"]))
def test_edits_change_one_key_or_nothing(lines: list[str], end: str) -> None:
    """For any file: either exactly the key differs, and can be taken back, or it is an error."""
    text = end.join(lines)
    try:
        parsed = tomllib.loads(text)
        previous = cargo_config.wrapper_in(text, PATH)
        edit = cargo_config.set_wrapper(text, "/x/burst-rustc", PATH)
    except tomllib.TOMLDecodeError:
        return
    except CannotEdit:
        pytest.fail("no way to edit this was found")
    parsed.setdefault("build", {})["rustc-wrapper"] = "/x/burst-rustc"
    assert parsed == tomllib.loads(edit.text)
    assert text == cargo_config.take_back(edit.text, edit, previous, PATH)


# --- the command around it ---


def cargo_burst(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "burst_wrapper.cli.cargo_burst", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("prefix", [[], ["burst"]])
def test_both_ways_to_call_it(prefix: list[str]) -> None:
    """`cargo burst --help` and `cargo-burst --help` are the same command."""
    answer = cargo_burst(*prefix, "--help")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "enable" in answer.stdout


def test_unknown_verb_suggests_the_nearest() -> None:
    """A typo is a usage error with a way out."""
    answer = cargo_burst("burst", "enabel")
    assert answer.returncode == 2
    assert answer.stderr == (
        "error: no such command: `cargo burst enabel`\nhint: did you mean `cargo burst enable`?\n"
    )


def test_errors_have_their_own_exit_code(config: Path) -> None:
    """Our errors are one line, a hint, and the status of their class."""
    put(config, "[build\n")
    answer = cargo_burst("enable")
    assert answer.returncode == NotToml.exit_code
    assert answer.stderr.startswith(f"error: {config} is not valid TOML: ")
    assert answer.stderr.endswith(f"\nhint: {NotToml.hint}\n")


def test_a_place_nobody_can_write_to(home: Path) -> None:
    """It is no line of a configuration that is wrong."""
    (home / ".local").write_text("")
    answer = cargo_burst("enable")
    assert answer.returncode == NotWritable.exit_code
    assert answer.stderr.startswith(f"error: {home}/.local")
    assert answer.stderr.endswith(f"\nhint: {NotWritable.hint}\n")


def test_a_bug_says_that_it_is_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unexpected exception is status 70 and asks for a report."""

    def broken(_: list[str]) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "run", broken)
    monkeypatch.setattr(sys, "argv", ["cargo-burst", "enable"])
    assert main() == 70
    assert "a bug in burst: ZeroDivisionError" in capsys.readouterr().err


def test_error_classes_have_unique_codes() -> None:
    """`explain` and scripts tell errors apart by these."""
    classes = [
        *(module.OtherWrapper, module.NotInstalled, module.NoProject),
        *(CannotEdit, NotToml, NotWritable),
    ]
    assert len({error.code for error in classes} | {BurstError.code}) == len(classes) + 1
