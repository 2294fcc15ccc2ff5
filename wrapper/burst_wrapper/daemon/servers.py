"""Servers of our own, as units see them: what a build has before it, and where it may go.

Light: whoever has no `[hetzner]` in the configuration never loads more than this. A unit never
waits here for a cloud (unless it must): while a server boots, units go on at home and move over the
moment its agent answers.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from burst_lifecycle.project import Project, find, nearest_workspace
from burst_lifecycle.settings import PROJECT_FILE
from burst_protocol.action import ActionResult
from burst_protocol.errors import BurstError, Draining
from burst_wrapper.argv import RustcCall
from burst_wrapper.callers import Caller, same_process
from burst_wrapper.config import Config, config_path, load_for
from burst_wrapper.daemon.executor import Executor
from burst_wrapper.daemon.spent import Spent
from burst_wrapper.daemon.tools import Tools
from burst_wrapper.forecast import Durations, Expectations, Forecast, Outlook, optimised
from burst_wrapper.index import Index

if TYPE_CHECKING:
    from burst_wrapper.daemon.plan import Plan
    from burst_wrapper.daemon.server_keeper import Keeper
    from burst_wrapper.daemon.server_rounds import Rounds

_FRESH_S: Final = 2.0
"""A project's settings are read again after this time."""
_MADE_LIMIT: Final = 4096
_ROOTS_LIMIT: Final = 64
_CHECKS: Final = frozenset((b"check", b"c", b"clippy", b"doc", b"d", b"rustdoc"))


class Made:
    """A result that the project's volume does not have yet: home compiled it, or a server that had
    no volume."""

    __slots__ = ("inputs", "result", "strong_key", "weak_key")

    def __init__(
        self, weak_key: bytes, inputs: bytes, strong_key: bytes, result: ActionResult
    ) -> None:
        self.weak_key = weak_key
        self.inputs = inputs
        self.strong_key = strong_key
        self.result = result


class Build:
    """One cargo process: its project, its settings, and what it has before it."""

    def __init__(self, caller: Caller, project: Project, profile_dir: bytes) -> None:
        self.caller = caller
        self.project = project
        self.profile_dir = profile_dir
        self.outlook: Outlook | None = None
        self.spent = Spent()
        self.began_s = self.last_s = time.time()
        self.failed = False
        """Some unit of it did: what was not asked for says nothing then."""
        self.metadata_only = caller.verb in _CHECKS
        """`cargo check` compiles proc macros and build scripts, too: its verb tells before its
        first library does. (cargo-clippy calls `cargo check`.) Aliases are found out later."""


class Servers:
    def __init__(
        self,
        cache_dir: bytes,
        tools: Tools,
        index: Index,
        home: Callable[[], Executor | None],
    ) -> None:
        """`home`: the embedded agent if it runs, whose store holds what home compiled."""
        self._cache_dir = cache_dir
        self._tools = tools
        self._durations = Durations(index)
        self._expectations = Expectations(index)
        self._builds: dict[Caller, Build] = {}
        self._roots: dict[Caller, str] = {}
        self._configs: dict[str, tuple[float, Config]] = {}
        self._keepers: dict[str, Keeper] = {}
        self._rounds: Rounds | None = None
        self._made: dict[str, dict[bytes, Made]] = {}
        self._home = home

    # -- who is it for -----------------------------------------------------------------------

    def config(self, plain: Config, caller: Caller | None, cwd: bytes) -> Config:
        """With what this project's own file says, if it has one. ConfigError."""
        root = self._root(caller, cwd)
        if not os.path.exists(os.path.join(root, PROJECT_FILE)):
            return plain
        known = self._configs.get(root)
        now_s = time.monotonic()
        if known is None or now_s - known[0] > _FRESH_S:
            known = now_s, load_for(config_path(), os.fsencode(root))
            self._configs[root] = known
        return known[1]

    def _root(self, caller: Caller | None, cwd: bytes) -> str:
        """Of the workspace. Looked for once per cargo: it does not move under a build."""
        if caller is None:
            return nearest_workspace(os.fsdecode(cwd))
        found = self._roots.get(caller)
        if found is None:
            if len(self._roots) >= _ROOTS_LIMIT:
                self._roots.clear()
            found = self._roots[caller] = nearest_workspace(os.fsdecode(caller.cwd or cwd))
        return found

    def build(self, caller: Caller | None, plan: Plan) -> Build | None:
        """The build that this unit belongs to; None where nobody can be told apart."""
        if caller is None:
            return None
        found = self._builds.get(caller)
        if found is None:
            self._forget_ended()
            root = self._root(caller, plan.cwd)
            # `<profile>/deps` and `<profile>/build/<package>` both lie below the profile's folder.
            profile_dir = os.path.dirname(plan.out_dir)
            if os.path.basename(profile_dir) == b"build":
                profile_dir = os.path.dirname(profile_dir)
            found = Build(caller, find(root), profile_dir)
            lock_file = os.path.join(os.fsencode(root), b"Cargo.lock")
            found.outlook = Outlook(
                self._expectations.of(lock_file, profile_dir),
                self._durations,
                optimise=optimised(plan.call),
            )
            self._builds[caller] = found
        return found

    def _forget_ended(self) -> None:
        for caller, build in list(self._builds.items()):
            if same_process(caller):
                continue
            del self._builds[caller]
            outlook = build.outlook
            if outlook is not None and outlook.idle and not build.failed:
                self._expectations.ended(build.profile_dir, outlook.unasked)
            keeper = self._keepers.get(build.project.key)
            if keeper is not None:
                keeper.ended(build)

    # -- where it may go ---------------------------------------------------------------------

    async def executor(
        self, build: Build, plan: Plan, config: Config, *, required: bool
    ) -> Executor:
        """The server's agent with this platform there; BurstError says why not (now).

        Begins a boot if that is worth it. Waits for one only if the configuration says `wait`, or
        if home is no answer.
        """
        keeper = await self._keeper(build.project)
        outlook = build.outlook
        return await keeper.executor(
            config,
            plan,
            Forecast(0, 0, 0, 0) if outlook is None else outlook.forecast(),
            metadata_only=build.metadata_only,
            required=required,
        )

    async def connected(
        self,
        workspace_root: str,
        config: Config,
        note: Callable[[str], None],
        *,
        keep_alive_s: int | None = -1,
    ) -> Executor:
        """For what runs there: boots a server if there is none, and waits for it. BurstError.

        `keep_alive_s`: how long it stays when idle; -1: as configured; None: to its hard end.
        """
        keeper = await self._keeper(find(workspace_root))
        return await keeper.connected(config, note, keep_alive_s)

    def server_name(self, workspace_root: str) -> str:
        """Of the one that is there, if that is known."""
        keeper = self._keepers.get(find(workspace_root).key)
        return "" if keeper is None else keeper.server_name

    def state(self, workspace_root: str) -> str:
        """For people: `boots`, or as `Host.state`."""
        keeper = self._keepers.get(find(workspace_root).key)
        return "" if keeper is None else keeper.state

    async def cost(self, workspace_root: str, since_s: float) -> str:
        """What servers have cost since then, by the bill's rules, for people; empty if nothing."""
        keeper = self._keepers.get(find(workspace_root).key)
        return "" if keeper is None else await keeper.cost(since_s)

    async def _keeper(self, project: Project) -> Keeper:
        found = self._keepers.get(project.key)
        if found is None:
            # Half a second of imports, once, and only for those who have servers.
            keeper_class, rounds_class = await asyncio.to_thread(_load_keeper)
            found = self._keepers.get(project.key)
            if found is None:
                made = self._made.setdefault(project.key, {})
                self._rounds = self._rounds or rounds_class()
                found = keeper_class(
                    project, self._cache_dir, self._tools, made, self._home, rounds=self._rounds
                )
                self._keepers[project.key] = found
        return found

    # -- what came of it ---------------------------------------------------------------------

    def look(self) -> None:
        """Every few seconds: which builds are over."""
        self._forget_ended()

    def away(self, build: Build, unit: object) -> None:
        """It runs on a server from now on, until `ended`."""
        build.spent.away(unit)

    def missed(self, build: Build, unit: object, call: RustcCall) -> None:
        """The home store lacks it: it has to be compiled somewhere."""
        build.metadata_only = build.metadata_only or call.metadata_only
        if build.outlook is not None:
            build.outlook.missed(unit, call.crate_name or b"?")

    def hit(self, build: Build, call: RustcCall) -> None:
        if build.outlook is not None:
            build.outlook.hit(call.crate_name or b"?")

    def ended(self, build: Build, unit: object, call: RustcCall, rustc_ms: int) -> None:
        """However it ended. `rustc_ms`: 0 if that is not known."""
        build.spent.over(unit)
        build.last_s = time.time()
        if build.outlook is not None:
            build.outlook.ended(unit)
        if rustc_ms:
            self._durations.learn(call, rustc_ms)

    def refused(self, build: Build, error: BurstError) -> None:
        """The server that a unit was given did not take it."""
        keeper = self._keepers.get(build.project.key)
        if keeper is not None and isinstance(error, Draining):
            keeper.drained(error)

    def offer_later(self, build: Build, made: Made) -> None:
        """To the project's store on a server, when there is one that lasts."""
        kept = self._made.setdefault(build.project.key, {})
        while len(kept) >= _MADE_LIMIT:
            del kept[next(iter(kept))]
        kept[made.strong_key] = made

    # -- life --------------------------------------------------------------------------------

    @property
    def needs_us(self) -> bool:
        """A server is there or on its way: somebody has to look after it."""
        return any(keeper.needs_us for keeper in self._keepers.values())

    async def close(self) -> None:
        """Ends connections and waiting; what runs in the cloud is labelled with its end."""
        for keeper in self._keepers.values():
            await keeper.close()


def _load_keeper() -> tuple[type[Keeper], type[Rounds]]:
    from burst_wrapper.daemon.server_keeper import Keeper  # noqa: PLC0415 - see above
    from burst_wrapper.daemon.server_rounds import Rounds  # noqa: PLC0415 - see above

    return Keeper, Rounds
