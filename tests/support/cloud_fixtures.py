"""Clouds: `pytest_plugins = ("cloud_fixtures",)`. See `localcloud`.

After each test the cloud must hold what the test said by `expect`, else nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from localcloud import LocalCloud


@pytest.fixture
def paper_cloud() -> Iterator[LocalCloud]:
    """Servers are on paper: the API, its rules, its bill."""
    with LocalCloud() as cloud:
        yield cloud
        cloud.check()
