"""What stands behind a server: the port between the API's state and machines, and the paper one.

Methods of a machine may block (they run in a thread of the action they belong to), without the
cloud's lock.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import attrs

Json = dict[str, Any]
Quirk = Literal[
    "no_ssh",  # boots, but nobody ever listens on port 22
    "wrong_host_key",  # the injected host key is not the one that is served
    "volume_link_late",  # the by-id link appears seconds after the attach action ended
    "volume_link_elsewhere",  # the by-id link points to another volume's device
    "never_boots",  # powered, but its system does not come up
    "ignores_shutdown",  # the ACPI signal does nothing
]


@attrs.frozen
class Spec:
    """What a machine is made of."""

    id: int
    name: str
    location: str
    ipv4: str | None
    user_data: str | None
    ssh_keys: tuple[str, ...]
    layer: object
    """A frozen disk of this backend, or None for a stock image."""
    quirks: frozenset[Quirk]
    root_password: str | None


class Machine(Protocol):
    def power_on(self) -> None:
        """Powered when it returns; the system inside boots on."""

    def power_off(self) -> None:
        """Cut the power."""

    def shutdown(self) -> None:
        """Send the signal, and return."""

    def switch_off(self) -> None:
        """The system inside powers off by itself, now."""

    def reset(self) -> None:
        """Off and on."""

    def plug(self, volume: int, disk: object) -> None: ...

    def unplug(self, volume: int) -> None:
        """Also if something inside still uses it."""

    def filter(self, rules: list[Json] | None) -> None:
        """Let in and out only what the firewall rules say; None lets all through."""

    def freeze(self) -> tuple[object, float]:
        """A layer from which others boot, and its size in GB."""

    def destroy(self) -> None:
        """It and its disk are gone."""


class Backend(Protocol):
    compressed_gb: float
    """Size of a snapshot whose machine does not tell."""
    incidents: list[str]
    """What no client should have done, such as tearing a mounted volume away."""

    def addresses(self) -> Iterator[str]:
        """IPv4 addresses servers may get, in the order of preference."""

    def machine(self, spec: Spec, went_off: Callable[[], None]) -> Machine:
        """`went_off` is called (from any thread) when it switched itself off."""

    def new_disk(self, volume: int, size_gb: int, format_: str | None) -> object: ...

    def resize_disk(self, disk: object, size_gb: int) -> None: ...

    def remove_disk(self, disk: object) -> None: ...

    def remove_layer(self, layer: object) -> None: ...

    def close(self) -> None:
        """Nothing of it is left on this machine."""


@attrs.define
class PaperMachine:
    """No machine at all. `plugged` and `powered` can be looked at."""

    spec: Spec
    later: Callable[[float, Callable[[], None]], None]
    went_off: Callable[[], None]
    shutdown_s: Callable[[], float]
    powered: bool = False
    plugged: dict[int, object] = attrs.Factory(dict)
    destroyed: bool = False
    power_cuts: int = 0
    rules: list[Json] | None = None

    def power_on(self) -> None:
        self.powered = True

    def power_off(self) -> None:
        self.powered = False
        self.power_cuts += 1

    def shutdown(self) -> None:
        if not self.spec.quirks & {"ignores_shutdown", "never_boots"}:
            self.later(self.shutdown_s(), self._off)

    def _off(self) -> None:
        if self.powered and not self.destroyed:
            self.powered = False
            self.went_off()

    def switch_off(self) -> None:
        self._off()

    def reset(self) -> None:
        self.powered = True

    def plug(self, volume: int, disk: object) -> None:
        self.plugged[volume] = disk

    def unplug(self, volume: int) -> None:
        self.plugged.pop(volume, None)

    def filter(self, rules: list[Json] | None) -> None:
        self.rules = rules

    def freeze(self) -> tuple[object, float]:
        return ("layer", self.spec.id), 0.0

    def destroy(self) -> None:
        self.powered, self.destroyed = False, True


class PaperBackend:
    """Addresses of the documentation ranges of RFC 5737, then of RFC 2544's test range."""

    def __init__(
        self,
        later: Callable[[float, Callable[[], None]], None],
        shutdown_s: Callable[[], float],
    ) -> None:
        self._later = later
        self._shutdown_s = shutdown_s
        self.compressed_gb = 2.5
        self.incidents: list[str] = []

    def addresses(self) -> Iterator[str]:
        nets = ("203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24", "198.18.0.0/15")
        hosts = (ipaddress.ip_network(net).hosts() for net in nets)
        return (str(host) for host in itertools.chain.from_iterable(hosts))

    def machine(self, spec: Spec, went_off: Callable[[], None]) -> PaperMachine:
        return PaperMachine(spec, self._later, went_off, self._shutdown_s)

    def new_disk(self, volume: int, size_gb: int, format_: str | None) -> object:
        return ("disk", volume, size_gb, format_)

    def resize_disk(self, disk: object, size_gb: int) -> None:
        pass

    def remove_disk(self, disk: object) -> None:
        pass

    def remove_layer(self, layer: object) -> None:
        pass

    def close(self) -> None:
        pass
