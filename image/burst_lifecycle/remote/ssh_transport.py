"""One SSH connection to a host, many byte channels on it: the only module that knows asyncssh.

Behaves as `ssh -o BatchMode=yes -o StrictHostKeyChecking=yes`: same configuration files, keys,
agent and known_hosts; never asks, never learns a host key. Differences, on purpose: fixed good
algorithms, no forwarding of anything, no password or Kerberos login, no environment sent.
Importing this takes about 0.2 s (asyncssh), so its users import it when they first connect.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import asyncssh
import attrs

from burst_lifecycle import hostkey
from burst_lifecycle.remote.known_hosts import KnownHosts, KnownKey
from burst_protocol.errors import (
    AgentGone,
    AuthenticationFailed,
    BurstError,
    ConfigError,
    HostKeyProblem,
    LinkLost,
    Unreachable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Its log lines name hosts, users and key files at level INFO; what matters comes as exceptions.
_log = logging.getLogger("asyncssh")
_log.addHandler(logging.NullHandler())
_log.propagate = False
_log.setLevel(logging.CRITICAL + 1)

# AEAD only, the fastest first: aes128-gcm does 330 MB/s on loopback here, chacha20 a third of it.
_CIPHERS: Final = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
)
_KEX: Final = (
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group18-sha512",
)
_MACS: Final = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
_HOST_KEY_ALGS: Final = (
    ("ssh-ed25519", "ssh-ed25519"),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"),
    ("ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384"),
    ("ecdsa-sha2-nistp521", "ecdsa-sha2-nistp521"),
    ("ssh-rsa", "rsa-sha2-512"),
    ("ssh-rsa", "rsa-sha2-256"),
)
"""(key type as in known_hosts, algorithm as negotiated). No SHA-1."""

_MAX_JUMPS: Final = 8
_NEXT_ADDRESS_S: Final = 0.25
"""After which a name's next address is tried beside the one that has not answered (RFC 8305,
section 5). `ssh` waits for each in turn; where IPv6 is a black hole that would take all the time
that a login has."""
_RECEIVE_WINDOW_BYTES: Final = 8 * 1024 * 1024
"""asyncssh's default of 2 MiB caps a download at 40 MB/s over a 50 ms round trip."""
_STATUS_WAIT_S: Final = 1.0
_READ_HIGH_BYTES: Final = 4 * 1024 * 1024
_READ_LOW_BYTES: Final = 1024 * 1024
_QUEUE_BYTES: Final = 128 * 1024
_STDERR_RING_BYTES: Final = 64 * 1024
_KEEPALIVES_PER_SILENCE: Final = 3


@attrs.frozen
class SshTarget:
    """Where to log in. `host` may be an alias of ssh's configuration; None: as configured there."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> SshTarget:
        """`[user@]host[:port]`, `[user@][v6]:port`, a bare IPv6 address. ConfigError if neither."""
        user, at, place = text.strip().removeprefix("ssh://").rpartition("@")
        host, port = place.rstrip("/"), ""
        if host.startswith("["):
            host, bracket, rest = host[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise ConfigError(f"`{text}` is no user@host[:port]", path="host")
            port = rest[1:]
        elif host.count(":") == 1:
            host, _, port = host.partition(":")
        # A leading dash could be taken for an option by a ProxyCommand; ssh refuses it as well.
        if not host or host.startswith("-") or any(c.isspace() or c == "\0" for c in text.strip()):
            raise ConfigError(f"`{text}` is no user@host[:port]", path="host")
        if (at and (not user or user.startswith("-"))) or (
            port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)
        ):
            raise ConfigError(f"`{text}` is no user@host[:port]", path="host")
        return cls(host, user or None, int(port) if port else None)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host and self.port else self.host
        return f"{self.user + '@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"


class AgentChannel(asyncssh.SSHClientSession[bytes]):
    """stdin and stdout of one remote command as a byte stream; stderr goes into a bounded ring."""

    def __init__(self, host: str, wire: _Wire | None) -> None:
        self.host = host
        self._wire = wire
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._chunks: deque[bytes] = deque()
        self._size_bytes = 0
        self._reading_paused = False
        self._writing_paused = False
        self._eof = False
        self._closed = False
        self._error: BurstError | None = None
        self._readable: asyncio.Future[None] | None = None
        self._writable: list[asyncio.Future[None]] = []
        self._stderr = bytearray()

    # Called by us

    async def read(self, limit_bytes: int) -> bytes:
        """Up to `limit_bytes`, at least one; b"" at the end. LinkLost if the link broke.

        One reader at a time.
        """
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._eof or self._closed:
                return b""
            self._readable = asyncio.get_running_loop().create_future()
            try:
                await self._readable
            finally:
                self._readable = None
        parts: list[bytes] = []
        room = limit_bytes
        while self._chunks and room > 0:
            chunk = self._chunks.popleft()
            if len(chunk) > room:
                self._chunks.appendleft(chunk[room:])
                chunk = chunk[:room]
            room -= len(chunk)
            parts.append(chunk)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._size_bytes -= len(data)
        if self._reading_paused and self._size_bytes <= _READ_LOW_BYTES and self._channel:
            self._reading_paused = False
            self._channel.resume_reading()
        return data

    async def read_exactly(self, size_bytes: int) -> bytes:
        """All of that many bytes. AgentGone if the remote command ended before."""
        parts = bytearray()
        while len(parts) < size_bytes:
            data = await self.read(size_bytes - len(parts))
            if not data:
                raise AgentGone(await self.ending())
            parts += data
        return bytes(parts)

    def unread(self, data: bytes) -> None:
        """Put back what was read too much: the next read begins with it."""
        if data:
            self._chunks.appendleft(data)
            self._size_bytes += len(data)

    def write(self, data: bytes) -> None:
        """Queue bytes; `drain` waits for room and tells errors."""
        if self._channel is not None and not self._closed:
            with contextlib.suppress(OSError):  # closed by the peer a moment ago: drain says so
                self._channel.write(data)

    async def drain(self) -> None:
        """Wait until the peer took enough. LinkLost or AgentGone if it never will."""
        while self._writing_paused and not self._closed:
            waiter = asyncio.get_running_loop().create_future()
            self._writable.append(waiter)
            try:
                await waiter
            finally:
                self._writable.remove(waiter)
        if self._wire is not None and not self._closed:
            await self._wire.writable.wait()
        if self._error is not None:
            raise self._error
        if self._closed or self._channel is None or self._channel.is_closing():
            raise AgentGone(await self.ending())

    def write_eof(self) -> None:
        """Close the command's stdin; its output can still be read."""
        if self._channel is not None and not self._closed:
            self._channel.write_eof()

    def close(self) -> None:
        """Give the channel up; what was not read is dropped. sshd then hangs up on the command."""
        if self._channel is not None and not self._closed:
            self._channel.abort()

    async def wait_closed(self) -> None:
        """Until the channel is closed, by whichever side or fault."""
        if self._channel is not None:
            await self._channel.wait_closed()

    @property
    def exit_status(self) -> int | None:
        """Of the remote command: negative for a signal, None while unknown."""
        get = getattr(self._channel, "get_returncode", None)  # a socket's channel has none
        return None if get is None else get()

    @property
    def stderr_tail(self) -> bytes:
        """The last 64 KiB the command wrote to stderr: for our log only."""
        return bytes(self._stderr)

    async def ending(self) -> str:
        """How the command ended, for messages; its status may come a moment after its output."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STATUS_WAIT_S):
                await self.wait_closed()
        status = self.exit_status
        return "it closed its output" if status is None else f"it exited with status {status}"

    # Called by asyncssh

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        if datatype == asyncssh.EXTENDED_DATA_STDERR:
            self._stderr += data
            if len(self._stderr) > _STDERR_RING_BYTES:
                del self._stderr[:-_STDERR_RING_BYTES]
            return
        self._chunks.append(data)
        self._size_bytes += len(data)
        if not self._reading_paused and self._size_bytes > _READ_HIGH_BYTES and self._channel:
            self._reading_paused = True
            self._channel.pause_reading()
        self._wake_reader()

    def eof_received(self) -> bool:
        self._eof = True
        self._wake_reader()
        return True  # keep the writing half open until we close it

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._wake_writers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        if exc is not None:
            self._error = LinkLost(_reason(exc), host=self.host)
        self._wake_reader()
        self._wake_writers()

    def _wake_reader(self) -> None:
        if self._readable is not None and not self._readable.done():
            self._readable.set_result(None)

    def _wake_writers(self) -> None:
        for waiter in self._writable:
            if not waiter.done():
                waiter.set_result(None)


class _OverSocket(asyncssh.SSHUNIXSession[bytes]):
    """A forwarded socket's events, for a channel that looks like a command's."""

    def __init__(self, channel: AgentChannel) -> None:
        self._to = channel

    def connection_made(self, chan: asyncssh.SSHUNIXChannel[bytes]) -> None:
        # What we use of a channel is the same for both kinds.
        self._to.connection_made(cast("asyncssh.SSHClientChannel[bytes]", chan))

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self._to.data_received(data, datatype)

    def eof_received(self) -> bool:
        return self._to.eof_received()

    def pause_writing(self) -> None:
        self._to.pause_writing()

    def resume_writing(self) -> None:
        self._to.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._to.connection_lost(exc)


class SshConnection:
    """An authenticated connection to a host whose key we knew. Made by `connect`."""

    def __init__(
        self,
        target: SshTarget,
        connection: asyncssh.SSHClientConnection,
        jumps: Sequence[asyncssh.SSHClientConnection],
        wire: _Wire | None,
    ) -> None:
        self.target = target
        self._wire = wire
        self._connection = connection
        self._jumps = tuple(jumps)

    async def run(self, fixed_command: str) -> AgentChannel:
        """Start a command. It must be a constant: no input of ours may ever become part of it."""
        channel = AgentChannel(str(self.target), self._wire)
        try:
            await self._connection.create_session(
                lambda: channel,
                fixed_command,
                env={},
                send_env=[],
                request_pty=False,
                x11_forwarding=False,
                encoding=None,
                window=_RECEIVE_WINDOW_BYTES,
            )
        except asyncssh.ChannelOpenError as error:
            # Often `MaxSessions`; or the connection went away under us.
            raise LinkLost(_reason(error), host=str(self.target)) from error
        except (asyncssh.Error, OSError) as error:
            raise LinkLost(_reason(error), host=str(self.target)) from error
        return channel

    async def open_socket(self, path: str) -> AgentChannel:
        """A channel to what listens on that unix socket there (sshd connects, as the login's user).

        LinkLost if nobody does, or if that sshd forbids it: `burst-agent connect` is the other way.
        """
        channel = AgentChannel(str(self.target), self._wire)
        try:
            await self._connection.create_unix_connection(
                lambda: _OverSocket(channel),
                path,
                encoding=None,
                window=_RECEIVE_WINDOW_BYTES,
            )
        except (asyncssh.Error, OSError) as error:
            raise LinkLost(f"{path}: {_reason(error)}", host=str(self.target)) from error
        return channel

    @property
    def is_closed(self) -> bool:
        return self._connection.is_closed()

    def close(self) -> None:
        """Hang up. Channels end with LinkLost or end of file."""
        self._connection.abort()
        for jump in reversed(self._jumps):
            jump.abort()

    async def wait_closed(self) -> None:
        """Until the connection is gone: closed by us, by the peer, or silent for too long."""
        try:
            await self._connection.wait_closed()
        finally:
            for jump in reversed(self._jumps):
                jump.abort()


async def connect(
    target: SshTarget,
    *,
    connect_timeout_s: float = 10.0,
    silence_s: float = 15.0,
    auth_sock: str | None = None,
) -> SshConnection:
    """Log in.

    `connect_timeout_s` covers everything until we are logged in, jump hosts included; a link that
    is silent for `silence_s` is given up later on. `auth_sock` is the ssh agent's socket, by
    default SSH_AUTH_SOCK (a daemon outlives the session it was started in, so its callers may know
    better). Raises Unreachable, HostKeyProblem, AuthenticationFailed, ConfigError.
    """
    login = _Login(silence_s, auth_sock)
    try:
        async with asyncio.timeout(connect_timeout_s):
            connection = await login.open(target, None)
    except TimeoutError as error:
        login.abort()
        raise Unreachable(f"no answer within {connect_timeout_s:g} s", host=str(target)) from error
    except BaseException:
        login.abort()
        raise
    return SshConnection(target, connection, login.jumps, login.wire)


class PinnedConnection(SshConnection):
    """To a server whose host key has one of the given pins. Made by `connect_pinned`."""

    host_key: str = ""
    """The one it showed: `ssh-ed25519 AAAA…`."""


async def connect_pinned(
    host: str,
    port: int,
    *,
    user: str,
    pins: Sequence[str],
    key_path: str,
    connect_timeout_s: float = 10.0,
    silence_s: float = 15.0,
) -> PinnedConnection:
    """Log in to a server of our own: exactly this key of ours, exactly these host keys.

    No configuration, agent or known_hosts file of the user's takes part. Raises Unreachable,
    HostKeyProblem, AuthenticationFailed; ConfigError if our key cannot be read.
    """
    target = SshTarget(host, user, port)
    client = _PinnedClient(tuple(pins))
    dialer = _Dialer(0, None, None)
    try:
        keys = await asyncio.to_thread(asyncssh.load_keypairs, key_path)
    except (OSError, ValueError, asyncssh.Error) as error:
        raise ConfigError(_reason(error), path=key_path) from error
    try:
        async with asyncio.timeout(connect_timeout_s):
            connection = await asyncssh.connect(
                host,
                port,
                username=user,
                tunnel=cast("Any", dialer),
                config=None,
                client_factory=lambda: client,
                known_hosts=lambda _host, _address, _port: ([], [], []),
                server_host_key_algs=["ssh-ed25519"],
                client_keys=keys,
                agent_path=None,
                **_always(silence_s),
            )
    except TimeoutError as error:
        raise Unreachable(f"no answer within {connect_timeout_s:g} s", host=str(target)) from error
    except asyncssh.HostKeyNotVerifiable as error:
        shown = client.host_key or "nothing that we could read"
        detail = f"it shows {shown}, which none of its labels allows"
        raise HostKeyProblem(detail, host=str(target)) from error
    except asyncssh.PermissionDenied as error:
        detail = "it does not know this machine's key"
        raise AuthenticationFailed(detail, host=str(target)) from error
    except (asyncssh.Error, OSError, ValueError) as error:
        raise Unreachable(_reason(error), host=str(target)) from error
    found = PinnedConnection(target, connection, (), dialer.wire)
    found.host_key = client.host_key
    return found


def new_key_pair() -> tuple[str, str]:
    """A fresh ed25519 pair: private in OpenSSH's format without passphrase, public as one line."""
    key = asyncssh.generate_private_key("ssh-ed25519", comment="burst")
    public = key.export_public_key("openssh").decode()
    return key.export_private_key("openssh").decode(), " ".join(public.split()[:2])


class _PinnedClient(asyncssh.SSHClient):
    def __init__(self, pins: tuple[str, ...]) -> None:
        self._pins = pins
        self.host_key = ""

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        del host, addr, port
        self.host_key = " ".join(key.export_public_key("openssh").decode().split()[:2])
        return hostkey.pin(self.host_key) in self._pins


class _Wire(asyncio.Protocol):
    """The TCP connection below everything, with little in its queue.

    asyncssh writes as much as the server's windows allow (2 MiB per channel), and all of it would
    wait in one queue: on an upload of 2 Mbit/s a keepalive or a small request would come 8 s late,
    and a busy link would be given up for silent. So whoever sends much waits in `drain` until the
    queue is short, here and in the kernel (TCP_NOTSENT_LOWAT).
    """

    def __init__(
        self, inner: asyncio.Protocol, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        """`process`: a ProxyCommand, leader of a process group, which ends with the connection."""
        self._inner = inner
        self._process = process
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(_QUEUE_BYTES)
        sock: socket.socket = transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _QUEUE_BYTES)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.writable.set()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._inner.connection_lost(exc)


@attrs.define
class _Dialer:
    """Looks to asyncssh like a connection to tunnel through; connects over TCP, or by a
    ProxyCommand, with a _Wire.

    asyncssh's own way to start a ProxyCommand knows no shell, takes what the command says on stderr
    for the server's words, and the end of stderr for the end.
    """

    family: int
    local_address: tuple[str, int] | None
    command: list[str] | None
    wire: _Wire | None = None

    async def create_connection(
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        process: subprocess.Popen[bytes] | None = None

        def make() -> _Wire:
            self.wire = _Wire(factory(), process)
            return self.wire

        loop = asyncio.get_running_loop()
        if self.command is None:
            transport, wire = await loop.create_connection(
                make,
                host,
                port,
                family=self.family,
                local_addr=self.local_address,
                happy_eyeballs_delay=_NEXT_ADDRESS_S,
            )
            return transport, wire._inner
        ours, process = _start(self.command)  # here: a thread's would be lost when cancelled
        transport, wire = await loop.create_connection(make, sock=ours)
        return transport, wire._inner


def _start(command: list[str]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A ProxyCommand, and its stdin and stdout as one socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    return ours, process


def _in_shell(command: str | None, agent_path: str | None) -> list[str] | None:
    """As ssh runs a ProxyCommand: by `exec` in a shell, for `~`, quotes and redirections
    (ssh_config(5)). The ssh agent may be another one than the daemon was started with."""
    if command is None:
        return None
    script = f"exec {command}"
    if agent_path:
        script = f"SSH_AUTH_SOCK={shlex.quote(agent_path)}; export SSH_AUTH_SOCK; {script}"
    return ["/bin/sh", "-c", script]


@attrs.define
class _Login:
    """One login on its way: the hops made so far, from the nearest."""

    silence_s: float
    auth_sock: str | None
    jumps: list[asyncssh.SSHClientConnection] = attrs.field(factory=list)
    wire: _Wire | None = None

    def abort(self) -> None:
        for connection in reversed(self.jumps):
            connection.abort()

    async def open(
        self, target: SshTarget, via: asyncssh.SSHClientConnection | None, depth: int = 0
    ) -> asyncssh.SSHClientConnection:
        """Log in to one host, directly, through `via`, or through what its configuration says."""
        try:
            settings = await asyncio.to_thread(_settings, target)
        except asyncssh.ConfigParseError as error:
            raise ConfigError(str(error), path="ssh configuration") from error
        except (OSError, ValueError, asyncssh.Error) as error:
            raise ConfigError(_reason(error), path="ssh configuration") from error
        if via is None:
            for hop in settings.jump_hosts:
                if depth >= _MAX_JUMPS:
                    raise Unreachable("ProxyJump leads in a circle", host=str(target))
                via = await self.open(SshTarget.parse(hop), via, depth + 1)
                self.jumps.append(via)
        dialer = None
        if via is None:
            agent_path = _agent_path(settings, self.auth_sock)
            command = _in_shell(settings.proxy_command, agent_path)
            dialer = _Dialer(settings.family, settings.local_address, command)
        connection = await self._log_in(target, settings, via or dialer)
        if dialer is not None:
            self.wire = dialer.wire
        return connection

    async def _log_in(
        self, target: SshTarget, settings: _Settings, tunnel: object
    ) -> asyncssh.SSHClientConnection:
        judge = _HostKeyJudge(target, settings)
        agent_path = _agent_path(settings, self.auth_sock)
        try:
            return await asyncssh.connect(
                target.host,
                target.port or (),
                username=target.user or (),
                tunnel=cast("Any", tunnel),
                config=settings.config_files,
                client_factory=judge.client,
                known_hosts=judge.lookup,
                server_host_key_algs=judge.algorithms(),
                client_keys=settings.client_keys,
                ignore_encrypted=True,
                agent_path=agent_path,
                agent_identities=settings.agent_identities,
                **_always(self.silence_s),
            )
        except asyncssh.HostKeyNotVerifiable as error:
            raise HostKeyProblem(judge.verdict or _reason(error), host=str(target)) from error
        except asyncssh.PermissionDenied as error:
            detail = _no_login(settings, agent_path)
            raise AuthenticationFailed(detail, host=str(target)) from error
        except asyncssh.KeyExchangeFailed as error:
            raise Unreachable(f"no common algorithm: {error.reason}", host=str(target)) from error
        except (asyncssh.Error, OSError, ValueError) as error:
            is_proxied = isinstance(tunnel, _Dialer) and tunnel.command is not None
            through = " through its ProxyCommand" if is_proxied else ""
            raise Unreachable(_reason(error) + through, host=str(target)) from error


def _always(silence_s: float) -> dict[str, Any]:
    """What holds for every login, whoever's host it is: keys only, nothing forwarded."""
    return {
        "agent_forwarding": False,
        "pkcs11_provider": None,
        "preferred_auth": "publickey",
        "password_auth": False,
        "kbdint_auth": False,
        "host_based_auth": False,
        "gss_kex": False,
        "gss_auth": False,
        "x509_trusted_certs": None,
        "x509_trusted_cert_paths": [],
        "kex_algs": _KEX,
        "encryption_algs": _CIPHERS,
        "mac_algs": _MACS,
        "compression_algs": ["none"],
        "command": None,
        "connect_timeout": None,
        "login_timeout": 0,
        "keepalive_interval": silence_s / _KEEPALIVES_PER_SILENCE,
        "keepalive_count_max": _KEEPALIVES_PER_SILENCE - 1,
    }


def _reason(error: BaseException) -> str:
    """The cause in a few words, without asyncio's and asyncssh's decoration."""
    match error:
        case socket.gaierror():
            return "its name does not resolve"
        case ConnectionRefusedError():
            return "connection refused"
        case asyncssh.DisconnectError() | asyncssh.ChannelOpenError():
            return error.reason.strip().rstrip(".") or type(error).__name__
        case OSError() if len(set(numbers := re.findall(r"\[Errno (\d+)\]", str(error)))) == 1:
            return os.strerror(int(numbers[0])).lower()  # the same for each of several addresses
        case OSError(errno=int(number)) if error.strerror:
            return os.strerror(number).lower() if number > 0 else str(error.strerror)
        case _:
            return str(error) or type(error).__name__


def _no_login(settings: _Settings, agent_path: str | None) -> str:
    if settings.client_keys:
        offered = "the keys in your files" + (" and of the ssh agent" if agent_path else "")
    elif agent_path:
        offered = "the keys of the ssh agent"
    else:
        return "there is no usable key: no file without a passphrase, and no ssh agent"
    return f"it accepts none of {offered} for user {settings.user}"


@attrs.frozen
class _Settings:
    """What ssh's configuration says about one target, as far as asyncssh needs our help with it."""

    config_files: list[Path]
    host: str
    port: int
    user: str
    host_key_alias: str | None
    known_hosts: KnownHosts
    jump_hosts: list[str]
    client_keys: list[asyncssh.SSHKeyPair]
    agent_identities: list[bytes] | None
    agent_socket: str | None
    proxy_command: str | None
    family: int
    local_address: tuple[str, int] | None


def _settings(target: SshTarget) -> _Settings:
    """Resolve the configuration. Reads files and runs `Match exec` as ssh does: not on the loop."""
    candidates = (Path("~/.ssh/config").expanduser(), Path("/etc/ssh/ssh_config"))
    files = [path for path in candidates if os.access(path, os.R_OK)]
    options = asyncssh.SSHClientConnectionOptions(
        host=target.host,
        port=target.port or (),
        username=target.user or (),
        config=files,
        client_keys=None,
        known_hosts=b"#",  # never used: this object only answers questions
        pkcs11_provider=None,
        x509_trusted_certs=None,
        x509_trusted_cert_paths=[],
        gss_kex=False,
        gss_auth=False,
        kex_algs=_KEX,
        encryption_algs=_CIPHERS,
        mac_algs=_MACS,
    )
    get: Callable[..., Any] = options.config.get
    tokens = {
        "%%": "%",
        "%d": str(Path.home()),
        "%h": options.host,
        "%n": target.host,
        "%p": str(options.port),
        "%r": options.username,
        "%k": get("HostKeyAlias") or target.host,
    }
    user_files = get("UserKnownHostsFile", ("~/.ssh/known_hosts", "~/.ssh/known_hosts2"))
    global_files = get(
        "GlobalKnownHostsFile", ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
    )
    identity_files = [_expand(name, tokens) for name in get("IdentityFile", ())] or [
        str(Path("~/.ssh", name).expanduser()) for name in ("id_ed25519", "id_ecdsa", "id_rsa")
    ]
    identities_only = bool(get("IdentitiesOnly"))
    agent = get("IdentityAgent", "SSH_AUTH_SOCK")
    return _Settings(
        config_files=files,
        host=options.host,
        port=options.port,
        user=options.username,
        host_key_alias=get("HostKeyAlias"),
        known_hosts=KnownHosts.read(
            [_expand(name, tokens) for name in (*user_files, *global_files)]
        ),
        jump_hosts=[hop for hop in (get("ProxyJump") or "").split(",") if hop],
        client_keys=_usable_keys(identity_files),
        agent_identities=_public_parts(identity_files) if identities_only else None,
        agent_socket=agent,
        proxy_command=get("ProxyCommand") or None,
        family=options.family,
        local_address=cast("tuple[str, int] | None", options.local_addr),
    )


def _expand(name: str, tokens: dict[str, str]) -> str:
    expanded = ""
    rest = name
    while "%" in rest:
        before, _, after = rest.partition("%")
        expanded += before + tokens.get("%" + after[:1], "%" + after[:1])
        rest = after[1:]
    return os.path.expanduser(expanded + rest)


def _usable_keys(paths: Sequence[str]) -> list[asyncssh.SSHKeyPair]:
    """Keys that need no passphrase. Others, and missing files, are passed over as in BatchMode."""
    pairs: list[asyncssh.SSHKeyPair] = []
    for path in paths:
        with contextlib.suppress(OSError, ValueError, asyncssh.Error):
            pairs += asyncssh.load_keypairs(path, ignore_encrypted=True)
    return pairs


def _public_parts(paths: Sequence[str]) -> list[bytes]:
    """What the agent may offer under IdentitiesOnly: the keys of the named files."""
    found: list[bytes] = []
    for path in paths:
        for name in (path + ".pub", path):
            try:
                found.append(asyncssh.read_public_key(name).public_data)
            except (OSError, ValueError, asyncssh.Error):
                continue
            break
        with contextlib.suppress(OSError, ValueError, asyncssh.Error):
            found.append(asyncssh.read_certificate(path + "-cert.pub").public_data)
    return found


def _agent_path(settings: _Settings, auth_sock: str | None) -> str | None:
    configured = settings.agent_socket
    if configured is None or settings.agent_identities == []:  # IdentityAgent none; IdentitiesOnly
        return None
    if configured == "SSH_AUTH_SOCK":
        configured = auth_sock if auth_sock is not None else os.environ.get("SSH_AUTH_SOCK", "")
    elif configured.startswith("$"):
        configured = os.environ.get(configured[1:].strip("{}"), "")
    return os.path.expanduser(configured) or None


class _HostKeyJudge:
    """Decides on host keys, and remembers why one was refused."""

    def __init__(self, target: SshTarget, settings: _Settings) -> None:
        self._target = target
        self._settings = settings
        self.verdict = ""
        self._keys = settings.known_hosts.lookup(
            settings.host, settings.port, settings.host_key_alias
        )

    def algorithms(self) -> list[str]:
        """All good ones, those of known keys first: a server shows the key we can check.

        All, and not only the known ones: a host that changed its key's type must be reported as a
        changed host key with its fingerprint, not as a failed negotiation.
        """
        known = {key.key_type for key in self._keys if key.kind == "key"}
        names = [name for kind, name in _HOST_KEY_ALGS if kind in known]
        names += [name for kind, name in _HOST_KEY_ALGS if kind not in known]
        certificates = [f"{name}-cert-v01@openssh.com" for name in names]
        if any(key.kind == "ca" for key in self._keys):
            return certificates + names
        return names

    def lookup(
        self, host: str, _address: str, port: int | None
    ) -> tuple[list[asyncssh.SSHKey], list[asyncssh.SSHKey], list[asyncssh.SSHKey]]:
        """asyncssh's question: trusted keys, trusted authorities, revoked keys."""
        # Asked again with the name asyncssh settled on: CanonicalizeHostname may have changed it.
        self._keys = self._settings.known_hosts.lookup(host, port, self._settings.host_key_alias)
        revoked = _import(self._keys, "revoked")
        authorities = _import(self._keys, "ca")
        trusted = [key for key in _import(self._keys, "key") if key not in revoked]
        # Without authorities a revoked key is simply not trusted, and `refuse` can name it.
        return trusted, authorities, revoked if authorities else []

    def client(self) -> asyncssh.SSHClient:
        return _Client(self)

    def refuse(self, key: asyncssh.SSHKey) -> None:
        """Note why this key, which is not trusted, was refused."""
        kind = key.get_algorithm()
        shown = f"{kind} {key.get_fingerprint()}"
        same_kind = [known for known in self._keys if known.kind == "key"]
        if key in _import(self._keys, "revoked"):
            self.verdict = f"its key {shown} is revoked in known_hosts"
        elif same_kind:
            known = next((k for k in same_kind if k.key_type == kind), same_kind[0])
            imported = _import([known], "key")
            expected = (
                f"{known.key_type} {imported[0].get_fingerprint()}" if imported else "another"
            )
            self.verdict = f"CHANGED: it shows {shown}, but {known.place} says {expected}"
        else:
            self.verdict = f"unknown: it shows {shown}, and known_hosts has no line for it"


class _Client(asyncssh.SSHClient):
    def __init__(self, judge: _HostKeyJudge) -> None:
        self._judge = judge

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        del host, addr, port
        self._judge.refuse(key)
        return False

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        del host, addr, port
        self._judge.refuse(key)
        return False


def _import(keys: Sequence[KnownKey], kind: str) -> list[asyncssh.SSHKey]:
    imported: list[asyncssh.SSHKey] = []
    for key in keys:
        if key.kind == kind:
            with contextlib.suppress(asyncssh.KeyImportError):
                imported.append(asyncssh.import_public_key(key.data))
    return imported
