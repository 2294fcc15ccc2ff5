"""Logging in as `ssh` would: configuration, jump hosts, ProxyCommand, agent, known_hosts."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

import asyncssh
import attrs

from burst_lifecycle.remote.ssh.connection import SshConnection
from burst_lifecycle.remote.ssh.host_keys import HostKeyJudge
from burst_lifecycle.remote.ssh.policy import always, reason
from burst_lifecycle.remote.ssh.settings import Settings, agent_path_of, read_settings
from burst_lifecycle.remote.ssh.target import SshTarget
from burst_lifecycle.remote.ssh.wire import Dialer, Wire, in_shell
from burst_protocol.errors import (
    AuthenticationFailed,
    ConfigError,
    HostKeyProblem,
    Unreachable,
)

_MAX_JUMPS: Final = 8


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


@attrs.define
class _Login:
    """One login on its way: the hops made so far, from the nearest."""

    silence_s: float
    auth_sock: str | None
    jumps: list[asyncssh.SSHClientConnection] = attrs.field(factory=list)
    wire: Wire | None = None

    def abort(self) -> None:
        for connection in reversed(self.jumps):
            connection.abort()

    async def open(
        self, target: SshTarget, via: asyncssh.SSHClientConnection | None, depth: int = 0
    ) -> asyncssh.SSHClientConnection:
        """Log in to one host, directly, through `via`, or through what its configuration says."""
        try:
            settings = await asyncio.to_thread(read_settings, target)
        except asyncssh.ConfigParseError as error:
            raise ConfigError(str(error), path="ssh configuration") from error
        except (OSError, ValueError, asyncssh.Error) as error:
            raise ConfigError(reason(error), path="ssh configuration") from error
        if via is None:
            for hop in settings.jump_hosts:
                if depth >= _MAX_JUMPS:
                    raise Unreachable("ProxyJump leads in a circle", host=str(target))
                via = await self.open(SshTarget.parse(hop), via, depth + 1)
                self.jumps.append(via)
        dialer = None
        if via is None:
            agent_path = agent_path_of(settings, self.auth_sock)
            command = in_shell(settings.proxy_command, agent_path)
            dialer = Dialer(settings.family, settings.local_address, command)
        connection = await self._log_in(target, settings, via or dialer)
        if dialer is not None:
            self.wire = dialer.wire
        return connection

    async def _log_in(
        self, target: SshTarget, settings: Settings, tunnel: object
    ) -> asyncssh.SSHClientConnection:
        judge = HostKeyJudge(target, settings)
        agent_path = agent_path_of(settings, self.auth_sock)
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
                **always(self.silence_s),
            )
        except asyncssh.HostKeyNotVerifiable as error:
            raise HostKeyProblem(judge.verdict or reason(error), host=str(target)) from error
        except asyncssh.PermissionDenied as error:
            detail = _no_login(settings, agent_path)
            raise AuthenticationFailed(detail, host=str(target)) from error
        except asyncssh.KeyExchangeFailed as error:
            raise Unreachable(f"no common algorithm: {error.reason}", host=str(target)) from error
        except (asyncssh.Error, OSError, ValueError) as error:
            is_proxied = isinstance(tunnel, Dialer) and tunnel.command is not None
            through = " through its ProxyCommand" if is_proxied else ""
            raise Unreachable(reason(error) + through, host=str(target)) from error


def _no_login(settings: Settings, agent_path: str | None) -> str:
    if settings.client_keys:
        offered = "the keys in your files" + (" and of the ssh agent" if agent_path else "")
    elif agent_path:
        offered = "the keys of the ssh agent"
    else:
        return "there is no usable key: no file without a passphrase, and no ssh agent"
    return f"it accepts none of {offered} for user {settings.user}"
