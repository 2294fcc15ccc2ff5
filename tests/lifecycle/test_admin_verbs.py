"""Verbs of `burst-admin` against a cloud in memory: what they do, what they say, how they end."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import time
from collections.abc import AsyncIterable, Callable, Sequence
from decimal import Decimal
from pathlib import Path

import attrs
import pytest

from admin_stage import CONFIG, Stage, Terminal
from burst_lifecycle import labels
from burst_lifecycle.admin import here, main, status
from burst_lifecycle.admin.live import Live
from burst_lifecycle.admin.parser import make_parser
from burst_lifecycle.admin.tariff import Tariff
from burst_lifecycle.books import Account
from burst_lifecycle.cloud.model import Inventory, Kind, Server, ServerState
from burst_lifecycle.context import Answer, Login, Ssh
from burst_lifecycle.errors import CloudUnreachable, Unauthorized
from burst_lifecycle.events import Created, Event, Refusal, Seen
from burst_lifecycle.labels import Claim, Role
from burst_lifecycle.notices import Level, Notice
from lifecycles import OWNER, PROJECT, box_of
from memory_bill import bill


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    return Stage(tmp_path)


@pytest.fixture
def running(stage: Stage) -> Stage:
    """A server that is ready, with its volume, idle since ten minutes."""
    asyncio.run(stage.machine.lifecycle.up("test"))
    stage.machine.account.world.pass_time(600)
    return stage


def turned_off(stage: Stage) -> None:
    """As by its dead man."""
    box = box_of(stage.machine)
    box.shut_down()
    stage.machine.account.change(box.server_id, ServerState.OFF)


def held(stage: Stage, kind: Kind) -> list[int]:
    return list(stage.machine.account.held[kind])


def test_up_says_what_it_costs_before_and_after(stage: Stage) -> None:
    said = stage.run("up", "--server-type", "ccx43", "--hard-end", "2h")
    assert said.code == 0
    assert "ccx43: €0.4423/h without VAT, at most €0.88 until its hard end in 2 h" in said.err
    assert "is ready: ccx43 in fsn1, €0.4423/h" in said.out
    (server,) = stage.machine.account.held[Kind.SERVER].values()
    assert server.type == "ccx43"
    assert int(server.labels[labels.EXPIRES]) <= stage.now_s + 2 * 3600
    again = stage.run("up", "--json")
    assert json.loads(again.out)["id"] == server.id
    assert len(held(stage, Kind.SERVER)) == 1


def test_a_refusal_is_an_error_of_the_tree(stage: Stage) -> None:
    """Error, hint, its exit code; nothing on stdout."""
    types = ("ccx63", "ccx53", "ccx43")
    places = ("fsn1", "nbg1", "hel1")
    stage.machine.account.no_capacity = {(name, place) for name in types for place in places}
    said = stage.run("up")
    assert (said.code, said.out) == (47, "")
    assert "\nerror: a server cannot be had now" in said.err
    assert "\nhint: more entries in `server_type`" in said.err


def test_status_and_its_document(running: Stage) -> None:
    said = running.run("status")
    assert said.code == 0
    assert "running, 0 clients" in said.out
    document = json.loads(running.run("status", "--json").out)
    assert {one["kind"] for one in document["resources"]} >= {"server", "volume", "address", "key"}
    assert document["owner"] == OWNER


def test_watch_on_no_terminal_prints_documents(running: Stage) -> None:
    """One line of JSON per look, no escape sequences; ended like any program."""
    looks = 0

    def hook(name: str) -> None:
        nonlocal looks
        looks += name == "before prices"
        if looks == 2:
            raise KeyboardInterrupt

    running.machine.hook = hook
    desk = running.desk()
    options = make_parser().parse_args(["status", "--watch", "--json", "--interval", "10s"])
    world = running.machine.account.world

    async def soon(_seconds: float) -> None:
        world.pass_time(10)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("burst_lifecycle.admin.status.asyncio.sleep", soon)
        assert main.run(options, desk) == 130
    assert isinstance(desk.stdout, io.StringIO)
    lines = desk.stdout.getvalue().splitlines()
    assert [json.loads(line)["schema"] for line in lines] == [1]
    assert "\x1b" not in lines[0]


def test_watch_must_not_ask_too_often(stage: Stage) -> None:
    said = stage.run("status", "--watch", "--interval", "1s")
    assert (said.code, said.out) == (2, "")


def test_down_shows_asks_and_keeps_the_volume(running: Stage) -> None:
    no = running.run("down", answers="n\n")
    assert no.code == 1
    assert len(held(running, Kind.SERVER)) == 1
    yes = running.run("down", answers="y\n")
    assert yes.code == 0
    assert "this will be deleted:" in yes.err
    assert "stays: volume burst-store-" in yes.err
    assert yes.out.startswith("deleted server burst-build-")
    assert held(running, Kind.SERVER) == []
    assert len(held(running, Kind.VOLUME)) == 1
    assert running.run("down", "--yes").out.startswith("nothing to delete\n")


def test_down_with_nobody_to_ask(running: Stage) -> None:
    said = running.run("down")
    assert (said.code, said.out) == (2, "")
    assert "hint: add --yes" in said.err
    assert len(held(running, Kind.SERVER)) == 1
    dry = running.run("down", "--dry-run")
    assert dry.code == 0
    assert len(held(running, Kind.SERVER)) == 1


def test_down_with_volumes(running: Stage) -> None:
    said = running.run("down", "--with-volumes", "--yes")
    assert said.code == 0
    assert held(running, Kind.SERVER) == held(running, Kind.VOLUME) == []


def test_down_with_everything(running: Stage) -> None:
    """Then nothing with our labels is left."""
    said = running.run("down", "--everything", "--yes")
    assert said.code == 0
    assert all(held(running, kind) == [] for kind in Kind if kind is not Kind.IMAGE)


def test_down_refuses_what_works_and_says_so(running: Stage) -> None:
    box_of(running.machine).running = 2
    said = running.run("down", "--yes")
    assert (said.code, said.out) == (59, "")
    assert "has 2 running actions of 0 clients" in said.err
    assert "--force" in said.err
    box_of(running.machine).running = 6
    box_of(running.machine).crates = ["serde", "syn", "regex", "tokio", "app"]
    named = "(serde for 1 min; syn for 1 min; regex for 1 min; tokio for 1 min; 2 more)"
    assert named in running.run("down", "--yes").err
    assert len(held(running, Kind.SERVER)) == 1
    forced = running.run("down", "--yes", "--force")
    assert forced.code == 0
    assert "with --force, although" in forced.err
    assert held(running, Kind.SERVER) == []


@pytest.mark.parametrize("verb", ["status", "audit", "doctor", "volume list"])
def test_every_command_ends_what_bills_for_nothing(running: Stage, verb: str) -> None:
    """Its dead man turned the server off: whoever comes by next with the token deletes it, after
    its own business, and says so; the volume stays."""
    turned_off(running)
    said = running.run(*verb.split())
    assert "bills for nothing and is deleted: " in said.err
    assert held(running, Kind.SERVER) == []
    assert len(held(running, Kind.VOLUME)) == 1
    assert "bills for nothing" not in running.run(*verb.split()).err


def test_who_comes_by_never_guesses(running: Stage) -> None:
    """Neither one that works or idles, nor without knowing who we are, nor where only a look was
    asked for."""
    assert "bills for nothing" not in running.run("status").err
    turned_off(running)
    running.machine.account.world.pass_time(2700)
    running.run("reap", "--dry-run")
    running.run("down", "--dry-run")
    running.owner_known = False
    running.run("status")
    assert len(held(running, Kind.SERVER)) == 1


def test_down_between_look_and_drain(running: Stage) -> None:
    """A client came after the question was shown: its agent says no, and the server stays."""

    def hook(name: str) -> None:
        if name == "step before drain":
            box_of(running.machine).running = 1

    running.machine.hook = hook
    said = running.run("down", "--yes")
    assert said.code == 49
    assert "its agent says: running" in said.err
    assert len(held(running, Kind.SERVER)) == 1


def test_down_with_all_state_lost(running: Stage) -> None:
    """Nothing is deleted without saying whose."""
    running.owner_known = False
    said = running.run("down", "--yes")
    assert said.code == 2
    assert f"owner {OWNER}" in said.err
    assert running.run("down", "--yes", "--owner", OWNER).code == 0
    assert held(running, Kind.SERVER) == []


def test_extend_moves_label_and_dead_man(running: Stage) -> None:
    (server,) = running.machine.account.held[Kind.SERVER].values()
    end_s = int(server.labels[labels.EXPIRES])
    said = running.run("extend", "--by", "2h", "--keep-alive", "20min")
    assert said.code == 0
    assert "more hours" in said.err
    (after,) = running.machine.account.held[Kind.SERVER].values()
    assert abs(int(after.labels[labels.EXPIRES]) - end_s - 7200) <= 1
    assert "it may be idle for 20 min" in said.out
    assert running.run("extend").code == 2
    running.run("down", "--yes")
    assert running.run("extend", "--by", "1h").code == 46


def test_reap_says_what_it_did_and_why(running: Stage) -> None:
    early = running.run("reap")
    assert early.code == 0
    assert "kept server burst-build-" in early.out
    running.machine.account.world.pass_time(2700)
    dry = running.run("reap", "--dry-run", "--json")
    assert [one["name"][:6] for one in json.loads(dry.out)["deleted"]] == ["server"]
    assert len(held(running, Kind.SERVER)) == 1
    said = running.run("reap", "--quiet")
    assert said.out.startswith("deleted server burst-build-")
    assert held(running, Kind.SERVER) == []


def test_nobody_came_by_for_a_while(running: Stage) -> None:
    """Also commands that have nothing to do with servers say so; after a reap nobody does."""
    assert "the last good reap was never" in running.run("cache", "size").err
    assert running.run("reap").err == ""
    assert "warning" not in running.run("status").err
    running.machine.account.world.pass_time(1000)
    said = running.run("status")
    assert "warning: something bills, and the last good reap was 16 min 40 s ago" in said.err
    assert said.code == 0


@pytest.mark.parametrize(
    "verb",
    [
        "up", "status", "audit", "down --dry-run", "extend --by 1h", "image list", "volume list",
        "volume rm 4 --yes", "cache list", "cache size", "doctor",
    ],
)  # fmt: skip
def test_every_command_says_that_nobody_comes_by(running: Stage, verb: str) -> None:
    """More than 15 minutes after the last good reap, also when it fails; not before."""
    running.run("reap")
    running.machine.account.world.pass_time(880)
    assert "the last good reap" not in running.run(*verb.split()).err
    running.machine.account.world.pass_time(30)
    said = running.run(*verb.split())
    assert "warning: something bills, and the last good reap was 15 min" in said.err
    assert "hint: `burst-admin reap`, or for good `burst-admin reap --install`" in said.err


def test_notices_are_shown_once(stage: Stage) -> None:
    desk = stage.desk()
    text = "no server: no capacity"
    desk.notices.post(Notice(text, "no-capacity", Level.WARNING, "wait", at_s=stage.now_s))
    first = stage.run("image", "list")
    assert first.err.splitlines() == [
        "notice: 08:00: no server: no capacity",
        "hint: wait",
    ]
    assert stage.run("image", "list").err == ""


ELSEWHERE = Created(
    at_s=1_800_000_000.0,
    kind=Kind.SERVER,
    id=4711,
    name="burst-build-other",
    location="hel1",
    created_s=1_799_990_000.0,
    owner=OWNER,
    token="deadbeefdeadbeef",
    endpoint="memory",
    eur_per_hour="1.3678",  # type: ignore[arg-type]  # written as text
)


def test_another_token_made_something(stage: Stage) -> None:
    """Named with place and price, where to look, and a failure: this token cannot end it."""
    stage.ledger.append(ELSEWHERE)
    said = stage.run("status")
    assert said.code == 55
    assert "nothing of yours exists" in said.out
    assert (
        "server burst-build-other (id 4711, hel1, since 05:13) may still cost €1.3678/h" in said.err
    )
    assert "console.hetzner.com" in said.err
    assert "error: something still costs money: server burst-build-other" in said.err


@pytest.mark.parametrize("verb", [["cache", "list"], ["completion", "bash"]])
def test_commands_that_ask_no_cloud_name_it_too(stage: Stage, verb: list[str]) -> None:
    """What this machine knows is enough: its ledger, and the token of its configuration."""
    (stage.folder / "token").write_text("another\n")
    (stage.folder / "token").chmod(0o600)
    stage.configure(CONFIG.replace("/nowhere/token", str(stage.folder / "token")))
    assert stage.run(*verb).code == 0
    stage.ledger.append(ELSEWHERE)
    said = stage.run(*verb)
    assert said.code == 55
    assert "server burst-build-other (id 4711" in said.err
    assert "burst-build-other" not in said.out


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("verb", "code"),
    [
        ("status", 45),
        ("reap", 45),
        ("down --yes", 45),
        ("up", 45),
        ("extend --by 1h", 45),
        ("image list", 45),
        ("volume list", 45),
        ("audit", 55),
        ("doctor", 1),
    ],
)
def test_a_revoked_token(running: Stage, verb: str, code: int, *, late: bool) -> None:
    """Everything that may bill is out of reach; named with its price, and never a success."""
    refusal = Unauthorized("unauthorized", what="GET /servers")

    def refuse(name: str) -> None:
        if name in {"before inventory", "before server_types"}:
            raise refusal

    if late:
        running.machine.hook = refuse
    else:
        running.refusal = refusal
    said = running.run(*verb.split())
    assert said.code == code
    for what, price in (("server burst-build-", "€1.3678/h"), ("volume burst-store-", "€0.0077/h")):
        (line,) = [one for one in said.err.splitlines() if f"warning: {what}" in one]
        assert f"may still cost {price}" in line
    assert "https://console.hetzner.com" in said.err


def test_volumes(running: Stage) -> None:
    """Listed, in use refused, adopted, deleted."""
    listed = running.run("volume", "list")
    assert PROJECT in listed.out
    (ident,) = held(running, Kind.VOLUME)
    used = running.run("volume", "rm", str(ident), "--yes")
    assert used.code == 49
    assert running.run("volume", "rm", "4", "--yes").code == 46
    other = "f" * 16
    adopted = running.run("volume", "adopt", str(ident), "--project", other, "--yes")
    assert adopted.code == 0
    assert running.machine.account.held[Kind.VOLUME][ident].labels[labels.PROJECT] == other
    assert running.run("volume", "adopt", str(ident), "--project", "../x", "--yes").code == 2
    running.run("down", "--yes")
    document = json.loads(running.run("volume", "list", "--json").out)
    assert [one["id"] for one in document["volumes"]] == [ident]
    assert running.run("volume", "rm", str(ident), "--yes").code == 0
    assert held(running, Kind.VOLUME) == []


def test_the_project_of_a_folder(stage: Stage) -> None:
    """All worktrees of a repository are one; without git it is the workspace; else none."""
    assert stage.run("volume", "list").out == "you have no volume\n"
    assert here.project_here(stage.desk()) is None
    (stage.folder / "Cargo.toml").write_text('[package]\nname = "a"\n[lib]\npath = "a.rs"\n')
    (stage.folder / "a.rs").write_text("")
    for name in ("CARGO_HOME", "RUSTUP_HOME"):
        if name in os.environ:
            stage.environ[name] = os.environ[name]
    stage.environ["HOME"] = os.environ.get("HOME", "/")
    assert here.project_here(stage.desk()) == here.project_id(str(stage.folder))
    subprocess.run(["git", "init", "-q", str(stage.folder)], check=True)
    assert here.project_here(stage.desk()) == here.project_id(str(stage.folder / ".git"))
    assert here.project_id("/a/b/../c") == here.project_id("/a/c")


def test_images(running: Stage) -> None:
    assert running.run("image", "list").out.startswith("you have no image")
    assert json.loads(running.run("image", "list", "--json").out) == {"schema": 1, "images": []}


def test_doctor(running: Stage) -> None:
    """Every check with its result; what fails says what to do."""
    running.ledger.append(Refusal(at_s=running.now_s - 60, code="quota", what="server"))
    said = running.run("doctor")
    assert said.code == 1
    lines = said.out.splitlines()
    assert "ok   token: file /nowhere/token works" in lines
    assert "ok   token may write: yes" in lines
    assert "ok   ssh: 1 server answers" in lines
    assert "FAIL quota: refused 1 min ago: server" in lines
    assert "FAIL reaper: not installed, never ran well" in lines
    document = json.loads(running.run("doctor", "--json").out)
    assert {check["what"] for check in document["checks"]} >= {"versions", "clock", "key"}


def test_doctor_without_a_cloud(stage: Stage) -> None:
    """It says what is wrong instead of failing with it."""
    stage.refusal = CloudUnreachable("no route", what="GET /servers")
    said = stage.run("doctor")
    assert said.code == 1
    assert "FAIL cloud-unreachable: the cloud cannot be reached" in said.out


def test_every_command_names_what_has_no_effect(stage: Stage) -> None:
    """Once, after its own words: what waits for the user's trust, or is not a project's to say."""
    folder = stage.folder / ".config"
    folder.mkdir()
    (folder / "burst.toml").write_text("[hetzner]\nkeep_alive_s = 9\nhard_end_s = 99\n")
    said = stage.run("status")
    names = "`hetzner.keep_alive_s`, `hetzner.hard_end_s` have no effect"
    assert said.err.count(f"burst.toml is not trusted: {names}\nhint: read it, then") == 1
    (folder / "burst.toml").write_text("host = 1\n")
    assert "warning: " in (err := stage.run("status").err)
    assert "not a project's to set" in err


def test_not_configured(stage: Stage) -> None:
    stage.configure("")
    said = stage.run("up")
    assert (said.code, said.out) == (40, "")
    assert "hint: `cargo burst enable hetzner`" in said.err


def test_audit_of_a_session(running: Stage) -> None:
    """The sum is the bill of what there is: server, address, volume."""
    running.run("down", "--yes", "--with-volumes")
    document = json.loads(running.run("audit", "--json").out)
    costs = {
        line["group"]: (line["count"], line["hours"], line["exact"]) for line in document["costs"]
    }
    assert costs["servers"] == (1, 1, True)
    assert costs["volumes"] == (1, 1, True)
    assert document["total"]["exact"]
    offline = json.loads(running.run("audit", "--json", "--offline").out)
    assert offline["total"]["eur"] == document["total"]["eur"]
    rated = json.loads(running.run("audit", "--json", "--rate", "9").out)
    assert {line["group"]: line["eur"] for line in rated["costs"]}["servers"] == "9"


@pytest.mark.parametrize("error_s", [0, 86_400, -86_400])
@pytest.mark.parametrize("ended", [False, True])
def test_an_audit_by_a_clock_that_is_wrong(running: Stage, error_s: float, *, ended: bool) -> None:
    """What runs, and a volume that alone is left, cost what the cloud charges by its own clock."""
    account = running.machine.account
    account.world.pass_time(1800)
    if ended:
        running.run("down", "--yes")
        account.world.pass_time(7200)
    account.world.home_error_s = error_s
    found = json.loads(running.run("audit", "--json").out)
    said = {
        line["group"]: Decimal(line["eur"]).quantize(Decimal("0.000001"))
        for line in found["costs"]
        if Decimal(line["eur"])
    }
    assert said == bill(account.bought, OWNER, account.world.now_s)
    assert found["total"]["exact"]


def test_another_machines_copy_counts_once(running: Stage) -> None:
    """The same server in two ledgers is one server; what only the other knows is added."""
    other = running.folder / "other.jsonl"
    other.write_bytes((Path(running.ledger.path)).read_bytes() + b'{"event": "seen", torn')
    once = json.loads(running.run("audit", "--json").out)
    twice = json.loads(running.run("audit", "--json", "--ledger", "other.jsonl").out)
    assert twice["total"] == once["total"]
    assert (once["unreadable"], twice["unreadable"]) == (0, 1)


def test_watch_draws_anew_on_a_terminal(running: Stage) -> None:
    """Notices are shown, and stay for a command that somebody reads."""
    desk = running.desk()
    desk.stdout = Terminal()
    notice = Notice("ends in ten minutes", "hard-end:1", Level.MONEY, at_s=running.now_s)
    desk.notices.post(notice)
    options = make_parser().parse_args(["status", "--watch"])

    async def draw() -> None:
        async with desk.control() as control:
            status._draw(options, desk, await status.gather(desk, control))

    asyncio.run(draw())
    shown = desk.stdout.getvalue()
    assert shown.startswith("\x1b[H\x1b[2J")
    assert "notice: 08:10: ends in ten minutes" in shown
    assert [one.text for one in desk.notices.pending()] == [notice.text]


def test_audit_writes_a_page(running: Stage) -> None:
    said = running.run("audit", "--html", "spent.html")
    assert said.out == "spent.html\n"
    assert (running.folder / "spent.html").read_text().startswith("<!doctype html>")
    assert running.run("audit", "--ledger", "nowhere.jsonl").code == 10


def test_a_server_that_is_off_is_deleted_by_down(running: Stage) -> None:
    (ident,) = held(running, Kind.SERVER)
    box_of(running.machine).power_off()
    running.machine.account.change(ident, ServerState.OFF)
    assert running.run("down", "--yes").code == 0
    assert held(running, Kind.SERVER) == []


def test_what_another_machine_made_is_remembered(running: Stage, tmp_path: Path) -> None:
    """Its ledger is lost; who saw the server, or deleted it, knows what it cost."""
    here = Stage(tmp_path / "here", machine=running.machine)
    assert here.ledger.path != running.ledger.path
    here.run("down", "--yes", "--with-volumes")
    found = json.loads(here.run("audit", "--json", "--offline").out)
    costs = {line["group"]: (line["eur"], line["exact"]) for line in found["costs"]}
    assert costs["servers"] == ("1.3678", True)
    assert found["total"]["exact"]


def test_a_look_is_noted_twice_an_hour() -> None:
    """So that an end by other hands is known to the half hour, and the ledger stays small."""
    start_s = 1_800_000_000.0
    there = Server(
        id=7,
        name="burst-build-7",
        labels=Claim(OWNER, Role.BUILD, "op", int(start_s + 9e4)).labels(),
        created_s=start_s,
        state=ServerState.RUNNING,
        type="ccx43",
        location="fsn1",
    )
    here = Account("memory", "token")
    events: list[Event] = []
    for minute in range(0, 120, 5):
        inventory = Inventory(servers=(there,), read_s=start_s + minute * 60)
        events += status.news(events, inventory, OWNER, here, Tariff())
    assert [type(event) for event in events] == [Created, Seen, Seen, Seen]
    now = Inventory(servers=(there,), read_s=start_s + 9000)
    assert status.news(events, now, "bob", here, Tariff()) == []


def test_the_months_budget(running: Stage) -> None:
    """What is committed now counts, a volume for its whole month."""
    running.configure(CONFIG + "budget_eur_per_month = 30\n")
    assert "this month €7.09 of €30.00 are spent or committed\n" in running.run("status").out
    running.run("down", "--yes")
    document = json.loads(running.run("status", "--json").out)
    assert Decimal(document["month"]["budget_eur"]) == 30


@attrs.define
class Reading:
    """Ssh that also reads a file on the server."""

    inner: Ssh
    content: bytes
    read: list[Sequence[str]] = attrs.field(factory=list)

    async def run(
        self, login: Login, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30.0
    ) -> Answer:
        if argv[0] == "cat":
            self.read.append(argv)
            return Answer(0, self.content)
        return await self.inner.run(login, argv, stdin=stdin, timeout_s=timeout_s)

    async def follow(
        self,
        login: Login,
        argv: Sequence[str],
        *,
        stdin: AsyncIterable[bytes],
        show: Callable[[bytes], None],
        timeout_s: float,
    ) -> Answer:
        raise NotImplementedError

    async def forget(self, login: Login) -> None:
        await self.inner.forget(login)


def test_the_ledger_on_a_volume_is_read(running: Stage) -> None:
    """What other machines' sessions left there."""
    lifecycle = running.machine.lifecycle
    line = b'{"event":"session","t":1.0,"session":"s","id":7,"start_s":1.0,"end_s":9.0}\n{"torn'
    ssh = Reading(lifecycle.context.ssh, line)
    lifecycle.context = attrs.evolve(lifecycle.context, ssh=ssh)
    (copy,) = asyncio.run(Live(lifecycle, "").copies())
    assert [event.EVENT for event in copy.events] == ["session"]
    assert copy.unreadable == 1
    (volume_id,) = held(running, Kind.VOLUME)
    assert ssh.read == [["cat", "--", f"/mnt/burst/{volume_id}/ledger.jsonl"]]
