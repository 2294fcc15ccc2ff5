"""Whether a host key is one that known_hosts trusts, and why not."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import asyncssh

if TYPE_CHECKING:
    from collections.abc import Sequence

    from burst_lifecycle.remote.known_hosts import KnownKey
    from burst_lifecycle.remote.ssh.settings import Settings
    from burst_lifecycle.remote.ssh.target import SshTarget

_HOST_KEY_ALGS: Final = (
    ("ssh-ed25519", "ssh-ed25519"),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"),
    ("ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384"),
    ("ecdsa-sha2-nistp521", "ecdsa-sha2-nistp521"),
    ("ssh-rsa", "rsa-sha2-512"),
    ("ssh-rsa", "rsa-sha2-256"),
)
"""(key type as in known_hosts, algorithm as negotiated). No SHA-1."""


class HostKeyJudge:
    """Decides on host keys, and remembers why one was refused."""

    def __init__(self, target: SshTarget, settings: Settings) -> None:
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
    def __init__(self, judge: HostKeyJudge) -> None:
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
