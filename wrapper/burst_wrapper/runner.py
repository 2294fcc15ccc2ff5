"""The process cargo and nextest start for every program: `burst-runner PROGRAM ARGS…`.

cargo's own runner setting leads here. Without a session, or in one whose programs run at home,
this process becomes the program, exactly as cargo would have started it. Else the daemon has it run
where it was linked, and this process is its stand-in: its stdin, stdout and stderr, its terminal,
its signals, its exit code and its death.

It starts as light as `hot.py`: no Python module but that one, which it loads by its path (a test
holds the list), and its own parts only once they are needed.

Opening (see `home_wire`): `program`, a version, session, cwd, argv joined by NUL, the environment
as in /proc/self/environ, which of the three are terminals (bits 1, 2, 4), rows, columns. Then
frames.

From the daemon: `B` it runs; `O`, `E`, `T` bytes for stdout, stderr, the terminal; `C` so many more
bytes of stdin may come (u32); `Z` it stopped itself (signal, u8); `X` its end (i32, negative: a
signal); `L` run it here; `F` our failure: a text to show; `D` it goes on without us; `H` heartbeat.
To the daemon: `I` stdin, empty: its end; `R` rows and columns (u16 each); `S` a signal (u8); `W`
nobody takes stdout (1) or stderr (2) any more (u8).

Nothing of ours goes to stdout, and to stderr only why a program could not be run to its end: then
the exit code is 125, which neither cargo nor nextest takes for success.
"""

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from burst_wrapper import hot


def _load(name: str) -> "Any":
    """A module beside us, as `from burst_wrapper import …` finds it afterwards, but without that
    package: -S knows no site-packages."""
    whole = f"burst_wrapper.{name}"
    module = sys.modules.get(whole)
    if module is None:
        from _frozen_importlib_external import SourceFileLoader  # noqa: PLC0415 - here only

        path = f"{__file__.rpartition('/')[0]}/{name}.py"
        code = SourceFileLoader(whole, path).get_code(whole)
        package = sys.modules.setdefault("burst_wrapper", type(sys)("burst_wrapper"))
        module = sys.modules[whole] = type(sys)(whole)
        module.__file__ = path
        setattr(package, name, module)
        exec(code, module.__dict__)  # type: ignore[arg-type]  # noqa: S102 - our own
    return module


if not TYPE_CHECKING:
    hot = _load("hot")

OWN_NAME = b"burst-runner"
SESSION = b"BURST_SESSION"
STUB_HEAD = b"#!/usr/bin/env burst-stub\nburst-stub 1 "
EXIT_OURS = 125
"""As `env`, `nice` and `docker run` do: the program was not run to its end, by no fault of it."""


def from_launcher() -> "NoReturn":
    """Entry of the launcher: its arguments are those of cargo."""
    main(hot._arguments(1), hot.own_environ())


def from_script() -> "NoReturn":
    """Entry of the installed `sh` script, which puts its environment before the arguments."""
    shell, *argv = hot._arguments(1)
    main(argv, hot.environ_before_shell(shell))


def rustdoc_from_launcher() -> "NoReturn":
    """Entry of `burst-rustdoc`: cargo's RUSTDOC."""
    _rustdoc(hot._arguments(1), hot.own_environ())


def rustdoc_from_script() -> "NoReturn":
    """As `from_script`."""
    shell, *argv = hot._arguments(1)
    _rustdoc(argv, hot.environ_before_shell(shell))


def main(argv: list[bytes], environ: dict[bytes, bytes]) -> "NoReturn":
    """Run one program. `environ` is what cargo gave."""
    if argv[:1] == [b"--burst-rustdoc"]:  # of scripts/burst-rustdoc
        _rustdoc(argv[1:], environ)
    while argv and hot._name(argv[0]) == OWN_NAME:
        argv = argv[1:]
    if not argv:
        hot._write(2, b"usage: CARGO_TARGET_<TRIPLE>_RUNNER=burst-runner cargo test\n")
        posix._exit(2)
    session = environ.get(SESSION, b"")
    why = "no daemon knows its session"
    if session and not hot._switch(environ, b"BURST_DISABLE"):
        daemon = _load("runner_daemon")
        connection = daemon.connected(environ)
        if connection is not None:
            _load("runner_terminal")
            stand_in = _load("runner_stand_in")
            try:
                stand_in.StandIn(connection, argv, environ).follow(session)
            except stand_in.Here as reason:
                why = str(reason) or why
            except stand_in.Failed as failure:
                fail(str(failure))
            except KeyboardInterrupt:
                posix._exit(hot.EXIT_INTERRUPTED)
    here(argv, environ, why)


def _rustdoc(argv: list[bytes], environ: dict[bytes, bytes]) -> "NoReturn":
    _load("runner_daemon")
    _load("runner_rustdoc").rustdoc(argv, environ, environ.get(SESSION, b""), OWN_NAME)
    raise AssertionError


def here(argv: list[bytes], environ: dict[bytes, bytes], why: str) -> "NoReturn":
    """Become the program, unless what lies here only stands for it."""
    if is_stub(argv[0]):
        name = argv[0].decode("utf-8", "replace")
        text = f"error: `{name}` is not on this machine, and {why}\n"
        fail(text + "hint: `cargo burst run` and `cargo burst test` run it where it was linked\n")
    hot.execute(argv, environ)


def is_stub(path: bytes) -> bool:
    """Whether this file stands for a program that lies on another machine."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    except OSError:
        return False
    try:
        return posix.read(fd, len(STUB_HEAD)) == STUB_HEAD
    except OSError:
        return False
    finally:
        posix.close(fd)


def fail(text: str) -> "NoReturn":
    hot._write(2, text.encode("utf-8", "surrogateescape"))
    posix._exit(EXIT_OURS)
