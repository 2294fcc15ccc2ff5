"""One unit from request to answer: plan, look at home, run somewhere, fall back, record.

The order of preference: the home store, then the remote agent (if one is configured), then the
embedded agent, then plain rustc. Every step down has a reason that `explain` shows.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from burst_protocol import messages as m
from burst_protocol.action import OutputFile
from burst_protocol.digest import Digest
from burst_protocol.errors import (
    AgentGone,
    BlobMissing,
    BurstError,
    DigestMismatch,
    PlatformProblem,
    RemoteRequired,
    SandboxUnavailable,
    ToolchainProblem,
)
from burst_wrapper import policy
from burst_wrapper.argv import RustcCall, parse
from burst_wrapper.callers import Caller, nearest_target_dir
from burst_wrapper.config import Config
from burst_wrapper.daemon.account import Account
from burst_wrapper.daemon.answers import Answer, manifest_of
from burst_wrapper.daemon.attempt import Attempt, End, Ended
from burst_wrapper.daemon.client import Client
from burst_wrapper.daemon.deliver import Delivery
from burst_wrapper.daemon.executor import Executor
from burst_wrapper.daemon.gather import CannotGather, Gathered, Learned
from burst_wrapper.daemon.judge import expected, starts
from burst_wrapper.daemon.keep import Keeper
from burst_wrapper.daemon.plan import Plan, make_plan
from burst_wrapper.daemon.remote import NotYet
from burst_wrapper.daemon.request import Request
from burst_wrapper.daemon.servers import Build
from burst_wrapper.daemon.services import Services
from burst_wrapper.daemon.token import Token
from burst_wrapper.environ import parse_environ
from burst_wrapper.inputlist import ANSWER, VARIABLE, InputList, World, strong_key, variant
from burst_wrapper.macro_libraries import writes_profiles

if TYPE_CHECKING:
    from burst_wrapper.daemon.home_session import HomeSession

_ATTEMPTS: Final = 6
_TOKEN_PAUSE_S: Final = 0.02
_SOON_S: Final = 0.02
_METADATA_SUFFIXES: Final = (b".rmeta", b".so", b".rlib")


class Home(Exception):
    """This unit runs at home: (reason code, text, whether that is a failure of ours)."""

    def __init__(self, code: str, text: str, *, failure: bool) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.failure = failure


class Unit:
    def __init__(self, services: Services, client: Client, request: Request) -> None:
        self._services = services
        self._client = client
        self._request = request
        self._account = Account(services, request.cwd)
        self._token = Token(services.pools, request.pid)
        self._env: Mapping[bytes, bytes] = {}
        self._caller: Caller | None = None
        self._call: RustcCall | None = None
        self._plan: Plan | None = None
        self._delivery: Delivery | None = None
        self._lists: list[InputList] = []
        self._world: World | None = None
        self._asked = False
        self._answer: Answer | None = None
        self._lists_tried = 0
        self._fallback = ""
        self._no_agent: BurstError | None = None
        self._build: Build | None = None
        """Where servers are configured: the build that this is a part of."""
        self._rustc_ms = 0
        self._prolongs = True
        self._waited_for = True
        self._session: HomeSession | None = None
        self._leaves = False
        """Its program is for another machine, if it is linked there."""

    # -- the way of a unit -------------------------------------------------------------------

    def prepare(self) -> tuple[bytes, bytes] | None:
        """Parse; returns who owns its outputs, None if it was answered at once (runs at home)."""
        request = self._request
        self._env = parse_environ(request.environ)
        self._caller = self._account.caller = self._services.callers.of(request.pid)
        self._session = self._account.session = self._services.session_of(self._env)
        call = parse(request.argv, self._read_argfile)
        self._call = self._account.call = call
        decision = policy.decide(call, self._env)
        if isinstance(decision, policy.Local):
            if decision.reason.counted:
                self._account.record("local", "home", str(decision), decision.reason.code)
            self._client.local(decision.reason.code)
            return None
        self._input_files = decision.input_files
        out_dir = os.path.join(request.cwd, call.out_dir or b"")
        return (out_dir, call.stem + b" " + b",".join(call.crate_types))

    async def run(self) -> None:
        """Drive the unit to its answer. Never raises but CancelledError."""
        self._services.calm.began()
        if self._session is not None:
            self._session.tally.begin(self)
        try:
            await self._run()
        except Home as home:
            self._at_home(home)
        except asyncio.CancelledError:
            # A wrapper that still listens compiles it at home now, and writes that down.
            if not self._client.listening and not self._account.recorded:
                self._account.record("cancelled", "-", "the build was interrupted", "cancelled")
            raise
        except BurstError as error:
            self._at_home(Home(error.code, str(error), failure=True))
        except Exception as error:
            self._services_log(error)
            self._at_home(Home("bug", f"{type(error).__name__}: {error}", failure=True))
        finally:
            self._unwaited()
            if self._session is not None:
                self._session.tally.end(self)
                self._session.unit_ended(name for known in self._lists for name in known.files())
            if self._delivery is not None:
                self._delivery.drop()
            if self._build is not None and self._call is not None:
                self._services.servers.ended(self._build, self, self._call, self._rustc_ms)
            self._token.end(self._caller)

    async def _run(self) -> None:
        services = self._services
        config = services.servers.config(services.config(), self._caller, self._request.cwd)
        await self._make_plan(config)
        plan = self._plan
        assert plan is not None
        self._delivery = Delivery(
            plan,
            self._client,
            services.placer,
            services.stats,
            os.path.join(services.cache_dir, b"tmp"),
        )
        self._delivery.before_rename = self._remember_closure
        if plan.externs.missing:
            raise Home("extern-missing", "a dependency's file does not exist", failure=False)
        if plan.call.instruments_coverage and writes_profiles(plan.externs.macros):
            # Known before it has run once in vain.
            raise Home("undeclared", "an instrumented macro writes its profile", failure=False)
        self._leaves = self._session is not None and self._session.leaves(plan.call, plan.out_dir)
        embedded = await self._embedded()
        await services.calm.settle(plan.weak_key)
        host = "" if self._session is None else self._session.host
        host = host or os.fsdecode(self._env.get(b"BURST_HOST", b"")) or config.host
        if not host and config.hetzner is not None:
            self._build = services.servers.build(self._caller, plan)
        if embedded is not None and await self._look(embedded, None):
            if self._build is not None:
                services.servers.hit(self._build, plan.call)
            return
        if self._build is not None:
            services.servers.missed(self._build, self, plan.call)
            self._prolongs = not self._build.metadata_only or (
                config.hetzner is not None and config.hetzner.boot_for_check
            )
        if host or self._build is not None:
            try:
                remote = await self._away_soon(host, config)
                if not await self._look(remote, embedded):
                    await self._execute(remote, embedded)
            except BurstError as error:
                if self._build is not None:
                    services.servers.refused(self._build, error)
                if self._required:
                    raise
                self._fallback = error.code
                self._account.note(error)
            else:
                return
        elif self._required and self._no_agent is not None:
            raise self._no_agent
        if embedded is not None and not embedded.usable:
            embedded = await self._embedded()
        if embedded is None:
            cause = self._no_agent or AgentGone("none is available")
            raise Home(self._fallback or cause.code, str(cause), failure=True)
        await self._token.take_back(self._client)
        await self._execute(embedded, None)

    async def _away_soon(self, host: str, config: Config) -> Executor:
        """As `_away`. Where programs run elsewhere, what is nearly there is waited for: a program
        linked at home would have to be sent after."""
        while True:
            try:
                return await self._away(host, config)
            except NotYet:
                if self._session is None or not self._session.is_patient():
                    raise
            await asyncio.sleep(_SOON_S)

    async def _away(self, host: str, config: Config) -> Executor:
        """The machine that compiles for this user; BurstError says why there is none (now)."""
        plan = self._plan
        assert plan is not None
        if host:
            return await self._services.remotes.get(host, config, plan, required=self._required)
        assert self._build is not None
        return await self._services.servers.executor(
            self._build, plan, config, required=self._required
        )

    def _left(self, output: OutputFile) -> bool:
        """Whether this is the program, and stays where it was linked: a stub stands for it."""
        name = os.path.basename(output.path)
        return self._leaves and output.executable and b"." not in name

    async def _make_plan(self, config: Config) -> None:
        request, call = self._request, self._call
        assert call is not None
        services = self._services
        try:
            platform = await services.platforms.of(call, request.cwd, self._env, self._caller)
        except PlatformProblem as error:
            raise Home("linker", str(error), failure=False) from error
        except ToolchainProblem as error:
            raise Home("toolchain", str(error), failure=False) from error
        links = call.links or call.needs_rlibs
        externs = services.closures.resolve(call, request.cwd, links=links)
        self._plan = self._account.plan = make_plan(
            call,
            cwd=request.cwd,
            umask=request.umask,
            env=self._env,
            caller=self._caller,
            platform=platform,
            externs=externs,
            config=config,
            stats=services.stats,
            target_dir=nearest_target_dir(os.path.join(request.cwd, call.out_dir or b"")),
            input_files=self._input_files,
        )

    async def _embedded(self) -> Executor | None:
        self._no_agent = None
        try:
            executor = await self._services.embedded.get()
        except BurstError as error:
            self._account.note(error)
            self._no_agent = error
            return None
        ready = executor.link.ready
        if ready is None or not ready.launcher or not (executor.isolates or ready.observer):
            self._no_agent = SandboxUnavailable("" if ready is None else ready.reason)
            self._account.note(self._no_agent)
            self._fallback = self._fallback or SandboxUnavailable.code
            return None
        return executor

    # -- looking -----------------------------------------------------------------------------

    async def _strong_keys(self) -> tuple[bytes, ...]:
        """All keys under which a usable result may lie: each list in its variants."""
        plan = self._plan
        assert plan is not None
        if self._world is None:
            self._world = World(self._services.stats, self._env)
        if any(inputs.has_answer for inputs in self._lists):
            answer = await self._ask()
            if answer is not None:
                self._world.pin(ANSWER, manifest_of(plan), answer.digest.hash)
        keys: list[bytes] = []
        for inputs in self._lists:
            strong = strong_key(plan.weak_key, inputs, self._world, plan.target_dir)
            keys += [strong, variant(strong, plan.stderr_key, None)]
            if plan.shareable:
                keys.append(variant(strong, None, plan.target_dir))
                keys.append(variant(strong, plan.stderr_key, plan.target_dir))
        return tuple(keys)

    async def _ask(self) -> Answer | None:
        """What cargo says to the unit's macros: one answer for all its runs and keys."""
        assert self._plan is not None
        if not self._asked:
            self._answer = await asyncio.to_thread(self._services.answers.ask, self._plan)
            self._asked = True
        return self._answer

    def _learn_lists(self, encoded: tuple[bytes, ...]) -> bool:
        """Take over lists an agent knows; False if none is new."""
        plan = self._plan
        assert plan is not None
        self._lists_tried = len(encoded)
        decoded = [inputs for data in encoded if (inputs := InputList.decode(data)) is not None]
        fresh = [inputs for inputs in decoded if inputs not in self._lists]
        self._lists += fresh
        if any(plan.speaks_of_target(name) for known in fresh for name in known.names(VARIABLE)):
            plan.alone = True
        self._services.lists[plan.weak_key] = encoded
        return bool(fresh)

    async def _look(self, executor: Executor, home: Executor | None) -> bool:
        """True if the executor's store had the result and it was delivered.

        Cheap in bytes: keys go out, and nothing of the sources is gathered.
        """
        plan, link = self._plan, executor.link
        assert plan is not None
        known = self._services.lists.get(plan.weak_key)
        if known:
            self._learn_lists(known)
        tried = -1
        try:
            while True:
                question = m.Lookup(
                    link.new_id(),
                    plan.weak_key,
                    await self._strong_keys(),
                    push=not executor.local and not self._leaves,
                    prolongs=self._prolongs,
                )
                future, sent_bytes = link.begin(question)
                answer = await future
                if executor.spool is not None:
                    self._account.sent_bytes += sent_bytes
                    self._account.received_bytes += executor.received(question.id)
                    executor.spool.forget(question.id)
                if isinstance(answer, m.Hit):
                    return await self._hit_on(executor, home, answer)
                if not isinstance(answer, m.Lists) or not self._learn_lists(answer.lists):
                    return False
                if len(answer.lists) <= tried:
                    return False
                tried = len(answer.lists)
        except (BlobMissing, DigestMismatch) as error:
            # A damaged or evicted blob: make it again.
            self._account.note(error)
            assert self._delivery is not None
            self._delivery.drop()
            return False

    async def _deliver_hit(
        self, hit: m.Hit, executor: Executor, where: str, executor_name: str
    ) -> bool:
        plan, delivery = self._plan, self._delivery
        assert plan is not None
        assert delivery is not None
        result = hit.result
        foreign = result.out_dir != plan.out_dir
        if foreign and (
            not plan.shareable
            or any(o.mentions and not o.path.endswith(b".d") for o in result.outputs)
        ):
            return False
        self._client.again()
        for output in result.outputs:
            stub = not executor.local and self._left(output)
            await delivery.place(output, executor.blob(output.digest), result.out_dir, stub=stub)
        delivery.commit()
        if result.stdout:
            self._client.stdout(result.stdout)
        for line in result.stderr:
            self._client.stderr(delivery.line(line, result.out_dir))
        # Before the wrapper ends: `cargo build && cargo burst explain` shows the last unit too.
        self._account.spared_ms = result.wall_ms
        self._account.record(where, executor_name, self._account.why(""), "hit")
        self._client.exit(0)
        return True

    # -- running -----------------------------------------------------------------------------

    async def _execute(self, executor: Executor, home: Executor | None) -> None:
        plan, delivery = self._plan, self._delivery
        assert plan is not None
        assert delivery is not None
        services = self._services
        learned = Learned()
        doubted = False
        executor.in_flight += 1
        if self._build is not None and not executor.local:
            services.servers.away(self._build, self)
        if services.config().donate:
            self._token.donate(executor, self._caller, self._env)
        try:
            for _ in range(_ATTEMPTS):
                wanted = expected(inputs.at(plan.target_dir) for inputs in self._lists)
                wanted |= learned
                answer = None
                if wanted.answers or services.answers.expected(plan):
                    answer = await self._ask()
                    if wanted.answers and answer is None:
                        raise Home("undeclared", starts("cargo"), failure=False)
                try:
                    gathered = await asyncio.to_thread(
                        services.gatherer.gather,
                        plan,
                        wanted,
                        local=executor.local,
                        answer=answer,
                    )
                except CannotGather as error:
                    raise Home("inputs", str(error), failure=False) from error
                attempt = Attempt(
                    plan,
                    self._client,
                    executor,
                    gathered,
                    delivery,
                    prolongs=self._prolongs,
                    left=self._left if self._leaves and not executor.local else None,
                )
                keys = () if doubted else await self._strong_keys()
                try:
                    ended = await attempt.run(keys, self._lists_tried)
                    if ended.end is End.HIT:
                        assert ended.hit is not None
                        if await self._hit_on(executor, home, ended.hit):
                            return
                except (BlobMissing, DigestMismatch) as error:
                    # Something stored is damaged or gone, or a source changed: once more.
                    if doubted or not executor.usable:
                        raise
                    doubted = True
                    self._account.note(error)
                    delivery.drop()
                    self._lists_tried = -1
                    continue
                self._account.sent_bytes += ended.sent_bytes
                self._account.received_bytes += ended.received_bytes
                match ended.end:
                    case End.DONE:
                        await self._done(executor, home, attempt, ended, gathered)
                        return
                    case End.HIT:
                        self._lists_tried = -1
                    case End.LISTS:
                        self._learn_lists(ended.lists)
                    case End.AGAIN:
                        if ended.mentions:
                            plan.alone = True
                            self._lists_tried = -1
                            continue
                        self._lists_tried = -1
                        if not ended.verdict.missing.beyond(learned):
                            break  # nothing, or it lacked what was to be shown this time
                        learned |= ended.verdict.missing
                        self._account.say(_missing_text(ended.verdict.missing))
                    case End.HOME:
                        raise Home("undeclared", ended.why, failure=False)
            raise Home("unstable-inputs", "its inputs cannot all be shown", failure=False)
        finally:
            executor.in_flight -= 1

    async def _hit_on(self, executor: Executor, home: Executor | None, hit: m.Hit) -> bool:
        """The executing agent had a result; a remote one's blobs are fetched and kept."""
        if executor.local:
            return await self._deliver_hit(hit, executor, "hit", "home store")
        left = [output.digest for output in hit.result.outputs if self._left(output)]
        wanted = [digest for digest in hit.result.digests() if digest not in left]
        fetched = await self._fetch(executor, wanted)
        try:
            if not await self._deliver_hit(hit, executor, "hit", executor.name):
                return False
            keeper = self._keeper(executor, home)
            if not left:
                await keeper.fill_home(hit.strong_key, hit.result)
            keeper.offer_later(hit.strong_key, hit.result)
        finally:
            if executor.spool is not None:
                executor.spool.drop(fetched)
        return True

    async def _fetch(self, executor: Executor, digests: list[Digest]) -> list[Digest]:
        wanted = list(dict.fromkeys(digests))
        for digest in wanted:
            self._account.received_bytes += await executor.fetch(digest)
        return wanted

    async def _done(
        self,
        executor: Executor,
        home: Executor | None,
        attempt: Attempt,
        ended: Ended,
        gathered: Gathered,
    ) -> None:
        plan = self._plan
        assert plan is not None
        # `remote` is what the chosen executor ran; the embedded agent is one unless a host is
        # configured, and then its runs are fallbacks with a reason.
        fallback = self._fallback if executor.local else ""
        where = "local" if fallback else "remote"
        self._rustc_ms = ended.wall_ms
        if ended.result is None:
            if self._build is not None:
                self._build.failed = True
            self._account.record(
                where, executor.name, self._account.why("compile error"), fallback or "failed"
            )
            self._client.exit(ended.exit_code)
            executor.link.send(m.Release(attempt.identity))
            executor.forget(attempt.identity, attempt.digests())
            return
        if ended.coalesced:
            why, reason = self._account.why("the same was just being compiled"), "coalesced"
        else:
            why, reason = self._account.why("not in any store"), "executed"
        self._account.record(where, executor.name, why, fallback or reason, ended.wall_ms)
        self._client.exit(0)
        self._unwaited()
        keeper = self._keeper(executor, home)
        # No core at home is short of time, or the inputs may not be there for long: an OUT_DIR goes
        # with its target directory, and sources are edited.
        if not executor.local or not plan.immutable or b"OUT_DIR" in self._env:
            await keeper.keep(attempt, ended, gathered)
            return
        async with self._services.calm.turn(plan.weak_key):
            await keeper.keep(attempt, ended, gathered)

    def _keeper(self, executor: Executor, home: Executor | None) -> Keeper:
        assert self._plan is not None
        return Keeper(
            self._services, self._plan, self._env, executor, home, self._build, self._left
        )

    def _unwaited(self) -> None:
        """Nobody waits for this unit any more."""
        if self._waited_for:
            self._waited_for = False
            self._services.calm.ended()

    # -- bookkeeping -------------------------------------------------------------------------

    def _remember_closure(self, output: OutputFile) -> None:
        """Who depends on this crate needs what it needed itself.

        Dependents start the moment the metadata has its name: this must be known before.
        """
        plan = self._plan
        if plan is None or not output.path.endswith(_METADATA_SUFFIXES):
            return
        call = plan.call
        self._services.answers.made(call)
        if call.is_proc_macro:
            closure = plan.externs.closure.of_macro(call.lib_stem)
        else:
            closure = plan.externs.closure
            if plan.immutable:
                self._services.closures.remember_package(call.lib_stem, plan.package_dir)
        self._services.closures.remember(output.digest, closure)

    @property
    def _required(self) -> bool:
        return self._env.get(b"BURST_REQUIRE_REMOTE", b"") not in (b"", b"0")

    def _at_home(self, home: Home) -> None:
        """Answer: plain rustc. Under BURST_REQUIRE_REMOTE our failures are errors instead."""
        if not self._client.listening:
            return
        if home.failure and self._required:
            required = RemoteRequired(self._account.why(home.text))
            self._account.record("failed", "-", str(required), home.code)
            self._client.failure(f"error: {required}\nhint: {required.hint}\n")
            return
        self._account.record("local", "home", self._account.why(home.text), home.code)
        self._client.local(home.code, self._token.left_to_wrapper(self._env))

    def _read_argfile(self, path: bytes) -> bytes:
        with open(os.path.join(self._request.cwd, path), "rb") as file:
            return file.read()

    def _services_log(self, error: Exception) -> None:
        import logging  # noqa: PLC0415 - only for our own bugs

        logging.getLogger("burst").error("unit failed", exc_info=error)


def _missing_text(missing: Learned) -> str:
    names = [os.fsdecode(path) for path in (*missing.files, *missing.trees, *missing.directories)]
    names += ["$" + os.fsdecode(name) for name in missing.env]
    names += ["cargo's answer" for _ in missing.answers]
    return "run again with " + ", ".join(sorted(names)[:4])
