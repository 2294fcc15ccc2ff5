"""cargo's RUSTDOC: the real one, with the run tool of its tests as the session wants it.

Loaded by `runner`, by its path, and as light.
"""

from burst_wrapper import hot, runner_daemon

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def rustdoc(
    argv: list[bytes], environ: dict[bytes, bytes], session: bytes, runner: bytes
) -> "NoReturn":
    """Become the real one. cargo's tests of documentation are linked here, and run here: a runner
    of ours would bring each of them to another machine. Only a session with services has them
    started by it, in the network where those are.

    BURST_RUSTDOC names the user's own, if there is one. `session`: its name, empty without one;
    `runner`: what programs of ours that start others are called.
    """
    program = environ.get(b"BURST_RUSTDOC") or b"rustdoc"
    if hot._name(program) == b"burst-rustdoc":
        program = b"rustdoc"
    tests = b"--test" in argv
    if not (tests and session and _keeps_runner(environ, session)):
        argv = without_runner(argv, runner)
    hot.execute([program, *argv], environ)


def _keeps_runner(environ: dict[bytes, bytes], session: bytes) -> bool:
    """Whether the daemon wants tests of documentation to be started by the runner (`K`)."""
    connection = runner_daemon.connected(environ)
    if connection is None:
        return False
    try:
        connection.settimeout(runner_daemon.SILENCE_S)
        opening = runner_daemon.opening(b"rustdoc", runner_daemon.VERSION, session)
        connection.sendall(opening)
        received = bytearray()
        while data := connection.recv(4096):
            received += data
            for tag, _ in hot._frames(received):
                if tag != b"H":
                    return tag == b"K"
    except (OSError, hot._Unavailable):
        pass
    finally:
        connection.close()
    return False


def without_runner(argv: list[bytes], runner: bytes) -> list[bytes]:
    """rustdoc's arguments less the run tool that is ours, with all that belongs to it.

    The user's own run tool, which ours was put before, is one again.
    """
    kept: list[bytes] = []
    tool: list[bytes] = []
    words = iter(argv)
    for word in words:
        name, separator, value = word.partition(b"=")
        if name not in (b"--test-runtool", b"--runtool", b"--test-runtool-arg"):
            kept.append(word)
            continue
        tool.append(value if separator else next(words, b""))
    while tool and hot._name(tool[0]) == runner:
        del tool[0]
    if not tool:
        return kept
    rest = [part for one in tool[1:] for part in (b"--test-runtool-arg", one)]
    return [*kept, b"--test-runtool", tool[0], *rest]
