"""User data: what a new server is told before anybody can reach it.

JSON is YAML, so cloud-init reads it as it is written here, and equal inputs give equal bytes. First
of all things (`bootcmd`, on every boot) comes the dead man: from then on the server powers off by
itself when nobody cares for it. No token and no user's secret is ever part of it: any process on
the server may fetch it from the metadata service. The host key in it is worth nothing once rotated.
Format: cloud-init's module reference; the limit of 32 KiB: Hetzner's API document.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any, Final

import attrs

from burst_lifecycle.context import ServerFiles
from burst_lifecycle.errors import ServerProblem
from burst_lifecycle.hostkey import HostKey

LIMIT_BYTES: Final = 32 * 1024
_HEAD: Final = "#cloud-config\n"
_PUT: Final = (
    # Runs from `bootcmd`, before write_files: $1 path, $2 mode, $3 content.
    'mkdir -p "${1%/*}" && printf %s "$3" >"$1.new" && chmod "$2" "$1.new" && mv -f "$1.new" "$1"'
)
LIBRARY: Final = "/usr/local/lib/burst"
DEADMAN_CONF: Final = "/etc/burst/deadman.conf"
AGENT_CONF: Final = "/etc/burst/agent.conf"
_UNITS: Final = "/etc/systemd/system"
_DEADMAN: Final = ("deadman.sh", "burst-deadman.service", "burst-deadman.timer")
_SETUP: Final = "setup.sh"


@attrs.frozen
class Deadlines:
    """Durations for the dead man, in seconds: never dates, its clock may be anything."""

    keep_alive_s: int
    hard_end_s: int
    """From its first boot on."""
    first_client_s: int = 15 * 60
    """Without any client until then it powers off."""
    orphan_s: int = 120
    """A run whose client is gone ends after that: the agent's service reads it."""

    def as_config(self) -> str:
        """As deadman.sh reads it."""
        return (
            f"KEEP_ALIVE_S={self.keep_alive_s}\n"
            f"HARD_END_S={self.hard_end_s}\n"
            f"FIRST_CLIENT_S={self.first_client_s}\n"
        )


def render(
    host_key: HostKey,
    authorized_keys: Sequence[str],
    deadlines: Deadlines,
    server_files: ServerFiles,
) -> str:
    """The user data. ServerProblem if it does not fit (far too many keys)."""
    files = server_files.files
    script, *units = _DEADMAN
    config: dict[str, Any] = {
        "bootcmd": [
            ["sh", "-c", _PUT, "burst", DEADMAN_CONF, "644", deadlines.as_config()],
            ["sh", "-c", _PUT, "burst", f"{LIBRARY}/{script}", "755", files[script]],
            *(
                ["sh", "-c", _PUT, "burst", f"{_UNITS}/{unit}", "644", files[unit]]
                for unit in units
            ),
            [f"{LIBRARY}/{script}", "arm"],
            ["systemctl", "daemon-reload"],
            ["systemctl", "enable", "--quiet", units[-1]],
            ["systemctl", "start", "--no-block", units[-1]],
            ["sh", "-c", _PUT, "burst", AGENT_CONF, "644", f"ORPHAN_S={deadlines.orphan_s}\n"],
        ],
        "disable_root": False,
        "ssh_pwauth": False,
        "ssh_deletekeys": True,
        "ssh_genkeytypes": ["ed25519"],
        "ssh_keys": {
            "ed25519_private": host_key.private_key,
            "ed25519_public": host_key.public_key,
        },
        "ssh_authorized_keys": list(authorized_keys),
        "users": [
            {"name": "root", "ssh_authorized_keys": list(authorized_keys)},
            {
                "name": "burst",
                "shell": "/bin/sh",
                # No password ever fits `*`, but unlike `!` it does not lock the account for sshd.
                "lock_passwd": False,
                "passwd": "*",
                "ssh_authorized_keys": list(authorized_keys),
            },
        ],
        # No package work at boot: whatever is needed is in the image, or is brought over ssh.
        "package_update": False,
        "package_upgrade": False,
    }
    if _SETUP in files:
        config["write_files"] = [
            {
                "path": f"{LIBRARY}/setup/{name}",
                "permissions": "0755" if name.endswith(".sh") else "0644",
                "content": content,
            }
            for name, content in sorted(files.items())
            if name not in _DEADMAN
        ]
        # setup.sh wants all of them in one folder; those of the dead man are there already.
        copies = [f"{LIBRARY}/{script}", *(f"{_UNITS}/{unit}" for unit in units)]
        config["runcmd"] = [
            ["cp", *copies, f"{LIBRARY}/setup/"],
            ["sh", f"{LIBRARY}/setup/{_SETUP}", f"{LIBRARY}/setup"],
        ]
    text = _HEAD + json.dumps(config, indent=1, sort_keys=True, ensure_ascii=True) + "\n"
    if len(text) <= LIMIT_BYTES:
        return text
    # Hetzner's data source decodes base64, cloud-init unpacks gzip. mtime=0: equal bytes.
    packed = base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()
    if len(packed) <= LIMIT_BYTES:
        return packed
    raise ServerProblem(f"{len(packed)} bytes of user data; 32768 are allowed", what="to be made")


def server_files() -> ServerFiles:
    """Those that come with this version."""
    folder = resources.files("burst_lifecycle") / "server"
    return ServerFiles(
        {
            one.name: one.read_text("utf-8")
            for one in folder.iterdir()
            if not one.name.startswith("_")
        }
    )
