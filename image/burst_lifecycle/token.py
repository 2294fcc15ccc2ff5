"""The API token: where it comes from, where it may be sent, and what we may say about it.

Sources, in the configuration: `token = {file = "…"}` (only its owner may read it), `token =
{command = ["pass", "show", "hetzner"]}`, `token = {env = true}`. Commands a person types also take
`HCLOUD_TOKEN` when nothing is configured; the daemon never does unless `env = true`: a variable
that direnv set for somebody's production account must never make us boot there. `HCLOUD_ENDPOINT`
goes with `HCLOUD_TOKEN`, as for Hetzner's own command; never does it receive a token from
elsewhere, unless it is loopback and a person typed the command.

A token is in no argv, log, exception, repr or ledger. The ledger has a keyed fingerprint of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import ipaddress
import os
import re
import stat
import urllib.parse
from collections.abc import Mapping
from typing import Final

import attrs

from burst_lifecycle.errors import TokenProblem
from burst_lifecycle.setting_keys import TokenSource

ENDPOINT: Final = "https://api.hetzner.cloud/v1"
_LIMIT_BYTES: Final = 4096
_COMMAND_S: Final = 60.0
_TOKEN: Final = re.compile(r"[!-~]+")


@attrs.frozen
class Token:
    """The secret and the only place that may see it."""

    value: str = attrs.field(repr=False)
    endpoint: str
    source: str
    """For people: `file ~/hetzner.token`, `command pass`, `HCLOUD_TOKEN`."""

    def fingerprint(self, key: bytes) -> str:
        """16 hex digits, keyed with `machine.machine_key`: equal for equal tokens, here."""
        return hmac.digest(key, b"burst token\0" + self.value.encode(), "sha256").hex()[:16]


async def obtain(
    source: TokenSource,
    *,
    endpoint: str,
    environ: Mapping[str, str],
    daemon: bool,
) -> Token:
    """`endpoint` is the configured one, `environ` that of the person (or of the daemon).

    TokenProblem says what is missing or too open, never what it read. A command gets 60 s.
    """
    in_environment = environ.get("HCLOUD_TOKEN", "")
    if source.env or (not source.configured and not daemon):
        if not in_environment:
            raise TokenProblem(
                "HCLOUD_TOKEN is not set"
                if source.env
                else "none is configured, and no HCLOUD_TOKEN"
            )
        where = environ.get("HCLOUD_ENDPOINT") or endpoint
        return Token(_checked(in_environment, "HCLOUD_TOKEN"), _endpoint(where), "HCLOUD_TOKEN")
    where = _endpoint(endpoint)
    if not daemon and environ.get("HCLOUD_ENDPOINT"):
        where = _endpoint(environ["HCLOUD_ENDPOINT"])
        if where != endpoint and not is_loopback(where):
            raise TokenProblem(
                "HCLOUD_ENDPOINT goes with HCLOUD_TOKEN; the configured token is for `endpoint`"
            )
    if source.file:
        text = await asyncio.to_thread(_read_file, source.file)
        return Token(_checked(text, source.file), where, f"file {source.file}")
    if source.command:
        text = await _run(source.command)
        name = f"command {source.command[0]}"
        return Token(_checked(text, name), where, name)
    raise TokenProblem("none is configured; the daemon takes none from its environment")


def check_endpoint(text: str) -> str:
    """Without a slash at its end. ValueError unless it is https, or http on a loopback address."""
    try:
        parts = urllib.parse.urlsplit(text)
        _ = parts.port
    except ValueError:
        raise ValueError("is no URL") from None
    if not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("must be like https://host/v1")
    if not re.fullmatch(r"[!-~]+", text) or "\\" in text:
        raise ValueError("holds characters that no URL has")
    if parts.scheme != "https" and not (parts.scheme == "http" and _loopback(parts.hostname)):
        raise ValueError("must be https, or http to a loopback address")
    return text.rstrip("/")


def is_loopback(endpoint: str) -> bool:
    """This machine, by its address or as `localhost`: then no proxy is ever used."""
    return _loopback(urllib.parse.urlsplit(endpoint).hostname or "")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _endpoint(text: str) -> str:
    try:
        return check_endpoint(text)
    except ValueError as error:
        raise TokenProblem(f"the endpoint {error}") from error


def _checked(text: str, where: str) -> str:
    token = text.strip()
    if not token:
        raise TokenProblem(f"{where} is empty")
    if not _TOKEN.fullmatch(token):
        raise TokenProblem(f"{where} holds no token")
    return token


def _read_file(path: str) -> str:
    """Symbolic links are followed: what counts is who may read what they lead to."""
    try:
        fd = os.open(
            os.path.expanduser(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        )
    except OSError as error:
        raise TokenProblem(f"{path}: {os.strerror(error.errno or errno.EIO)}") from None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise TokenProblem(f"{path} is no file")
        if info.st_uid != os.geteuid():
            raise TokenProblem(f"{path} belongs to somebody else")
        if info.st_mode & 0o077:
            raise TokenProblem(f"others may read {path}; `chmod 600` it")
        data = os.read(fd, _LIMIT_BYTES + 1)
    except OSError as error:
        raise TokenProblem(f"{path}: {os.strerror(error.errno or errno.EIO)}") from None
    finally:
        os.close(fd)
    return _decoded(data, path)


def _decoded(data: bytes, where: str) -> str:
    if len(data) > _LIMIT_BYTES:
        raise TokenProblem(f"{where} is longer than any token")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise TokenProblem(f"{where} holds what no token has") from None


async def _run(argv: tuple[str, ...]) -> str:
    """Its first line of output. Its stderr is ours: it may ask a person for something."""
    name = f"command {argv[0]}"
    try:
        child = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
    except (OSError, ValueError):
        raise TokenProblem(f"{name} cannot be started") from None
    assert child.stdout is not None
    try:
        async with asyncio.timeout(_COMMAND_S):
            data = await _at_most(child.stdout, _LIMIT_BYTES + 1)
            status = await child.wait()
    except TimeoutError:
        raise TokenProblem(f"{name} took longer than {_COMMAND_S:g} s") from None
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    if status != 0:
        raise TokenProblem(f"{name} failed (status {status})")
    return _decoded(data, name).strip().partition("\n")[0]


async def _at_most(stream: asyncio.StreamReader, limit: int) -> bytes:
    data = b""
    while len(data) < limit and (piece := await stream.read(limit - len(data))):
        data += piece
    if len(data) >= limit:
        raise TokenProblem("the command says more than any token")
    return data
