"""burst_wrapper.driver.home_toolchain: which toolchain of home's is shown on another machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from burst_wrapper.driver.home_toolchain import sysroot


@pytest.mark.parametrize(("others", "usable"), [(2, True), (200, False)])
def test_only_one_with_a_folder_to_itself(tmp_path: Path, *, others: int, usable: bool) -> None:
    """A distribution's is in /usr, with all else: sent there, it would hide that machine's."""
    prefix = tmp_path / "usr"
    for name in ("bin", "lib/rustlib"):
        (prefix / name).mkdir(parents=True)
    for number in range(others):
        (prefix / f"lib/other{number}").touch()
    for name in ("rustc", "cargo"):
        program = prefix / "bin" / name
        program.write_text(f"#!/bin/sh\necho {prefix}\n")
        program.chmod(0o755)
    environ = {b"PATH": bytes(prefix / "bin") + b":/usr/bin:/bin"}
    assert sysroot(environ, b"/") == (str(prefix) if usable else "")
