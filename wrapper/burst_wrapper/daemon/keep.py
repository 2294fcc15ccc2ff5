"""An accepted result is kept where it was made, at home, and on a server that lacks it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import attrs

from burst_protocol import messages as m
from burst_protocol.errors import BurstError
from burst_wrapper.daemon.judge import pin, wide_list
from burst_wrapper.daemon.servers import Made
from burst_wrapper.inputlist import InputList, World, strong_key, variant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from burst_protocol.action import ActionResult, OutputFile
    from burst_wrapper.daemon.attempt import Attempt, Ended
    from burst_wrapper.daemon.executor import Executor
    from burst_wrapper.daemon.gather import Gathered
    from burst_wrapper.daemon.plan import Plan
    from burst_wrapper.daemon.servers import Build
    from burst_wrapper.daemon.services import Services

_LISTS_KEPT: Final = 8
"""Of one unit: the last ones are the likeliest."""


@attrs.frozen
class Keeper:
    """For one unit, after its answer. `home` is the embedded agent where another one is asked."""

    services: Services
    plan: Plan
    env: Mapping[bytes, bytes]
    executor: Executor
    home: Executor | None
    build: Build | None
    left: Callable[[OutputFile], bool]
    """Whether an output stays where it was made."""

    async def keep(self, attempt: Attempt, ended: Ended, gathered: Gathered) -> None:
        """Accept, or release what cannot be found again by what it was made of."""
        assert ended.result is not None
        executor, result = self.executor, ended.result
        try:
            inputs = await self._inputs(attempt, ended, gathered)
            if inputs is None:
                executor.link.send(m.Release(attempt.identity))
                return
            world = World(self.services.stats, self.env)
            pin(world, inputs, gathered.shown)
            if self.plan.shareable:
                inputs = inputs.neutral(self.plan.target_dir)
            key = self._key(inputs, world, ended)
            encoded = inputs.encode()
            accept = m.Accept(attempt.identity, self.plan.weak_key, encoded, key, result)
            if executor.local:
                self.services.embedded.keep(executor, accept)
            else:
                executor.link.send(accept)
            known = self.services.lists.get(self.plan.weak_key, ())
            others = (data for data in known if data != encoded)
            self.services.lists[self.plan.weak_key] = (encoded, *others)[:_LISTS_KEPT]
            if not executor.local and not any(self.left(output) for output in result.outputs):
                await self.fill_home(key, result)
            self.offer_later(key, result)
        finally:
            executor.forget(attempt.identity, attempt.digests())

    async def _inputs(self, attempt: Attempt, ended: Ended, gathered: Gathered) -> InputList | None:
        """What the result was made of; None where that is not known, or no more so."""
        plan, executor, services = self.plan, self.executor, self.services
        if attempt.dep_info is None:
            return None
        if ended.verdict.complete:
            inputs = attempt.judge.input_list(attempt.dep_info)
        elif plan.unknown_macros or not executor.isolates:
            return None
        else:
            inputs = wide_list(gathered.shown, attempt.dep_info, plan)
        if executor.local and not await asyncio.to_thread(
            services.gatherer.unchanged,
            gathered.shown,
            inputs.files(),
            isolated=executor.isolates,
        ):
            return None
        return inputs

    def _key(self, inputs: InputList, world: World, ended: Ended) -> bytes:
        plan = self.plan
        strong = strong_key(plan.weak_key, inputs, world, plan.target_dir)
        return variant(
            strong,
            None if ended.plain_stderr else plan.stderr_key,
            plan.target_dir if ended.mentions and plan.shareable else None,
        )

    async def fill_home(self, key: bytes, result: ActionResult) -> None:
        """What came from elsewhere is kept in the home store; failing that costs only time."""
        home, spool = self.home, self.executor.spool
        if home is None or spool is None or not home.usable:
            return
        lists = self.services.lists.get(self.plan.weak_key, ())
        if not lists:
            return
        from burst_protocol import programs as p  # noqa: PLC0415 - a build at home needs none

        with contextlib.suppress(BurstError):
            files = tuple((d, spool.path(d)) for d in dict.fromkeys(result.digests()))
            home.link.send(m.PutFiles(0, files))
            home.link.send(m.PutResult(self.plan.weak_key, lists[0], key, result))
            # What it lacks of nothing is answered after all that came before.
            await home.link.ask(p.AskMissing(home.link.new_id(), ()))

    def offer_later(self, key: bytes, result: ActionResult) -> None:
        """What the project's own store on a server lacks: it was not made there, or only on that
        server's own disk, which goes with it."""
        if self.build is None or not (self.executor.local or not self.executor.lasting):
            return
        if lists := self.services.lists.get(self.plan.weak_key, ()):
            made = Made(self.plan.weak_key, lists[0], key, result)
            self.services.servers.offer_later(self.build, made)
