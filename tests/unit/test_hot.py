"""The wrapper process: what it runs at once, what it relays, and how it falls back.

All of it twice: `hot.py` alone, and behind the native client, which must not be told apart.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import burst_wrapper.hot as hot_module
from burst_protocol.errors import RemoteRequired
from burst_wrapper.launcher import launcher_text
from fake_daemon import Answer, FakeDaemon, Request, exit_frame, frame
from faults import until

HOT = Path(hot_module.__file__).resolve()
PROBE = ["-", "--crate-name", "___", "--print=file-names", "--print=cfg"]
UNIT = ["--crate-name", "x", "--json=diagnostic-rendered-ansi,artifacts", "src/lib.rs"]
# What the tests' compiler prints when it really runs.
LOCAL = "compiled here:"


@pytest.fixture
def rustc(tmp_path: Path) -> str:
    """A program named rustc that says how it was called."""
    path = tmp_path / "rustc"
    path.write_text(f'#!/bin/sh\necho "{LOCAL} $*"\n')
    path.chmod(0o755)
    return str(path)


Install = Callable[[Path, bytes, bytes], str]


@pytest.fixture(params=["python", "native"])
def install(request: pytest.FixtureRequest) -> Install:
    """Puts a launcher into a folder, as `write_launcher` does with and without a C compiler."""
    client = request.getfixturevalue("native_client") if request.param == "native" else None

    def install(folder: Path, python: bytes, module: bytes) -> str:
        launcher = folder / "burst-rustc"
        script = launcher if client is None else folder / "burst-rustc.py"
        script.write_bytes(launcher_text(python, module))
        script.chmod(0o755)
        if client is not None:
            shutil.copy(client, launcher)
        return str(launcher)

    return install


@pytest.fixture
def wrapper(tmp_path: Path, install: Install) -> str:
    return install(tmp_path, os.fsencode(sys.executable), bytes(HOT))


def call(*command: str | bytes, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


def local(*arguments: str) -> str:
    return f"{LOCAL} {' '.join(arguments)}\n"


# --- what it imports ---


def test_hot_path_imports_builtin_modules_only() -> None:
    """Importing `hot` adds itself, `posix`, `sys` and `_socket` to a bare interpreter."""
    script = (
        "import sys; before = set(sys.modules)\n"
        "from _frozen_importlib_external import SourceFileLoader\n"
        f"code = SourceFileLoader('hot', {str(HOT)!r}).get_code('hot')\n"
        "namespace = {'__name__': 'hot'}; exec(code, namespace)\n"
        "print(*sorted(set(sys.modules) - before), '|', *sorted(n for n, v in namespace.items()\n"
        "    if type(v) is type(sys)))"
    )
    answer = call(sys.executable, "-I", "-S", "-c", script)
    added, _, imported = answer.stdout.partition("|")
    assert imported.split() == ["_socket", "posix", "sys"]
    assert set(added.split()) <= {"_socket"}


# --- what it runs at once ---


@pytest.mark.parametrize(
    "arguments",
    [
        ["-vV"],
        ["-V"],
        ["--version"],
        ["-", "--crate-name", "___", "--print=file-names"],
        [*UNIT, "--print", "cfg"],
        [*UNIT, "--print=native-static-libs=file"],
        ["--explain", "E0308"],
        ["--crate-name", "probe", "--emit=metadata", "build/probe.rs"],
        ["--json=diagnostic-rendered-ansi", "src/lib.rs"],
    ],
)
def test_questions_and_probes_are_run_at_once(
    wrapper: str, rustc: str, fake_daemon: FakeDaemon, arguments: list[str]
) -> None:
    """What cargo does not follow by artifact messages never reaches the daemon."""
    answer = call(wrapper, rustc, *arguments)
    assert answer.stdout == local(*arguments)
    assert fake_daemon.requests == []


def echoing(path: Path) -> Path:
    """A program that says `other` and how it was called."""
    path.write_text('#!/bin/sh\necho other "$@"\n')
    path.chmod(0o755)
    return path


def test_another_program_is_run_as_it_is(
    wrapper: str, tmp_path: Path, fake_daemon: FakeDaemon
) -> None:
    """A wrapper behind us gets its call unchanged, and finds it on PATH without a slash."""
    other = echoing(tmp_path / "other-wrapper")
    path = f"{tmp_path}:{os.environ['PATH']}"
    for name in (str(other), "other-wrapper"):
        assert call(wrapper, name, "rustc", *UNIT, PATH=path).stdout.startswith("other rustc ")
    assert fake_daemon.requests == []


NAMES = [
    *["rustc", "/usr/bin/rustc", "rustc-1.85", "rustc-", "-rustc", "rustc-x1", "rustc-1-2"],
    *["clippy-driver", "clippy-driver-0", "clippy-driver-", "driver", "/rustc/", "x/rustc-1"],
]
JSON = "--json=x,artifacts,y"
WORDS = [
    *["-", "-V", "-vV", "-Vv", "--version", "-h", "--help", "-VV", "--print", "--printx"],
    *["--explain", "--json", "--json=artifacts", JSON, "--json=artifact", "artifacts"],
    *["x-artifacts", "--Json=artifacts", "src/lib.rs", "", "@", "@absent", "@."],
]
SEPARATORS = ["\n", "\r", "\r\n", "\n\n", "\0", "\x0b", "\x85", ""]
FILE = st.lists(st.sampled_from(WORDS + SEPARATORS)).map("".join)
Decides = Callable[..., None]


@pytest.fixture
def decides_alike(native_client: Path, tmp_path: Path) -> Decides:
    """Asserts that the client asks the daemon of a call exactly if `wants_daemon` says so.

    The folder of the socket is missing. So a client that would ask goes to the Python launcher
    first, which is `true` here, and one that would not executes the compiler, which is `false`.
    """
    place = tmp_path / "place"
    place.mkdir()
    shutil.copy(native_client, tmp_path / "burst-rustc")
    (tmp_path / "burst-rustc.py").symlink_to("/bin/true")
    for name in NAMES:
        with contextlib.suppress(FileExistsError):
            (place / (name.rpartition("/")[2] or "x")).symlink_to("/bin/false")

    def decides_alike(name: str, words: list[str], *files: str) -> None:
        for index, text in enumerate(files):
            (place / f"f{index}").write_text(text, newline="")
        command = [f"{place}/{name.rpartition('/')[2] or 'x'}", *words]
        with contextlib.chdir(place):
            expected = hot_module.wants_daemon([os.fsencode(word) for word in command])
        environ = {"XDG_RUNTIME_DIR": runtime()}
        wrapper = tmp_path / "burst-rustc"
        done = subprocess.run([wrapper, *command], env=environ, cwd=place, check=False)
        assert done.returncode == (0 if expected else 1), (command, files)

    return decides_alike


def test_the_native_client_decides_alike(decides_alike: Decides) -> None:
    """For every name, word and end of a line that either of them knows."""
    for name in NAMES:
        decides_alike(name, [JSON])
    for word in WORDS:
        decides_alike("rustc", [JSON, word])
        decides_alike("rustc", [word, "artifacts"])
        decides_alike("driver", [word, JSON])
    for end in SEPARATORS:
        decides_alike("rustc", ["@f0"], f"x{end}{JSON}{end}x")
        decides_alike("rustc", ["@f0"], f"{JSON}{end}-V")
        decides_alike("rustc", ["@f0", "artifacts"], f"--json{end}")


@given(
    st.lists(st.sampled_from([*WORDS, "@f0", "@f1"]), max_size=5),
    *(FILE, FILE),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_native_client_decides_alike_about_anything(
    decides_alike: Decides, words: list[str], first: str, second: str
) -> None:
    """And for any command line made of these, with argument files."""
    decides_alike("rustc", words, first, second)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rustc", True),
        ("/usr/bin/rustc-1.85", True),
        ("/t/bin/clippy-driver", True),
        ("rustc-wrapper", False),
        ("sccache", False),
        ("rustdoc", False),
    ],
)
def test_compilers_are_known_by_name(name: str, expected: bool) -> None:
    """Only for rustc and clippy-driver, plain or with a version, a daemon is started early; another
    name may be a wrapper's, but only if a compiler follows: the daemon counts all others."""
    probe = [b"-", b"--crate-name", b"___", b"--print=file-names"]
    assert hot_module.is_cargos_probe([name.encode(), *probe]) == expected
    unit = [*map(os.fsencode, UNIT)]
    assert hot_module.wants_daemon([name.encode(), b"rustc", *unit]) == expected
    assert hot_module.wants_daemon([name.encode(), *unit])


def test_a_compiler_of_another_name_is_counted(
    wrapper: str, tmp_path: Path, fake_daemon: FakeDaemon
) -> None:
    """RUSTC may be called anything. The daemon is told, and knows no such compiler."""
    other = echoing(tmp_path / "my-compiler")
    fake_daemon.answers = [frame(b"L", b"compiler")]
    assert call(wrapper, str(other), *UNIT).stdout.startswith(f"other {UNIT[0]}")
    assert [request.argv[0] for request in fake_daemon.requests] == [bytes(other)]


def test_argument_files_are_read(tmp_path: Path) -> None:
    """Cargo's `--json` may stand in an argument file, one argument per line."""
    (tmp_path / "args").write_text("\n".join(UNIT))
    assert hot_module.wants_daemon([b"rustc", b"@" + bytes(tmp_path / "args")])
    assert not hot_module.wants_daemon([b"rustc", b"@" + bytes(tmp_path / "absent")])


def test_disabled_by_a_variable(wrapper: str, rustc: str, fake_daemon: FakeDaemon) -> None:
    """BURST_DISABLE=1 runs everything at home."""
    assert call(wrapper, rustc, *UNIT, BURST_DISABLE="1").stdout == local(*UNIT)
    assert fake_daemon.requests == []


def test_a_link_named_rustc_on_path_does_not_recurse(
    wrapper: str, rustc: str, tmp_path: Path
) -> None:
    """A `rustc` on PATH that is ourselves is passed over for the real one."""
    masked = tmp_path / "masked"
    masked.mkdir()
    (masked / "rustc").symlink_to(wrapper)
    path = f"{masked}:{Path(rustc).parent}:{os.environ['PATH']}"
    assert call(wrapper, "rustc", "-vV", PATH=path).stdout == local("-vV")
    assert call(wrapper, "-vV", PATH=path).stdout == local("-vV")


def test_a_missing_compiler_is_said(wrapper: str) -> None:
    """Without a compiler there is nothing to fall back to: one error, status 127."""
    answer = call(wrapper, "/nowhere/rustc", "-vV")
    assert answer.returncode == 127
    assert answer.stderr == "error: cannot execute `/nowhere/rustc`: No such file or directory\n"


def test_without_python_the_compiler_still_runs(
    native_client: Path, rustc: str, fake_daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Half an uninstallation: the client alone answers, asks, and compiles here where it cannot."""
    wrapper = str(tmp_path / "burst-rustc")
    shutil.copy(native_client, wrapper)
    for answer, expected in ((b"", 0), (frame(b"E", b"x\n"), 0), (exit_frame(3), 3)):
        fake_daemon.answers = [answer]
        done = call(wrapper, rustc, *UNIT)
        assert (done.stdout, done.returncode) == ("" if expected else local(*UNIT), expected)
    assert call(wrapper, "/nowhere/rustc").returncode == 127


def test_switched_off_by_a_variable(
    native_client: Path, rustc: str, fake_daemon: FakeDaemon, tmp_path: Path
) -> None:
    """BURST_NATIVE=0 leaves everything to Python."""
    wrapper = tmp_path / "burst-rustc"
    shutil.copy(native_client, wrapper)
    python = tmp_path / "burst-rustc.py"
    python.write_text("#!/bin/sh\necho python $*\n")
    python.chmod(0o755)
    answer = call(str(wrapper), rustc, *UNIT, BURST_NATIVE="0")
    assert answer.stdout == f"python {rustc} {' '.join(UNIT)}\n"
    assert call(str(wrapper), rustc, *UNIT, BURST_NATIVE="").returncode == 0
    assert len(fake_daemon.requests) == 1


# --- what it sends ---


def test_request_holds_the_call(
    wrapper: str, rustc: str, fake_daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Arguments, folder, umask and environment arrive as the bytes cargo gave."""
    odd = b"--cfg=\xff"
    sent = [os.fsencode(part) for part in [rustc, *UNIT]] + [odd]
    code = "import os, sys; os.umask(0o027); os.chdir(sys.argv[1])\n"
    code += "os.execv(sys.argv[2], sys.argv[2:])"
    starter = [sys.executable, "-c", code, str(tmp_path), wrapper]
    command = [os.fsencode(part) for part in starter] + sent
    environ = {"CARGO_BIN_EXE_my-tool": "/t", "EMPTY": "", "XDG_RUNTIME_DIR": runtime()}
    answer = subprocess.run(command, env=environ, check=False)
    assert answer.returncode == 0
    (request,) = fake_daemon.requests
    assert request.version == hot_module.PROTOCOL
    assert request.argv == sent
    assert request.cwd == bytes(tmp_path)
    assert request.umask == 0o027
    # The launching interpreter added LC_CTYPE (PEP 538); the wrapper's own did not get through.
    variables = request.variables()
    variables.pop(b"LC_CTYPE", None)
    assert variables == {os.fsencode(k): os.fsencode(v) for k, v in environ.items()}


def runtime() -> str:
    return os.environ["XDG_RUNTIME_DIR"]


def test_environment_is_exact_without_locale(
    wrapper: str, tmp_path: Path, fake_daemon: FakeDaemon
) -> None:
    """Python's LC_CTYPE reaches neither the daemon nor a compiler that runs here."""
    printer = tmp_path / "rustc"
    printer.write_text("#!/usr/bin/env -S cat /proc/self/environ\n")
    environ = {"A": "1", "XDG_RUNTIME_DIR": runtime()}
    subprocess.run([wrapper, "rustc", *UNIT], env=environ, check=True)
    assert fake_daemon.requests[0].variables() == {
        b"A": b"1",
        b"XDG_RUNTIME_DIR": runtime().encode(),
    }
    command = [wrapper, "/usr/bin/env", "-0"]
    shown = subprocess.run(command, env=environ, check=True, capture_output=True).stdout
    assert shown == b"A=1\0XDG_RUNTIME_DIR=" + runtime().encode() + b"\0"


def test_own_name_is_skipped(wrapper: str, rustc: str, fake_daemon: FakeDaemon) -> None:
    """Set as both wrappers, or by another path, we still are one wrapper."""
    call(wrapper, wrapper, "/elsewhere/burst-rustc", "burst-rustc", rustc, *UNIT)
    assert fake_daemon.requests[0].argv[0] == os.fsencode(rustc)


def test_clippy_is_sent_whole(wrapper: str, fake_daemon: FakeDaemon) -> None:
    """As workspace wrapper, clippy-driver comes before rustc; the daemon sees both."""
    call(wrapper, "/t/bin/clippy-driver", "/t/bin/rustc", *UNIT)
    assert fake_daemon.requests[0].argv[:2] == [b"/t/bin/clippy-driver", b"/t/bin/rustc"]


# --- what it relays ---


def test_output_and_status_are_relayed(wrapper: str, fake_daemon: FakeDaemon) -> None:
    """stdout, stderr and the exit code are the daemon's, heartbeats are nobody's."""
    fake_daemon.answers = [
        frame(b"H") + frame(b"O", b"out") + frame(b"E", b"err\n") + frame(b"H") + exit_frame(101)
    ]
    answer = call(wrapper, "rustc", *UNIT)
    assert (answer.stdout, answer.stderr, answer.returncode) == ("out", "err\n", 101)


def test_frames_may_arrive_byte_by_byte(wrapper: str, fake_daemon: FakeDaemon) -> None:
    """Frame borders and packet borders have nothing to do with each other."""
    stream = frame(b"E", b"one\n") + frame(b"O", b"") + frame(b"E", b"two\n") + exit_frame(3)

    def drip(connection: socket.socket, _: Request) -> None:
        for position in range(len(stream)):
            connection.sendall(stream[position : position + 1])

    fake_daemon.answers = [drip]
    answer = call(wrapper, "rustc", *UNIT)
    assert (answer.stderr, answer.returncode) == ("one\ntwo\n", 3)


def test_large_output_arrives_whole(wrapper: str, fake_daemon: FakeDaemon) -> None:
    """A megabyte of diagnostics passes through short writes and reads."""
    text = b"0123456789abcdef" * 65536
    fake_daemon.answers = [frame(b"E", text) + exit_frame(1)]
    assert call(wrapper, "rustc", *UNIT).stderr == text.decode()


def test_renames_come_before_later_output(
    wrapper: str, fake_daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Outputs are in place, mode and all, when the line that announces them is relayed."""
    sources = [tmp_path / f".tmp{i}" for i in range(2)]
    targets = [tmp_path / f"lib{i}.rmeta" for i in range(2)]
    for index, source in enumerate(sources):
        source.write_text(str(index))
    targets[0].write_text("old")
    names = b"\0".join(bytes(p) for pair in zip(sources, targets, strict=True) for p in pair)
    fake_daemon.answers = [frame(b"R", names) + frame(b"E", b"artifact\n") + exit_frame(0)]
    assert call(wrapper, "rustc", *UNIT).stderr == "artifact\n"
    assert [target.read_text() for target in targets] == ["0", "1"]
    assert not any(source.exists() for source in sources)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGINT, signal.SIGPIPE])
def test_death_by_signal_is_the_same_death(
    wrapper: str, fake_daemon: FakeDaemon, number: int
) -> None:
    """When rustc died by a signal, cargo sees that signal."""
    fake_daemon.answers = [exit_frame(-number)]
    assert call(wrapper, "rustc", *UNIT).returncode == -number


def test_abort_leaves_at_once(wrapper: str, rustc: str, fake_daemon: FakeDaemon) -> None:
    """A cancelled call exits as interrupted and compiles nothing."""
    fake_daemon.answers = [frame(b"A")]
    answer = call(wrapper, rustc, *UNIT)
    assert (answer.returncode, answer.stdout) == (130, "")


def test_failure_text_is_shown(wrapper: str, rustc: str, fake_daemon: FakeDaemon) -> None:
    """The daemon's own refusal, as with BURST_REQUIRE_REMOTE, is an error of this call."""
    fake_daemon.answers = [frame(b"F", b"error: no\nhint: yes\n")]
    answer = call(wrapper, rustc, *UNIT)
    assert (answer.returncode, answer.stderr, answer.stdout) == (1, "error: no\nhint: yes\n", "")


def test_interrupt_exits_130(wrapper: str, rustc: str, fake_daemon: FakeDaemon) -> None:
    """Ctrl-C ends the wrapper without a word; the daemon sees the connection close."""

    def interrupt(connection: socket.socket, request: Request) -> None:
        os.kill(request.pid, signal.SIGINT)
        assert connection.recv(1) == b""

    fake_daemon.answers = [interrupt]
    answer = call(wrapper, rustc, *UNIT)
    assert (answer.returncode, answer.stdout, answer.stderr) == (130, "", "")


def test_what_was_shown_is_not_shown_again(
    wrapper: str, tmp_path: Path, fake_daemon: FakeDaemon
) -> None:
    """A daemon lost in the middle: the compiler runs here, and only what is new is relayed."""
    compiler = tmp_path / "rustc"
    compiler.write_text("#!/bin/sh\necho one; echo two; echo first >&2; echo second >&2; exit 3\n")
    compiler.chmod(0o755)
    old, new = tmp_path / "old.rmeta", tmp_path / "new.rmeta"
    for ending in (b"", frame(b"L", b"odd"), frame(b"?"), frame(b"R", b"/nowhere/a\0/nowhere/b")):
        old.write_text("metadata")
        names = b"\0".join([bytes(old), bytes(new)])
        fake_daemon.answers = [
            frame(b"O", b"one\n") + frame(b"R", names) + frame(b"E", b"first\n") + ending
        ]
        answer = call(wrapper, str(compiler), *UNIT)
        assert (answer.stdout, answer.stderr) == ("one\ntwo\n", "first\nsecond\n")
        assert answer.returncode == 3


def test_metadata_in_use_must_come_out_the_same(
    wrapper: str, tmp_path: Path, fake_daemon: FakeDaemon
) -> None:
    """Also where the renames before a failing one were done by somebody else than Python."""
    sources = [tmp_path / "a", tmp_path / "b"]
    target = tmp_path / "x.rmeta"
    compiler = tmp_path / "rustc"
    compiler.write_text(f"#!/bin/sh\necho $1 > {target}\n")
    compiler.chmod(0o755)
    nowhere = Path("/nowhere/a")
    names = [sources[0], target, sources[1], tmp_path / "y", nowhere, nowhere]
    renames = b"\0".join(map(bytes, names))
    fake_daemon.answers = [frame(b"E", b"told\n") + frame(b"R", renames) + exit_frame(0)]
    for before, status in (("--crate-name\n", 0), ("other\n", 1)):
        for source in sources:
            source.write_text(before)
            os.utime(source, (5, 5))
        answer = call(wrapper, str(compiler), *UNIT)
        assert (answer.stdout, answer.returncode) == ("", status)
        assert ("came out different" in answer.stderr) == bool(status)
        assert answer.stderr.startswith("told\n")
        assert status or target.stat().st_mtime == 5


def test_a_closed_pipe_is_the_death_it_is_for_rustc(wrapper: str, fake_daemon: FakeDaemon) -> None:
    """Cargo is gone: SIGPIPE, whether it is ignored or not."""
    for restored in (False, True):
        read, write = os.pipe()
        os.close(read)
        fake_daemon.answers = [frame(b"E", b"text\n") + exit_frame(0)]
        command = [wrapper, "rustc", *UNIT]
        done = subprocess.run(command, stderr=write, check=False, restore_signals=restored)
        os.close(write)
        assert done.returncode == -signal.SIGPIPE


# --- how it falls back ---


def hang(connection: socket.socket, _: Request) -> None:
    connection.recv(1)


FAILURES: dict[str, Answer] = {
    "closed at once": b"",
    "closed in a frame": frame(b"H") + b"E\x10\0\0\0half",
    "closed before the exit frame": frame(b"E", b""),
    "unknown frame": frame(b"?"),
    "frame of 4 GiB": b"E\xff\xff\xff\xff",
    "rename of nothing": frame(b"R", b"/nowhere/a\0/nowhere/b"),
    "rename without target": frame(b"R", b"/nowhere/a"),
    "silence": hang,
}


@pytest.mark.parametrize("failure", FAILURES)
def test_any_failure_compiles_here(
    wrapper: str, rustc: str, fake_daemon: FakeDaemon, failure: str
) -> None:
    """Whatever the daemon does wrong, the result is that of the local compiler, silently."""
    fake_daemon.answers = [FAILURES[failure]]
    answer = call(wrapper, rustc, *UNIT, BURST_SILENCE_S="0.2")
    assert (answer.stdout, answer.stderr, answer.returncode) == (local(*UNIT), "", 0)


@pytest.mark.parametrize("failure", FAILURES)
def test_required_remote_turns_failures_into_errors(
    wrapper: str, rustc: str, fake_daemon: FakeDaemon, failure: str
) -> None:
    """With BURST_REQUIRE_REMOTE=1 nothing is compiled here: one error, one hint, status 1."""
    fake_daemon.answers = [FAILURES[failure]]
    answer = call(wrapper, rustc, *UNIT, BURST_SILENCE_S="0.2", BURST_REQUIRE_REMOTE="1")
    assert (answer.stdout, answer.returncode) == ("", 1)
    error, hint = answer.stderr.splitlines()
    reason = error.removeprefix(f"error: {RemoteRequired('')}")
    assert reason not in {"", error}
    assert hint == f"hint: {RemoteRequired.hint}"


def test_no_folder_for_the_socket(wrapper: str, rustc: str) -> None:
    """Silently at home; in people's words where remote is required."""
    folder = "/proc/self"
    answer = call(wrapper, rustc, *UNIT, XDG_RUNTIME_DIR=folder)
    assert (answer.stdout, answer.stderr, answer.returncode) == (local(*UNIT), "", 0)
    answer = call(wrapper, rustc, *UNIT, XDG_RUNTIME_DIR=folder, BURST_REQUIRE_REMOTE="1")
    assert f"but there is no folder for its socket: {folder}/burst: " in answer.stderr


@pytest.mark.parametrize("kind", ["native-static-libs", "link-args"])
@pytest.mark.parametrize("form", ["--print={}", "--print {}"])
def test_a_compile_that_also_prints_is_a_compile(
    wrapper: str, rustc: str, fake_daemon: FakeDaemon, kind: str, form: str
) -> None:
    """`cargo rustc -- --print native-static-libs`, as who ships static libraries asks it."""
    fake_daemon.answers = [frame(b"E", b"asked\n") + exit_frame(0)]
    unit = [*form.format(kind).split(), *UNIT]
    assert call(wrapper, rustc, *unit).stderr == "asked\n"
    # With what ends a compile it is a question.
    assert call(wrapper, rustc, "--print=cfg", *unit).stdout == local("--print=cfg", *unit)


def test_a_full_backlog_is_silence(wrapper: str, rustc: str) -> None:
    """A daemon that accepts nobody any more costs the same patience as one that says nothing."""
    environ = dict(os.environb)
    hot_module.check_private(hot_module.runtime_dir(environ))
    path = hot_module.socket_path(environ)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        answer = call(wrapper, rustc, *UNIT, BURST_SILENCE_S="0.2")
    assert (answer.stdout, answer.stderr, answer.returncode) == (local(*UNIT), "", 0)


def test_descriptors_and_signals_reach_the_compiler(wrapper: str) -> None:
    """A compiler run here inherits what cargo gave, and nothing of the interpreter between."""
    status = "cat /proc/self/status | grep -E 'Sig(Ign|Blk)'; ls /proc/self/fd"
    read, write = os.pipe()
    command = ["/bin/sh", "-c", status]
    answers = [
        subprocess.run(prefix + command, pass_fds=[read, write], check=True, capture_output=True)
        for prefix in ([], [wrapper])
    ]
    os.close(read)
    os.close(write)
    assert answers[0].stdout == answers[1].stdout


def test_daemon_may_send_a_call_home(wrapper: str, rustc: str, fake_daemon: FakeDaemon) -> None:
    """A decision for local execution is no failure, also where remote is required."""
    fake_daemon.answers = [frame(b"L", b"native-cpu")]
    assert call(wrapper, rustc, *UNIT, BURST_REQUIRE_REMOTE="1").stdout == local(*UNIT)


def test_a_daemon_that_was_just_ending_is_asked_again(
    wrapper: str, rustc: str, fake_daemon: FakeDaemon
) -> None:
    """A connection that ends before any answer is made once more before giving up."""
    fake_daemon.answers = [b"", exit_frame(7)]
    assert call(wrapper, rustc, *UNIT).returncode == 7


@pytest.mark.parametrize("kind", ["pipe", "fifo", "pipe after text"])
def test_token_is_taken_before_compiling_here(
    wrapper: str, rustc: str, fake_daemon: FakeDaemon, tmp_path: Path, kind: str
) -> None:
    """A call sent home with a jobserver takes one token out of it and keeps it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    own = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    passed = os.open(fifo, os.O_RDWR)  # another open file: blocking, as cargo's
    os.write(own, b"+-")
    where = str(fifo) if kind == "fifo" else str(passed)
    told = frame(b"E", b"text\n") if "text" in kind else b""
    fake_daemon.answers = [told + frame(b"J", where.encode())]
    command = [wrapper, rustc, *UNIT]
    answer = subprocess.run(command, pass_fds=[passed], check=True, capture_output=True, text=True)
    assert answer.stdout == local(*UNIT)
    assert os.read(own, 9) == b"-"
    os.close(own)
    os.close(passed)


def test_folder_of_others_is_not_trusted(wrapper: str, rustc: str, fake_daemon: FakeDaemon) -> None:
    """A runtime folder that others may write to could hold anybody's socket."""
    os.chmod(runtime() + "/burst", 0o777)
    assert call(wrapper, rustc, *UNIT).stdout == local(*UNIT)
    assert fake_daemon.requests == []


def test_foreign_or_long_runtime_folder_falls_back_to_tmp(tmp_path: Path) -> None:
    """Neither a folder of another user nor one too long for a socket path is used."""
    expected = b"/tmp/burst-%d" % os.geteuid()
    long = tmp_path / ("x" * 70)
    long.mkdir()
    for folder in ("/proc/1/absent", "relative", "", str(long)):
        assert hot_module.runtime_dir({b"XDG_RUNTIME_DIR": folder.encode()}) == expected


@pytest.mark.parametrize("longer", [False, True])
def test_both_know_how_long_a_runtime_folder_may_be(
    native_client: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longer: bool
) -> None:
    """The longest that fits is used by `runtime_dir` and by the client, the next by neither."""
    if os.path.exists(hot_module.socket_path({})):
        pytest.skip("a daemon of this user listens in /tmp")
    shutil.copy(native_client, tmp_path / "burst-rustc")
    (tmp_path / "burst-rustc.py").symlink_to("/bin/true")
    size = hot_module.MAX_RUNTIME_DIR_BYTES - len("/burst") + longer
    folder = Path(runtime(), "x" * (size - len(runtime()) - 1))
    (folder / "burst").mkdir(parents=True, mode=0o700)
    assert (
        hot_module.runtime_dir({b"XDG_RUNTIME_DIR": bytes(folder)}) == bytes(folder / "burst")
    ) == (not longer)
    monkeypatch.chdir(folder / "burst")  # the name itself may be too long for a test to bind
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(hot_module.socket_name())
        listener.listen()
        listener.setblocking(False)
        done = call(
            str(tmp_path / "burst-rustc"),
            *("rustc", *UNIT),
            XDG_RUNTIME_DIR=str(folder),
            BURST_SILENCE_S="0.1",
        )
        assert done.returncode == 0
        if longer:
            with pytest.raises(BlockingIOError):
                listener.accept()
        else:
            listener.accept()[0].close()


# --- how it starts the daemon ---

STUB = """\
import os, socket, sys
fd = int(sys.argv[2])
open_fds = [n for n in os.listdir('/proc/self/fd') if int(n) > 2]
with open(os.environ['HOME'] + '/starts', 'a') as file:
    print(os.getcwd(), os.getsid(0) != os.getpid(), *sorted(set(os.environ) - {'LC_CTYPE'}),
          *[os.readlink(f'/proc/self/fd/{n}') for n in (0, 1, 2)], len(open_fds), file=file)
listener = socket.socket(fileno=fd)
frames = bytes.fromhex(os.environ['BURST_TEST_ANSWER'])
for _ in range(int(os.environ['BURST_TEST_CALLS'])):
    connection, _ = listener.accept()
    with connection:
        connection.recv(1 << 20)
        connection.sendall(frames)
"""


@pytest.fixture
def stub(tmp_path: Path, install: Install) -> str:
    """A wrapper in a virtual environment whose daemon is a stub."""
    root = tmp_path / "venv"
    venv.create(root, with_pip=False, symlinks=True)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    package = root / "lib" / version / "site-packages" / "burst_wrapper"
    (package / "daemon").mkdir(parents=True)
    (package / "hot.py").write_bytes(HOT.read_bytes())
    for name in ("__init__.py", "daemon/__init__.py"):
        (package / name).write_text("")
    (package / "daemon" / "main.py").write_text(STUB)
    return install(root / "bin", bytes(root / "bin" / "python3"), bytes(package / "hot.py"))


@pytest.mark.slow
def test_one_daemon_for_many_wrappers(stub: str, rustc: str, home: Path) -> None:
    """Of wrappers that find no daemon one starts it, cleanly, and all are answered."""
    count = 8
    environ = {
        **os.environ,
        "BURST_TEST_ANSWER": exit_frame(9).hex(),
        "BURST_TEST_CALLS": str(count),
        "CARGO_SECRET": "not for the daemon",
    }
    pipe = subprocess.PIPE
    calls = [
        subprocess.Popen([stub, rustc, *UNIT], env=environ, stdout=pipe, stderr=pipe)
        for _ in range(count)
    ]
    # communicate() ends when stderr is closed by all: a daemon holding it would block here.
    results = [(*process.communicate(timeout=60), process.returncode) for process in calls]
    assert results == [(b"", b"", 9)] * count
    (line,) = (home / "starts").read_text().splitlines()
    folder, orphaned_session, *names = line.split()
    assert (folder, orphaned_session) == ("/", "True")
    assert names[-4:] == ["/dev/null"] * 3 + ["2"]  # the socket, and the listing itself
    assert set(names[:-4]) <= {
        *["HOME", "PATH", "LANG", "LC_ALL", "USER", "LOGNAME", "SSH_AUTH_SOCK", "CARGO_HOME"],
        *["RUSTUP_HOME", "BURST_TEST_ANSWER", "BURST_TEST_CALLS"],
        *[
            f"XDG_{n}"
            for n in ("RUNTIME_DIR", "CONFIG_HOME", "CACHE_HOME", "DATA_HOME", "STATE_HOME")
        ],
    }


def starts(home: Path) -> int:
    """How many daemons began."""
    file = home / "starts"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.slow
def test_cargos_probe_starts_the_daemon(stub: str, rustc: str, home: Path) -> None:
    """The answer comes at once and is rustc's; the next unit meets a daemon that is loaded."""
    answer = {"BURST_TEST_ANSWER": exit_frame(6).hex(), "BURST_TEST_CALLS": "1"}
    done = call(stub, rustc, *PROBE, **answer)
    assert (done.stdout, done.stderr, done.returncode) == (local(*PROBE), "", 0)
    until(lambda: starts(home) == 1, "a daemon")
    assert call(stub, rustc, *UNIT, **answer).returncode == 6
    assert starts(home) == 1
    line = (home / "starts").read_text().split()
    assert line[:2] == ["/", "True"]
    assert line[-4:] == ["/dev/null"] * 3 + ["2"]


@pytest.mark.slow
@pytest.mark.parametrize("failed", [True, False])
def test_a_probe_starts_no_daemon_where_one_failed(
    tmp_path: Path, stub: str, rustc: str, home: Path, failed: bool
) -> None:
    """Units tell of the trouble, and are counted; a probe would only add to it."""
    path = hot_module.socket_path(dict(os.environb))
    if failed:
        call(stub, rustc, *UNIT, BURST_TEST_ANSWER="", BURST_TEST_CALLS="1")
        os.unlink(path)
    script = (
        "from _frozen_importlib_external import SourceFileLoader\n"
        "hot = {'__name__': 'hot'}\n"
        f"exec(SourceFileLoader('hot', {str(HOT)!r}).get_code('hot'), hot)\n"
        f"hot['_start_if_none']({os.fsencode(rustc)!r}, hot['own_environ']())"
    )
    python = str(tmp_path / "venv" / "bin" / "python3")
    call(python, "-I", "-S", "-c", script, BURST_TEST_ANSWER="", BURST_TEST_CALLS="1")
    assert os.path.exists(path) == (not failed)
    if not failed:
        until(lambda: starts(home) == 1, "a daemon")
    assert starts(home) == 1
    if not failed:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(path)  # the one call that it waits for: then it ends


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["-vV"], {}),
        (["--print=file-names", "-", "--crate-name", "___"], {}),
        (["-", "--crate-name", "probe", "--print=file-names"], {}),
        (PROBE, {"BURST_DISABLE": "1"}),
    ],
)
def test_nothing_else_starts_one(
    stub: str, rustc: str, home: Path, arguments: list[str], variables: dict[str, str]
) -> None:
    """Questions of build scripts and editors, and cargo's where burst is switched off."""
    call(stub, rustc, *arguments, BURST_TEST_ANSWER="", BURST_TEST_CALLS="0", **variables)
    assert starts(home) == 0
    assert not (Path(os.environ["XDG_RUNTIME_DIR"]) / "burst").exists()


@pytest.mark.slow
def test_a_daemon_that_dies_is_not_started_for_ever(stub: str, rustc: str, home: Path) -> None:
    """After three daemons that never answered, the next calls compile here at once."""
    for _ in range(5):
        answer = call(stub, rustc, *UNIT, BURST_TEST_ANSWER="", BURST_TEST_CALLS="1")
        assert (answer.stdout, answer.stderr) == (local(*UNIT), "")
    assert len((home / "starts").read_text().splitlines()) == hot_module.MAX_START_FAILURES


@pytest.mark.slow
def test_a_stale_socket_is_replaced(stub: str, rustc: str, home: Path) -> None:
    """What a killed daemon left behind does not keep the next one from starting."""
    answer = {"BURST_TEST_ANSWER": exit_frame(4).hex(), "BURST_TEST_CALLS": "1"}
    assert [call(stub, rustc, *UNIT, **answer).returncode for _ in range(5)] == [4] * 5
    assert len((home / "starts").read_text().splitlines()) == 5
