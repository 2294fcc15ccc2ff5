"""The port: all that burst asks of a cloud. `hetzner.HetznerCloud` is the one implementation.

Every method can be cancelled at every await, has a deadline of its own, and raises only errors of
`burst_lifecycle.errors`. Nothing is retried behind the caller's back that could act twice: after an
ambiguous answer to a create (`Ambiguous`) the caller looks for its operation's label first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from burst_lifecycle.cloud.model import (
    Action,
    Created,
    Firewall,
    FirewallRule,
    Image,
    Inventory,
    Kind,
    Prices,
    Resource,
    Server,
    ServerSpec,
    ServerType,
    SshKey,
    Volume,
    VolumeSpec,
)


class Cloud(Protocol):
    """One project of one account, as one token sees it."""

    @property
    def offset_s(self) -> float | None:
        """API time minus home's wall clock, from the last own action's times; None: unknown."""
        ...

    def now_s(self) -> float:
        """API time, as well as it is known."""
        ...

    # -- reading -----------------------------------------------------------------------------

    async def inventory(self, selector: str) -> Inventory:
        """All kinds that match a label selector, every page. Six requests. Empty: everything."""
        ...

    async def find(self, kind: Kind, selector: str) -> tuple[Resource, ...]:
        """One kind only."""
        ...

    async def server(self, server_id: int) -> Server:
        """NotFound if it does not exist (any more)."""
        ...

    async def volume(self, volume_id: int) -> Volume: ...

    async def image(self, image_id: int) -> Image: ...

    async def system_image(self, name: str, architecture: str) -> Image: ...

    async def ssh_key_by_fingerprint(self, fingerprint: str) -> SshKey | None: ...

    async def server_types(self) -> tuple[ServerType, ...]:
        """With offers and prices, live."""
        ...

    async def prices(self) -> Prices: ...

    async def action(self, action_id: int) -> Action: ...

    async def wait(self, actions: Sequence[int], deadline_s: float) -> None:
        """Until all succeeded. ActionFailed, or DeadlinePassed after that many seconds."""
        ...

    # -- creating: accepted, or an error that says whether it may have been ----------------------

    async def create_server(self, spec: ServerSpec) -> Created[Server]: ...

    async def create_volume(self, spec: VolumeSpec) -> Created[Volume]: ...

    async def create_image(
        self, server_id: int, description: str, labels: Mapping[str, str]
    ) -> Created[Image]: ...

    async def create_ssh_key(
        self, name: str, public_key: str, labels: Mapping[str, str]
    ) -> SshKey: ...

    async def create_firewall(
        self, name: str, rules: Sequence[FirewallRule], labels: Mapping[str, str]
    ) -> Firewall: ...

    # -- changing: each returns when its action succeeded ------------------------------------------

    async def set_labels(self, kind: Kind, resource_id: int, labels: Mapping[str, str]) -> None:
        """The whole set: the API replaces it. See `labels.merged`."""
        ...

    async def set_rules(self, firewall_id: int, rules: Sequence[FirewallRule]) -> None: ...

    async def apply_firewall(self, firewall_id: int, server_id: int) -> None: ...

    async def firewall(self, firewall_id: int) -> Firewall: ...

    async def attach(self, volume_id: int, server_id: int) -> None: ...

    async def detach(self, volume_id: int) -> None: ...

    async def resize_volume(self, volume_id: int, size_gb: int) -> None: ...

    async def protect(self, kind: Kind, resource_id: int, *, delete: bool) -> None: ...

    async def power_on(self, server_id: int) -> None: ...

    async def power_off(self, server_id: int) -> None: ...

    async def shutdown(self, server_id: int) -> None:
        """The signal was sent; look for `off`."""
        ...

    # -- deleting: what is gone already is a success -----------------------------------------------

    async def delete(self, kind: Kind, resource_id: int) -> None:
        """Returns when the deletion has ended. Only `guard` may call this; see there."""
        ...

    async def aclose(self) -> None:
        """Ends idle connections. A request under way ends by itself, and nobody waits for it."""
        ...
