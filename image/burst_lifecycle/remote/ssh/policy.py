"""What holds for every login: algorithms, keys only, nothing forwarded; and words for failures."""

from __future__ import annotations

import logging
import os
import re
import socket
from typing import Any, Final

import asyncssh

# Its log lines name hosts, users and key files at level INFO; what matters comes as exceptions.
_log = logging.getLogger("asyncssh")
_log.addHandler(logging.NullHandler())
_log.propagate = False
_log.setLevel(logging.CRITICAL + 1)

# AEAD only, the fastest first: aes128-gcm does 330 MB/s on loopback here, chacha20 a third of it.
CIPHERS: Final = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
)
KEX: Final = (
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group18-sha512",
)
MACS: Final = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
_KEEPALIVES_PER_SILENCE: Final = 3


def always(silence_s: float) -> dict[str, Any]:
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
        "kex_algs": KEX,
        "encryption_algs": CIPHERS,
        "mac_algs": MACS,
        "compression_algs": ["none"],
        "command": None,
        "connect_timeout": None,
        "login_timeout": 0,
        "keepalive_interval": silence_s / _KEEPALIVES_PER_SILENCE,
        "keepalive_count_max": _KEEPALIVES_PER_SILENCE - 1,
    }


def reason(error: BaseException) -> str:
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
