"""The local cloud, driven by the real library: what it does when all is well."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hcloud import APIException, Client
from hcloud.core.domain import DomainIdentityMixin
from hcloud.firewalls import (
    FirewallResource,
    FirewallResourceLabelSelector,
    FirewallRule,
)
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.server_types import ServerType
from hcloud.servers import BoundServer
from hcloud.servers.domain import ServerCreatePublicNetwork

from localcloud import LocalCloud

pytest_plugins = ("cloud_fixtures",)

UBUNTU = Image(name="ubuntu-24.04")
SMALL = ServerType(name="ccx13")
FSN1 = Location(name="fsn1")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ6oRDdLLpVYG2jrh0bl0QCFtPPOnaXq5kPPJ2rPd1aZ me"


@pytest.fixture
def client(paper_cloud: LocalCloud) -> Client:
    return paper_cloud.client()


def number(thing: DomainIdentityMixin) -> int:
    """Its id: the library's types let it be None."""
    assert thing.id is not None
    return thing.id


def make(client: Client, name: str = "one", **more: object) -> BoundServer:
    """A server, booted."""
    made = client.servers.create(name, SMALL, UBUNTU, location=FSN1, **more)  # type: ignore[arg-type]
    for action in (made.action, *made.next_actions):
        action.wait_until_finished()
    return client.servers.get_by_id(number(made.server))


def test_a_server_from_create_to_delete(client: Client, paper_cloud: LocalCloud) -> None:
    made = client.servers.create("one", SMALL, UBUNTU, location=FSN1, labels={"a": "b"})
    assert made.server.status == "initializing"
    assert made.server.locked
    assert made.root_password
    assert made.action.command == "create_server"
    assert [action.command for action in made.next_actions] == ["start_server"]
    for action in (made.action, *made.next_actions):
        action.wait_until_finished()
    server = client.servers.get_by_id(number(made.server))
    assert (server.status, server.locked, server.labels) == ("running", False, {"a": "b"})
    assert server.public_net is not None
    assert server.public_net.ipv4 is not None
    address = client.primary_ips.get_all()[0]
    assert (address.assignee_id, address.auto_delete) == (server.id, True)

    server.shutdown().wait_until_finished()
    paper_cloud.wait_for(lambda: paper_cloud.server("one").status == "off", "off")
    server.power_on().wait_until_finished()
    assert client.servers.get_by_id(number(server)).status == "running"

    paper_cloud.clock.scale = 0
    gone = server.delete()
    assert client.servers.get_list(name="one").servers == []
    with pytest.raises(APIException) as refused:
        client.primary_ips.delete(address)
    assert refused.value.code == "must_be_unassigned"
    paper_cloud.clock.scale = 1
    gone.wait_until_finished()
    assert client.primary_ips.get_all() == []
    assert client.actions.get_by_id(gone.id).status == "success"


def test_volumes_are_born_attached_moved_resized_and_survive(
    client: Client, paper_cloud: LocalCloud
) -> None:
    server = make(client)
    made = client.volumes.create(10, "cache", server=server, automount=False)
    assert made.volume.status == "creating"
    for action in (made.action, *made.next_actions):
        action.wait_until_finished()
    volume = client.volumes.get_by_id(number(made.volume))
    assert volume.linux_device == f"/dev/disk/by-id/scsi-0HC_Volume_{volume.id}"
    assert paper_cloud.machine("one").plugged.keys() == {volume.id}
    volume.resize(20).wait_until_finished()
    volume.change_protection(delete=True).wait_until_finished()
    with pytest.raises(APIException) as refused:
        volume.delete()
    assert refused.value.code == "protected"
    volume.change_protection(delete=False).wait_until_finished()
    with pytest.raises(APIException, match="is still attached to a server"):
        volume.delete()

    paper_cloud.clock.scale = 0
    gone = server.delete()
    # It counts as attached as long as the deletion runs.
    assert client.volumes.get_by_id(number(volume)).server is not None
    paper_cloud.clock.scale = 1
    gone.wait_until_finished()
    assert client.volumes.get_by_id(number(volume)).server is None
    assert client.volumes.get_by_id(number(volume)).size == 20
    volume.delete()


def test_a_snapshot_is_unnamed_and_needs_no_server_afterwards(
    client: Client, paper_cloud: LocalCloud
) -> None:
    server = make(client)
    paper_cloud.clock.scale = 0
    made = server.create_image("baked", labels={"role": "image"})
    assert (made.image.status, made.image.image_size) == ("creating", None)
    with pytest.raises(APIException) as refused:
        server.power_off()
    assert refused.value.code == "locked"
    paper_cloud.clock.scale = 1
    made.action.wait_until_finished()
    again = server.create_image("baked")
    again.action.wait_until_finished()
    server.delete().wait_until_finished()
    found = client.images.get_all(label_selector="role=image")
    assert [(image.id, image.status, image.image_size) for image in found] == [
        (made.image.id, "available", 2.5)
    ]
    second = client.servers.create("two", SMALL, Image(id=found[0].id), location=FSN1)
    second.next_actions[0].wait_until_finished()
    second.server.delete().wait_until_finished()
    for image in (made.image, again.image):
        image.delete()


def test_firewalls_by_hand_and_by_label(client: Client) -> None:
    rule = FirewallRule("in", "tcp", ["203.0.113.7/32"], port="22")
    made = client.firewalls.create(
        "fw",
        rules=[rule],
        resources=[],
    )
    firewall = made.firewall
    server = make(client, firewalls=[firewall], labels={"burst": "1"})
    assert server.public_net is not None
    assert server.public_net.firewalls is not None
    assert server.public_net.firewalls[0].firewall.id == firewall.id
    with pytest.raises(APIException) as refused:
        client.firewalls.delete(firewall)
    assert refused.value.code == "resource_in_use"
    selector = FirewallResource(
        "label_selector", label_selector=FirewallResourceLabelSelector("burst=1")
    )
    for action in firewall.apply_to_resources([selector]):
        action.wait_until_finished()
    shown = client.firewalls.get_by_id(number(firewall))
    assert shown.applied_to is not None
    assert [entry.type for entry in shown.applied_to] == ["server", "label_selector"]
    for action in firewall.set_rules([]):
        action.wait_until_finished()
    server.delete().wait_until_finished()
    for action in firewall.remove_from_resources([selector]):
        action.wait_until_finished()
    firewall.delete()


def test_an_address_of_its_own_survives_its_server(client: Client) -> None:
    made = client.primary_ips.create("ipv4", "mine", location=FSN1, auto_delete=False)
    assert made.primary_ip.assignee_type == "unassigned"
    net = ServerCreatePublicNetwork(ipv4=made.primary_ip, enable_ipv6=False)
    server = make(client, public_net=net)
    assert server.public_net is not None
    assert server.public_net.ipv6 is None
    server.delete().wait_until_finished()
    address = client.primary_ips.get_by_name("mine")
    assert address is not None
    assert address.assignee_id is None
    address.delete()


def test_keys_are_unique_by_name_and_by_fingerprint(client: Client) -> None:
    key = client.ssh_keys.create("me", KEY, labels={"a": ""})
    with pytest.raises(APIException) as same:
        client.ssh_keys.create("other", KEY)
    assert same.value.code == "uniqueness_error"
    assert same.value.details == {"fields": [{"name": "public_key"}]}
    assert client.ssh_keys.get_by_fingerprint(str(key.fingerprint)) == key
    server = make(client, ssh_keys=[key])
    server.delete().wait_until_finished()
    key.delete()


def test_pages_and_order(client: Client, paper_cloud: LocalCloud) -> None:
    names = [f"v-{number:02}" for number in range(60)]
    for name in names:
        client.volumes.create(10, name, location=FSN1)
    page = client.volumes.get_list(per_page=50, page=1)
    assert page.meta.pagination is not None
    assert page.meta.pagination.next_page == 2
    assert [volume.name for volume in client.volumes.get_all()] == names
    with pytest.raises(APIException) as refused:
        client.volumes.get_list(per_page=51)
    assert refused.value.code == "invalid_input"
    paper_cloud.expect(volumes=names)


def test_prices_and_types(client: Client) -> None:
    prices = client.request("GET", "/pricing")["pricing"]
    big = next(kind for kind in prices["server_types"] if kind["name"] == "ccx63")
    euros = {row["location"]: Decimal(row["price_hourly"]["net"]) for row in big["prices"]}
    assert euros["fsn1"] == Decimal("1.3678")
    kind = client.server_types.get_by_name("ccx63")
    assert kind is not None
    assert kind.locations is not None
    assert {place.location.name for place in kind.locations} == set(euros)
    found = client.images.get_by_name_and_architecture("ubuntu-24.04", "x86")
    assert found is not None


def test_the_bill_counts_started_hours_also_when_off(
    client: Client, paper_cloud: LocalCloud
) -> None:
    server = make(client)
    server.power_off().wait_until_finished()
    paper_cloud.clock.advance(3601)
    server.delete().wait_until_finished()
    item = paper_cloud.bill().of(number(server))
    assert (item.hours, item.euros, item.running) == (2, 2 * Decimal("0.0689"), False)
