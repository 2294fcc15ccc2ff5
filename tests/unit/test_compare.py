"""The comparison of target folders sees what it must, and lets pass what rustc itself varies."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from compare import compare_targets, report

UNIT = "app-0123456789abcdef"


def archive(*members: tuple[str, bytes]) -> bytes:
    """A GNU ar archive with all names in the name table, as rustc writes rlibs."""
    names = b"".join(name.encode() + b"/\n" for name, _ in members)
    parts, offset = [("//", names)], 0
    for name, body in members:
        parts.append((f"/{offset}", body))
        offset += len(name) + 2
    packed = b"!<arch>\n"
    for name, body in parts:
        header = f"{name:16}{0:<12}{0:<6}{0:<6}{644:<8}{len(body):<10}`\n".encode()
        packed += header + body + b"\n" * (len(body) % 2)
    return packed


def fill(target: Path) -> None:
    """A small target folder: an uplifted program, a library, cargo's own notes."""
    deps = target / "debug" / "deps"
    deps.mkdir(parents=True)
    (target / "debug" / "incremental" / "app-1a2b3c").mkdir(parents=True)
    (target / "debug" / ".fingerprint").mkdir()
    (target / "debug" / ".fingerprint" / "invoked").write_text(str(target))
    (deps / UNIT).write_bytes(b"\x7fELF\0program")
    (deps / UNIT).chmod(0o755)
    (target / "debug" / "app").hardlink_to(deps / UNIT)
    (deps / "libapp.rlib").write_bytes(
        archive(("lib.rmeta", b"metadata"), (f"{UNIT}.cgu.abcdefg.rcgu.o", b"object"))
    )
    (deps / f"{UNIT}.d").write_text("app: src/main.rs\n")


def become_inode(target: Path) -> None:
    program = target / "debug" / "app"
    content = program.read_bytes()
    program.unlink()
    program.write_bytes(content)
    program.chmod(0o755)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a lost file": (lambda t: (t / "debug" / "deps" / f"{UNIT}.d").unlink(), "missing"),
    "a file too many": (lambda t: (t / "debug" / "deps" / "rmeta.tmp").touch(), "extra"),
    "an empty folder too many": (lambda t: (t / "debug" / "x").mkdir(), "extra"),
    "a lost executable bit": (lambda t: (t / "debug" / "app").chmod(0o644), "mode"),
    "a copy instead of a hard link": (become_inode, "links"),
    "a link to outside": (
        lambda t: (t.parent / "cas").hardlink_to(t / "debug" / "deps" / f"{UNIT}.d"),
        "links",
    ),
    "another byte in a program": (
        lambda t: (t / "debug" / "app").write_bytes(b"\x7fELF\0Program"),
        "content",
    ),
    "another source in dep-info": (
        lambda t: (t / "debug" / "deps" / f"{UNIT}.d").write_text("app: src/lib.rs\n"),
        "content",
    ),
    "another object in an archive": (
        lambda t: (t / "debug" / "deps" / "libapp.rlib").write_bytes(
            archive(("lib.rmeta", b"metadata"), (f"{UNIT}.cgu.abcdefg.rcgu.o", b"Object"))
        ),
        "content",
    ),
}


@pytest.fixture
def targets(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal target folders."""
    for name in ("plain", "burst"):
        fill(tmp_path / name)
    return tmp_path / "plain", tmp_path / "burst"


@pytest.mark.parametrize("incremental", [False, True])
def test_equal_folders_have_no_difference(targets: tuple[Path, Path], incremental: bool) -> None:
    """Cargo's own notes, which hold paths and times, do not count."""
    assert compare_targets(*targets, incremental=incremental) == []


@pytest.mark.parametrize("incremental", [False, True])
@pytest.mark.parametrize("what", CHANGES)
def test_every_kind_of_change_is_seen(
    targets: tuple[Path, Path], what: str, incremental: bool
) -> None:
    """With incremental compilation too: only random names may differ."""
    change, kind = CHANGES[what]
    change(targets[1])
    found = compare_targets(*targets, incremental=incremental)
    assert kind in {difference.kind for difference in found}, report(found)


def test_random_object_names_are_let_pass_only_for_incremental(
    targets: tuple[Path, Path],
) -> None:
    """Two plain incremental builds differ in exactly this."""
    renamed = archive(("lib.rmeta", b"metadata"), (f"{UNIT}.cgu.1234567.rcgu.o", b"object"))
    (targets[1] / "debug" / "deps" / "libapp.rlib").write_bytes(renamed)
    assert compare_targets(*targets, incremental=True) == []
    (difference,) = compare_targets(*targets, incremental=False)
    assert "1234567" in difference.detail


def test_split_debug_info_lets_random_names_pass_but_no_other_size(
    targets: tuple[Path, Path],
) -> None:
    """A program holds the names of its .dwo files, all of the same length."""
    for target, random in zip(targets, ("aaaaaaa", "bbbbbbb"), strict=True):
        (target / "debug" / "deps" / f"{UNIT}.cgu.{random}.rcgu.dwo").write_bytes(b"debug")
        (target / "debug" / "app").write_bytes(b"\x7fELF\0" + random.encode())
    assert compare_targets(*targets, incremental=True) == []
    with (targets[1] / "debug" / "app").open("ab") as program:
        program.write(b"more")
    assert "content" in {found.kind for found in compare_targets(*targets, incremental=True)}


def test_symbolic_links_are_compared_by_where_they_point(targets: tuple[Path, Path]) -> None:
    """And never followed: what they point at may be outside."""
    for target in targets:
        os.symlink(f"/nowhere/{target.name}", target / "link")
    (difference,) = compare_targets(*targets, incremental=False)
    assert difference.detail == "link to /nowhere/plain became link to /nowhere/burst"


def test_a_report_counts_what_it_leaves_out(targets: tuple[Path, Path]) -> None:
    """A failed assertion stays readable with thousands of differences."""
    for number in range(30):
        (targets[1] / str(number)).touch()
    text = report(compare_targets(*targets, incremental=False), most=5)
    assert text.endswith("and 25 more (25 extra)")
