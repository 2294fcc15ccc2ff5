"""Reading the observer's log, and what in it was not declared."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from burst_agent.observe import Access, Declared, EnvironmentRead, Op, Program, parse, undeclared

HELLO = b"H-0 2 1 1 /t/bin/rustc\0"


def log(*records: bytes) -> bytes:
    return HELLO + b"".join(record + b"\0" for record in records)


def test_every_kind_of_record_has_its_place() -> None:
    """Paths, variables, programs and network attempts come out typed."""
    seen = parse(log(b"o-0 /a", b"ow13 /b", b"e-0 CC", b"e-2 DATABASE_URL", b"n-0 x", b"S-2 0 git"))
    assert seen.accesses == (Access(Op.OPEN, b"/a", 0, False), Access(Op.OPEN, b"/b", 13, True))
    assert seen.env_reads == (
        EnvironmentRead(b"CC", True),
        EnvironmentRead(b"DATABASE_URL", False),
    )
    assert seen.env_names == {b"CC", b"DATABASE_URL"}
    assert seen.programs == (Program(b"git", 2),)
    assert seen.network == (b"x",)
    assert seen.complete


def test_newlines_spaces_and_bytes_in_paths_are_kept() -> None:
    """Only NUL ends a record, and no path holds a NUL."""
    path = b"/a b\n/\xff o-0 /x"
    assert parse(log(b"s-2 " + path)).accesses[0].path == path


def test_absent_means_learned_that_nothing_is_there() -> None:
    """ENOENT and ENOTDIR are knowledge; EACCES is something else."""
    found = parse(log(b"s-2 /a", b"s-20 /b", b"s-13 /c", b"s-0 /d")).accesses
    assert [access.absent for access in found] == [True, True, False, False]


def test_without_a_hello_nothing_is_known() -> None:
    """A static program, or one whose libc refused the library."""
    assert not parse(b"").complete
    assert not parse(b"o-0 /a\0").complete


def test_a_child_that_does_not_report_makes_it_incomplete() -> None:
    """A static linker ran, and what it read is unknown."""
    seen = parse(log(b"S-0 7 /usr/bin/mold"))
    assert not seen.complete
    assert "mold" in seen.gap
    assert parse(log(b"S-0 7 /usr/bin/cc") + b"H-0 7 2 1 /usr/bin/gcc\0").complete
    # The child may speak before its parent has written that it started it.
    assert parse(log(b"H-0 7 2 1 /usr/bin/gcc", b"S-0 7 /usr/bin/cc")).complete


def test_an_exec_needs_another_hello_of_the_same_process() -> None:
    """X announces; x takes it back when the exec failed."""
    hello = b"H-0 7 2 1 /usr/bin/gcc"
    assert not parse(log(b"X-0 7 cc")).complete
    assert parse(log(b"X-0 7 cc", hello)).complete
    assert parse(log(b"X-0 7 cc", b"x-2 7 cc")).complete
    assert parse(log(b"X-0 7 cc", b"x-2 7 cc")).programs == (Program(b"cc", 2),)
    assert not parse(log(b"X-0 7 cc", hello, b"X-0 7 ld")).complete
    # The first program's own hello does not count for what it turns into.
    assert not parse(log(b"X-0 2 static")).complete
    assert parse(log(b"X-0 2 dynamic", b"H-0 2 1 1 /dynamic")).complete


def test_a_question_to_cargo_is_no_program() -> None:
    """Who answers for cargo says hello; where nobody does, that is known."""
    asked = log(b"Q-0 7 /p/Cargo.toml")
    assert not parse(asked).complete
    seen = parse(asked + b"H-0 7 2 1 /t/bin/rustc\0")
    assert seen.complete
    assert not seen.programs
    assert seen.accesses == (Access(Op.ASK, b"/p/Cargo.toml", 0, write=False),)
    unanswered = parse(log(b"Q-2 0 /p/Cargo.toml"))
    assert unanswered.complete
    assert unanswered.accesses[0].absent


def test_a_shell_of_unknown_process_number_is_never_complete() -> None:
    """system() and popen() do not tell whom they started."""
    assert not parse(log(b"S-0 0 /bin/sh")).complete


def test_a_cut_record_or_an_unknown_one_is_a_gap() -> None:
    """Whatever is not understood is not taken for all there was."""
    assert not parse(log(b"o-0 /a")[:-1]).complete
    assert not parse(log(b"Z-0 what")).complete
    assert not parse(log(b"o?x /a")).complete
    assert not parse(b"H-0 2 1 99 /rustc\0").complete
    assert not parse(log(b"o-0 ?/relative")).complete


@given(st.binary())
def test_no_log_makes_the_parser_fail(data: bytes) -> None:
    """The log comes from a process that runs other people's macros."""
    parse(data)
    parse(HELLO + data)


def test_declared_directories_cover_all_below_them() -> None:
    """And nothing beside them that merely begins alike."""
    declared = Declared(files=frozenset({b"/etc/f"}), directories=frozenset({b"/p"}))
    assert declared.covers(b"/p")
    assert declared.covers(b"/p/a/b")
    assert declared.covers(b"/etc/f")
    assert not declared.covers(b"/etc/f/g")
    assert not declared.covers(b"/pp")
    assert Declared(directories=frozenset({b"/"})).covers(b"/x")


def test_undeclared_takes_the_way_to_declared_places_for_granted() -> None:
    """stat of a parent is no news; listing it is, and so is a parent that was not found."""
    declared = Declared(directories=frozenset({b"/home/u/p"}))
    seen = parse(
        log(
            *(b"s-0 /home/u", b"s-0 /home/u/p/x", b"o-0 /home/u/p/../p/y"),
            *(b"d-0 /home/u", b"o-2 /home/u/q", b"s-2 /home"),
        )
    )
    assert [access.path for access in undeclared(seen.accesses, declared)] == [
        b"/home/u",
        b"/home/u/q",
        b"/home",
    ]
