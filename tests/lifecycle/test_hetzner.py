"""burst_lifecycle.cloud.hetzner with the real library over sockets, against scripted answers."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

import cloud_stub
from burst_lifecycle import errors
from burst_lifecycle.clock import ApiClock, Standing
from burst_lifecycle.cloud.calls import Timing
from burst_lifecycle.cloud.hetzner import HetznerCloud
from burst_lifecycle.cloud.model import (
    ActionState,
    FirewallRule,
    ImageState,
    Kind,
    Server,
    ServerSpec,
    ServerState,
    VolumeSpec,
)
from burst_lifecycle.cloud.port import Cloud
from burst_lifecycle.cloud.retry import Safety
from burst_lifecycle.errors import CloudProblem
from burst_lifecycle.token import Token
from cloud_stub import Say, Stub, named, refused

T = TypeVar("T")
SECRET = "t0ken" * 12
QUICK = Timing(
    connect_s=2.0,
    read_s=5.0,
    request_s=10.0,
    read_all_s=20.0,
    change_s=20.0,
    delete_s=20.0,
    poll=lambda _: 0.001,
    factor=0.001,
)
SPEC = ServerSpec("burst-build-7", "ccx43", "fsn1", 3, (4,), (5,), {"burst": "1"}, "#cloud-config")


@pytest.fixture
def stub() -> Iterator[Stub]:
    with cloud_stub.running() as running:
        yield running


def run(
    stub: Stub | str,
    use: Callable[[HetznerCloud], Awaitable[T]],
    timing: Timing = QUICK,
    clock: ApiClock | None = None,
) -> T:
    endpoint = stub if isinstance(stub, str) else stub.endpoint

    async def inside() -> T:
        token = Token(SECRET, endpoint, "test")
        async with HetznerCloud(token, timing=timing, clock=clock) as cloud:
            port: Cloud = cloud
            assert port is cloud
            return await use(cloud)

    return asyncio.run(inside())


# -- reading -------------------------------------------------------------------------------------


def test_a_server_as_a_value(stub: Stub) -> None:
    """All that we use of it, straight from the document."""
    stub.expect("GET /servers/7", Say(200, {"server": cloud_stub.server(7)}))
    got = run(stub, lambda cloud: cloud.server(7))
    assert got == Server(
        id=7,
        name="burst-build-7",
        labels={"burst": "1"},
        created_s=datetime(2026, 9, 10, 12, tzinfo=UTC).timestamp(),
        state=ServerState.RUNNING,
        type="ccx43",
        location="fsn1",
        ipv4="203.0.113.7",
        ipv4_id=11,
        ipv6="2001:db8::/64",
        ipv6_id=12,
        volume_ids=(8,),
        firewall_ids=(5,),
        image_id=3,
    )
    (seen,) = stub.seen
    assert seen.headers["authorization"] == f"Bearer {SECRET}"
    assert seen.headers["user-agent"].startswith("burst/")


def test_a_server_without_addresses_image_or_known_state(stub: Stub) -> None:
    """What may be null, and a word of tomorrow's API."""
    bare = cloud_stub.server(
        7, status="hibernating", image=None, volumes=[], public_net={"ipv4": None, "ipv6": None}
    )
    stub.expect("GET /servers/7", Say(200, {"server": bare}))
    got = run(stub, lambda cloud: cloud.server(7))
    assert got.state is ServerState.UNKNOWN
    assert (got.ipv4, got.ipv6_id, got.image_id, got.firewall_ids) == (None, None, None, ())


def test_inventory_reads_every_page_once(stub: Stub) -> None:
    """Six requests if all fits, with the selector on each; 50 entries a page."""
    stub.expect(
        "GET /servers",
        cloud_stub.page("servers", cloud_stub.server(1), next_page=2),
        cloud_stub.page("servers", cloud_stub.server(2)),
    )
    stub.expect("GET /volumes", cloud_stub.page("volumes", cloud_stub.volume(8, server=2)))
    stub.expect(
        "GET /images",
        cloud_stub.page("images", cloud_stub.image(3, status="available", image_size=2.25)),
    )
    rule = {"direction": "in", "protocol": "tcp", "port": "22", "source_ips": ["::/0"]}
    out = {"direction": "out", "protocol": "tcp", "port": "1", "destination_ips": []}
    applied = [
        {"type": "server", "server": {"id": 2}},
        {
            "type": "label_selector",
            "applied_to_resources": [{"type": "server", "server": {"id": 9}}],
        },
    ]
    base = {"created": cloud_stub.CREATED, "labels": {}}
    fire = {"id": 5, "name": "f", "rules": [rule, out], "applied_to": applied, **base}
    stub.expect("GET /firewalls", cloud_stub.page("firewalls", fire))
    key = {"id": 4, "name": "k", "fingerprint": "aa:bb", "public_key": "ssh-ed25519 A", **base}
    stub.expect("GET /ssh_keys", cloud_stub.page("ssh_keys", key))
    address = {
        "id": 11,
        "name": "ip",
        "ip": "203.0.113.7",
        "type": "ipv4",
        "location": {"name": "fsn1"},
        "assignee_id": 2,
        "auto_delete": True,
        "protection": {"delete": False},
        **base,
    }
    stub.expect("GET /primary_ips", cloud_stub.page("primary_ips", address))
    got = run(stub, lambda cloud: cloud.inventory("burst=1,burst-owner=me"))
    assert [server.id for server in got.servers] == [1, 2]
    assert got.volumes[0].server_id == 2
    assert (got.images[0].size_gb, got.images[0].name) == (Decimal("2.25"), "burst image")
    assert got.images[0].state is ImageState.AVAILABLE
    assert got.firewalls[0].rules == (FirewallRule("tcp", "22", ("::/0",)),)
    assert got.firewalls[0].server_ids == (2, 9)
    assert (got.ssh_keys[0].fingerprint, got.primary_ips[0].version) == ("aa:bb", 4)
    assert got.read_s > 0
    assert len(stub.seen) == 7
    for seen in stub.seen:
        assert "label_selector=burst%3D1%2Cburst-owner%3Dme" in seen.path
        assert "per_page=50" in seen.path
    assert "page=2" in stub.seen[1].path


def test_types_and_prices(stub: Stub) -> None:
    """Exact decimals; where the API says nothing about a place, the create will."""
    price = {"net": "1.3678000000", "gross": "1.6276820000000000"}
    both = {"price_hourly": price, "price_monthly": price}
    one = {
        "id": 1,
        "name": "ccx63",
        "cores": 48,
        "memory": 192.0,
        "disk": 960,
        "architecture": "x86",
        "cpu_type": "dedicated",
        "prices": [{"location": name, **both} for name in ("fsn1", "hel1", "ash")],
        "locations": [
            {"name": "fsn1", "available": True, "recommended": True, "deprecation": None},
            {"name": "hel1", "available": False, "recommended": False, "deprecation": {"x": 1}},
        ],
    }
    stub.expect("GET /server_types", cloud_stub.page("server_types", one))
    pricing = {
        "currency": "EUR",
        "vat_rate": "19.00",
        "volume": {"price_per_gb_month": price},
        "image": {"price_per_gb_month": price},
        "primary_ips": [
            {"type": "ipv4", "prices": [{"location": "fsn1", **both}]},
            {"type": "ipv6", "prices": []},
        ],
    }
    stub.expect("GET /pricing", Say(200, {"pricing": pricing}))

    async def use(cloud: HetznerCloud) -> None:
        (kind,) = await cloud.server_types()
        assert (kind.dedicated, kind.memory_gb) == (True, Decimal("192.0"))
        assert [(offer.location, offer.available) for offer in kind.offers] == [
            ("fsn1", True),
            ("hel1", False),
            ("ash", False),
        ]
        offer = kind.offer("hel1")
        assert offer is not None
        assert offer.deprecated
        assert offer.hourly.net_eur == Decimal("1.3678")
        prices = await cloud.prices()
        assert prices.vat_percent == 19
        assert prices.ipv4_hourly["fsn1"].gross_eur == Decimal("1.627682")

    run(stub, use)


def test_look_ups(stub: Stub) -> None:
    """By fingerprint, by name and architecture; the status filter that the library breaks is not
    used."""
    stub.always("GET /ssh_keys", cloud_stub.page("ssh_keys"))
    system = cloud_stub.image(9, name="ubuntu-24.04", type="system", status="available")
    stub.expect("GET /images", cloud_stub.page("images", system), cloud_stub.page("images"))

    async def use(cloud: HetznerCloud) -> None:
        assert await cloud.ssh_key_by_fingerprint("aa:bb") is None
        assert (await cloud.system_image("ubuntu-24.04", "x86")).system
        with pytest.raises(errors.NotFound, match="image debian-13 for x86"):
            await cloud.system_image("debian-13", "x86")

    run(stub, use)
    assert not any("status=" in seen.path for seen in stub.seen)


@pytest.mark.parametrize(
    "document",
    [{}, {"server": None}, {"server": {"id": 7}}, {"server": cloud_stub.server(7, id="7")}],
)
def test_answers_that_are_not_what_the_api_promises(stub: Stub, document: Any) -> None:
    """An error of ours with the reason, never a KeyError."""
    stub.expect("GET /servers/7", Say(200, document))
    with pytest.raises(CloudProblem, match="not understood") as caught:
        run(stub, lambda cloud: cloud.server(7))
    assert "lambda" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (502, b"<html>Bad Gateway</html>"),
        (200, b"<html>log in to this hotel's network</html>"),
        (500, b'{"error": null}'),
        (503, b'{"error": "boo"}'),
        (200, b"null"),
        (200, b"[1]"),
    ],
)
def test_somebody_else_answers(stub: Stub, status: int, body: bytes) -> None:
    """A proxy, a captive portal: said as it is, and the question is not whether we are online."""
    stub.expect("GET /servers/7", *[Say(status, body)] * 9)
    with pytest.raises(
        errors.CloudUnreachable, match=f"status {status}, and no error of"
    ) as caught:
        run(stub, lambda cloud: cloud.server(7))
    assert "a proxy" in caught.value.hint


def test_a_proxys_refusal_says_nothing_about_the_token(stub: Stub) -> None:
    stub.expect("GET /servers/7", Say(403, b"<html>Forbidden</html>"))
    with pytest.raises(CloudProblem) as caught:
        run(stub, lambda cloud: cloud.server(7))
    assert not isinstance(caught.value, errors.Unauthorized)


def test_reading_survives_their_trouble(stub: Stub) -> None:
    """503, an answer cut in half, a dropped connection, a page of a proxy."""
    stub.expect(
        "GET /servers/7",
        refused(503, "unavailable"),
        Say(200, {"server": cloud_stub.server(7)}, then="half"),
        Say(then="drop"),
        Say(502, b"<html>Bad Gateway</html>"),
        Say(200, {"server": cloud_stub.server(7)}),
    )
    assert run(stub, lambda cloud: cloud.server(7)).id == 7
    assert len(stub.seen) == 5


def test_reading_gives_up(stub: Stub) -> None:
    """After five attempts; a proxy's 404 is not the API's, so nothing counts as gone."""
    stub.always("GET /servers/7", refused(503, "unavailable"))
    stub.expect("GET /servers/8", Say(404, b"<html>no such page</html>"))
    with pytest.raises(errors.CloudUnreachable, match=r"server 7.*unavailable.*c0ffee"):
        run(stub, lambda cloud: cloud.server(7))
    assert len(stub.seen) == 5
    with pytest.raises(CloudProblem) as caught:
        run(stub, lambda cloud: cloud.server(8))
    assert type(caught.value) is CloudProblem


def test_a_redirect_is_not_followed(stub: Stub) -> None:
    """Neither with our token nor as a GET in place of a POST."""
    away = Say(302, b"", {"Location": f"{stub.endpoint}/elsewhere"})
    stub.always("GET /servers/7", away)
    stub.expect("POST /volumes", away)
    with pytest.raises(errors.CloudUnreachable):
        run(stub, lambda cloud: cloud.server(7))
    with pytest.raises(errors.Ambiguous):
        run(stub, lambda cloud: cloud.create_volume(VolumeSpec("v", 10, "fsn1", {})))


# -- creating ------------------------------------------------------------------------------------


def test_a_create(stub: Stub) -> None:
    """What is sent, and what there is to wait for."""
    document = {
        "server": cloud_stub.server(7, status="initializing"),
        "action": cloud_stub.action(1),
        "next_actions": [cloud_stub.action(2), cloud_stub.action(3)],
        "root_password": None,
    }
    stub.expect("POST /servers", Say(201, document))
    got = run(stub, lambda cloud: cloud.create_server(SPEC))
    assert got.resource.state is ServerState.INITIALIZING
    assert got.actions == (1, 2, 3)
    assert stub.seen[0].body == {
        "name": "burst-build-7",
        "server_type": "ccx43",
        "location": "fsn1",
        "image": 3,
        "ssh_keys": [4],
        "firewalls": [{"firewall": 5}],
        "labels": {"burst": "1"},
        "user_data": "#cloud-config",
        "start_after_create": True,
        "public_net": {"enable_ipv4": True, "enable_ipv6": True},
    }
    assert "cloud-config" not in repr(SPEC)


Create = Callable[[HetznerCloud], Awaitable[object]]
CREATES: Mapping[str, Create] = {
    "POST /servers": lambda cloud: cloud.create_server(SPEC),
    "POST /volumes": lambda cloud: cloud.create_volume(VolumeSpec("v", 10, "fsn1", {})),
    "POST /servers/7/actions/create_image": lambda cloud: cloud.create_image(7, "d", {}),
    "POST /ssh_keys": lambda cloud: cloud.create_ssh_key("k", "ssh-ed25519 A", {}),
    "POST /firewalls": lambda cloud: cloud.create_firewall("f", (), {}),
}


ANSWERS: list[tuple[Say, type[CloudProblem]]] = [
    (refused(429, "rate_limit_exceeded"), errors.Busy),
    (refused(409, "conflict"), errors.Busy),
    (refused(504, "timeout"), errors.Ambiguous),
    (refused(502, "bad_gateway"), errors.Ambiguous),
    (refused(503, "unavailable"), errors.Ambiguous),
    (refused(409, "uniqueness_error", fields=named("name")), errors.NameTaken),
    (refused(412, "resource_unavailable"), errors.NoCapacity),
    (refused(422, "invalid_input", fields=named("location")), errors.NoCapacity),
    (refused(403, "resource_limit_exceeded", limits=named("x")), errors.QuotaExceeded),
    (refused(401, "token_readonly"), errors.Unauthorized),
    (Say(502, b"<html>"), errors.Ambiguous),
    (Say(201, b"{"), errors.Ambiguous),
    (Say(201, {}), errors.Ambiguous),
    (Say(201, []), errors.Ambiguous),
    (Say(500, {"error": "not an envelope"}), errors.Ambiguous),
    (Say(201, {"x": "y" * 100}, then="half"), errors.Ambiguous),
    (Say(then="drop"), errors.Ambiguous),
]


@pytest.mark.parametrize("line", CREATES)
def test_a_create_is_sent_once(stub: Stub, line: str) -> None:
    """Whatever the answer, also where the library itself would send it six times."""

    async def use(cloud: HetznerCloud) -> None:
        for number, (say, expected) in enumerate(ANSWERS, 1):
            stub.expect(line, say)
            with pytest.raises(expected) as caught:
                await CREATES[line](cloud)
            assert type(caught.value) is expected
            assert stub.lines() == [line] * number

    run(stub, use)


def test_a_create_without_an_answer_is_sent_once(stub: Stub) -> None:
    """The library would repeat it after a timeout: two snapshots."""
    stub.always("POST /servers/7/actions/create_image", Say(then="hang"))
    hasty = Timing(connect_s=1.0, read_s=0.2)
    with pytest.raises(errors.Ambiguous):
        run(stub, lambda cloud: cloud.create_image(7, "d", {}), hasty)
    assert len(stub.seen) == 1


def test_should_the_library_repeat_nevertheless(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number of repetitions is a private field: with another one the second send still ends
    here."""
    monkeypatch.setattr("hcloud._client.time.sleep", lambda _: None)
    stub.always("POST /volumes", refused(504, "timeout"))

    async def use(cloud: HetznerCloud) -> None:
        stub.expect("GET /servers/7", Say(200, {"server": cloud_stub.server(7)}))
        await cloud.server(7)  # makes the one client that there is
        (client,) = cloud._clients._idle
        client._client._retry_max_retries = 5
        with pytest.raises(errors.Ambiguous):
            await cloud.create_volume(VolumeSpec("v", 10, "fsn1", {}))

    run(stub, use)
    assert stub.lines().count("POST /volumes") == 1


def test_nobody_at_the_door() -> None:
    """Connection refused: certainly nothing was done. With and without repetition."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}/v1"
    for use in (*CREATES.values(), lambda cloud: cloud.server(7)):
        with pytest.raises(errors.CloudUnreachable, match="Connection refused"):
            run(endpoint, use)


def test_proxies_and_netrc_of_the_environment_do_not_touch_loopback(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """A proxy there would get the token; a netrc would take its place."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://user:hunter2@127.0.0.1:1")
    netrc = home / ".netrc"
    netrc.write_text("machine 127.0.0.1 login a password b")
    netrc.chmod(0o600)
    stub.expect("GET /servers/7", Say(200, {"server": cloud_stub.server(7)}))
    run(stub, lambda cloud: cloud.server(7))
    assert stub.seen[0].headers["authorization"] == f"Bearer {SECRET}"


def test_no_secret_in_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the token nor a proxy's password, for an endpoint that is reached through one."""
    monkeypatch.setenv("https_proxy", "http://user:hunter2@127.0.0.1:1")
    with pytest.raises(errors.CloudUnreachable) as caught:
        run("https://api.example/v1", lambda cloud: cloud.create_ssh_key("k", "p", {}))
    shown = f"{caught.value} {caught.value!r} {caught.value.facts}"
    assert "hunter2" not in shown
    assert SECRET not in shown


# -- waiting -------------------------------------------------------------------------------------


def test_waiting_for_actions(stub: Stub) -> None:
    """Each until it succeeds; a 503 in the middle is nothing (packer-plugin-hcloud #400)."""
    running, done = (
        Say(200, {"action": cloud_stub.action(1, state)}) for state in ("running", "success")
    )
    stub.expect("GET /actions/1", running, refused(503, "unavailable"), running, done)
    stub.expect("GET /actions/2", Say(200, {"action": cloud_stub.action(2, "success")}))
    run(stub, lambda cloud: cloud.wait((1, 2), 10))
    assert len(stub.seen) == 5


def test_waiting_through_a_long_outage(stub: Stub) -> None:
    """More failures than one read survives: only the deadline ends a wait."""
    stub.expect("GET /actions/1", *[refused(503, "unavailable")] * 12)
    stub.expect("GET /actions/1", Say(200, {"action": cloud_stub.action(1, "success")}))
    run(stub, lambda cloud: cloud.wait((1,), 20))
    assert len(stub.seen) == 13


def test_an_action_that_fails(stub: Stub) -> None:
    """With its code, for who decides on it."""
    error = {"code": "resource_unavailable", "message": "words"}
    failed = cloud_stub.action(1, "error", error=error)
    stub.always("GET /actions/1", Say(200, {"action": failed}))

    async def use(cloud: HetznerCloud) -> None:
        with pytest.raises(errors.ActionFailed) as caught:
            await cloud.wait((1,), 10)
        assert caught.value.facts["api_code"] == "resource_unavailable"
        assert (await cloud.action(1)).state is ActionState.ERROR

    run(stub, use)


def test_a_deadline(stub: Stub) -> None:
    """Ends the wait, and says what for."""
    stub.always("GET /actions/1", Say(200, {"action": cloud_stub.action(1)}))
    with pytest.raises(errors.DeadlinePassed, match="action 1"):
        run(stub, lambda cloud: cloud.wait((1,), 0.2))


def test_cancelled_in_a_request_that_hangs(stub: Stub) -> None:
    """At once; the thread is nobody's concern, and the process need not wait for it."""
    stub.always("POST /volumes", Say(then="hang"))

    async def use(cloud: HetznerCloud) -> None:
        spec = VolumeSpec("v", 10, "fsn1", {})
        task = asyncio.create_task(cloud.create_volume(spec))
        assert await asyncio.to_thread(stub.arrived.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    begun = time.monotonic()
    run(stub, use)
    assert time.monotonic() - begun < 4  # the request itself would take five


# -- changing and deleting -------------------------------------------------------------------------


def test_a_change_waits_for_a_lock(stub: Stub) -> None:
    """Whether the request or its action speaks of it (terraform-provider-hcloud #469)."""
    locked = cloud_stub.action(1, "error", error={"code": "locked", "message": "words"})
    stub.expect(
        "POST /volumes/8/actions/attach",
        refused(423, "locked"),
        Say(201, {"action": cloud_stub.action(1)}),
        Say(201, {"action": cloud_stub.action(2)}),
    )
    stub.expect("GET /volumes/8", Say(200, {"volume": cloud_stub.volume(8)}))
    stub.expect("GET /actions/1", Say(200, {"action": locked}))
    stub.expect("GET /actions/2", Say(200, {"action": cloud_stub.action(2, "success")}))
    run(stub, lambda cloud: cloud.attach(8, 7))
    assert stub.seen[0].body == {"server": 7, "automount": False}


def test_attached_already(stub: Stub) -> None:
    """To us is a success, to another server is not."""
    stub.always("POST /volumes/8/actions/attach", refused(422, "volume_already_attached"))
    stub.always("GET /volumes/8", Say(200, {"volume": cloud_stub.volume(8, server=7)}))
    run(stub, lambda cloud: cloud.attach(8, 7))
    with pytest.raises(errors.Busy):
        run(stub, lambda cloud: cloud.attach(8, 6))


def test_detached_already(stub: Stub) -> None:
    """Whatever the code of the refusal is."""
    stub.expect("POST /volumes/8/actions/detach", refused(422, "volume_is_not_attached"))
    stub.expect("GET /volumes/8", Say(200, {"volume": cloud_stub.volume(8)}))
    run(stub, lambda cloud: cloud.detach(8))


def test_what_each_change_sends(stub: Stub) -> None:
    """Path and body; servers want both protections equal, and labels are the whole set."""
    ok, nothing = Say(201, {"action": cloud_stub.action(1, "success")}), Say(201, {"actions": []})
    stub.always("GET /actions/1", Say(200, {"action": cloud_stub.action(1, "success")}))
    for line, say in {
        "PUT /images/3": Say(200, {"image": {}}),
        "POST /firewalls/5/actions/set_rules": nothing,
        "POST /firewalls/5/actions/apply_to_resources": nothing,
        "POST /servers/7/actions/change_protection": ok,
        "POST /volumes/8/actions/change_protection": ok,
        "POST /volumes/8/actions/resize": ok,
        "POST /servers/7/actions/poweron": ok,
        "POST /servers/7/actions/poweroff": ok,
        "POST /servers/7/actions/shutdown": ok,
    }.items():
        stub.expect(line, say)

    async def use(cloud: HetznerCloud) -> None:
        await cloud.set_labels(Kind.IMAGE, 3, {"a": "b"})
        await cloud.set_rules(5, (FirewallRule("tcp", "22", ("203.0.113.1/32",), "me"),))
        await cloud.apply_firewall(5, 7)
        await cloud.protect(Kind.SERVER, 7, delete=True)
        await cloud.protect(Kind.VOLUME, 8, delete=False)
        await cloud.resize_volume(8, 200)
        await cloud.power_on(7)
        await cloud.power_off(7)
        await cloud.shutdown(7)

    run(stub, use)
    sent = [seen.body for seen in stub.seen if seen.method != "GET"]
    rule = {
        "direction": "in",
        "protocol": "tcp",
        "port": "22",
        "source_ips": ["203.0.113.1/32"],
        "description": "me",
    }
    assert sent == [
        {"labels": {"a": "b"}},
        {"rules": [rule]},
        {"apply_to": [{"type": "server", "server": {"id": 7}}]},
        {"delete": True, "rebuild": True},
        {"delete": False},
        {"size": 200},
        {},
        {},
        {},
    ]


def test_a_delete_is_believed_when_it_is_seen(stub: Stub) -> None:
    """The action is waited for, then we look until it is gone."""
    stub.expect("DELETE /servers/7", Say(200, {"action": cloud_stub.action(1)}))
    stub.expect("GET /actions/1", Say(200, {"action": cloud_stub.action(1, "success")}))
    deleting = Say(200, {"server": cloud_stub.server(7, status="deleting")})
    stub.expect("GET /servers/7", deleting, refused(404, "not_found"))
    run(stub, lambda cloud: cloud.delete(Kind.SERVER, 7))
    assert stub.lines()[-1] == "GET /servers/7"


@pytest.mark.parametrize("kind", list(Kind))
def test_what_is_gone_already_is_deleted(stub: Stub, kind: Kind) -> None:
    """Not_found is success, for every kind."""
    stub.always(f"DELETE /{kind.value}/7", refused(404, "not_found"))
    stub.always(f"GET /{kind.value}/7", refused(404, "not_found"))
    run(stub, lambda cloud: cloud.delete(kind, 7))


def test_a_delete_whose_answer_was_lost(stub: Stub) -> None:
    """Is asked for again, and found done; locks and uses are waited for."""
    stub.expect(
        "DELETE /firewalls/5",
        refused(422, "resource_in_use"),
        refused(423, "locked"),
        Say(then="drop"),
        refused(404, "not_found"),
    )
    stub.always("GET /firewalls/5", refused(404, "not_found"))
    run(stub, lambda cloud: cloud.delete(Kind.FIREWALL, 5))


@pytest.mark.parametrize(
    ("say", "expected"),
    [
        (refused(423, "protected"), CloudProblem),
        (refused(401, "unauthorized"), errors.Unauthorized),
        (Say(404, b"<html>"), CloudProblem),
    ],
)
def test_a_delete_that_is_refused(stub: Stub, say: Say, expected: type[CloudProblem]) -> None:
    """Is an error, and the thing still bills."""
    stub.always("DELETE /volumes/8", say)
    stub.always("GET /volumes/8", Say(200, {"volume": cloud_stub.volume(8)}))
    with pytest.raises(expected):
        run(stub, lambda cloud: cloud.delete(Kind.VOLUME, 8))


def test_a_delete_that_never_ends(stub: Stub) -> None:
    """Says so at its deadline."""
    stub.always("DELETE /images/3", Say(204))
    stub.always("GET /images/3", Say(200, {"image": cloud_stub.image(3)}))
    hasty = Timing(poll=lambda _: 0.01, delete_s=0.3)
    with pytest.raises(errors.DeadlinePassed, match="image 3"):
        run(stub, lambda cloud: cloud.delete(Kind.IMAGE, 3), hasty)


# -- time and pace --------------------------------------------------------------------------------


def test_api_time_from_answers(stub: Stub) -> None:
    """First by the Date of any answer, then by the start of an own action."""
    date = datetime(2030, 1, 1, 12, tzinfo=UTC)
    dated = {"Date": format_datetime(date, usegmt=True)}
    stub.expect("GET /servers/7", Say(200, {"server": cloud_stub.server(7)}, dated))
    began = cloud_stub.action(1, "success", started="2030-01-02T12:00:00Z")
    stub.expect("POST /servers/7/actions/poweron", Say(201, {"action": began}, dated))
    old = cloud_stub.action(1, "success", started="2020-01-01T00:00:00Z")
    stub.expect("GET /actions/1", Say(200, {"action": old}, dated))
    clock = ApiClock(wall=date.timestamp, steady=lambda: 5.0)

    async def use(cloud: HetznerCloud) -> None:
        offsets = [cloud.offset_s]
        await cloud.server(7)
        offsets.append(cloud.offset_s)
        await cloud.power_on(7)
        offsets.append(cloud.offset_s)
        assert offsets == [None, 0.5, 86400.5]
        assert cloud.now_s() == date.timestamp() + 86400.5
        assert cloud.clock.standing is Standing.LARGE

    run(stub, use, clock=clock)


def test_the_rate_limit_is_kept_by_its_headers(stub: Stub) -> None:
    """With nothing left, the next request waits for one to come back."""
    none_left = {"RateLimit-Limit": "36000", "RateLimit-Remaining": "0", "RateLimit-Reset": "9"}
    stub.expect("GET /servers/7", Say(200, {"server": cloud_stub.server(7)}, none_left))

    async def use(cloud: HetznerCloud) -> None:
        await cloud.server(7)
        steady = cloud.clock.steady()
        assert cloud._calls.pace.wait_s(Safety.CREATE, steady) > 0.05
        assert cloud._calls.pace.wait_s(Safety.READ, steady) > 30

    run(stub, use)


def test_requests_beside_each_other_have_a_client_each(stub: Stub) -> None:
    """And the connections are used again."""
    stub.always("GET /servers/7", Say(200, {"server": cloud_stub.server(7)}))

    async def use(cloud: HetznerCloud) -> None:
        await asyncio.gather(*(cloud.server(7) for _ in range(8)))
        clients = cloud._clients._idle
        assert 1 <= len(clients) == len({*map(id, clients)}) <= 8
        await cloud.server(7)
        assert len(cloud._clients._idle) == len(clients)

    run(stub, use)
