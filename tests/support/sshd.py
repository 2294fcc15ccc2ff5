"""A real sshd on loopback with everything of its own (keys, homes), and a bad network for it.

    with Sshd.start(tmp_path) as sshd:
        ...SshTarget.parse(sshd.address)...

The fixtures are in remote_hosts.py.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import queue
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SSHD: Final = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
PLAIN_UID: Final = 47311
PLAIN_USER: Final = "builder"


def keygen(path: Path, key_type: str = "ed25519", passphrase: str = "") -> str:
    """Make a key pair; returns the public line `type base64`."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", key_type, "-N", passphrase, "-C", "test", "-f", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return " ".join(path.with_name(path.name + ".pub").read_text().split()[:2])


def descendants(pid: int) -> list[int]:
    """Children, their children and so on, parents first."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    queue_ = [pid]
    for parent in queue_:
        below = children.get(parent, [])
        found += below
        queue_ += below
    return found


class Sshd:
    """One server. `client_home` is where our side's ~/.ssh lies, `remote_home` the account's."""

    def __init__(self, folder: Path, *, plain_user: bool = False) -> None:
        self.folder = folder
        self.client_home = folder / "client"
        self.remote_home = folder / "remote"
        self.remote_cache = self.remote_home / ".cache"
        self.user = PLAIN_USER if plain_user and os.getuid() == 0 else getpass.getuser()
        self.port = 0
        self.log: list[str] = []
        self.environment: dict[str, str] = {}
        """More variables for the remote session; set them before `restart`."""
        self.extra = ""
        """More lines of sshd_config; likewise."""
        self._process: subprocess.Popen[str] | None = None
        self._drain: threading.Thread | None = None
        self._generation = 0

    @classmethod
    @contextlib.contextmanager
    def start(cls, folder: Path, *, plain_user: bool = False) -> Iterator[Self]:
        """A running server in `folder`, whose key the client knows and vice versa."""
        server = cls(folder, plain_user=plain_user)
        server._prepare()
        server.restart()
        try:
            yield server
        finally:
            server.stop()

    @classmethod
    @contextlib.contextmanager
    def for_user(cls) -> Iterator[Self]:
        """By and for a user who is not root, where there is one; not in tmp_path, which is closed
        to that user. Skips the test where there is no sshd.
        """
        import pytest  # benchmarks do without

        if SSHD is None:
            pytest.skip("openssh-server is not installed")
        with (
            tempfile.TemporaryDirectory(prefix="burst-sshd-", dir="/var/tmp") as folder,
            cls.start(Path(folder, "sshd"), plain_user=True) as sshd,
        ):
            yield sshd

    @property
    def address(self) -> str:
        return f"{self.user}@127.0.0.1:{self.port}"

    @property
    def host_key(self) -> Path:
        return self.folder / f"host_key_{self._generation}"

    @property
    def host_key_line(self) -> str:
        return " ".join(self.host_key.with_suffix(".pub").read_text().split()[:2])

    @property
    def known_hosts(self) -> Path:
        return self.client_home / ".ssh" / "known_hosts"

    @property
    def authorized_keys(self) -> Path:
        return self.folder / "authorized_keys"

    def know(self, *ports: int) -> None:
        """Write known_hosts anew: this server's key under the given ports, by default its own."""
        lines = [f"[127.0.0.1]:{port} {self.host_key_line}\n" for port in ports or (self.port,)]
        self.known_hosts.write_text("".join(lines))

    def change_host_key(self, key_type: str = "ed25519") -> None:
        """Another host key, as after a reinstallation; known_hosts keeps the old one."""
        self._generation += 1
        keygen(self.host_key, key_type)
        self.restart()

    def restart(self) -> None:
        """Stop if running; start on the same port, or on a free one the first time."""
        self.stop()
        first = self.port == 0
        for _ in range(20):
            if first:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", 0))
                    self.port = probe.getsockname()[1]
            if self._launch():
                break
        else:
            raise RuntimeError("sshd does not start:\n" + "".join(self.log))
        if first:
            self.know()

    def stop(self) -> None:
        """End the server and every session: exactly the processes it started."""
        process = self._process
        if process is None:
            return
        self._process = None
        sessions = self._sessions(process.pid)
        for pid in [process.pid, *sessions]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        _wait_for_end(sessions, 20)  # orphans by now; a mount that they use must be free
        if self._drain is not None:
            self._drain.join()
        assert process.stderr is not None
        process.stderr.close()

    def freeze(self) -> None:
        """SIGSTOP for the server and its sessions: the kernel still answers, nobody else does."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def session_pids(self) -> list[int]:
        """Processes of the logged-in sessions, those whose sshd has ended included."""
        return self._sessions(self._process.pid) if self._process else []

    def _sessions(self, server: int) -> list[int]:
        # Commands outlive a broken session, as orphans; their HOME is ours and nobody else's.
        mark = f"HOME={self.remote_home}".encode()
        found = dict.fromkeys(descendants(server))
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError):
                    if mark in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                        found[int(name)] = None
        return list(found)

    def wait_sessions_end(self, timeout_s: float = 20) -> None:
        """Block until no process of any session is left."""
        _wait_for_end(self.session_pids(), timeout_s)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        for pid in [self._process.pid, *self._sessions(self._process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _prepare(self) -> None:
        (self.client_home / ".ssh").mkdir(mode=0o700, parents=True)
        self.remote_home.mkdir()
        keygen(self.host_key)
        self.authorized_keys.write_text(keygen(self.client_home / ".ssh" / "id_ed25519") + "\n")
        if self.user == PLAIN_USER:
            os.chown(self.remote_home, PLAIN_UID, PLAIN_UID)
            os.chown(self.host_key, PLAIN_UID, PLAIN_UID)
            (self.folder / "passwd").write_text(
                Path("/etc/passwd").read_text()
                + f"{PLAIN_USER}:x:{PLAIN_UID}:{PLAIN_UID}::{self.remote_home}:/bin/bash\n"
            )
            for folder in (self.folder, *self.folder.parents):
                if folder.stat().st_uid == os.getuid() and folder != Path("/"):
                    folder.chmod(folder.stat().st_mode | 0o011)

    def _configuration(self) -> str:
        variables = {
            "HOME": str(self.remote_home),
            "XDG_CACHE_HOME": str(self.remote_cache),
            "PATH": os.environ["PATH"],
        } | self.environment
        set_env = " ".join(f'"{name}={value}"' for name, value in variables.items())
        return f"""
Port {self.port}
ListenAddress 127.0.0.1
HostKey {self.host_key}
AuthorizedKeysFile {self.authorized_keys}
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UseDNS no
PrintMotd no
LogLevel VERBOSE
SetEnv {set_env}
{self.extra}
"""

    def _launch(self) -> bool:
        assert SSHD is not None
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # its empty chroot, when it is root
        configuration = self.folder / "sshd_config"
        configuration.write_text(self._configuration())
        argv = [SSHD, "-D", "-e", "-f", str(configuration)]
        if self.user == PLAIN_USER and os.getuid() == 0:
            os.chown(self.host_key, PLAIN_UID, PLAIN_UID)
            # sshd needs an account with that uid: it gets one, in a mount namespace of its own.
            ids = [f"--reuid={PLAIN_UID}", f"--regid={PLAIN_UID}", "--clear-groups"]
            script = 'mount --bind "$0" /etc/passwd && exec "$@"'
            argv = ["setpriv", *ids, *argv]
            passwd = str(self.folder / "passwd")
            argv = ["unshare", "--mount", "sh", "-c", script, passwd, *argv]
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        assert process.stderr is not None
        for line in process.stderr:
            self.log.append(line)
            if re.match(r"Server listening on .* port \d+", line):
                self._process = process
                self._drain = threading.Thread(target=self.log.extend, args=(process.stderr,))
                self._drain.start()
                return True
        process.wait()
        process.stderr.close()
        return False


def _wait_for_end(pids: Iterable[int], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                ended, _, _ = select.select([handle], [], [], max(0, deadline - time.monotonic()))
            finally:
                os.close(handle)
            if not ended:
                raise TimeoutError(f"process {pid} of a session goes on")


class Proxy:
    """A TCP proxy that behaves badly on demand. Listens on a port of its own at 127.0.0.1."""

    _PIECE: Final = 16 * 1024

    def __init__(self, port: int, *, queue_pieces: int = 1024) -> None:
        self._queue_pieces = queue_pieces
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.delay_s = 0.0
        """One way, for bytes that arrive from now on."""
        self.rate_bytes_s = 0
        """Per direction and connection; 0 is unlimited."""
        self.forwarded_bytes = {"up": 0, "down": 0}
        self._state = threading.Condition()
        self._stalled = False
        self._closed = False
        self._budget: int | None = None
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._state:
            self._closed = True
            self._state.notify_all()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    def stall(self) -> None:
        """Forward nothing any more, close nothing: what a dead Wi-Fi looks like."""
        with self._state:
            self._stalled = True

    def resume(self) -> None:
        with self._state:
            self._stalled = False
            self._state.notify_all()

    def cut(self) -> None:
        """Reset every connection now; new ones are accepted."""
        with self._state:
            sockets, self._sockets = self._sockets, []
            self._budget = None
            self._state.notify_all()
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # shutdown wakes the threads that wait in recv; close alone does not.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def cut_after(self, upload_bytes: int) -> None:
        """Reset every connection as soon as exactly that many more bytes went to the server."""
        with self._state:
            self._budget = upload_bytes

    def wait_forwarded(self, way: str, size_bytes: int) -> None:
        """Block until that many bytes went "up" to the server or "down" from it, in all."""
        with self._state:
            if not self._state.wait_for(lambda: self.forwarded_bytes[way] >= size_bytes, 30):
                raise TimeoutError(f"{self.forwarded_bytes[way]} bytes went {way}")

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            for sock in (client, server):
                if self._queue_pieces < 16:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._PIECE)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._PIECE)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._state:
                self._sockets += [client, server]
            self._pump(client, server, "up")
            self._pump(server, client, "down")

    def _pump(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        pieces: queue.Queue[tuple[float, bytes]] = queue.Queue(maxsize=self._queue_pieces)
        for target, args in (
            (self._receive, (source, pieces)),
            (self._forward, (sink, pieces, way)),
        ):
            thread = threading.Thread(target=target, args=args, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _receive(self, source: socket.socket, pieces: queue.Queue[tuple[float, bytes]]) -> None:
        data = b"more"
        while data:
            try:
                data = source.recv(self._PIECE)
            except OSError:
                data = b""
            pieces.put((time.monotonic() + self.delay_s, data))

    def _forward(
        self, sink: socket.socket, pieces: queue.Queue[tuple[float, bytes]], way: str
    ) -> None:
        broken = False
        while True:
            due, data = pieces.get()
            if not data:
                with contextlib.suppress(OSError):
                    sink.shutdown(socket.SHUT_WR)
                return
            if broken:  # keep emptying the queue, so that the receiving thread ends
                continue
            time.sleep(max(0.0, due - time.monotonic()))
            with self._state:
                while self._stalled and not self._closed and sink in self._sockets:
                    self._state.wait()
                if way == "up" and self._budget is not None:
                    data = data[: self._budget]
                    self._budget -= len(data)
                spent = self._budget == 0
            try:
                sink.sendall(data)
                with self._state:
                    self.forwarded_bytes[way] += len(data)
                    self._state.notify_all()
            except OSError:
                broken = True
            if spent:
                self.cut()
                broken = True
            if self.rate_bytes_s:
                time.sleep(len(data) / self.rate_bytes_s)


@contextlib.contextmanager
def blackhole() -> Iterator[int]:
    """A loopback port whose SYNs are dropped: the backlog of a listener nobody serves is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port: int = listener.getsockname()[1]
        for _ in range(2):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(("127.0.0.1", port))
        yield port


def closed_port() -> int:
    """A loopback port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
