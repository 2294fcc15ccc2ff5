"""Which handler answers what. An operation is written `POST /servers/{id}/actions/shutdown`."""

from __future__ import annotations

import re
from typing import Final

from . import addresses, creation, errors, firewalls, images, rest, servers, volumes
from .exchange import Handler
from .model import Firewall, Image, PrimaryIp, Resource, Server, Volume

_ROUTES: Final[dict[str, Handler]] = {
    "GET /servers": servers.list_servers,
    "POST /servers": creation.create_server,
    "GET /servers/{id}": servers.get_server,
    "PUT /servers/{id}": servers.update_server,
    "DELETE /servers/{id}": servers.delete_server,
    "POST /servers/{id}/actions/poweron": servers.poweron,
    "POST /servers/{id}/actions/poweroff": servers.poweroff,
    "POST /servers/{id}/actions/shutdown": servers.shutdown,
    "POST /servers/{id}/actions/reboot": servers.reboot,
    "POST /servers/{id}/actions/reset": servers.reset,
    "POST /servers/{id}/actions/create_image": servers.create_image,
    "POST /servers/{id}/actions/change_protection": servers.change_protection,
    "GET /volumes": volumes.list_volumes,
    "POST /volumes": volumes.create_volume,
    "GET /volumes/{id}": volumes.get_volume,
    "PUT /volumes/{id}": volumes.update_volume,
    "DELETE /volumes/{id}": volumes.delete_volume,
    "POST /volumes/{id}/actions/attach": volumes.attach_volume,
    "POST /volumes/{id}/actions/detach": volumes.detach_volume,
    "POST /volumes/{id}/actions/resize": volumes.resize_volume,
    "POST /volumes/{id}/actions/change_protection": volumes.change_protection,
    "GET /firewalls": firewalls.list_firewalls,
    "POST /firewalls": firewalls.create_firewall,
    "GET /firewalls/{id}": firewalls.get_firewall,
    "PUT /firewalls/{id}": firewalls.update_firewall,
    "DELETE /firewalls/{id}": firewalls.delete_firewall,
    "POST /firewalls/{id}/actions/set_rules": firewalls.set_rules,
    "POST /firewalls/{id}/actions/apply_to_resources": firewalls.apply_to_resources,
    "POST /firewalls/{id}/actions/remove_from_resources": firewalls.remove_from_resources,
    "GET /primary_ips": addresses.list_addresses,
    "POST /primary_ips": addresses.create_primary_ip,
    "GET /primary_ips/{id}": addresses.get_address,
    "PUT /primary_ips/{id}": addresses.update_primary_ip,
    "DELETE /primary_ips/{id}": addresses.delete_primary_ip,
    "POST /primary_ips/{id}/actions/assign": addresses.assign,
    "POST /primary_ips/{id}/actions/unassign": addresses.unassign,
    "POST /primary_ips/{id}/actions/change_protection": addresses.change_protection,
    "GET /images": images.list_images,
    "GET /images/{id}": images.get_image,
    "PUT /images/{id}": images.update_image,
    "DELETE /images/{id}": images.delete_image,
    "POST /images/{id}/actions/change_protection": images.change_protection,
    "GET /ssh_keys": rest.list_keys,
    "POST /ssh_keys": rest.create_key,
    "GET /ssh_keys/{id}": rest.get_key,
    "PUT /ssh_keys/{id}": rest.update_key,
    "DELETE /ssh_keys/{id}": rest.delete_key,
    "GET /actions": rest.get_actions,
    "GET /actions/{id}": rest.get_action,
    "GET /pricing": rest.pricing,
    "GET /locations": rest.list_locations,
    "GET /locations/{id}": rest.get_location,
    "GET /server_types": rest.list_types,
    "GET /server_types/{id}": rest.get_type,
    "GET /datacenters": rest.datacenters,
    "GET /datacenters/{id}": rest.datacenters,
}


def _with_actions() -> dict[str, Handler]:
    routes = dict(_ROUTES)
    kinds: tuple[type[Resource], ...] = (Server, Volume, Firewall, PrimaryIp, Image)
    for kind in kinds:
        base = f"GET /{kind.plural}"
        routes[f"{base}/actions"] = rest.actions_of_kind(kind)
        routes[f"{base}/actions/{{id}}"] = rest.action_of_kind(kind)
        routes[f"{base}/{{id}}/actions"] = rest.actions_of_one(kind)
        routes[f"{base}/{{id}}/actions/{{id}}"] = rest.action_of_one(kind)
    return routes


ROUTES: Final = _with_actions()
_NUMBER: Final = re.compile(r"(?<=/)[0-9]+(?=/|$)")


def operation_of(method: str, path: str) -> tuple[str, tuple[int, ...]]:
    """`path` is the part after `/v1`. Returns the operation and the ids, whether routed or not."""
    ids = tuple(int(found) for found in _NUMBER.findall(path))
    return f"{method} {_NUMBER.sub('{id}', path)}", ids


def find(operation: str) -> Handler:
    """ApiError `not_found` or `method_not_allowed`."""
    handler = ROUTES.get(operation)
    if handler is None:
        _, _, template = operation.partition(" ")
        if any(route.partition(" ")[2] == template for route in ROUTES):
            raise errors.method_not_allowed()
        raise errors.no_route()
    return handler
