"""What a first build waits for is there before its first unit asks."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from burst_wrapper.argv import parse
from burst_wrapper.daemon.platform import Platform, Platforms
from burst_wrapper.index import Index
from burst_wrapper.statcache import StatCache
from burst_wrapper.toolchain import resolve


def test_a_link_is_tried_before_anybody_asks(tmp_path: Path) -> None:
    """And not a second time for the program of a build script, which is linked like that."""
    env = dict(os.environb)
    found = shutil.which("rustc")
    assert found is not None
    rustc = resolve(os.fsencode(found), b"/", env).rustc
    index = Index(os.fsencode(tmp_path / "home.db"))
    platforms = Platforms(StatCache(index), os.fsencode(tmp_path))
    platforms.warm(rustc, env, None)
    tried = _records(tmp_path)
    assert len(tried) == 1
    argv = (rustc, *b"--crate-name build_script_build --edition=2021 build.rs".split())
    argv += tuple(b"--crate-type bin --emit=dep-info,link -C embed-bitcode=no --out-dir x".split())

    async def asked() -> Platform:
        return await platforms.of(parse(argv, lambda name: name), os.fsencode(tmp_path), env, None)

    platform = asyncio.run(asked())
    assert platform.programs  # a link's, seen in the trial
    assert tried.items() <= _records(tmp_path).items()
    index.close()


def _records(cache: Path) -> dict[str, tuple[int, int]]:
    """What has been captured, and when: a capture that is repeated replaces its file."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in (cache / "platform").iterdir()
    }
