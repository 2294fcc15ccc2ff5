"""Home's libraries as this machine has them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from burst_protocol.elf import GLIBC, is_glibc, read_elf
from burst_wrapper.home_libraries import find_libraries


def test_glibc_comes_whole() -> None:
    """Its loader too; all of one build, by real paths."""
    found = {one.name: one.path for one in find_libraries([GLIBC, "libm.so.6"])}
    if found[GLIBC] is None:
        pytest.skip("this machine has another libc")
    assert {"libm.so.6", "libpthread.so.0", "libdl.so.2", "libresolv.so.2"} <= set(found)
    assert any(name.startswith("ld-linux") for name in found)
    for name, path in found.items():
        assert path is not None
        assert is_glibc(name)
        assert path == os.path.realpath(path)
        assert os.path.isfile(path)


def test_a_name_that_nobody_has() -> None:
    """Is answered all the same: the program is started without it then, as it would be at home."""
    (nothing,) = find_libraries(["libburst-nobody-has-this.so.9"])
    assert (nothing.name, nothing.path) == ("libburst-nobody-has-this.so.9", None)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_library_and_what_it_loads(tmp_path: Path) -> None:
    """Looked for along the program's own LD_LIBRARY_PATH, without glibc."""
    for name, needs in (("inner", []), ("outer", ["-linner"])):
        (tmp_path / f"{name}.c").write_text(f"int {name}(void) {{ return 1; }}\n")
        command = [
            "cc",
            "-shared",
            "-o",
            f"lib{name}.so",
            f"{name}.c",
            f"-Wl,-soname,lib{name}.so.3",
        ]
        subprocess.run([*command, "-L.", "-Wl,--no-as-needed", *needs], cwd=tmp_path, check=True)
        (tmp_path / f"lib{name}.so").rename(tmp_path / f"lib{name}.so.3")
        (tmp_path / f"lib{name}.so").symlink_to(f"lib{name}.so.3")
    folder = os.fsencode(tmp_path)
    found = {one.name: one.path for one in find_libraries(["libouter.so.3"], [folder])}
    assert found == {
        name: folder + b"/" + name.encode() for name in ("libouter.so.3", "libinner.so.3")
    }
    outer = read_elf(folder + b"/libouter.so.3")
    assert outer is not None
    assert b"libinner.so.3" in outer.needed
