"""What runs on a server besides the agent: files for user data, the bake, and their settings.

Pure functions; the scripts themselves lie beside this module and are tested as they are.
"""

from __future__ import annotations

import importlib.resources
from typing import Final

import attrs

FOLDER: Final = "/usr/local/lib/burst"
"""Where all of them lie on a server; `setup.sh` finds its neighbours there."""
CONFIGURATION: Final = "/etc/burst/deadman.conf"
SCRIPTS: Final = ("deadman.sh", "setup.sh", "burst-agent.sh")
DEADMAN_FILES: Final = ("deadman.sh", "burst-deadman.service", "burst-deadman.timer")
SETUP_FILES: Final = (
    "setup.sh",
    "burst-agent.sh",
    "burst-agent.service",
    "burst-agent@.service",
    "burst-metadata.service",
    "burst.nft",
)
SETUP_COMMAND: Final = ("sh", f"{FOLDER}/setup.sh", FOLDER)
"""Idempotent; its last line is `burst-setup ok`."""
_UNITS: Final = "/etc/systemd/system"

# Arguments: the folder, the units' folder, the configuration's path and text, then name and text of
# each file. cloud-init runs bootcmd before write_files, so what arms the dead man brings it along.
_ARM: Final = """\
set -eu
lib=$1 units=$2 conf=$3
mkdir -p "$lib" "$units" "${conf%/*}"
printf '%s' "$4" >"$conf"
shift 4
while [ $# -gt 1 ]; do
    printf '%s' "$2" >"$lib/$1"
    case $1 in *.sh) chmod 755 "$lib/$1" ;; *) cp "$lib/$1" "$units/$1" ;; esac
    shift 2
done
"$lib/deadman.sh" arm
systemctl daemon-reload
systemctl start --no-block burst-deadman.timer
"""


@attrs.frozen
class DeadmanTimes:
    """When a server powers itself off. Seconds; what they mean stands in `deadman.sh`."""

    first_client_s: int = 900
    keep_alive_s: int = 900
    edge_s: int = 3000
    age_at_boot_s: int = 60
    hard_end_s: int = 43_200
    lock_s: int = 10
    stop_s: int = 60

    def text(self) -> str:
        """The configuration file. ValueError for what the script would not read."""
        values = attrs.asdict(self)
        for name, value in values.items():
            if value < 0:
                raise ValueError(f"{name} is {value}")
        return "".join(f"{name.upper()}={value}\n" for name, value in values.items())


def text(name: str) -> str:
    """One of the files beside this module."""
    return (importlib.resources.files(__name__) / name).read_text(encoding="utf-8")


def arming(times: DeadmanTimes) -> tuple[str, ...]:
    """One entry of cloud-init's `bootcmd` (an argv): brings the dead man and arms it, at every
    boot, before anything else of ours. Harmless when it runs again."""
    files = [word for name in DEADMAN_FILES for word in (name, text(name))]
    return ("sh", "-c", _ARM, "arm", FOLDER, _UNITS, CONFIGURATION, times.text(), *files)


def setup_files() -> dict[str, tuple[str, str]]:
    """For `write_files`: path to (mode, text). Then run `SETUP_COMMAND`."""
    return {
        f"{FOLDER}/{name}": ("0755" if name in SCRIPTS else "0644", text(name))
        for name in SETUP_FILES
    }
