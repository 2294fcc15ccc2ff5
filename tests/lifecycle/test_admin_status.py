"""`burst-admin status`: each resource with cost and end, made of values; text and JSON."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import attrs
import pytest

from burst_lifecycle import labels
from burst_lifecycle.admin.endings import Keepers
from burst_lifecycle.admin.status import lines
from burst_lifecycle.admin.tariff import Tariff
from burst_lifecycle.admin.view import (
    Found,
    Month,
    ReaperState,
    ResourceLine,
    Standing,
    document,
    status_report,
)
from burst_lifecycle.books import Account
from burst_lifecycle.cloud.model import (
    Image,
    ImageState,
    Inventory,
    Kind,
    Offer,
    Price,
    Prices,
    PrimaryIp,
    Server,
    ServerState,
    ServerType,
    SshKey,
    Volume,
)
from burst_lifecycle.events import Command, Created
from burst_lifecycle.host import Lease, Running
from burst_lifecycle.labels import Claim, Role
from burst_lifecycle.reaper import Policy

NOW = 1_800_000_000.0
OWNER, PROJECT = "alice", "0123456789abcdef"
HERE = Account("https://cloud", "f00d")


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of day are local ones."""
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def price(text: str) -> Price:
    return Price(Decimal(text), Decimal(text) * Decimal("1.19"))


TARIFF = Tariff.of(
    Prices(
        "EUR",
        Decimal(19),
        price("0.0572"),
        price("0.0110"),
        {"fsn1": price("0.0008")},
        {"fsn1": price("0.50")},
    ),
    [
        ServerType(
            1,
            "ccx43",
            16,
            Decimal(64),
            360,
            "x86",
            True,
            (Offer("fsn1", price("0.4423"), price("275.99"), available=True),),
        )
    ],
)


def claim(role: Role, expires_in_s: float, owner: str = OWNER, **more: str) -> dict[str, str]:
    found = Claim(owner, role, "0f1e2d3c4b5a6978", int(NOW + expires_in_s), PROJECT)
    return found.labels(**more)


def server(age_s: float = 1500, **changes: Any) -> Server:
    given: dict[str, Any] = {
        "id": 11,
        "name": "burst-build-0f1e2d3c4b",
        "labels": claim(Role.BUILD, 40000, **{labels.READY: "1"}),
        "created_s": NOW - age_s,
        "state": ServerState.RUNNING,
        "type": "ccx43",
        "location": "fsn1",
        "ipv4": "192.0.2.1",
        "ipv4_id": 21,
        **changes,
    }
    return Server(**given)


def volume(**changes: Any) -> Volume:
    given: dict[str, Any] = {
        "id": 31,
        "name": "burst-store-0f1e2d3c4b",
        "labels": claim(Role.STORE, 600000, **{labels.FILESYSTEM: "ready-x"}),
        "created_s": NOW - 86400,
        "size_gb": 100,
        "location": "fsn1",
        "server_id": 11,
        "device": "",
        **changes,
    }
    return Volume(**given)


ADDRESS = PrimaryIp(
    id=21,
    name="primary_ip-21",
    labels={},
    created_s=NOW - 1500,
    address="192.0.2.1",
    version=4,
    location="fsn1",
    assignee_id=11,
    auto_delete=True,
)
KEY = SshKey(
    id=41,
    name="burst-access-1",
    labels=claim(Role.ACCESS, 9e6),
    created_s=NOW - 86400,
    fingerprint="",
    public_key="",
)
IDLE = Lease(draining=False, running=0, detached=0, clients=1, idle_s=300.0)


def found(**changes: Any) -> Found:
    given: dict[str, Any] = {
        "inventory": Inventory(
            servers=(server(),),
            volumes=(volume(),),
            primary_ips=(ADDRESS,),
            ssh_keys=(KEY,),
            read_s=NOW,
        ),
        "owner": OWNER,
        "account": HERE,
        "leases": {11: IDLE},
        "tariff": TARIFF,
        "policy": Policy(OWNER, keep_alive_s=300, watched=True),
        "keepers": Keepers(reaper=True),
        "reaper": ReaperState(NOW - 120, "systemd"),
        "clock_offset_s": 0.0,
        **changes,
    }
    return Found(**given)


def only(kind: str, **changes: Any) -> ResourceLine:
    (line,) = [line for line in status_report(found(**changes)).lines if line.kind == kind]
    return line


WHOLE = """\
what     name                    type       where  state                 age   idle  euros       rate
server   burst-build-0f1e2d3c4b  ccx43      fsn1   running, 1 client  25 min  5 min  €0.44  €0.4423/h
address  primary_ip-21           192.0.2.1  fsn1   of 11              25 min      -  €0.00  €0.0008/h
volume   burst-store-0f1e2d3c4b  100 GB     fsn1   attached to 11        1 d      -  €0.18  €0.0077/h
key      burst-access-1          -          -      -                     1 d      -  €0.00       free

burst-build-0f1e2d3c4b goes at 08:25 if nobody uses it (idle for 300 s), by the reaper; \
19:06 at the latest
primary_ip-21 goes with its server, by the cloud
burst-store-0f1e2d3c4b goes not while a server has it

€0.4508/h now, €0.63 since they were made

reaper by systemd, last good reap 2 min ago"""  # noqa: E501 - as it is printed


def test_the_whole_of_it() -> None:
    """A running server with its address, its volume and a key, as people see it."""
    assert "\n".join(lines(status_report(found()))) == WHOLE


def test_nothing() -> None:
    report = status_report(found(inventory=Inventory(read_s=NOW), reaper=ReaperState()))
    assert lines(report) == [
        "nothing of yours exists: €0.00/h",
        "",
        "no reaper installed, never reaped from this machine",
    ]
    assert not report.warn_of_reaper


def shape(value: Any) -> Any:
    """Names and types, without values."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def test_the_document_is_an_interface() -> None:
    """Names and types of `--json`; a change here is a change of `SCHEMA`, unless it only adds."""
    other = Created(
        at_s=NOW,
        kind=Kind.SERVER,
        id=5,
        name="burst-build-x",
        location="hel1",
        created_s=NOW - 9,
        token="beef",
        endpoint="https://cloud",
        eur_per_hour=Decimal("0.1"),
    )
    month = Month(Decimal("1.5"), Decimal(30))
    working = attrs.evolve(IDLE, actions=(Running("serde", 4.0),))
    report = status_report(found(elsewhere=(other,), month=month, leases={11: working}))
    found_shape = shape(json.loads(json.dumps(document(report))))
    lease = {
        "draining": "bool",
        "running": "int",
        "detached": "int",
        "clients": "int",
        "idle_s": "float",
        "uptime_s": "float",
        "hard_end_in_s": "NoneType",
        "keep_alive_s": "NoneType",
        "boot_id": "str",
        "build": "str",
        "actions": [{"crate": "str", "for_s": "float", "detached": "bool"}],
    }
    ending = {"what": "str", "by": "str", "at_s": "float", "latest_s": "float", "due": "bool"}
    assert found_shape == {
        "schema": "int",
        "at_s": "float",
        "owner": "str",
        "owner_known": "bool",
        "eur_per_hour": "str",
        "eur_so_far": "str",
        "exact": "bool",
        "resources": [
            {
                "kind": "str",
                "id": "int",
                "name": "str",
                "standing": "str",
                "detail": "str",
                "location": "str",
                "state": "str",
                "created_s": "float",
                "age_s": "float",
                "idle_s": "float",
                "lease": lease,
                "lease_problem": "str",
                "eur_per_hour": "str",
                "eur_so_far": "str",
                "exact": "bool",
                "ending": ending,
                "owner": "str",
                "project": "str",
                "role": "str",
                "note": "str",
            }
        ],
        "elsewhere": [
            {
                "kind": "str",
                "id": "int",
                "name": "str",
                "location": "str",
                "created_s": "float",
                "eur_per_hour": "str",
                "token": "str",
                "endpoint": "str",
            }
        ],
        "pending": [],
        "reaper": {"last_good_s": "float", "installed": "str", "overdue": "bool"},
        "clock_offset_s": "float",
        "month": {"eur": "str", "budget_eur": "str"},
    }
    assert document(status_report(found()))["schema"] == 1


def test_a_server_that_works() -> None:
    """It stays until its hard end at the latest."""
    busy = attrs.evolve(IDLE, running=3, idle_s=0.0)
    line = only("server", leases={11: busy})
    assert line.idle_s is None
    assert line.ending is not None
    assert (line.ending.at_s, line.ending.due) == (NOW + 40000, False)
    assert "3 actions" in lines(status_report(found(leases={11: busy})))[1]


def test_a_server_that_does_not_answer() -> None:
    """Nobody guesses whether it is idle, and its problem is named."""
    changes: dict[str, Any] = {"leases": {}, "lease_problems": {11: "cannot reach 192.0.2.1"}}
    line = only("server", **changes)
    assert line.ending is not None
    assert "dead man" in line.ending.by
    text = "\n".join(lines(status_report(found(**changes))))
    assert "note: server burst-build-0f1e2d3c4b: cannot reach 192.0.2.1" in text


def test_a_server_that_is_off_bills() -> None:
    """Past the edge of its hour it goes with the next who comes by."""
    off = Inventory(servers=(server(3100, state=ServerState.OFF),), read_s=NOW)
    line = only("server", inventory=off, leases={})
    assert line.ending is not None
    assert line.ending.due
    assert line.eur_per_hour == Decimal("0.4423")
    nobody = only("server", inventory=off, leases={}, keepers=Keepers())
    assert nobody.ending is not None
    assert nobody.ending.by == "the next burst command"


def test_strays_of_every_location() -> None:
    """A second volume of a project, wherever, and an address without a server."""
    inventory = Inventory(
        volumes=(volume(), volume(id=32, name="burst-store-2", location="hel1", server_id=None)),
        primary_ips=(attrs.evolve(ADDRESS, id=22, assignee_id=None, labels=claim(Role.BUILD, -1)),),
        servers=(server(),),
        read_s=NOW,
    )
    report = status_report(found(inventory=inventory))
    strays = {line.name: line.note for line in report.of(Standing.STRAY)}
    assert strays == {
        "burst-store-2": "the project has another volume in fsn1",
        "primary_ip-21": "belongs to no server",
    }
    assert "note: volume burst-store-2: the project has another volume in fsn1" in lines(report)


def test_leftovers_are_shown_and_said_to_be_untouched() -> None:
    """Some labels, only a name, or only the ledger's word; what is foreign is not shown at all."""
    half = {key: value for key, value in server().labels.items() if key != labels.OWNER}
    known = Created(at_s=NOW - 50, kind=Kind.VOLUME, id=33, name="renamed", token="f00d")
    inventory = Inventory(
        servers=(server(labels=half), server(id=12, name="production", labels={"app": "web"})),
        volumes=(
            volume(labels={}),
            volume(id=33, name="renamed", labels={}),
            volume(id=34, name="database", labels={}),
        ),
        images=(Image(1, "burst-like", {}, 0, ImageState.AVAILABLE, True, "x86", 5),),
        read_s=NOW,
    )
    report = status_report(found(inventory=inventory, leases={}, events=(known,)))
    assert {line.id: line.note for line in report.lines} == {
        11: "some of our labels lack",
        31: "a name like ours, without our labels",
        33: "in the ledger, but its labels are gone",
    }
    assert all(line.ending is None for line in report.lines)
    assert report.eur_per_hour == 0
    assert report.bills
    text = lines(report)
    assert text[0] == "nothing of yours exists: €0.00/h"
    assert "without all of our labels, so never touched; delete them in the console:" in text


def test_other_owners_are_apart() -> None:
    theirs = server(id=12, name="burst-build-2", labels=claim(Role.BUILD, 9000, "bob"))
    inventory = Inventory(servers=(server(), theirs), read_s=NOW)
    report = status_report(found(inventory=inventory))
    assert [line.owner for line in report.of(Standing.OTHER)] == ["bob"]
    assert report.eur_per_hour == Decimal("0.4423")
    assert "of 1 other owner in this project:" in lines(report)


def test_all_local_state_lost() -> None:
    """Everything by owner, with what to do."""
    theirs = server(id=12, name="burst-build-2", labels=claim(Role.BUILD, 9000, "bob"))
    inventory = Inventory(servers=(server(), theirs), read_s=NOW)
    report = status_report(found(inventory=inventory, owner="", owner_known=False))
    text = lines(report)
    assert {line.owner for line in report.mine} == {OWNER, "bob"}
    assert text[1].startswith("owner")
    assert any("--owner" in line for line in text)
    assert all(line.ending is not None for line in report.mine)


def test_a_volume_since_its_last_use() -> None:
    """By the ledger; its end is its label's, which a use moves."""
    used = Command(
        at_s=NOW,
        command="c",
        id=11,
        verb="build",
        start_s=NOW - 7200,
        end_s=NOW - 3600,
        ok=True,
        project=PROJECT,
    )
    free = Inventory(volumes=(volume(server_id=None),), read_s=NOW)
    line = only("volume", inventory=free, events=(used,))
    assert line.idle_s == 3600
    assert line.ending is not None
    assert line.ending.at_s == NOW + 600000
    assert only("volume", inventory=free).idle_s is None


def test_prices_that_nobody_knows() -> None:
    """Unknown is not free."""
    report = status_report(found(tariff=Tariff()))
    assert not report.exact
    assert report.mine[0].eur_per_hour is None
    assert "at least free now" not in lines(report)
    assert any(line.startswith("at least") for line in lines(report))


@pytest.mark.parametrize(
    ("last_good_s", "warns"), [(None, True), (NOW - 901, True), (NOW - 899, False)]
)
def test_nobody_came_by(last_good_s: float | None, warns: bool) -> None:
    """Older than 15 minutes, while something bills."""
    report = status_report(found(reaper=ReaperState(last_good_s, "")))
    assert report.warn_of_reaper == warns
    free = Inventory(ssh_keys=(KEY,), read_s=NOW)
    quiet = status_report(found(inventory=free, reaper=ReaperState(last_good_s, "")))
    assert not quiet.warn_of_reaper
