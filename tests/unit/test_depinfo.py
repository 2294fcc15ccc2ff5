"""burst_wrapper.depinfo against files that rustc 1.95 and 1.97 wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burst_wrapper import depinfo
from burst_wrapper.depinfo import DepInfo

STABLE = (
    b"dd/mm.d: sp\\ ace/m.rs sp\\ ace/x.rs\n\n"
    b"dd/libmm.rmeta: sp\\ ace/m.rs sp\\ ace/x.rs\n\n"
    b"sp\\ ace/m.rs:\nsp\\ ace/x.rs:\n\n"
    b"# env-dep:EMPTY=\n# env-dep:MULT=a\\nb\\\\c\\rd=e # x\n# env-dep:UNS\n"
)
NIGHTLY = (
    b"d d/mm.d: sp\\ ace/m.rs\n\nd d/libmm.rmeta: sp\\ ace/m.rs\n\nsp\\ ace/m.rs:\n\n"
    b"# env-dep:MULT=x\n"
    b"# checksum:blake3=ccb1e6c66e file_len:192 sp\\ ace/m.rs\n"
)


def test_files_and_variables() -> None:
    """Escaped spaces, an empty value, an escaped one, an unset variable."""
    assert depinfo.parse(STABLE) == DepInfo(
        (b"sp ace/m.rs", b"sp ace/x.rs"),
        ((b"EMPTY", b""), (b"MULT", b"a\nb\\c\rd=e # x"), (b"UNS", None)),
    )


def test_checksum_lines_are_no_files() -> None:
    """Nightly's lines, and a target that is not escaped."""
    assert depinfo.parse(NIGHTLY) == DepInfo((b"sp ace/m.rs",), ((b"MULT", b"x"),))


def test_rules_without_phony_lines_are_read_too() -> None:
    """As other tools write it."""
    assert depinfo.parse(b"x.d: a.rs b\\ c.rs\n").files == (b"a.rs", b"b c.rs")


def test_relocation_moves_only_the_target_directory() -> None:
    """Not a sibling with the same beginning, not a value, not a source elsewhere."""
    text = (
        b"/w/t/deps/x.d: src/a.rs /w/t/build/out/g.rs /w/t2/b.rs\n\n"
        b"src/a.rs:\n/w/t/build/out/g.rs:\n/w/t2/b.rs:\n/w/t:\n\n"
        b"# env-dep:OUT_DIR=/w/t/build/out\n"
        b"# checksum:blake3=aa file_len:1 /w/t/build/out/g.rs\n"
    )
    assert depinfo.relocate(text, b"/w/t/", b"/new t") == (
        b"/new t/deps/x.d: src/a.rs /new\\ t/build/out/g.rs /w/t2/b.rs\n\n"
        b"src/a.rs:\n/new\\ t/build/out/g.rs:\n/w/t2/b.rs:\n/new\\ t:\n\n"
        b"# env-dep:OUT_DIR=/w/t/build/out\n"
        b"# checksum:blake3=aa file_len:1 /new\\ t/build/out/g.rs\n"
    )


def test_relocation_of_a_directory_with_spaces_and_colons() -> None:
    """The target is not escaped, the files are."""
    text = b"/a: b/x.d: /a:\\ b/y.rs\n\n/a:\\ b/y.rs:\n"
    assert depinfo.relocate(text, b"/a: b", b"/c") == b"/c/x.d: /c/y.rs\n\n/c/y.rs:\n"


PATHS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\n\0"), min_size=1).filter(
        lambda path: not path.startswith("#")
    ),
    min_size=1,
    unique=True,
)
NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,6}", fullmatch=True)
VALUES = st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"))


def write(target: str, files: list[str], env: dict[str, str | None]) -> bytes:
    """rustc's own writer, in its order."""
    escaped = [path.replace(" ", "\\ ") for path in files]
    text = f"{target}: {' '.join(escaped)}\n\n" + "".join(f"{path}:\n" for path in escaped) + "\n"
    for name, value in env.items():
        text += f"# env-dep:{name}"
        if value is not None:
            text += "=" + value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        text += "\n"
    return text.encode()


@given(PATHS, st.dictionaries(NAMES, VALUES))
def test_reads_back_what_rustc_would_write(files: list[str], env: dict[str, str | None]) -> None:
    """Any names without newlines, any values."""
    parsed = depinfo.parse(write("/t/x.d", files, env))
    assert parsed.files == tuple(path.encode() for path in files)
    assert parsed.env == tuple(
        (name.encode(), None if value is None else value.encode()) for name, value in env.items()
    )


@given(PATHS)
def test_relocation_and_back_is_the_same_file(files: list[str]) -> None:
    """Nothing is lost, and what is not below the directory stays."""
    text = write("/old dir/x.d", [f"/old dir/{path}" for path in files], {})
    moved = depinfo.relocate(text, b"/old dir", b"/n")
    assert depinfo.parse(moved).files == tuple(b"/n/" + path.encode() for path in files)
    assert depinfo.relocate(moved, b"/n", b"/old dir") == text


@given(st.binary())
def test_never_raises(text: bytes) -> None:
    """Any bytes."""
    depinfo.parse(text)
    assert depinfo.relocate(text, b"", b"/x") == text
    depinfo.relocate(text, b"/a", b"/b")


@pytest.mark.parametrize("text", [b"", b"\n", b":\n", b"# env-dep:\n", b"x\n"])
def test_odd_lines_name_no_file(text: bytes) -> None:
    """Passed over."""
    assert depinfo.parse(text).files == ()
