"""One project of an account, over the API's own paths and documents: the port, without a library.

What is sent again and what is not stands in `retry` and `calls`; here stands what is sent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from burst_lifecycle.cloud import convert
from burst_lifecycle.cloud.calls import Calls, actions
from burst_lifecycle.cloud.convert import RESOURCES, Json
from burst_lifecycle.cloud.model import (
    Action,
    Created,
    Firewall,
    FirewallRule,
    Image,
    Inventory,
    Kind,
    Prices,
    PrimaryIp,
    Resource,
    Server,
    ServerSpec,
    ServerState,
    ServerType,
    SshKey,
    Volume,
    VolumeSpec,
)
from burst_lifecycle.cloud.retry import Safety
from burst_lifecycle.errors import NotFound

T = TypeVar("T")
_R = TypeVar("_R", bound=Resource)


class ProjectCloud:
    """All methods are those of `port.Cloud`; see there. Used in one event loop."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.clock = calls.clock
        self.timing = calls.timing

    @property
    def offset_s(self) -> float | None:
        return self.clock.offset_s

    def now_s(self) -> float:
        return self.clock.now_s()

    # -- reading -----------------------------------------------------------------------------

    async def inventory(self, selector: str) -> Inventory:
        # One after the other: the same order each time, and never six connections for a status.
        found = {kind: await self.find(kind, selector) for kind in Kind}
        return Inventory(
            servers=_only(Server, found[Kind.SERVER]),
            volumes=_only(Volume, found[Kind.VOLUME]),
            images=_only(Image, found[Kind.IMAGE]),
            ssh_keys=_only(SshKey, found[Kind.SSH_KEY]),
            firewalls=_only(Firewall, found[Kind.FIREWALL]),
            primary_ips=_only(PrimaryIp, found[Kind.PRIMARY_IP]),
            read_s=self.now_s(),
        )

    async def find(self, kind: Kind, selector: str) -> tuple[Resource, ...]:
        return await self._list(kind, {"label_selector": selector} if selector else {})

    async def server(self, server_id: int) -> Server:
        return await self._one(Kind.SERVER, server_id, convert.server)

    async def volume(self, volume_id: int) -> Volume:
        return await self._one(Kind.VOLUME, volume_id, convert.volume)

    async def image(self, image_id: int) -> Image:
        return await self._one(Kind.IMAGE, image_id, convert.image)

    async def firewall(self, firewall_id: int) -> Firewall:
        return await self._one(Kind.FIREWALL, firewall_id, convert.firewall)

    async def system_image(self, name: str, architecture: str) -> Image:
        found = await self._list(
            Kind.IMAGE, {"type": "system", "name": name, "architecture": architecture}
        )
        for image in _only(Image, found):
            if image.name == name and image.architecture == architecture:
                return image
        raise NotFound("", what=f"image {name} for {architecture}")

    async def ssh_key_by_fingerprint(self, fingerprint: str) -> SshKey | None:
        found = await self._list(Kind.SSH_KEY, {"fingerprint": fingerprint})
        keys = _only(SshKey, found)
        return next((key for key in keys if key.fingerprint == fingerprint), None)

    async def server_types(self) -> tuple[ServerType, ...]:
        what = "server types"
        entries = await self._calls.read_all(what, "/server_types", "server_types", {})
        return self._understood(what, entries, convert.server_type)

    async def prices(self) -> Prices:
        answer = await self._calls.read("prices", "/pricing")
        return self._calls.understood(
            "prices", Safety.READ, lambda a: convert.prices(a["pricing"]), answer
        )

    async def action(self, action_id: int) -> Action:
        return await self._calls.action(action_id)

    async def wait(self, actions: Sequence[int], deadline_s: float) -> None:
        await self._calls.wait(actions, deadline_s)

    # -- creating ----------------------------------------------------------------------------

    async def create_server(self, spec: ServerSpec) -> Created[Server]:
        body = {
            "name": spec.name,
            "server_type": spec.type,
            "location": spec.location,
            "image": spec.image_id,
            "ssh_keys": list(spec.ssh_key_ids),
            "firewalls": [{"firewall": ident} for ident in spec.firewall_ids],
            "labels": dict(spec.labels),
            "user_data": spec.user_data,
            "start_after_create": True,
            "public_net": {"enable_ipv4": True, "enable_ipv6": True},
        }
        where = f"server {spec.name} ({spec.type} in {spec.location})"
        return await self._calls.create(
            where, "/servers", body, lambda a: Created(convert.server(a["server"]), actions(a))
        )

    async def create_volume(self, spec: VolumeSpec) -> Created[Volume]:
        body = {
            "name": spec.name,
            "size": spec.size_gb,
            "location": spec.location,
            "labels": dict(spec.labels),
        }
        what = f"volume {spec.name} ({spec.size_gb} GB in {spec.location})"
        return await self._calls.create(
            what, "/volumes", body, lambda a: Created(convert.volume(a["volume"]), actions(a))
        )

    async def create_image(
        self, server_id: int, description: str, labels: Mapping[str, str]
    ) -> Created[Image]:
        body = {"type": "snapshot", "description": description, "labels": dict(labels)}
        return await self._calls.create(
            f"snapshot of server {server_id}",
            f"/servers/{server_id}/actions/create_image",
            body,
            lambda a: Created(convert.image(a["image"]), actions(a)),
        )

    async def create_ssh_key(self, name: str, public_key: str, labels: Mapping[str, str]) -> SshKey:
        body = {"name": name, "public_key": public_key, "labels": dict(labels)}
        return await self._calls.create(
            f"SSH key {name}", "/ssh_keys", body, lambda a: convert.ssh_key(a["ssh_key"])
        )

    async def create_firewall(
        self, name: str, rules: Sequence[FirewallRule], labels: Mapping[str, str]
    ) -> Firewall:
        body = {"name": name, "rules": convert.rules_json(rules), "labels": dict(labels)}
        return await self._calls.create(
            f"firewall {name}", "/firewalls", body, lambda a: convert.firewall(a["firewall"])
        )

    # -- changing ----------------------------------------------------------------------------

    async def set_labels(self, kind: Kind, resource_id: int, labels: Mapping[str, str]) -> None:
        await self._calls.change(
            f"labels of {_name(kind, resource_id)}",
            "PUT",
            f"/{kind.value}/{resource_id}",
            {"labels": dict(labels)},
        )

    async def set_rules(self, firewall_id: int, rules: Sequence[FirewallRule]) -> None:
        await self._act(
            Kind.FIREWALL, firewall_id, "set_rules", {"rules": convert.rules_json(rules)}
        )

    async def apply_firewall(self, firewall_id: int, server_id: int) -> None:
        async def done() -> bool:
            return server_id in (await self.firewall(firewall_id)).server_ids

        body = {"apply_to": [{"type": "server", "server": {"id": server_id}}]}
        await self._act(Kind.FIREWALL, firewall_id, "apply_to_resources", body, done)

    async def attach(self, volume_id: int, server_id: int) -> None:
        async def done() -> bool:
            return (await self.volume(volume_id)).server_id == server_id

        # automount is a udev rule of Hetzner's images that is not to be relied upon.
        body = {"server": server_id, "automount": False}
        await self._act(Kind.VOLUME, volume_id, "attach", body, done)

    async def detach(self, volume_id: int) -> None:
        async def done() -> bool:
            return (await self.volume(volume_id)).server_id is None

        await self._act(Kind.VOLUME, volume_id, "detach", {}, done)

    async def resize_volume(self, volume_id: int, size_gb: int) -> None:
        async def done() -> bool:
            return (await self.volume(volume_id)).size_gb >= size_gb

        await self._act(Kind.VOLUME, volume_id, "resize", {"size": size_gb}, done)

    async def protect(self, kind: Kind, resource_id: int, *, delete: bool) -> None:
        body = {"delete": delete}
        if kind is Kind.SERVER:
            body["rebuild"] = delete  # the API wants them equal
        await self._act(kind, resource_id, "change_protection", body)

    async def power_on(self, server_id: int) -> None:
        await self._power(server_id, "poweron", ServerState.RUNNING)

    async def power_off(self, server_id: int) -> None:
        await self._power(server_id, "poweroff", ServerState.OFF)

    async def shutdown(self, server_id: int) -> None:
        await self._power(server_id, "shutdown", ServerState.OFF)

    async def _power(self, server_id: int, action: str, wanted: ServerState) -> None:
        async def done() -> bool:
            return (await self.server(server_id)).state is wanted

        await self._act(Kind.SERVER, server_id, action, {}, done)

    async def _act(
        self,
        kind: Kind,
        ident: int,
        action: str,
        body: Json,
        done: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        what = f"{action} of {_name(kind, ident)}"
        path = f"/{kind.value}/{ident}/actions/{action}"
        await self._calls.change(what, "POST", path, body, done=done)

    # -- deleting ----------------------------------------------------------------------------

    async def delete(self, kind: Kind, resource_id: int) -> None:
        what, path = _name(kind, resource_id), f"/{kind.value}/{resource_id}"

        async def absent() -> bool:
            try:
                await self._calls.read(what, path)
            except NotFound:
                return True
            return False

        deadline_s = self.timing.delete_s
        await self._calls.change(what, "DELETE", path, done=absent, deadline_s=deadline_s)
        # Believed when it is seen: this is what ends the bill.
        await self._calls.until(what, absent, deadline_s)

    # -- parts -------------------------------------------------------------------------------

    async def _list(self, kind: Kind, params: Json) -> tuple[Resource, ...]:
        key, (_, convert_) = kind.value, RESOURCES[kind]
        what = key.replace("_", " ")
        return self._understood(
            what, await self._calls.read_all(what, f"/{key}", key, params), convert_
        )

    def _understood(
        self, what: str, entries: Sequence[Json], convert_: Callable[[Json], T]
    ) -> tuple[T, ...]:
        return tuple(
            self._calls.understood(what, Safety.READ, convert_, entry) for entry in entries
        )

    async def _one(self, kind: Kind, ident: int, convert_: Callable[[Json], _R]) -> _R:
        key, what = RESOURCES[kind][0], _name(kind, ident)
        answer = await self._calls.read(what, f"/{kind.value}/{ident}")
        return self._calls.understood(what, Safety.READ, lambda a: convert_(a[key]), answer)


def _name(kind: Kind, ident: int) -> str:
    return f"{RESOURCES[kind][0].replace('_', ' ')} {ident}"


def _only(cls: type[_R], found: Sequence[Resource]) -> tuple[_R, ...]:
    return tuple(resource for resource in found if isinstance(resource, cls))
