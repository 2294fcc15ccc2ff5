"""burst_wrapper.daemon.judge: a table of what a run was seen to do, and what follows from it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from burst_protocol.action import ASK, Access, Observation
from burst_protocol.digest import Digest
from burst_wrapper.closures import ExternFile
from burst_wrapper.daemon.gather import Learned, Shown
from burst_wrapper.daemon.judge import Judge, Verdict, expected, pin, wide_list
from burst_wrapper.daemon.plan import Plan
from burst_wrapper.depinfo import DepInfo
from burst_wrapper.inputlist import (
    ABSENT,
    ANSWER,
    FILE,
    LISTING,
    PRESENT,
    VARIABLE,
    InputList,
    World,
)
from burst_wrapper.treescan import TreeScanner
from fake_plan import Home

NOTHING = DepInfo((), ())


def saw(
    *accesses: Access,
    complete: bool = True,
    env_names: tuple[bytes, ...] = (),
    programs: tuple[bytes, ...] = (),
    network: bool = False,
) -> Observation:
    return Observation(complete, accesses, env_names, programs, network)


def judge_of(machine: Home, plan: Plan | None = None, *, isolated: bool = True) -> Judge:
    """A run that was shown the package."""
    plan = plan or machine.plan()
    tree = TreeScanner(machine.stats).package(plan.package_dir)
    shown = Shown(dict(tree.files), dict(tree.directories), dict(tree.hidden))
    shown.links.update(tree.links)
    return Judge(plan, shown, plan.declared, isolated)


def verdict_of(machine: Home, observation: Observation, *, isolated: bool = True) -> Verdict:
    judge = judge_of(machine, isolated=isolated)
    judge.add(observation)
    return judge.verdict(NOTHING)


@attrs.frozen
class Place:
    """Paths a test may speak of."""

    package: Path
    outside: Path
    out_dir: Path


@pytest.fixture
def place(machine: Home, tmp_path: Path) -> Place:
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_text("x")
    os.mkfifo(outside / "fifo")
    machine.write("data/a.txt", ".git/HEAD")
    return Place(machine.package, outside, machine.out_dir)


RIGHT = Verdict()


def files(path: Path) -> Verdict:
    return Verdict(Learned(files={bytes(path)}))


def trees(path: Path) -> Verdict:
    return Verdict(Learned(trees={bytes(path)}))


def folders(path: Path) -> Verdict:
    return Verdict(Learned(directories={bytes(path)}))


Row = tuple[str, str, Callable[[Place], Path], bool, Callable[[Place], Verdict | str]]

TABLE: list[Row] = [
    # what was there in the sandbox was home's
    ("a source was read", "open", lambda p: p.package / "src/lib.rs", True, lambda _: RIGHT),
    ("a folder exists", "stat", lambda p: p.package / "data", True, lambda _: RIGHT),
    # what was not there and is not at home either
    ("nothing at home too", "open", lambda p: p.outside / "none", False, lambda _: RIGHT),
    ("below a file", "stat", lambda p: p.outside / "file/x", False, lambda _: RIGHT),
    # what home has and the sandbox had not
    (
        "a file outside",
        "open",
        lambda p: p.outside / "file",
        False,
        lambda p: files(p.outside / "file"),
    ),
    (
        "its existence",
        "stat",
        lambda p: p.outside / "file",
        False,
        lambda p: files(p.outside / "file"),
    ),
    (
        "a folder's existence",
        "stat",
        lambda p: p.outside / "folder",
        False,
        lambda p: folders(p.outside / "folder"),
    ),
    (
        "a folder's names",
        "list",
        lambda p: p.outside / "folder",
        False,
        lambda p: trees(p.outside / "folder"),
    ),
    (
        "an odd file",
        "open",
        lambda p: p.outside / "fifo",
        False,
        lambda p: f"the unit reads {p.outside / 'fifo'}, which is no ordinary file",
    ),
    # listings
    ("names as home has them", "list", lambda p: p.package / "data", True, lambda _: RIGHT),
    (
        "a folder that is shown in part",
        "list",
        lambda p: p.package,
        True,
        lambda p: f"the unit lists {p.package}, of which only a part is sent",
    ),
    (
        "a folder that exists only because something lies in it",
        "list",
        lambda p: p.outside,
        True,
        lambda p: trees(p.outside),
    ),
    (
        "a folder with the outputs in it",
        "list",
        lambda p: p.out_dir.parent,
        True,
        lambda p: f"the unit lists {p.out_dir.parent}, of which only a part is sent",
    ),
    # writing
    (
        "a file written",
        "write",
        lambda p: p.package / "generated.rs",
        True,
        lambda p: f"the unit writes {p.package / 'generated.rs'}",
    ),
    (
        "a file changed in vain",
        "change",
        lambda p: p.outside / "file",
        False,
        lambda p: f"the unit writes {p.outside / 'file'}",
    ),
    # what is the kernel's, or rustc's own business
    ("a process file", "open", lambda _: Path("/proc/self/maps"), False, lambda _: RIGHT),
    ("a device", "open", lambda _: Path("/dev/null"), False, lambda _: RIGHT),
    ("an output", "open", lambda p: p.out_dir / "libapp-0123.rmeta", False, lambda _: RIGHT),
    (
        "shared memory is people's",
        "write",
        lambda _: Path("/dev/shm/x"),
        True,
        lambda _: "the unit writes /dev/shm/x",
    ),
]


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_one_access(machine: Home, place: Place, row: Row) -> None:
    """Seen in a sandbox that showed the package."""
    _, op, path, found, expect = row
    verdict = verdict_of(machine, saw(Access(op, bytes(path(place)), found)))
    wanted = expect(place)
    assert verdict == (Verdict(home=wanted) if isinstance(wanted, str) else wanted)
    assert verdict.right == (verdict == RIGHT)


def test_changed_since_it_was_shown(machine: Home, place: Place) -> None:
    """A listing that home no longer has is not home's."""
    judge = judge_of(machine)
    machine.write("data/b.txt")
    judge.add(saw(Access("list", bytes(place.package / "data"), True)))
    assert judge.verdict(NOTHING) == trees(place.package / "data")


def test_without_a_sandbox_nothing_is_missing(machine: Home, place: Place) -> None:
    """Everything was visible; writing elsewhere is still nobody's right."""
    read = [
        Access("open", bytes(place.outside / "file"), False),
        Access("list", bytes(place.outside), True),
    ]
    assert verdict_of(machine, saw(*read), isolated=False).right
    wrote = Access("write", bytes(place.outside / "x"), True)
    assert not verdict_of(machine, saw(wrote), isolated=False).right


def test_several_misses_are_one_verdict(machine: Home, place: Place) -> None:
    """One run more, not one per file."""
    verdict = verdict_of(
        machine,
        saw(
            Access("open", bytes(place.outside / "file"), False),
            Access("list", bytes(place.outside / "folder"), False),
        ),
    )
    assert verdict.missing.files == {bytes(place.outside / "file")}
    assert verdict.missing.trees == {bytes(place.outside / "folder")}


@pytest.mark.parametrize(
    ("observation", "reason"),
    [
        (saw(programs=(b"/usr/bin/git",)), "a macro starts a program (git)"),
        (saw(network=True), "a macro uses the network"),
    ],
)
def test_what_only_home_can_do(machine: Home, observation: Observation, reason: str) -> None:
    """Whatever else was seen."""
    assert verdict_of(machine, observation).home == reason


def test_questions_to_cargo(machine: Home) -> None:
    """Unanswered: run again with home's answer. About another package: only home can tell."""
    own, other = bytes(machine.package / "Cargo.toml"), bytes(machine.folder / "Cargo.toml")
    asked = verdict_of(machine, saw(Access(ASK, own, False)))
    assert asked == Verdict(Learned(answers={own}))
    assert verdict_of(machine, saw(Access(ASK, own, True))).right
    for found in (True, False):
        verdict = verdict_of(machine, saw(Access(ASK, other, found)))
        assert verdict.home == "a macro starts a program (cargo)"


def test_an_answer_is_an_input(machine: Home) -> None:
    """By what was shown, and shown again the next time."""
    manifest = bytes(machine.package / "Cargo.toml")
    judge = judge_of(machine)
    judge.shown.answers[manifest] = Digest.of(b"answer")
    judge.add(saw(Access(ASK, manifest, True)))
    inputs = judge.input_list(NOTHING)
    assert inputs.entries == ((ANSWER, manifest),)
    world = World(machine.stats, {})
    assert world.value(ANSWER, manifest) == b""
    pin(world, inputs, judge.shown)
    assert world.value(ANSWER, manifest) == Digest.of(b"answer").hash
    assert expected([inputs]).answers == {manifest}
    assert wide_list(judge.shown, NOTHING, judge.plan).names(ANSWER) == [manifest]


def test_nothing_seen_is_not_complete(machine: Home) -> None:
    """Nor is what was lost in part; both may be right as far as seen."""
    assert not judge_of(machine).verdict(NOTHING).complete
    assert not verdict_of(machine, saw(complete=False)).complete
    judge = judge_of(machine)
    judge.add(saw(complete=False))
    judge.add(saw())
    verdict = judge.verdict(NOTHING)
    assert verdict.right
    assert not verdict.complete


@pytest.mark.parametrize("kind", ["lib", "bin"])
def test_variables(machine: Home, kind: str) -> None:
    """Looked up and set at home: send it. Never sent: home. Unset here and there: right."""
    home = {b"GREETING": b"hello", b"API_TOKEN": b"s3cret"}
    plan = machine.plan(kind=kind, cargo_env=home)

    def judged(*names: bytes, dep_info: DepInfo = NOTHING) -> Verdict:
        judge = judge_of(machine, plan)
        judge.add(saw(env_names=names))
        return judge.verdict(dep_info)

    assert judged(b"NOWHERE", b"CARGO_PKG_NAME").right
    assert judged(b"GREETING").missing == Learned(env={b"GREETING"})
    assert judged(b"API_TOKEN").home == "the unit reads $API_TOKEN, which is not sent"
    assert judged(dep_info=DepInfo((), ((b"GREETING", None),))).missing.env == {b"GREETING"}
    assert judged(dep_info=DepInfo((), ((b"NOWHERE", None),))).right


@pytest.mark.parametrize(
    ("name", "home"),
    [
        (b"/proc/version", "the unit includes /proc/version, which is this machine's"),
        (b"/sys/kernel/x", "the unit includes /sys/kernel/x, which is this machine's"),
        (b"/dev/null", ""),
        (b"src/lib.rs", ""),
    ],
)
def test_included_files_of_the_kernel(machine: Home, name: bytes, home: str) -> None:
    """Another machine has others, and what lies below /proc/self is another process's here."""
    judge = judge_of(machine)
    judge.add(saw())
    assert judge.verdict(DepInfo((name,), ())).home == home


@pytest.mark.parametrize(
    ("macro", "does", "tells"),
    [
        (b"rust_embed_impl", "stat data/a.txt", True),
        (b"include_dir_macros", "stat data/a.txt", True),
        (b"embed_it_macros", "stat data/a.txt", True),
        # asks the open file, which is no look that the observer sees
        (b"rust_embed_for_web_impl", "open data/a.txt", True),
        (b"rust_embed_impl", "open data/a.txt", False),
        (b"rust_embed_for_web_impl", "open src/lib.rs", False),
        (b"serde_derive", "stat data/a.txt", False),
    ],
)
def test_macros_that_tell_the_age_of_files(
    machine: Home, place: Place, macro: bytes, does: str, tells: bool
) -> None:
    """A sandbox cannot show ages, so what these macros embed is embedded at home."""
    machine.write("data/b.txt")
    plan = machine.plan()
    extern = ExternFile(b"/t/lib" + macro + b"-0123.so", Digest.of(macro))
    plan = attrs.evolve(plan, externs=attrs.evolve(plan.externs, macros=(extern,)))
    op, name = does.split()
    path = place.package / name
    judge = judge_of(machine, plan)
    judge.add(saw(Access(op, bytes(path), True)))
    # Of all that is opened later nothing is a macro's.
    judge.add(saw(Access(op, bytes(place.package / "data/b.txt"), True)), last=True)
    expected_home = f"{macro.decode()} tells the age of {path}" if tells else ""
    assert judge.verdict(NOTHING).home == expected_home


def test_what_linkers_ask_for(machine: Home) -> None:
    """gcc asks for TERM in every link, which matters to nobody; when a macro does, it matters."""
    plan = machine.plan(kind="bin", cargo_env={b"TERM": b"linux"})
    judge = judge_of(machine, plan)
    judge.add(saw(env_names=(b"HOME",)))
    judge.add(saw(env_names=(b"TERM",)), last=True)
    assert judge.verdict(NOTHING).right
    assert (VARIABLE, b"TERM") not in judge.input_list(NOTHING).entries
    judge = judge_of(machine, plan)
    judge.add(saw(env_names=(b"TERM",)))
    judge.add(saw(env_names=(b"TERM",)), last=True)
    assert judge.verdict(NOTHING).missing == Learned(env={b"TERM"})
    assert (VARIABLE, b"TERM") in judge.input_list(NOTHING).entries


def test_a_verdict_can_be_asked_again(machine: Home, place: Place) -> None:
    """At the dep-info line and at the end; what comes in between counts."""
    judge = judge_of(machine)
    judge.add(saw(Access("open", bytes(place.package / "src/lib.rs"), True)))
    assert judge.verdict(NOTHING).right
    judge.add(saw(Access("open", bytes(place.outside / "file"), False)))
    assert judge.verdict(NOTHING) == files(place.outside / "file")
    assert judge.verdict(NOTHING) == files(place.outside / "file")


# Lists


def test_what_was_used_becomes_a_list(machine: Home, place: Place) -> None:
    """Files by content, absences, existence, names, variables: each as it was looked at."""
    plan = machine.plan(env={b"DECLARED": b"1"})
    judge = judge_of(machine, plan)
    package = bytes(place.package)
    judge.add(
        saw(
            Access("open", package + b"/data/a.txt", True),
            Access("stat", package + b"/data/a.txt", True),
            Access("stat", package + b"/Cargo.toml", True),
            Access("stat", package + b"/build.rs", False),
            Access("list", package + b"/data", True),
            Access("open", bytes(place.out_dir) + b"/x.rmeta", True),
            Access("open", b"/toolchain/lib/librustc.so", True),
            Access("open", b"/proc/self/maps", True),
            env_names=(b"GREETING", b"DECLARED", b"CARGO_PKG_NAME", b"TMPDIR"),
        )
    )
    assert judge.verdict(NOTHING).right
    dep_info = DepInfo((b"app/src/lib.rs",), ((b"OTHER", None),))
    assert judge.input_list(dep_info) == InputList.of(
        [
            (FILE, bytes(machine.folder / "project" / "app" / "src" / "lib.rs")),
            (FILE, package + b"/data/a.txt"),
            (FILE, package + b"/Cargo.toml"),
            (ABSENT, package + b"/build.rs"),
            (LISTING, package + b"/data"),
            (VARIABLE, b"GREETING"),
            (VARIABLE, b"OTHER"),
        ]
    )


def test_a_run_that_was_not_seen_whole_used_everything(machine: Home, place: Place) -> None:
    """All that it could see, and the names around it where they are home's."""
    judge = judge_of(machine)
    found = wide_list(judge.shown, DepInfo((b"/elsewhere.rs",), ((b"V", b"1"),)), judge.plan)
    package = bytes(place.package)
    assert set(found.files()) == {
        package + b"/src/lib.rs",
        package + b"/Cargo.toml",
        package + b"/data/a.txt",
        b"/elsewhere.rs",
    }
    assert set(found.names(LISTING)) == {package + b"/src", package + b"/data"}
    assert found.names(VARIABLE) == [b"V"]


def test_what_earlier_runs_used_is_shown_from_the_start(place: Place) -> None:
    """So that nothing is missed twice."""
    folder, file = bytes(place.outside / "folder"), bytes(place.outside / "file")
    lists = [
        InputList.of([(FILE, file), (VARIABLE, b"A"), (ABSENT, b"/x")]),
        InputList.of([(LISTING, folder), (LISTING, b"/gone"), (PRESENT, folder), (PRESENT, file)]),
    ]
    assert expected(lists) == Learned({file}, {folder}, {folder}, {b"A"})


def test_a_result_belongs_to_what_its_run_was_shown(machine: Home, place: Place) -> None:
    """Edits after the look do not change the key under which it is kept."""
    judge = judge_of(machine)
    package = bytes(place.package)
    inputs = InputList.of(
        [
            (FILE, package + b"/data/a.txt"),
            (LISTING, package + b"/data"),
            (PRESENT, package + b"/Cargo.toml"),
            (PRESENT, package + b"/data"),
            (ABSENT, package + b"/build.rs"),
        ]
    )
    before = World(machine.stats, {})
    values = {entry: before.value(*entry) for entry in inputs.entries}
    world = World(machine.stats, {})
    pin(world, inputs, judge.shown)
    (place.package / "data" / "a.txt").write_text("edited")
    machine.write("data/new.txt", "build.rs")
    (place.package / "Cargo.toml").unlink()
    assert {entry: world.value(*entry) for entry in inputs.entries} == values
    assert values[FILE, package + b"/data/a.txt"] == Digest.of(b"data/a.txt").hash
