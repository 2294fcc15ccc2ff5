"""What all units of one daemon share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from burst_wrapper.callers import Callers
from burst_wrapper.closures import Closures
from burst_wrapper.config import Config, config_path, load
from burst_wrapper.daemon.agent_process import AgentProcess, Place
from burst_wrapper.daemon.answers import Answers
from burst_wrapper.daemon.calm import Calm
from burst_wrapper.daemon.embedded import Embedded, identity
from burst_wrapper.daemon.gather import Gatherer
from burst_wrapper.daemon.ground import Ground
from burst_wrapper.daemon.platform import Platforms
from burst_wrapper.daemon.remote import Remotes
from burst_wrapper.daemon.servers import Servers
from burst_wrapper.daemon.tools import Tools
from burst_wrapper.index import Index
from burst_wrapper.jobs import TokenPools
from burst_wrapper.journal import Journal
from burst_wrapper.outputs import Placer
from burst_wrapper.statcache import StatCache

if TYPE_CHECKING:
    from burst_wrapper.daemon.home_session import HomeSession
    from burst_wrapper.daemon.mirrors import Mirrors
    from burst_wrapper.daemon.sessions import Sessions


@attrs.define
class Services:
    cache_dir: bytes
    state_dir: bytes
    index: Index
    stats: StatCache
    closures: Closures
    callers: Callers
    platforms: Platforms
    gatherer: Gatherer
    placer: Placer
    tools: Tools
    embedded: Embedded
    remotes: Remotes
    servers: Servers
    pools: TokenPools
    journal: Journal
    lists: dict[bytes, tuple[bytes, ...]] = attrs.field(factory=dict)
    """Encoded input lists by weak key, as last seen from an agent."""
    answers: Answers = attrs.field(factory=Answers)
    calm: Calm = attrs.field(factory=Calm)
    explained: set[bytes] = attrs.field(factory=set)
    """Weak keys whose manifest is in the journal."""
    _sessions: Sessions | None = None
    _mirrors: Mirrors | None = None
    _place: tuple[int, int] | None = None
    _config: Config = attrs.field(factory=Config)
    _config_stamp: tuple[int, int] | None = None

    @property
    def sessions(self) -> Sessions:
        """Loaded for the first `cargo burst VERB`: a plain build never waits for it."""
        if self._sessions is None:
            from burst_wrapper.daemon.sessions import Sessions  # noqa: PLC0415 - see above

            self._sessions = Sessions(self)
        return self._sessions

    def session_of(self, environ: Mapping[bytes, bytes]) -> HomeSession | None:
        """The session that this environment belongs to."""
        return None if self._sessions is None else self._sessions.of(environ)

    @property
    def mirrors(self) -> Mirrors:
        """As `sessions`."""
        if self._mirrors is None:
            from burst_wrapper.daemon.mirrors import Mirrors  # noqa: PLC0415 - see above

            self._mirrors = Mirrors(self.stats, self.index)
        return self._mirrors

    @classmethod
    def create(cls, ground: Ground, agent: AgentProcess | None) -> Services:
        """`agent`: the embedded one, if it could be started. OSError."""
        cache_dir, state_dir = ground.cache_dir, ground.state_dir
        tools = Tools(cache_dir)
        closures = Closures(ground.index, ground.stats)
        embedded = Embedded(Place.of(cache_dir, state_dir), tools, agent)
        os.makedirs(os.path.join(cache_dir, b"tmp"), mode=0o700, exist_ok=True)
        return cls(
            place=identity(os.path.join(cache_dir, b"tmp")),
            cache_dir=cache_dir,
            state_dir=state_dir,
            index=ground.index,
            stats=ground.stats,
            closures=closures,
            callers=Callers(),
            platforms=ground.platforms,
            gatherer=Gatherer(ground.stats, closures),
            placer=Placer(),
            tools=tools,
            embedded=embedded,
            remotes=Remotes(cache_dir, tools),
            servers=Servers(cache_dir, tools, ground.index, lambda: embedded.current),
            pools=TokenPools(),
            journal=Journal(os.path.join(state_dir, b"builds")),
        )

    def flush(self, now_s: int) -> None:
        """What was learned goes to the index' file; see `Index.flush`."""
        if self._mirrors is not None:
            self._mirrors.remember()
        self.index.flush(now_s)

    def cache_is_gone(self) -> bool:
        """Somebody emptied the cache folder: what we hold open is not what lies there."""
        return self._place != identity(os.path.join(self.cache_dir, b"tmp")) or self.embedded.lost

    def config(self) -> Config:
        """The configuration as it is now; ConfigError if it cannot be used."""
        path = config_path()
        try:
            info = os.stat(path)
            stamp = (info.st_mtime_ns, info.st_size)
        except OSError:
            stamp = (0, 0)
        if stamp != self._config_stamp:
            self._config = load(path)
            self._config_stamp = stamp
        return self._config
