"""Agents on other machines: one SSH connection per host, and the platform brought there once.

While a host is being reached, or the toolchain is on its way, units run at home; nothing waits
unless BURST_REQUIRE_REMOTE says so. A host that failed is left alone for a while (`rest`), and one
that was lost while somebody builds is dialled again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from burst_protocol import messages as m
from burst_protocol.action import Action
from burst_protocol.digest import Digest, KeyHasher
from burst_protocol.errors import (
    BurstError,
    EnvironmentProblem,
    LinkLost,
    PlatformProblem,
    SandboxUnavailable,
)
from burst_wrapper.config import Config
from burst_wrapper.daemon.attempt import ASKED_IN_VAIN, error_of, unkept
from burst_wrapper.daemon.dial import Dial, KnownHost
from burst_wrapper.daemon.executor import Executor
from burst_wrapper.daemon.link import AgentLink
from burst_wrapper.daemon.plan import Plan
from burst_wrapper.daemon.platform import Platform, Sources
from burst_wrapper.daemon.rest import Rest
from burst_wrapper.daemon.spool import Spool
from burst_wrapper.daemon.tools import Tools

_ASKED_S: Final = 120.0
"""Whoever asked for a host in this time may want it again."""
_PROBE: Final = b"/.burst-probe"


class NotYet(EnvironmentProblem):
    """{host} is not ready yet: {detail}"""

    code = "not-yet"
    hint = "units run at home until it is"


class Host:
    """Everything about one host: connection, what failed last, which platforms are there."""

    def __init__(self, dial: Dial, cache_dir: bytes, tools: Tools) -> None:
        self.name = dial.name
        self.on_notice: Callable[[str], None] | None = None
        """What its agent wants the user to know."""
        self._dial = dial
        self._cache_dir = cache_dir
        self._tools = tools
        self._executor: Executor | None = None
        self._connecting: asyncio.Task[Executor] | None = None
        self._bringing: dict[bytes, asyncio.Task[None]] = {}
        self._wanted: dict[bytes, Platform] = {}
        """What units asked for while the host was being reached."""
        self._there: dict[bytes, Platform] = {}
        self._failed: BurstError | None = None
        self._rest = Rest()
        self._again: asyncio.TimerHandle | None = None
        self._asked_s = 0.0
        self._asked_with: tuple[Config, str | None] | None = None
        self._closed = False

    async def get(
        self, config: Config, platform: Platform, auth_sock: str | None, *, required: bool
    ) -> Executor:
        """The executor, with this platform there; BurstError says why not (now)."""
        if platform.key not in self._there:
            self._wanted[platform.key] = platform
        executor = await self._connected(config, auth_sock, required=required)
        self._wanted.pop(platform.key, None)
        if platform.key in self._there:
            return executor
        task = self._bringing.get(platform.key)
        if task is None:
            if self._resting and not required:
                raise self._resting
            task = self._start_bringing(executor, platform)
        if not required and not task.done():
            raise NotYet("the toolchain is on its way", host=self.name)
        await asyncio.shield(task)
        return executor

    async def connected(self, config: Config, auth_sock: str | None) -> Executor:
        """The executor, whatever toolchain is there; waits for it, however lately it failed."""
        return await self._connected(config, auth_sock, required=True)

    @property
    def state(self) -> str:
        """For people: `ready`, `connecting`, `lost`, or nothing."""
        if self._executor is not None and self._executor.usable:
            return "ready"
        if self._connecting is not None:
            return "connecting"
        return "" if self._failed is None and self._executor is None else "lost"

    @property
    def _resting(self) -> BurstError | None:
        """What failed a short while ago and is not tried again yet."""
        return self._failed if time.monotonic() < self._rest.until_s else None

    async def _connected(
        self, config: Config, auth_sock: str | None, *, required: bool
    ) -> Executor:
        self._asked_s, self._asked_with = time.monotonic(), (config, auth_sock)
        if self._executor is not None:
            if self._executor.usable:
                return self._executor
            self._lost(self._executor)
        connecting = self._connecting
        if connecting is None:
            if self._resting and not required:
                raise self._resting
            connecting = self._begin()
        if not required and not connecting.done():
            raise NotYet("connecting", host=self.name)
        return await asyncio.shield(connecting)

    def _begin(self) -> asyncio.Task[Executor]:
        assert self._asked_with is not None
        task = self._connecting = asyncio.create_task(self._connect(*self._asked_with))
        task.add_done_callback(self._was_connected)
        return task

    def _was_connected(self, task: asyncio.Task[Executor]) -> None:
        self._connecting = None
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            executor = self._executor = task.result()
            self._failed = None
            self._rest.reached(time.monotonic())
            if self._dial.comes_back:
                executor.link.on_gone = lambda: self._lost(executor)
            # Whoever asked has long compiled at home; the next build shall not have to ask again.
            for platform in self._wanted.values():
                if platform.key not in self._bringing:
                    _ = self._start_bringing(self._executor, platform)
            self._wanted.clear()
        elif not self._fail(error):
            self._wanted.clear()

    def _start_bringing(self, executor: Executor, platform: Platform) -> asyncio.Task[None]:
        task = asyncio.create_task(self._bring(executor, platform))
        self._bringing[platform.key] = task
        task.add_done_callback(lambda done: self._brought(platform, executor, done))
        return task

    def _lost(self, executor: Executor) -> None:
        if executor is not self._executor or self._closed:
            return
        self._executor = None
        self._wanted.update(self._there)
        self._there.clear()
        now_s = time.monotonic()
        if executor.in_flight:
            self._asked_s = now_s
        if self._dial.comes_back:
            self._rest.lost(now_s)
        self._fail(executor.link.gone)

    def _fail(self, error: BaseException | None) -> bool:
        """Whether it will be dialled again, if somebody builds then."""
        self._failed = error if isinstance(error, BurstError) else EnvironmentProblem(str(error))
        now_s = time.monotonic()
        again = self._rest.failed(self._failed, now_s)
        if again and self._again is None and not self._closed:
            self._again = asyncio.get_running_loop().call_later(
                self._rest.until_s - now_s, self._dial_again
            )
        return again

    def _dial_again(self) -> None:
        self._again = None
        wanted = time.monotonic() - self._asked_s < _ASKED_S
        if wanted and self._connecting is None and self._executor is None:
            _ = self._begin()

    async def _connect(self, config: Config, auth_sock: str | None) -> Executor:
        stream = await self._dial.open(config, auth_sock)
        link = AgentLink(stream, self.name, silence_s=config.silence_s, local=False)
        link.on_notice = self.on_notice
        spool = Spool(os.path.join(self._cache_dir, b"spool", _safe(self.name)))
        executor = Executor(self.name, link, spool, lasting=self._dial.lasting)
        try:
            ready = await link.start(lambda _: self._bring_tools(executor))
        except BaseException:
            await link.close()
            raise
        if ready.launcher in ("", "none"):
            await link.close()
            raise SandboxUnavailable(f"{self.name}: {ready.reason}")
        if ready.arch != os.uname().machine:
            await link.close()
            raise PlatformProblem(f"{self.name} is {ready.arch}, home is {os.uname().machine}")
        return executor

    async def _bring_tools(self, executor: Executor) -> m.UseTools:
        await self._dial.settle(executor.link)
        tools = await self._tools.get()
        digests: list[Digest | None] = []
        sources = Sources()
        for path in (tools.sandbox, tools.observer):
            if path is None:
                digests.append(None)
                continue
            digest = Digest.of_file(os.fsencode(path))
            sources.files[digest] = os.fsencode(path)
            digests.append(digest)
        await executor.uploader.send(0, list(sources.files), [sources])
        return m.UseTools(executor.link.new_id(), digests[0], digests[1])

    async def _bring(self, executor: Executor, platform: Platform) -> None:
        """Run `rustc -vV` there in the sandbox: uploads what lacks, and proves that it works."""
        link = executor.link
        identity = link.new_id()
        hasher = KeyHasher(b"burst probe 1")
        hasher.add(platform.key)
        request = m.Execute(
            identity,
            hasher.key(),
            (),
            -1,
            hasher.key(),
            Action(
                argv=(platform.toolchain.rustc, b"-vV"),
                env=(),
                cwd=_PROBE,
                out_dir=_PROBE,
                inputs=platform.inputs,
                quiet=platform.quiet,
                priority=9,
            ),
            push=False,
        )
        queue = link.open_stream(identity)
        asked: Counter[Digest] = Counter()
        try:
            link.send(request)
            while True:
                message = await queue.get()
                if message is None:
                    raise link.gone or LinkLost("it ended", host=self.name)
                if isinstance(message, m.Missing):
                    asked.update(message.digests)
                    if max(asked[digest] for digest in message.digests) >= ASKED_IN_VAIN:
                        raise unkept(link)
                    await executor.uploader.send(identity, message.digests, [platform.sources])
                    link.send(request)
                elif isinstance(message, m.Failed):
                    raise error_of(message, self.name)
                elif isinstance(message, m.Exited):
                    if message.code or message.signal:
                        raise PlatformProblem(
                            f"rustc does not run on {self.name} (status {message.code})"
                        )
                    return
        finally:
            link.close_stream(identity)
            with contextlib.suppress(BurstError):
                link.send(m.Release(identity))

    def _brought(self, platform: Platform, executor: Executor, task: asyncio.Task[None]) -> None:
        self._bringing.pop(platform.key, None)
        if task.cancelled():
            return
        error = task.exception()
        if executor is not self._executor:
            self._wanted[platform.key] = platform  # it was lost meanwhile, which is known
        elif error is None:
            self._there[platform.key] = platform
        else:
            self._fail(error)

    async def close(self) -> None:
        self._closed = True
        if self._again is not None:
            self._again.cancel()
        for task in (self._connecting, *self._bringing.values()):
            if task is not None:
                task.cancel()
        if self._executor is not None:
            await self._executor.link.close()


class Remotes:
    def __init__(self, cache_dir: bytes, tools: Tools) -> None:
        self._cache_dir = cache_dir
        self._tools = tools
        self._hosts: dict[str, Host] = {}

    def _known(self, host: str) -> Host:
        known = self._hosts.get(host)
        if known is None:
            known = Host(KnownHost(host, self._cache_dir), self._cache_dir, self._tools)
            self._hosts[host] = known
        return known

    def state(self, host: str) -> str:
        """As `Host.state`; nobody is connected to for it."""
        known = self._hosts.get(host)
        return "" if known is None else known.state

    async def connected(self, host: str, config: Config, auth_sock: str | None) -> Executor:
        """As `Host.connected`."""
        return await self._known(host).connected(config, auth_sock)

    async def get(self, host: str, config: Config, plan: Plan, *, required: bool) -> Executor:
        # The agent of whoever builds now: the daemon outlives the login that started it.
        auth_sock = plan.env.get(b"SSH_AUTH_SOCK")
        return await self._known(host).get(
            config,
            plan.platform,
            None if auth_sock is None else os.fsdecode(auth_sock),
            required=required,
        )

    async def close(self) -> None:
        for host in self._hosts.values():
            await host.close()


def _safe(name: str) -> bytes:
    """A host's name as a file name."""
    return Digest.of(name.encode()).hex[:16].encode()
