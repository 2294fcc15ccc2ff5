"""What goes wrong on purpose, as the real library meets it; the clock; the bill."""

from __future__ import annotations

import calendar
import json
import subprocess
import sys
import threading
import urllib.request
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests
from hcloud import APIException, Client
from hcloud.actions import ActionFailedException
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.server_types import ServerType

from localcloud import Barrier, Call, Fault, LocalCloud, Volume
from localcloud.billing import make_bill
from localcloud.model import Usage

pytest_plugins = ("cloud_fixtures",)

FSN1 = Location(name="fsn1")
CREATE = "POST /volumes"


@pytest.fixture
def client(paper_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> Client:
    """It does not sleep between its retries."""
    made = paper_cloud.client(timeout=(5, 2))
    monkeypatch.setattr(made._client, "_retry_interval_func", lambda _: 0.0)
    return made


@pytest.mark.parametrize(
    ("status", "code", "sent"),
    [
        (429, "rate_limit_exceeded", 6),
        (409, "conflict", 6),
        (502, "bad_gateway", 6),
        (504, "timeout", 6),
        (503, "unavailable", 1),
        (500, "server_error", 1),
        (422, "service_error", 1),
        (423, "locked", 1),
        (403, "maintenance", 1),
        (412, "resource_unavailable", 1),
        (422, "placement_error", 1),
        (409, "uniqueness_error", 1),
        (401, "unauthorized", 1),
        (410, "deprecated_api_endpoint", 1),
    ],
)
def test_how_often_the_library_asks(
    client: Client, paper_cloud: LocalCloud, status: int, code: str, sent: int
) -> None:
    """The table of research/hetzner.md, section 1, holds for the library that is installed."""
    paper_cloud.faults.answer(CREATE, status, code, times=0)
    with pytest.raises(APIException) as refused:
        client.volumes.create(10, "v", location=FSN1)
    assert refused.value.code == code
    assert len(paper_cloud.calls(CREATE)) == sent
    assert not any(call.performed for call in paper_cloud.calls())


def test_a_proxy_s_page_instead_of_json(client: Client, paper_cloud: LocalCloud) -> None:
    paper_cloud.fault(Fault("GET /servers", "answer", status=502, times=0, raw="<html>"))
    with pytest.raises(APIException) as refused:
        client.servers.get_all()
    assert refused.value.code == 502
    assert len(paper_cloud.calls()) == 6


def test_an_answer_that_is_lost(client: Client, paper_cloud: LocalCloud) -> None:
    """Done, but nobody was told: the library does not ask again, and raises what is not its own."""
    paper_cloud.faults.lost(CREATE)
    with pytest.raises(requests.exceptions.ConnectionError):
        client.volumes.create(10, "v", location=FSN1)
    (call,) = paper_cloud.calls(CREATE)
    assert (call.performed, call.status, call.injected) == (True, None, "lost")
    paper_cloud.expect(volumes=["v"])


def test_a_timeout_sends_the_create_again(client: Client, paper_cloud: LocalCloud) -> None:
    """A unique name makes the second one fail although the first succeeded."""
    paper_cloud.fault(Fault(CREATE, "hang_lost"))
    with pytest.raises(APIException) as refused:
        client.volumes.create(10, "v", location=FSN1)
    assert refused.value.code == "uniqueness_error"
    assert [call.performed for call in paper_cloud.calls(CREATE)] == [True, False]
    paper_cloud.expect(volumes=["v"])


def test_only_the_nth_call(client: Client, paper_cloud: LocalCloud) -> None:
    paper_cloud.faults.answer("POST *", 503, "unavailable", nth=2, times=2)
    outcomes = []
    for number in range(5):
        try:
            client.volumes.create(10, f"v{number}", location=FSN1)
            outcomes.append("made")
        except APIException as error:
            outcomes.append(str(error.code))
    assert outcomes == ["made", "unavailable", "unavailable", "made", "made"]
    paper_cloud.expect(volumes=["v0", "v3", "v4"])


def test_done_but_answered_with_an_error(client: Client, paper_cloud: LocalCloud) -> None:
    paper_cloud.fault(Fault(CREATE, "after", status=503))
    with pytest.raises(APIException):
        client.volumes.create(10, "v", location=FSN1)
    paper_cloud.expect(volumes=["v"])


def test_an_error_in_the_middle_of_a_wait(client: Client, paper_cloud: LocalCloud) -> None:
    paper_cloud.world.timings.create_volume = 1000
    paper_cloud.faults.answer("GET /actions/{id}", 503, "unavailable", nth=3)
    made = client.volumes.create(10, "v", location=FSN1)
    with pytest.raises(APIException) as refused:
        made.action.wait_until_finished()
    assert refused.value.code == "unavailable"
    paper_cloud.clock.advance(1000)
    made.action.wait_until_finished()
    paper_cloud.expect(volumes=["v"])


def test_an_action_that_fails_later(client: Client, paper_cloud: LocalCloud) -> None:
    paper_cloud.fail_action("create_volume", "locked", "server is locked")
    made = client.volumes.create(10, "v", location=FSN1)
    with pytest.raises(ActionFailedException) as failed:
        made.action.wait_until_finished()
    assert failed.value.action.error is not None
    assert failed.value.action.error["code"] == "locked"
    assert paper_cloud.all(Volume) == []


def test_the_actions_that_follow_a_failed_one_fail_too(
    client: Client, paper_cloud: LocalCloud
) -> None:
    paper_cloud.fail_action("create_server")
    kind, image = ServerType(name="ccx13"), Image(name="ubuntu-24.04")
    made = client.servers.create("s", kind, image, location=FSN1)
    with pytest.raises(ActionFailedException):
        made.next_actions[0].wait_until_finished()
    # It is there, and bills.
    assert client.servers.get_all()[0].status == "off"
    client.servers.get_all()[0].delete()


def test_a_volume_that_stays_attached_to_a_server_that_is_gone(
    client: Client, paper_cloud: LocalCloud
) -> None:
    kind, image = ServerType(name="ccx13"), Image(name="ubuntu-24.04")
    made = client.servers.create("s", kind, image, location=FSN1)
    paper_cloud.wait_idle()
    volume = client.volumes.create(10, "v", server=made.server).volume
    paper_cloud.wait_idle()
    paper_cloud.keep_volumes_attached()
    made.server.delete().wait_until_finished()
    shown = client.volumes.get_all()[0]
    assert shown.server is not None
    with pytest.raises(APIException, match="still attached"):
        volume.delete()
    volume.detach().wait_until_finished()
    volume.delete()


def test_hooks_stop_the_world_before_and_after_a_call(
    client: Client, paper_cloud: LocalCloud
) -> None:
    barrier = Barrier()
    paper_cloud.faults.on("performed", barrier, nth=2)
    thread = threading.Thread(
        target=lambda: [client.firewalls.create(name) for name in ("a", "b", "c")]
    )
    thread.start()
    call = barrier.wait()
    assert (call.number, call.performed, call.status) == (2, True, None)
    assert sorted(paper_cloud.holdings()["firewalls"]) == ["a", "b"]
    barrier.release()
    thread.join()
    paper_cloud.expect(firewalls=["a", "b", "c"])


KILLED = """
import os, sys
from hcloud import Client
client = Client(os.environ["HCLOUD_TOKEN"], api_endpoint=os.environ["HCLOUD_ENDPOINT"])
for name in "abcdef":
    client.firewalls.create(name)
"""


@pytest.mark.parametrize("point", ["before", "performed"])
def test_a_client_is_killed_at_a_call(paper_cloud: LocalCloud, point: Any) -> None:
    """The pattern for killing a client after call number n."""
    started: list[subprocess.Popen[bytes]] = []
    ready = threading.Event()

    def kill(_: Call) -> None:
        ready.wait()
        started[0].kill()
        started[0].wait()

    paper_cloud.faults.on(point, kill, nth=3)
    environment = paper_cloud.environment()
    with subprocess.Popen([sys.executable, "-c", KILLED], env=environment) as process:
        started.append(process)
        ready.set()
    assert process.returncode == -9
    # Whoever was killed had sent the third: the API performs it all the same.
    paper_cloud.wait_for(lambda: len(paper_cloud.holdings()["firewalls"]) == 3, "three")
    paper_cloud.expect(firewalls=["a", "b", "c"])


def test_control_from_another_process(client: Client, paper_cloud: LocalCloud) -> None:
    def control(what: str, secret: str = paper_cloud.secret, **body: Any) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{paper_cloud.root}/_control/{what}",
            data=json.dumps(body).encode(),
            headers={"X-Control-Secret": secret},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        control("clear", secret="guess")
    refused.value.close()
    control("fault", operation=CREATE, kind="answer", status=423, code="locked")
    with pytest.raises(APIException, match="locked"):
        client.volumes.create(10, "v", location=FSN1)
    before = control("clock")["now"]
    assert control("clock", advance=3600)["now"] >= before + 3600
    control("quota", volumes=0)
    with pytest.raises(APIException, match="limit"):
        client.volumes.create(10, "v", location=FSN1)
    assert control("holdings") == {"holdings": {}}
    assert [call["code"] for call in control("journal")["calls"]] == [
        "locked",
        "resource_limit_exceeded",
    ]
    barrier = control("barrier", operation="GET /servers")["barrier"]
    thread = threading.Thread(target=client.servers.get_all)
    thread.start()
    assert control("reached", barrier=barrier)["call"]["operation"] == "GET /servers"
    control("release", barrier=barrier)
    thread.join()


def test_progress_and_time_are_the_clock_s(client: Client, paper_cloud: LocalCloud) -> None:
    paper_cloud.clock.set(calendar.timegm((2027, 3, 1, 12, 0, 0)))
    paper_cloud.clock.scale = 0
    paper_cloud.world.timings.create_volume = 100
    made = client.volumes.create(10, "v", location=FSN1)
    assert made.volume.created is not None
    assert made.volume.created.isoformat() == "2027-03-01T12:00:00+00:00"
    paper_cloud.clock.advance(40)
    action = client.actions.get_by_id(made.action.id)
    assert (action.status, action.progress) == ("running", 40)
    paper_cloud.clock.advance(61)
    action = client.actions.get_by_id(made.action.id)
    assert (action.status, action.progress) == ("success", 100)
    assert action.finished is not None
    assert action.finished.isoformat() == "2027-03-01T12:01:40+00:00"
    paper_cloud.expect(volumes=["v"])


def usage(kind: str, detail: str, start: tuple[int, ...], hours: float, gb: float = 0) -> Usage:
    began = float(calendar.timegm((*start, 0, 0, 0)))
    made = Usage(kind, 1, "x", "default", detail, "fsn1", began, began + hours * 3600)
    made.sizes.append((began, gb))
    return made


@pytest.mark.parametrize(
    ("used", "euros"),
    [
        (usage("server", "ccx63", (2027, 3, 1), 5 / 60), "1.3678"),
        (usage("server", "ccx63", (2027, 3, 1), 1), "1.3678"),
        (usage("server", "ccx63", (2027, 3, 1), 1.001), "2.7356"),
        # A whole month is capped, and the hours after it begin anew.
        (usage("server", "ccx63", (2027, 3, 1), 31 * 24), "853.49"),
        (usage("server", "ccx63", (2027, 3, 1), 31 * 24 + 2), "856.2256"),
        # No month reaches its cap: two times 20 days.
        (usage("server", "ccx13", (2027, 3, 12), 40 * 24), "66.144"),
        (usage("primary_ip", "ipv4", (2027, 3, 1), 2), "0.0016"),
        (usage("primary_ip", "ipv6", (2027, 3, 1), 2), "0"),
        (usage("volume", "100 GB", (2027, 3, 1), 31 * 24, 100), "5.72"),
        (usage("image", "snapshot", (2027, 3, 1), 31 * 24, 2.5), "0.0275"),
    ],
)
def test_the_bill(used: Usage, euros: str) -> None:
    total = make_bill([used], 0).total
    assert total.quantize(Decimal("1e-10")) == Decimal(euros)


def test_the_oracle_tells_a_leak() -> None:
    with LocalCloud() as cloud:
        cloud.world.timings.create_volume = 1000
        cloud.clock.scale = 0
        cloud.client().volumes.create(10, "v", location=FSN1)
        with pytest.raises(AssertionError, match="holds"):
            cloud.check()
        assert cloud.volume("v").status == "available"
        cloud.expect(volumes=["v"])
        cloud.check()


def test_a_cloud_of_its_own_process() -> None:
    support = Path(__file__).parents[1] / "support"
    with subprocess.Popen(
        [sys.executable, "-m", "localcloud"],
        cwd=support,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
        client = Client(found["token"], api_endpoint=found["endpoint"])
        client.firewalls.create("fw")
        assert len(client.firewalls.get_all()) == 1
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0
