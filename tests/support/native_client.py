"""The native client, built once per test run, and both ways to install it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from burst_wrapper.launcher import client_path, native_dir
from burst_wrapper.native_build import build_client
from burst_wrapper.paths import cache_dir


@pytest.fixture(scope="session")
def native_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where our native parts are built, shared by all tests that ask for it."""
    return tmp_path_factory.mktemp("native")


@pytest.fixture(scope="session")
def native_client(native_folder: Path) -> Path:
    """The native client; skips where no compiler can build it."""
    cc = shutil.which("cc")
    client = build_client(None if cc is None else os.fsencode(cc), native_folder)
    if client is None:
        pytest.skip("needs a C compiler for this machine")
    return client


@pytest.fixture
def built_before(native_client: Path, native_folder: Path, home: Path) -> None:
    """This test's home finds our native parts built already."""
    folder = native_dir(cache_dir(dict(os.environb)))
    folder.parent.mkdir(parents=True)
    folder.symlink_to(native_folder)


@pytest.fixture
def published_client(native_client: Path, home: Path) -> Path:
    """The client where the installed script finds it, as after a daemon's first start."""
    path = Path(os.fsdecode(client_path(cache_dir(dict(os.environb)))))
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(native_client, path)
    return path
