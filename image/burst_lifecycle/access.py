"""Who may log in: this machine's persistent key, and the keys of all machines of its owner.

The key pair lies in `$XDG_DATA_HOME/burst/ssh/ed25519`, 0600, made once. The API knows it by its
fingerprint: the same key under another name cannot be uploaded twice, so it is looked up first. A
key that somebody else registered is used as it is, never labelled, never deleted.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from burst_lifecycle import creation, labels
from burst_lifecycle.cloud.model import Kind, Server, SshKey
from burst_lifecycle.context import MONTH_S, ClientKey, Context, Login
from burst_lifecycle.errors import NameTaken
from burst_lifecycle.hostkey import bare, blob, require_pins
from burst_lifecycle.labels import Claim, Role
from burst_protocol.errors import ConfigError

KEY_LIFE_S: Final = 3 * MONTH_S
"""A registered key that no boot needed for so long is removed; the next boot registers it again."""
_PEM: Final = "OPENSSH PRIVATE KEY"
_MAGIC: Final = b"openssh-key-v1\0"


@attrs.frozen
class OwnerKeys:
    """All keys that may log in to a new server."""

    ids: tuple[int, ...]
    public_keys: tuple[str, ...]


def load_or_make(path: Path, make: Callable[[], tuple[str, str]]) -> ClientKey:
    """This machine's key; made if there is none. ConfigError if others may read it.

    Two processes may make one at the same time: the first that links it into place wins.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        private, _ = make()
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, private.encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        temporary.unlink()
    status = path.stat()
    if stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid != os.geteuid():
        raise ConfigError("others may read this private key; `chmod 600` it", path=str(path))
    try:
        return client_key(path, public_half(path.read_text()))
    except ValueError as error:
        detail = "this is no ed25519 key in OpenSSH's format; move it away and a new one is made"
        raise ConfigError(detail, path=str(path)) from error


def public_half(private_key: str) -> str:
    """Out of OpenSSH's own format, where it is in the clear (PROTOCOL.key). ValueError if not."""
    lines = private_key.strip().splitlines()
    if lines[:1] != [f"-----BEGIN {_PEM}-----"] or lines[-1:] != [f"-----END {_PEM}-----"]:
        raise ValueError("no private key")
    data = base64.b64decode("".join(lines[1:-1]), validate=True)
    if not data.startswith(_MAGIC):
        raise ValueError("no private key")
    at = len(_MAGIC)
    for _ in range(3):  # cipher, kdf, its options
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    at += 4  # how many keys
    key = data[at + 4 : at + 4 + int.from_bytes(data[at : at + 4], "big")]
    name = key[4 : 4 + int.from_bytes(key[:4], "big")]
    if name != b"ssh-ed25519":
        raise ValueError("no ed25519 key")
    return f"ssh-ed25519 {base64.b64encode(key).decode()}"


def client_key(path: Path, public_key: str) -> ClientKey:
    """What is derived from a public key."""
    data = blob(public_key)
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()  # what the API calls fingerprint
    return ClientKey(
        path=path,
        public_key=bare(public_key),
        fingerprint=":".join(digest[at : at + 2] for at in range(0, len(digest), 2)),
        client=hashlib.sha256(data).hexdigest()[:16],
    )


def default_owner(key: ClientKey) -> str:
    """For a configuration without `owner`: survives everything but the loss of the key."""
    return hashlib.sha256(key.public_key.encode()).hexdigest()[:16]


async def owner_keys(context: Context) -> OwnerKeys:
    """Register this machine's key if need be; then all keys of the owner, ours first."""
    mine = await _registered(context)
    found = await context.cloud.find(Kind.SSH_KEY, labels.selector(context.wishes.owner))
    others = [key for key in found if isinstance(key, SshKey) and key.id != mine.id]
    everyone = [mine, *sorted(others, key=lambda key: key.id)]
    return OwnerKeys(
        tuple(key.id for key in everyone), tuple(bare(key.public_key) for key in everyone)
    )


async def _registered(context: Context) -> SshKey:
    cloud, key = context.cloud, context.key
    known = await cloud.ssh_key_by_fingerprint(key.fingerprint)
    if known is None:
        claim = Claim(
            owner=context.wishes.owner,
            role=Role.ACCESS,
            operation=labels.new_operation(),
            expires_s=int(cloud.now_s() + KEY_LIFE_S),
        )
        try:
            made = await creation.create(
                context,
                Kind.SSH_KEY,
                claim,
                lambda name: cloud.create_ssh_key(
                    name, key.public_key, claim.labels(**{labels.CLIENT: key.client})
                ),
            )
        except NameTaken:
            # Its fingerprint is taken: another process of ours was faster.
            known = await cloud.ssh_key_by_fingerprint(key.fingerprint)
            if known is None:
                raise
            return known
        return made
    claimed = Claim.of(known.labels)
    now_s = cloud.now_s()
    if (
        claimed is not None
        and claimed.owner == context.wishes.owner
        and claimed.expires_s < now_s + KEY_LIFE_S / 2
    ):
        fresh = labels.merged(known.labels, **{labels.EXPIRES: str(int(now_s + KEY_LIFE_S))})
        with context.effect("renew the key"):
            await cloud.set_labels(Kind.SSH_KEY, known.id, fresh)
    return known


def login(context: Context, server: Server, user: str = "root") -> Login:
    """Where a server answers and what it must show. HostKeyProblem without a pin in its labels."""
    host, port = context.address(server)
    return Login(
        host=host,
        port=port,
        user=user,
        pins=require_pins(server.labels, host),
        key_path=context.key.path,
    )
