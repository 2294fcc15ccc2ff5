"""The local cloud refuses what Hetzner refuses, with the same status and code."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from typing import Any

import pytest
from hcloud import APIException, Client
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.server_types import ServerType

from localcloud import LocalCloud, Server

pytest_plugins = ("cloud_fixtures",)

Json = dict[str, Any]
SERVER = {"name": "one", "server_type": "ccx13", "image": "ubuntu-24.04", "location": "fsn1"}
VOLUME = {"name": "vol", "size": 10, "location": "fsn1"}
RULE = {"direction": "in", "protocol": "tcp", "port": "22", "source_ips": ["0.0.0.0/0"]}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ6oRDdLLpVYG2jrh0bl0QCFtPPOnaXq5kPPJ2rPd1aZ"


def ask(
    cloud: LocalCloud,
    operation: str,
    body: object = None,
    token: str | None = None,
    **headers: str,
) -> tuple[int, Json, Any]:
    """Status, body and headers, past the library."""
    method, _, path = operation.partition(" ")
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode() if body else None
    request = urllib.request.Request(
        cloud.endpoint + path,
        data=data,
        method=method,
        headers={"Authorization": f"Bearer {token or cloud.token}", **headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            raw = answer.read()
            return answer.status, json.loads(raw) if raw else {}, answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read()), error.headers


def refusal(cloud: LocalCloud, operation: str, body: object = None, **more: str) -> tuple[int, str]:
    status, answer, _ = ask(cloud, operation, body, **more)
    return status, answer["error"]["code"]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "no_underscores"},
        {"name": "-dash"},
        {"name": "a" * 64},
        {"name": ""},
        {"name": None},
        {"server_type": "cpx999"},
        {"image": "windows"},
        {"location": "xyz1"},
        {"server_type": "cpx22", "location": "ash"},  # not offered there
        {"server_type": "cax11", "image": "debian-12"},  # no ARM image of that
        {"datacenter": "fsn1-dc14"},
        {"labels": {"a": "2026-01-01T00:00:00Z"}},
        {"labels": {"a": "user@host"}},
        {"labels": {"a": "/home/me"}},
        {"labels": {"a": "x" * 64}},
        {"labels": {"hetzner.cloud/x": "y"}},
        {"labels": {"-a": "b"}},
        {"labels": {"a": 1}},
        {"ssh_keys": ["nobody"]},
        {"user_data": "x" * (32 * 1024 + 1)},
        {"start_after_create": "yes"},
        {"public_net": {"enable_ipv4": False, "ipv4": 12}},
        {"surprise": 1},
    ],
    ids=str,
)
def test_a_server_that_is_wrong(paper_cloud: LocalCloud, change: Json) -> None:
    assert refusal(paper_cloud, "POST /servers", {**SERVER, **change}) == (422, "invalid_input")


@pytest.mark.parametrize(
    "change",
    [
        {"size": 9},
        {"size": 10241},
        {"size": "10"},
        {"size": True},
        {"name": "a" * 65},
        {"name": "a b"},
        {"location": None},
        {"location": "fsn1", "server": 1},
        {"format": "btrfs"},
        {"automount": True},
    ],
    ids=str,
)
def test_a_volume_that_is_wrong(paper_cloud: LocalCloud, change: Json) -> None:
    assert refusal(paper_cloud, "POST /volumes", {**VOLUME, **change}) == (422, "invalid_input")


@pytest.mark.parametrize(
    "change",
    [
        {"port": None},
        {"port": "70000"},
        {"port": "30-20"},
        {"protocol": "icmp"},
        {"protocol": "sctp"},
        {"source_ips": ["10.0.0.1/24"]},  # host bits
        {"source_ips": ["10.0.0.1"]},
        {"source_ips": []},
        {"direction": "out"},
        {"surprise": 1},
    ],
    ids=str,
)
def test_a_firewall_rule_that_is_wrong(paper_cloud: LocalCloud, change: Json) -> None:
    body = {"name": "fw", "rules": [{**RULE, **change}]}
    assert refusal(paper_cloud, "POST /firewalls", body) == (422, "invalid_input")


@pytest.mark.parametrize(
    "path",
    [
        "/images?status=50",  # what hcloud 2.27.0 sends for a status filter
        "/servers?status=gone",
        "/servers?per_page=51",
        "/servers?per_page=0",
        "/servers?page=0",
        "/servers?sort=status",
        "/servers?label_selector=a%20b",
        "/servers?label_selector=a%20in%20b",
        "/servers?colour=red",
        "/actions",
    ],
)
def test_a_query_that_is_wrong(paper_cloud: LocalCloud, path: str) -> None:
    assert refusal(paper_cloud, f"GET {path}") == (422, "invalid_input")


def test_the_library_s_status_filter_of_images_cannot_hide(paper_cloud: LocalCloud) -> None:
    with pytest.raises(APIException) as refused:
        paper_cloud.client().images.get_all(status=["available"])
    assert refused.value.code == "invalid_input"


def test_the_other_refusals(paper_cloud: LocalCloud) -> None:
    assert refusal(paper_cloud, "POST /servers", "{") == (400, "json_error")
    assert refusal(paper_cloud, "POST /servers", "[]") == (400, "json_error")
    assert refusal(paper_cloud, "GET /servers/77") == (404, "not_found")
    assert refusal(paper_cloud, "GET /nothing") == (404, "not_found")
    assert refusal(paper_cloud, "PUT /servers") == (405, "method_not_allowed")
    assert refusal(paper_cloud, "GET /datacenters") == (410, "deprecated_api_endpoint")
    assert (
        refusal(paper_cloud, "POST /ssh_keys", {"name": "x", "public_key": "ssh-ed25519 AAAA"})[0]
        == 422
    )
    _, images, _ = ask(paper_cloud, "GET /images?name=ubuntu-24.04&architecture=x86")
    system = images["images"][0]["id"]
    assert refusal(paper_cloud, f"DELETE /images/{system}") == (403, "forbidden")


def test_tokens(paper_cloud: LocalCloud) -> None:
    readonly = paper_cloud.add_token(readonly=True).value
    other = paper_cloud.add_token("other").value
    assert refusal(paper_cloud, "GET /servers", token="no") == (401, "unauthorized")
    assert ask(paper_cloud, "GET /servers", token=readonly)[0] == 200
    refused = refusal(paper_cloud, "POST /volumes", VOLUME, token=readonly)
    assert refused == (401, "token_readonly")
    made = ask(paper_cloud, "POST /volumes", VOLUME)[1]["volume"]
    # Another project sees nothing of it, and may use the name.
    assert refusal(paper_cloud, f"GET /volumes/{made['id']}", token=other) == (404, "not_found")
    action = ask(paper_cloud, f"GET /volumes/{made['id']}/actions")[1]["actions"][0]["id"]
    assert refusal(paper_cloud, f"GET /actions/{action}", token=other) == (404, "not_found")
    assert ask(paper_cloud, "POST /volumes", VOLUME, token=other)[0] == 201
    paper_cloud.revoke(other)
    assert refusal(paper_cloud, "GET /volumes", token=other) == (401, "unauthorized")
    paper_cloud.expect(volumes=["vol", "vol"])


def test_names_are_unique(paper_cloud: LocalCloud) -> None:
    for path, body in (
        ("/servers", SERVER),
        ("/volumes", VOLUME),
        ("/firewalls", {"name": "fw"}),
        ("/primary_ips", {"name": "ip", "type": "ipv6", "location": "fsn1"}),
        ("/ssh_keys", {"name": "me", "public_key": KEY}),
    ):
        assert ask(paper_cloud, f"POST {path}", body)[0] == 201
        assert refusal(paper_cloud, f"POST {path}", body) == (409, "uniqueness_error")
    paper_cloud.wait_idle()
    paper_cloud.expect(
        servers=["one"],
        volumes=["vol"],
        firewalls=["fw"],
        ssh_keys=["me"],
        primary_ips=paper_cloud.holdings()["primary_ips"],
    )


def test_quota_and_capacity(paper_cloud: LocalCloud) -> None:
    quota = paper_cloud.quota()
    quota.dedicated_cores = 47
    status, answer, _ = ask(paper_cloud, "POST /servers", {**SERVER, "server_type": "ccx63"})
    assert (status, answer["error"]["code"]) == (403, "resource_limit_exceeded")
    assert answer["error"]["details"] == {"limits": [{"name": "dedicated_core_limit"}]}
    quota.dedicated_cores, quota.primary_ips = None, 1
    _, answer, _ = ask(paper_cloud, "POST /servers", SERVER)
    assert answer["error"]["details"] == {"limits": [{"name": "primary_ip_limit"}]}
    quota.primary_ips = None
    paper_cloud.set_capacity("ccx13", "fsn1", 0)
    status, answer, _ = ask(paper_cloud, "POST /servers", SERVER)
    assert (status, answer["error"]["code"]) == (412, "resource_unavailable")
    assert answer["error"]["details"] is None
    assert not paper_cloud.all(Server)


def test_sixteen_volumes_and_one_place(paper_cloud: LocalCloud) -> None:
    client = paper_cloud.client()
    kind, image = ServerType(name="cpx22"), Image(name="debian-13")
    server = client.servers.create("one", kind, image, location=Location(name="fsn1"))
    server.next_actions[0].wait_until_finished()
    attach = "POST /volumes/{}/actions/attach"
    for number in range(17):
        volume = {**VOLUME, "name": f"v{number}"}
        made = ask(paper_cloud, "POST /volumes", volume)[1]["volume"]
        paper_cloud.wait_idle()
        status, answer, _ = ask(
            paper_cloud, attach.format(made["id"]), {"server": server.server.id}
        )
        if number == 16:
            assert answer["error"]["code"] == "limit_exceeded_error"
        else:
            assert status == 201
            refused = refusal(paper_cloud, attach.format(made["id"]), {"server": server.server.id})
            assert refused == (422, "volume_already_attached")
        paper_cloud.wait_idle()
    far = ask(paper_cloud, "POST /volumes", {**VOLUME, "location": "nbg1"})[1]["volume"]
    paper_cloud.wait_idle()
    refused = refusal(paper_cloud, attach.format(far["id"]), {"server": server.server.id})
    assert refused == (422, "invalid_input")
    resize = f"POST /volumes/{far['id']}/actions/resize"
    assert refusal(paper_cloud, resize, {"size": 10}) == (422, "invalid_input")
    paper_cloud.expect(**paper_cloud.holdings())


def test_locked_while_an_action_runs(paper_cloud: LocalCloud) -> None:
    paper_cloud.clock.scale = 0
    made = ask(paper_cloud, "POST /servers", SERVER)[1]["server"]
    for operation in ("DELETE /servers/{}", "POST /servers/{}/actions/poweroff"):
        assert refusal(paper_cloud, operation.format(made["id"])) == (423, "locked")
    # Labels can always be changed.
    changed = ask(paper_cloud, f"PUT /servers/{made['id']}", {"labels": {"a": "b"}})[1]
    assert changed["server"]["labels"] == {"a": "b"}
    assert changed["server"]["locked"] is True
    paper_cloud.clock.scale = 1
    paper_cloud.wait_idle()
    paper_cloud.hold("server", made["id"], 1000)
    assert refusal(paper_cloud, f"DELETE /servers/{made['id']}") == (423, "locked")
    paper_cloud.clock.advance(1001)
    assert ask(paper_cloud, f"DELETE /servers/{made['id']}")[0] == 201


def test_server_protection_is_both_or_none(paper_cloud: LocalCloud) -> None:
    made = ask(paper_cloud, "POST /servers", SERVER)[1]["server"]
    paper_cloud.wait_idle()
    protect = f"POST /servers/{made['id']}/actions/change_protection"
    assert refusal(paper_cloud, protect, {"delete": True}) == (422, "invalid_input")
    assert ask(paper_cloud, protect, {"delete": True, "rebuild": True})[0] == 201
    paper_cloud.wait_idle()
    assert refusal(paper_cloud, f"DELETE /servers/{made['id']}") == (423, "protected")
    paper_cloud.expect(**paper_cloud.holdings())


def test_headers_links_and_the_rate_limit(paper_cloud: LocalCloud) -> None:
    paper_cloud.world.rate_limit = 60
    _, _, headers = ask(paper_cloud, "GET /server_types?per_page=10&page=2")
    assert headers["RateLimit-Limit"] == "60"
    assert headers["X-Correlation-Id"]
    assert 'rel="prev"' in headers["Link"]
    assert "page=3&per_page=10" in headers["Link"].replace(
        "per_page=10&page=3", "page=3&per_page=10"
    )
    paper_cloud.clock.scale = 0
    answers = [ask(paper_cloud, "GET /locations")[0] for _ in range(70)]
    assert answers[:58] == [200] * 58
    assert refusal(paper_cloud, "GET /locations") == (429, "rate_limit_exceeded")
    paper_cloud.clock.advance(61)  # one request comes back each minute
    assert ask(paper_cloud, "GET /locations")[0] == 200


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("env=prod", "a"),
        ("env==prod", "a"),
        ("env!=prod", "bc"),
        ("env", "ab"),
        ("!env", "c"),
        ("env in (prod,test)", "ab"),
        ("env notin (prod)", "bc"),
        ("env,size=2", "b"),
        ("env in (prod, test),size!=2", "a"),
        ("example.com/my", "c"),
    ],
)
def test_label_selectors(paper_cloud: LocalCloud, selector: str, found: str) -> None:
    client = paper_cloud.client()
    for name, labels in {
        "a": {"env": "prod"},
        "b": {"env": "test", "size": "2"},
        "c": {"example.com/my": ""},
    }.items():
        client.firewalls.create(name, labels=labels)  # type: ignore[arg-type]
    shown = client.firewalls.get_all(label_selector=selector)
    assert "".join(str(firewall.name) for firewall in shown) == found
    paper_cloud.expect(firewalls=["a", "b", "c"])


def test_loopback_only(paper_cloud: LocalCloud) -> None:
    with pytest.raises(ValueError, match="not loopback"):
        LocalCloud(address="0.0.0.0")
    assert ask(paper_cloud, "GET /servers", Host="api.hetzner.cloud")[0] == 403
    assert ask(paper_cloud, "GET /servers", Host="localhost:80")[0] == 200
    port = int(paper_cloud.root.rpartition(":")[2])
    own = socket.gethostbyname(socket.gethostname())
    if not own.startswith("127."):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((own, port), timeout=2).close()


def test_lists_may_lag_behind(paper_cloud: LocalCloud) -> None:
    client: Client = paper_cloud.client()
    paper_cloud.world.lists_lag_s = 5
    made = client.firewalls.create("fw", labels={"a": "1"}).firewall  # type: ignore[arg-type]
    assert made.id is not None
    assert client.firewalls.get_all() == []
    assert client.firewalls.get_by_id(made.id).name == "fw"
    paper_cloud.clock.advance(6)
    assert len(client.firewalls.get_all(label_selector="a=1")) == 1
    made.update(labels={"a": "2"})
    assert len(client.firewalls.get_all(label_selector="a=1")) == 1
    paper_cloud.clock.advance(6)
    assert client.firewalls.get_all(label_selector="a=1") == []
    paper_cloud.expect(firewalls=["fw"])


def test_a_snapshot_needs_a_disk_at_least_as_big(paper_cloud: LocalCloud) -> None:
    big = ask(paper_cloud, "POST /servers", {**SERVER, "server_type": "ccx63"})[1]["server"]
    paper_cloud.wait_idle()
    image = ask(paper_cloud, f"POST /servers/{big['id']}/actions/create_image", {})[1]["image"]
    small = {**SERVER, "name": "two", "image": image["id"]}
    assert refusal(paper_cloud, "POST /servers", small) == (422, "invalid_input")  # creating
    paper_cloud.wait_idle()
    assert refusal(paper_cloud, "POST /servers", small) == (422, "invalid_input")
    fits = {**small, "server_type": "ccx63", "location": "hel1"}
    assert ask(paper_cloud, "POST /servers", fits)[0] == 201
    paper_cloud.wait_idle()
    paper_cloud.expect(**paper_cloud.holdings())


def test_types_that_are_sold_no_more(paper_cloud: LocalCloud) -> None:
    old = {**SERVER, "server_type": "cpx21"}
    assert refusal(paper_cloud, "POST /servers", old) == (422, "invalid_server_type")
    paper_cloud.clock.set(1_764_000_000)  # November 2025: announced, but still sold
    assert ask(paper_cloud, "POST /servers", old)[0] == 201
    paper_cloud.wait_idle()
    paper_cloud.expect(**paper_cloud.holdings())


def test_a_firewall_that_is_being_changed_conflicts(paper_cloud: LocalCloud) -> None:
    body = {"name": "fw", "rules": [RULE]}
    server = ask(paper_cloud, "POST /servers", SERVER)[1]["server"]
    paper_cloud.wait_idle()
    paper_cloud.clock.scale = 0
    target = {"type": "server", "server": {"id": server["id"]}}
    made = ask(paper_cloud, "POST /firewalls", {**body, "apply_to": [target]})[1]["firewall"]
    change = f"PUT /firewalls/{made['id']}"
    assert refusal(paper_cloud, change, {"labels": {}}) == (409, "conflict")
    # And it locks the server meanwhile.
    off = f"POST /servers/{server['id']}/actions/poweroff"
    assert refusal(paper_cloud, off) == (423, "locked")
    paper_cloud.clock.advance(1)
    assert ask(paper_cloud, change, {"labels": {}})[0] == 200
    apply = f"POST /firewalls/{made['id']}/actions/apply_to_resources"
    again = {"apply_to": [target]}
    assert refusal(paper_cloud, apply, again) == (422, "firewall_already_applied")
    paper_cloud.expect(**paper_cloud.holdings())


def test_addresses_change_hands_only_while_the_server_is_off(paper_cloud: LocalCloud) -> None:
    server = ask(paper_cloud, "POST /servers", SERVER)[1]["server"]
    paper_cloud.wait_idle()
    address = ask(paper_cloud, "GET /primary_ips")[1]["primary_ips"][0]["id"]
    unassign = f"POST /primary_ips/{address}/actions/unassign"
    assert refusal(paper_cloud, unassign) == (422, "server_not_stopped")
    ask(paper_cloud, f"POST /servers/{server['id']}/actions/poweroff")
    paper_cloud.wait_idle()
    assert ask(paper_cloud, unassign)[0] == 201
    paper_cloud.wait_idle()
    shown = ask(paper_cloud, f"GET /servers/{server['id']}")[1]["server"]["public_net"]
    assert shown["ipv4"] is None
    assert ask(paper_cloud, f"DELETE /primary_ips/{address}")[0] == 204
    ask(paper_cloud, f"DELETE /servers/{server['id']}")
