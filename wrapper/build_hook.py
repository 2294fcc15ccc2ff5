"""Hatchling's build hook: compiles our native parts while burst is installed.

The first build of all need not wait for a C compiler then. A wheel that holds such files is one for
this kind of machine; where there is no compiler the wheel is pure Python, and home builds them when
they are needed (`burst_wrapper.native_build`).
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_HERE = Path(__file__).resolve().parent


class NativeParts(BuildHookInterface[Any]):
    """Called for wheels and for editable installations; found by hatchling as the only one here."""

    PLUGIN_NAME = "custom"
    _scratch: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """`version` is "standard" or "editable" (hatchling's build hook interface)."""
        sys.path.insert(0, str(_HERE))
        try:
            from burst_wrapper import native_build  # noqa: PLC0415 - see the path above
        finally:
            sys.path.remove(str(_HERE))
        cc = shutil.which("cc")
        if cc is None or sys.platform != "linux":
            return
        if version == "editable":
            # There the sources themselves are what is installed.
            shutil.rmtree(native_build.SHIPPED, ignore_errors=True)
            native_build.ship(cc.encode(), native_build.SHIPPED)
            return
        self._scratch = tempfile.TemporaryDirectory(prefix="burst-native-")
        folder = Path(self._scratch.name)
        built = native_build.ship(cc.encode(), folder)
        if built:
            inside = native_build.SHIPPED.relative_to(_HERE)
            build_data["force_include"].update(
                {str(path): str(inside / path.relative_to(folder)) for path in built}
            )
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, *_: object) -> None:
        """The wheel is written."""
        if self._scratch is not None:
            self._scratch.cleanup()
