"""Which host keys `ssh` would trust for a name: the known_hosts format, read as OpenSSH reads it.

No I/O but reading the files, no cryptography but the hash of hashed names. asyncssh has a reader
of its own, which is more lenient (it also accepts keys known for the address a name resolved to)
and stops at the first line it does not understand; `ssh` does neither. Format: sshd(8),
"SSH_KNOWN_HOSTS FILE FORMAT"; lookup with and without port: `check_host_key` in OpenSSH's
sshconnect.c.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_PORT: Final = 22
_MARKERS: Final = {"@cert-authority": "ca", "@revoked": "revoked"}


@attrs.frozen
class KnownKey:
    """One line that names the host. `data` is the line's `keytype base64`."""

    kind: str  # "key", "ca" or "revoked"
    key_type: str
    data: str
    place: str  # file:line, for messages


@attrs.frozen
class _Line:
    kind: str
    names: str
    key_type: str
    data: str
    place: str


@attrs.frozen
class KnownHosts:
    """The lines of all known_hosts files, in order."""

    lines: tuple[_Line, ...] = ()

    @classmethod
    def read(cls, paths: Iterable[str]) -> KnownHosts:
        """Read the files; missing and unreadable ones count as empty, as with `ssh`."""
        lines: list[_Line] = []
        for path in paths:
            try:
                with open(path, encoding="utf-8", errors="replace") as file:
                    text = file.read()
            except OSError:
                continue
            lines += _parse(text, path)
        return cls(tuple(lines))

    def lookup(self, host: str, port: int | None, alias: str | None = None) -> list[KnownKey]:
        """Every line for that host. An alias (HostKeyAlias) stands for host and port both.

        A name with another port than 22 is looked up as `[name]:port`, and without the port only if
        that finds no key to trust. Revocations count in either form.
        """
        if alias:
            return self._named(alias.lower())
        plain = self._named(host.lower())
        if port in (None, DEFAULT_PORT):
            return plain
        found = self._named(f"[{host.lower()}]:{port}")
        if any(key.kind != "revoked" for key in found):
            return found + [key for key in plain if key.kind == "revoked"]
        return found + plain

    def _named(self, name: str) -> list[KnownKey]:
        return [
            KnownKey(line.kind, line.key_type, line.data, line.place)
            for line in self.lines
            if _names_match(line.names, name)
        ]


def _parse(text: str, path: str) -> list[_Line]:
    lines: list[_Line] = []
    for number, raw in enumerate(text.splitlines(), 1):
        fields = raw.split()
        if not fields or fields[0].startswith("#"):
            continue
        kind = "key"
        if fields[0].startswith("@"):
            kind = _MARKERS.get(fields.pop(0), "")
        if kind and len(fields) >= 3:
            names, key_type, data = fields[:3]
            lines.append(_Line(kind, names, key_type, f"{key_type} {data}", f"{path}:{number}"))
    return lines


def _names_match(names: str, name: str) -> bool:
    if names.startswith("|"):
        return _hash_matches(names, name)
    matched = False
    for pattern in names.lower().split(","):
        if pattern.startswith("!"):
            if _wildcard(pattern[1:], name):
                return False
        elif not matched and _wildcard(pattern, name):
            matched = True
    return matched


def _wildcard(pattern: str, name: str) -> bool:
    # Only * and ? are special; fnmatch would take the brackets of [host]:port for a set.
    if "*" not in pattern and "?" not in pattern:
        return pattern == name
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.fullmatch("".join(parts), name) is not None


def _hash_matches(field: str, name: str) -> bool:
    """`|1|salt|hash`, base64 both: HMAC-SHA1 of the name (HashKnownHosts yes)."""
    parts = field.split("|")
    if len(parts) != 4 or parts[1] != "1":
        return False
    try:
        salt, expected = base64.b64decode(parts[2]), base64.b64decode(parts[3])
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), expected)
