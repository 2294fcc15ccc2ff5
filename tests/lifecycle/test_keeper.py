"""The daemon's keeper of servers: what it does for builds that need none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from burst_lifecycle.cloud.model import Kind, ServerState
from burst_lifecycle.events import Event, Reap
from burst_lifecycle.project import find
from burst_lifecycle.session import Lifecycle
from burst_lifecycle.setting_keys import TokenSource
from burst_lifecycle.settings import Hetzner
from burst_wrapper.config import Config
from burst_wrapper.daemon.server_keeper import Keeper
from burst_wrapper.daemon.server_rounds import Rounds
from burst_wrapper.daemon.tools import Tools
from lifecycles import Machine, box_of, fresh
from localcloud import LocalCloud

pytest_plugins = ("cloud_fixtures",)


@pytest.fixture
def machine() -> Machine:
    found = fresh(watched=False)
    asyncio.run(found.lifecycle.up("test"))
    return found


def look(machine: Machine, folder: Path, times: int = 1) -> None:
    """As the first unit of a build makes it look for a server."""

    async def main() -> None:
        keeper = Keeper(find(str(folder)), bytes(folder), Tools(bytes(folder)), {}, lambda: None)
        lifecycle: Lifecycle = machine.lifecycle
        keeper._lifecycle = lifecycle
        for _ in range(times):
            await keeper._look(Config(hetzner=Hetzner()))
        assert not keeper.needs_us

    asyncio.run(main())


def test_a_server_that_turned_itself_off_is_ended(machine: Machine, tmp_path: Path) -> None:
    """Also by an editor's check, which would never boot one; its volume stays."""
    box = box_of(machine)
    box.shut_down()
    machine.account.change(box.server_id, ServerState.OFF)
    look(machine, tmp_path)
    assert machine.account.held[Kind.SERVER] == {}
    assert len(machine.account.held[Kind.VOLUME]) == 1


@pytest.mark.parametrize("works", [False, True])
def test_before_this_machine_sleeps(machine: Machine, tmp_path: Path, *, works: bool) -> None:
    """Nobody can come by then: what is idle goes, in the middle of its paid hour; what works stays
    to its end."""
    if works:
        box_of(machine).work()

    async def main() -> None:
        project = find(str(tmp_path))
        keeper = Keeper(project, bytes(tmp_path), Tools(bytes(tmp_path)), {}, lambda: None)
        await keeper.before_sleep()  # nothing is known of any server
        keeper._lifecycle = machine.lifecycle
        keeper._exists = True
        await keeper.before_sleep()

    machine.account.world.pass_time(60)
    asyncio.run(main())
    assert bool(machine.account.held[Kind.SERVER]) is works
    assert len(machine.account.held[Kind.VOLUME]) == 1


def test_looking_at_everything_is_rare(machine: Machine, tmp_path: Path) -> None:
    """An editor that checks on every save asks for servers; for all there is once in a while."""
    box = box_of(machine)
    box.shut_down()
    machine.account.change(box.server_id, ServerState.OFF)
    asked: list[str] = []
    machine.hook = asked.append
    look(machine, tmp_path, times=5)
    assert asked.count("before inventory") == 1


def test_a_server_of_two_projects_is_reaped_once_a_minute(machine: Machine, tmp_path: Path) -> None:
    """Each has a keeper, and both hear whether it is still there."""
    tools = Tools(bytes(tmp_path))

    async def main() -> list[bool]:
        rounds = Rounds()
        keepers = []
        for name in ("one", "two"):
            project = find(str(tmp_path / name))
            keeper = Keeper(project, bytes(tmp_path), tools, {}, lambda: None, rounds=rounds)
            keeper._lifecycle = machine.lifecycle
            keeper._exists = True
            keepers.append(keeper)
        config = Config(hetzner=Hetzner())
        await asyncio.gather(*(keeper._reap_once(config) for keeper in keepers))
        return [keeper.needs_us for keeper in keepers]

    asked: list[str] = []
    machine.hook = asked.append
    assert asyncio.run(main()) == [True, True]
    # A reap brings the ledger up to date and looks; then comes the look at what is left.
    assert asked.count("before inventory") == 3
    box = box_of(machine)
    box.shut_down()
    machine.account.change(box.server_id, ServerState.OFF)
    assert asyncio.run(main()) == [False, False]
    assert machine.account.held[Kind.SERVER] == {}


def test_a_token_that_was_replaced_is_taken_up(
    paper_cloud: LocalCloud, home: Path, tmp_path: Path
) -> None:
    """Revoked while servers run, with the new one in the same file: the daemon goes on reaping."""
    cloud = paper_cloud
    token = home / "token"
    token.touch(0o600)
    token.write_text(cloud.token)
    source = TokenSource(file=str(token))
    config = Config(hetzner=Hetzner(token=source, endpoint=cloud.endpoint, owner="me"))
    keeper = Keeper(find(str(tmp_path)), bytes(tmp_path), Tools(bytes(tmp_path)), {}, lambda: None)

    async def main() -> list[Event]:
        await keeper._reap_once(config)
        cloud.revoke(cloud.token)
        keeper._rounds = Rounds()
        await keeper._reap_once(config)  # refused, and nothing else is there
        token.write_text(cloud.add_token().value)
        await keeper._reap_once(config)  # refused
        await keeper._reap_once(config)
        assert keeper._lifecycle is not None
        events = keeper._lifecycle.context.ledger.read().events
        await keeper.close()
        return list(events)

    reaps = [event for event in asyncio.run(main()) if isinstance(event, Reap)]
    assert [reap.ok for reap in reaps] == [True, True]
