"""Host keys that home makes: the pin that labels carry, and which pins are right now.

A server's host key is made at home, goes there in its user data, and its pin goes into a label with
the create. Whoever may read the project's labels can verify the server, on any machine; nobody ever
trusts on first use. Any process on the server may read the user data, so the key is rotated after
the first login: during that, `burst-pin-next` is right as well.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping

import attrs

from burst_lifecycle.labels import BOOT, BOOT_BY, NEXT_PIN, PIN, READY
from burst_protocol.errors import HostKeyProblem


@attrs.frozen
class HostKey:
    """A pair as user data carries it."""

    private_key: str = attrs.field(repr=False)
    public_key: str

    @property
    def pin(self) -> str:
        return pin(self.public_key)


def blob(public_key: str) -> bytes:
    """The key itself, out of a line `type base64 [comment]`. ValueError if it is none."""
    fields = public_key.split()
    if len(fields) < 2:
        raise ValueError("no public key")
    try:
        data = base64.b64decode(fields[1], validate=True)
    except binascii.Error as error:
        raise ValueError("no public key") from error
    name = fields[0].encode()
    if data[: 4 + len(name)] != len(name).to_bytes(4, "big") + name:
        raise ValueError("no public key")
    return data


def pin(public_key: str) -> str:
    """Base32 of SHA-256, without padding: 52 characters that a label takes."""
    return base64.b32encode(hashlib.sha256(blob(public_key)).digest()).decode().rstrip("=")


def bare(public_key: str) -> str:
    """Without its comment."""
    return " ".join(public_key.split()[:2])


def pins(labels: Mapping[str, str]) -> tuple[str, ...]:
    """The right ones, in order of their age."""
    return tuple(labels[key] for key in (PIN, NEXT_PIN) if labels.get(key))


def require_pins(labels: Mapping[str, str], host: str) -> tuple[str, ...]:
    """As `pins`; HostKeyProblem if there is none: such a server cannot be verified, so not used."""
    if found := pins(labels):
        return found
    raise HostKeyProblem("its label with the pin of its host key is missing", host=host)


def boot_of(found: Mapping[str, str]) -> str:
    """Which of its boots those labels of a server speak of; empty: they do not say."""
    return found.get(BOOT) or found.get(BOOT_BY, "")


def lost(found: Mapping[str, str], pin: str, boot: str) -> dict[str, str | None]:
    """What those labels of a server lack, which was ready in that boot with that pin: changes for
    `labels.merged`, or nothing. Pure.

    Labels of a later boot, which may have other pins, lack nothing of an earlier one's.
    """
    ahead = _ahead(found, boot)
    if not pin or ahead is None or ahead > 0 or (found.get(PIN) == pin and READY in found):
        return {}
    return {PIN: pin, NEXT_PIN: None, READY: "1", BOOT_BY: boot, BOOT: boot}


def forgot(found: Mapping[str, str], pin: str, boot: str) -> dict[str, str | None]:
    """As `lost`, of a server that will show that key in that boot. Where the labels are those of an
    earlier boot, this one is still to be gone on with. Pure."""
    ahead = _ahead(found, boot)
    if not pin or ahead is None or ahead > 0:
        return {}
    if ahead < 0:
        return {NEXT_PIN: pin, READY: None, BOOT_BY: boot, BOOT: boot}
    return {} if pin in pins(found) else {NEXT_PIN: pin}


def _ahead(found: Mapping[str, str], boot: str) -> int | None:
    """Positive: of a later boot than that one. None: nobody can tell."""
    try:
        return int(boot_of(found)) - int(boot)
    except ValueError:
        return None
