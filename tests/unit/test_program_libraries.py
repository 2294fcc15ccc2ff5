"""What programs lack of libraries, on programs of this machine's compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from burst_agent.programs.libraries import FOLDER, LacksLibraries, Outside, show

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

TARGET = b"/home/developer/project/target/debug"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A target folder: `deps/plain` and `deps/needy`, which loads a library, which is apart."""
    (tmp_path / "deps").mkdir()
    (tmp_path / "apart").mkdir()
    (tmp_path / "greet.c").write_text("int greet(void) { return 1; }\n")
    (tmp_path / "needy.c").write_text("int greet(void);\nint main(void) { return greet(); }\n")
    (tmp_path / "plain.c").write_text("int main(void) { return 0; }\n")
    library = "apart/libburst-greet.so.4"
    soname = "-Wl,-soname,libburst-greet.so.4"
    for words in (
        ["-shared", "-fPIC", "-o", library, soname, "greet.c"],
        ["-o", "deps/needy", "needy.c", library],
        ["-o", "deps/plain", "plain.c"],
    ):
        subprocess.run(["cc", *words], cwd=tmp_path, check=True)
    return tmp_path


def view(target: Path) -> Outside:
    def outside(path: bytes) -> bytes | None:
        if path.startswith(TARGET):
            path = os.fsencode(target) + path[len(TARGET) :]
        return path if os.path.lexists(path) else None

    return outside


def lacked(target: Path, program: bytes) -> tuple[str, ...]:
    with pytest.raises(LacksLibraries) as lack:
        show(TARGET + program, view(target), (), {})
    return lack.value.names


def test_what_the_machine_has_is_not_asked_for(target: Path) -> None:
    shown = show(TARGET + b"/deps/plain", view(target), (), {})
    assert (shown.files, shown.library_path) == ((), ())


def test_what_is_no_program_lacks_nothing(target: Path) -> None:
    """A script, and a file that is not there: whoever executes it says so."""
    (target / "deps" / "script").write_text("#!/bin/sh\n")
    for name in (b"/deps/script", b"/deps/none"):
        assert show(TARGET + name, view(target), (), {}).files == ()


def test_a_missing_library_is_asked_for_and_shown(target: Path) -> None:
    """At the end of LD_LIBRARY_PATH; if home has none either, there is nothing to ask."""
    assert lacked(target, b"/deps/needy") == ("libburst-greet.so.4",)
    path = os.fsencode(target / "apart" / "libburst-greet.so.4")
    given: dict[str, bytes | None] = {"libburst-greet.so.4": path}
    shown = show(TARGET + b"/deps/needy", view(target), (), given)
    assert shown.files == ((FOLDER + b"/libburst-greet.so.4", path),)
    assert shown.library_path == (FOLDER,)
    nothing = show(TARGET + b"/deps/needy", view(target), (), {"libburst-greet.so.4": None})
    assert nothing.files == ()


def test_a_library_that_its_own_path_has(target: Path) -> None:
    """Cargo's LD_LIBRARY_PATH, say."""
    (target / "apart").rename(target / "deps" / "apart")
    folders = (TARGET + b"/deps/apart",)
    assert show(TARGET + b"/deps/needy", view(target), folders, {}).files == ()


def test_programs_that_a_test_may_start_are_looked_at_too(target: Path) -> None:
    """Cargo puts them two folders up."""
    shutil.copy(target / "deps" / "needy", target / "needy")
    assert lacked(target, b"/deps/plain") == ("libburst-greet.so.4",)


def test_a_program_that_was_built_anew_is_looked_at_anew(target: Path) -> None:
    assert lacked(target, b"/deps/needy") == ("libburst-greet.so.4",)
    shutil.copy(target / "deps" / "plain", target / "deps" / "needy")
    assert show(TARGET + b"/deps/needy", view(target), (), {}).files == ()
