"""Equal actions of several agents on one store run once, whoever is when between look and start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest

from burst_agent import locks
from burst_agent import place as place_module
from burst_agent.evict import Limits
from burst_agent.execute import Workshop
from burst_agent.jobserver import Jobserver
from burst_agent.place import Place
from burst_agent.runs import Event, Listener, Run
from burst_agent.slots import Slots
from burst_protocol import messages as m
from burst_protocol.action import Action, ActionResult

WEAK, STRONG, KEY = b"w" * 32, b"s" * 32, b"a" * 32
RESULT = ActionResult((), b"", (), b"/t", b"/t", 1)


@attrs.define
class Accounts:
    """An agent's, with one slot."""

    slots: Slots
    runs: int = 0

    def begin(self, request: m.Execute) -> None:
        pass

    def claim(self, run: Run) -> Run:
        return run

    def give(self, run: Run) -> None:
        pass

    def end(self, request: m.Execute) -> None:
        pass

    def executed(self) -> None:
        self.runs += 1

    def hit(self) -> None:
        pass


@attrs.define(eq=False)
class Client:
    """Who asked; hears what comes."""

    number: int = 1
    heard: list[object] = attrs.field(factory=list)

    def deliver(self, listener: Listener, event: m.Started | Event) -> None:
        self.heard.append(event)

    def answer(self, listener: Listener, known: m.Hit | m.Lists) -> None:
        self.heard.append(known)

    async def room(self) -> None:
        pass


def request(lists_tried: int = 0, strong_keys: tuple[bytes, ...] = ()) -> m.Execute:
    action = Action(argv=(b"/bin/true",), env=(), cwd=b"/", out_dir=b"/t", inputs=())
    return m.Execute(1, WEAK, strong_keys, lists_tried, KEY, action, push=False)


@attrs.define
class Agent:
    place: Place
    accounts: Accounts
    jobserver: Jobserver

    def begin(self, asked: m.Execute, client: Client) -> Run:
        shop = Workshop(
            self.place.store,
            self.place.materialiser,
            self.place.states,
            self.jobserver,
            local=True,
            room=client.room,
        )
        return self.place.begin(asked, client, shop)

    async def close(self) -> None:
        await self.place.close()
        self.jobserver.close()


def agents(root: Path, test: Callable[[Agent, Agent], Awaitable[None]]) -> None:
    async def scenario() -> None:
        both = []
        for _ in range(2):
            jobserver = Jobserver(1)
            accounts = Accounts(Slots(1, jobserver))
            place = Place(bytes(root), accounts, Limits(), list)
            both.append(Agent(place, accounts, jobserver))
        try:
            await test(both[0], both[1])
        finally:
            for agent in both:
                await agent.close()

    asyncio.run(scenario())


def keep(agent: Agent) -> None:
    agent.place.keep(m.PutResult(WEAK, b"list", STRONG, RESULT))


def test_a_result_that_came_between_the_look_and_the_start(tmp_path: Path) -> None:
    """Another agent ran it and kept it after we had looked, and holds no lock any more."""

    async def scenario(one: Agent, two: Agent) -> None:
        client = Client()
        asked = request()
        assert one.place.known(asked) is None
        keep(two)
        run = one.begin(asked, client)
        assert run.task is not None
        await run.task
        assert client.heard == [m.Lists(1, (b"list",))]
        assert one.accounts.runs == 0

    agents(tmp_path, scenario)


def test_a_long_run_elsewhere_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patience counts only once it has ended: then it is for whoever shall accept the result."""
    monkeypatch.setattr(place_module, "_PATIENCE_S", 0.0)

    async def scenario(one: Agent, two: Agent) -> None:
        client = Client()
        asked = request(strong_keys=(STRONG,))
        held = locks.KeyLocks(bytes(tmp_path / "run.locks"))
        assert held.take(KEY)
        assert held.take(locks.running(KEY))
        run = two.begin(asked, client)
        assert run.task is not None
        # More turns of the loop than it polls in: it still waits.
        done, _ = await asyncio.wait((run.task,), timeout=4 * place_module._POLL_S)
        assert not done
        keep(one)
        held.close()
        await run.task
        assert client.heard == [m.Hit(1, STRONG, RESULT)]
        assert two.accounts.runs == 0

    agents(tmp_path, scenario)
