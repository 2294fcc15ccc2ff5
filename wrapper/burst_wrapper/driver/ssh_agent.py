"""The user's ssh agent, lent to a cargo on another machine while it runs: for private git.

A small program there listens on a socket that only the project's programs see, and hands each
request through the runner to us; we ask the real agent. Keys never travel. Only the two requests
that signing in takes are handed on: nobody there can add, remove or lock keys
(https://datatracker.ietf.org/doc/draft-ietf-sshm-ssh-agent/).
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from typing import IO, Final

from burst_protocol.errors import EnvironmentProblem
from burst_wrapper.session_client import hook_path

_LISTENER: Final = r"""
import os, socket, sys, threading
path = sys.argv[1]
os.umask(0o177)
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen(16)
turn = threading.Lock()
out, answers = sys.stdout.buffer, sys.stdin.buffer
def message(stream):
    head = stream.read(4)
    size = int.from_bytes(head, "big")
    if len(head) < 4 or size > 1 << 18:
        return b""
    body = stream.read(size)
    return head + body if len(body) == size else b""
def serve(client):
    with client, client.makefile("rb") as stream:
        while asked := message(stream):
            with turn:
                out.write(asked)
                out.flush()
                answer = message(answers)
            if not answer:
                os._exit(0)
            client.sendall(answer)
out.write(b"ready\n")
out.flush()
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
"""For `python3 -c` there. Constant: the socket's path is its argument."""
_IDENTITIES: Final = 11
_SIGN: Final = 13
_ALLOWED: Final = (_IDENTITIES, _SIGN)
_FAILURE: Final = b"\0\0\0\1\5"
"""SSH_AGENT_FAILURE."""
_MOST_BYTES: Final = 1 << 18


class AgentNotLent(EnvironmentProblem):
    """your ssh agent cannot be lent to {host}: {detail}"""

    code = "ssh-agent"
    hint = "it takes python3 there; `driver_ssh_agent = false` does without"


@contextlib.contextmanager
def lent(
    auth_sock: bytes, path: bytes, environ: Mapping[bytes, bytes], host: str
) -> Iterator[None]:
    """While this lasts, programs there find the agent at `path`. `environ`: of the runner.

    AgentNotLent if it cannot be. What goes wrong later is a refusal to whoever asks there.
    """
    words = (b"python3", b"-c", _LISTENER.encode(), path)
    process = subprocess.Popen(
        [os.fsencode(hook_path("burst-runner")), *words],
        env=dict(environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Ctrl-C is for cargo, which may ask for a key yet.
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    asked, answers = process.stdout, process.stdin
    try:
        if asked.readline() != b"ready\n":
            said = process.stderr.read().decode("utf-8", "replace").strip().splitlines()
            raise AgentNotLent(said[-1] if said else "no answer", host=host)
        thread = threading.Thread(target=_relay, args=(auth_sock, asked, answers), daemon=True)
        thread.start()
        yield
    finally:
        process.kill()  # with its stand-in here the program there ends
        process.wait()
        for pipe in (process.stderr, asked, answers):
            with contextlib.suppress(OSError):
                pipe.close()


def _relay(auth_sock: bytes, asked: IO[bytes], answers: IO[bytes]) -> None:
    with contextlib.suppress(OSError, ValueError):
        while request := read_message(asked):
            answers.write(_answer(auth_sock, request))
            answers.flush()


def _answer(auth_sock: bytes, request: bytes) -> bytes:
    """By the real agent; a refusal for what is not to be asked, and where there is none."""
    if len(request) < 5 or request[4] not in _ALLOWED:
        return _FAILURE
    try:
        with socket.socket(socket.AF_UNIX) as agent:
            agent.connect(auth_sock)
            agent.sendall(request)
            with agent.makefile("rb") as stream:
                return read_message(stream) or _FAILURE
    except OSError:
        return _FAILURE


def read_message(stream: IO[bytes]) -> bytes:
    """One message with its length in front; empty at the end, or for what is none."""
    head = stream.read(4)
    size = int.from_bytes(head, "big")
    if len(head) < 4 or size > _MOST_BYTES:
        return b""
    body = stream.read(size)
    return head + body if len(body) == size else b""
