"""Where to log in."""

from __future__ import annotations

import attrs

from burst_protocol.errors import ConfigError


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
