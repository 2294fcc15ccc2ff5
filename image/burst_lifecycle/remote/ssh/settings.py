"""What ssh's configuration says about a host, where asyncssh needs our help with it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import asyncssh
import attrs

from burst_lifecycle.remote.known_hosts import KnownHosts
from burst_lifecycle.remote.ssh.policy import CIPHERS, KEX, MACS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from burst_lifecycle.remote.ssh.target import SshTarget


@attrs.frozen
class Settings:
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


def read_settings(target: SshTarget) -> Settings:
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
        kex_algs=KEX,
        encryption_algs=CIPHERS,
        mac_algs=MACS,
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
    return Settings(
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


def agent_path_of(settings: Settings, auth_sock: str | None) -> str | None:
    configured = settings.agent_socket
    if configured is None or settings.agent_identities == []:  # IdentityAgent none; IdentitiesOnly
        return None
    if configured == "SSH_AUTH_SOCK":
        configured = auth_sock if auth_sock is not None else os.environ.get("SSH_AUTH_SOCK", "")
    elif configured.startswith("$"):
        configured = os.environ.get(configured[1:].strip("{}"), "")
    return os.path.expanduser(configured) or None
