"""The mount planner, over an imagined file system."""

from __future__ import annotations

from typing import TypeAlias

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burst_agent.mounts import How, Kind, Mount, MountConflict, Operation, plan, standard

# A directory is a dict, a link is bytes, a file is None.
Tree: TypeAlias = "dict[bytes, Tree] | bytes | None"


@attrs.frozen
class Imagined:
    """A file system in a dict; links are never followed on the way, as in a tree store."""

    root: Tree

    def at(self, path: bytes) -> tuple[bool, Tree]:
        here = self.root
        for part in [part for part in path.split(b"/") if part]:
            if not isinstance(here, dict) or part not in here:
                return False, None
            here = here[part]
        return True, here

    def kind(self, path: bytes) -> Kind | None:
        exists, what = self.at(path)
        if not exists:
            return None
        if isinstance(what, dict):
            return Kind.DIRECTORY
        return Kind.FILE if what is None else Kind.LINK

    def names(self, path: bytes) -> list[bytes]:
        what = self.at(path)[1]
        assert isinstance(what, dict)
        return sorted(what)

    def link(self, path: bytes) -> bytes:
        what = self.at(path)[1]
        assert isinstance(what, bytes)
        return what


PLATFORM: Tree = {
    b"usr": {
        b"bin": {b"cc": b"/etc/alternatives/cc", b"ld": None},
        b"lib": {b"libc.so.6": None, b"gcc": {b"crt.o": None}},
        b"src": {b"linux": {b"Makefile": None}},
    },
    b"lib": b"usr/lib",
    b"lib64": b"usr/lib",
    b"etc": {b"alternatives": {b"cc": b"/usr/bin/gcc"}},
}
DISK = Imagined(
    {
        b"x": PLATFORM,
        b"toolchain": {b"usr": {b"lib": {b"rustlib": {b"std": None}}, b"share": {b"a": None}}},
        b"home": {b"p": {b"src": {b"lib.rs": None}, b"target": {b"debug": {}}}, b"f": None},
        b"out": {},
    }
)


def simple(operations: tuple[Operation, ...]) -> list[tuple[How, bytes, bytes]]:
    return [(o.how, o.target, o.source) for o in operations]


def test_targets_of_their_own_are_one_bind_each() -> None:
    """What does not nest is passed through; directories on the way need no operation."""
    got = plan([Mount.read(b"/home/f", b"/a/b/f"), Mount.write(b"/out", b"/o")], DISK)
    assert set(simple(got)) == {(How.READ, b"/a/b/f", b"/home/f"), (How.WRITE, b"/o", b"/out")}


def test_private_tmp_comes_before_what_lies_in_it() -> None:
    """A project in /tmp is mounted on top of the private /tmp, whatever the order of the wishes."""
    wishes = [Mount.read(b"/home/p", b"/tmp/p"), *standard()]
    targets = [o.target for o in plan(wishes, DISK)]
    assert targets.index(b"/tmp") < targets.index(b"/tmp/p")


def test_a_linker_in_tmp_is_seen_in_the_private_one() -> None:
    """As of a tool set unpacked there; a platform's tree has it where home has it."""
    disk = Imagined({b"x": {b"tmp": {b"t": {b"cc": b"gcc", b"gcc": None}}, b"usr": {}}})
    got = simple(plan([Mount.tree(b"/x"), *standard()], disk))
    assert got[0] == (How.TMPFS, b"/tmp", b"")
    assert got[1] == (How.READ, b"/tmp/t", b"/x/tmp/t")


def test_a_tree_appears_entry_by_entry_at_the_root() -> None:
    """Directories of a platform tree are bound whole, its links are made anew."""
    got = simple(plan([Mount.tree(b"/x")], DISK))
    assert (How.READ, b"/usr", b"/x/usr") in got
    assert (How.SYMLINK, b"/lib", b"usr/lib") in got
    assert len(got) == 4


def test_a_place_that_exists_in_a_read_only_bind_is_mounted_over() -> None:
    """Nothing needs to be taken apart where the mount point is there already."""
    wishes = [Mount.tree(b"/x"), Mount.read(b"/home/p", b"/usr/src/linux")]
    got = simple(plan(wishes, DISK))
    assert (How.READ, b"/usr", b"/x/usr") in got
    assert got.index((How.READ, b"/usr", b"/x/usr")) < got.index(
        (How.READ, b"/usr/src/linux", b"/home/p")
    )


def test_a_project_below_a_read_only_usr_takes_it_apart() -> None:
    """/usr and /usr/src become directories of the root, their other entries stay visible."""
    wishes = [Mount.tree(b"/x"), Mount.read(b"/home/p", b"/usr/src/p")]
    got = simple(plan(wishes, DISK))
    assert (How.READ, b"/usr", b"/x/usr") not in got
    assert (How.DIRECTORY, b"/usr", b"") in got
    for part in (b"/usr/bin", b"/usr/lib", b"/usr/src/linux"):
        assert (How.READ, part, b"/x" + part) in got
    assert (How.READ, b"/usr/src/p", b"/home/p") in got


def test_links_on_the_way_are_followed() -> None:
    """A target below /lib is mounted where /lib leads."""
    wishes = [Mount.tree(b"/x"), Mount.read(b"/home/f", b"/lib/extra.so")]
    got = simple(plan(wishes, DISK))
    assert (How.READ, b"/usr/lib/extra.so", b"/home/f") in got
    assert (How.READ, b"/usr/lib/gcc", b"/x/usr/lib/gcc") in got
    assert (How.SYMLINK, b"/lib", b"usr/lib") in got


def test_dots_on_the_way_lead_where_the_command_will_be_led() -> None:
    """`/lib/../f` with `/lib -> usr/lib` is `/usr/f`; `/p/../f` is `/f`, and `/p` is made."""
    wishes = [Mount.tree(b"/x"), Mount.read(b"/home/f", b"/lib/../f")]
    assert (How.READ, b"/usr/f", b"/home/f") in simple(plan(wishes, DISK))
    assert simple(plan([Mount.read(b"/home/f", b"/p/../f")], DISK)) == [
        (How.READ, b"/f", b"/home/f")
    ]


def test_a_file_in_place_of_a_link_replaces_it() -> None:
    """One cannot mount over a link; what is asked for by name wins over the tree."""
    got = simple(plan([Mount.tree(b"/x"), Mount.read(b"/home/f", b"/usr/bin/cc")], DISK))
    assert (How.READ, b"/usr/bin/cc", b"/home/f") in got
    assert (How.READ, b"/usr/bin/ld", b"/x/usr/bin/ld") in got
    assert not any(how is How.SYMLINK and target == b"/usr/bin/cc" for how, target, _ in got)


def test_trees_share_directories() -> None:
    """Platform and toolchain below one prefix: both are seen."""
    got = simple(plan([Mount.tree(b"/x"), Mount.tree(b"/toolchain")], DISK))
    assert (How.READ, b"/usr/lib/rustlib", b"/toolchain/usr/lib/rustlib") in got
    assert (How.READ, b"/usr/lib/libc.so.6", b"/x/usr/lib/libc.so.6") in got
    assert (How.READ, b"/usr/share", b"/toolchain/usr/share") in got


def test_inputs_inside_a_writable_directory_lie_on_top() -> None:
    """Externs in the unit's out-dir: the launcher makes the mount points in it."""
    got = simple(
        plan([Mount.read(b"/home/f", b"/t/deps/f"), Mount.write(b"/out", b"/t/deps")], DISK)
    )
    assert got == [(How.WRITE, b"/t/deps", b"/out"), (How.READ, b"/t/deps/f", b"/home/f")]


def test_a_writable_directory_inside_a_read_only_project() -> None:
    """target/debug/deps of a project, made or not."""
    for place in (b"/p/target/debug", b"/p/target/debug/deps"):
        got = simple(plan([Mount.write(b"/out", place), Mount.read(b"/home/p", b"/p")], DISK))
        assert (How.WRITE, place, b"/out") in got
        assert (How.READ, b"/p/src", b"/home/p/src") in got or (
            How.READ,
            b"/p",
            b"/home/p",
        ) in got


def test_a_wish_that_came_through_a_link_survives_a_later_bind() -> None:
    """/lib/x is shallower than /usr/lib but lies in it."""
    wishes = [
        Mount.symlink(b"a/b/c", b"/l"),
        Mount.read(b"/home/f", b"/l/f"),
        Mount.read(b"/home/p", b"/a/b/c"),
    ]
    got = simple(plan(wishes, DISK))
    assert (How.READ, b"/a/b/c/f", b"/home/f") in got
    assert (How.READ, b"/a/b/c/src", b"/home/p/src") in got


def test_the_same_wish_twice_is_one_operation() -> None:
    """A file may be an input for two reasons."""
    wish = Mount.read(b"/home/f", b"/f")
    assert len(plan([wish, wish], DISK)) == 1


def test_an_asked_for_directory_exists_even_if_empty() -> None:
    """rustc's working directory may have nothing in it."""
    assert simple(plan([Mount.directory(b"/w/d")], DISK)) == [(How.DIRECTORY, b"/w/d", b"")]
    # and nothing is done where it is there anyway
    got = plan([Mount.read(b"/home/p", b"/p"), Mount.directory(b"/p/src")], DISK)
    assert simple(got) == [(How.READ, b"/p", b"/home/p")]


@pytest.mark.parametrize(
    "wishes",
    [
        [Mount.read(b"/home/f", b"/f"), Mount.read(b"/home/f", b"/f/g")],
        [Mount.read(b"/nowhere", b"/f")],
        [Mount.read(b"/home/f", b"f")],
        [Mount.read(b"/home/f", b"/a/..")],
        [Mount.read(b"/home/f", b"/")],
        [Mount.symlink(b"/l", b"/l"), Mount.read(b"/home/f", b"/l/f")],
    ],
)
def test_wishes_that_cannot_be_are_refused(wishes: list[Mount]) -> None:
    """A file as a directory, a missing source, relative and dotted targets, a circle of links."""
    with pytest.raises(MountConflict):
        plan(wishes, DISK)


NAMES = st.sampled_from([b"usr", b"lib", b"src", b"bin", b"a", b"cc"])
TARGETS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: b"/" + b"/".join(names))
SOURCES = st.sampled_from([b"/home/p", b"/x/usr", b"/toolchain"])


@given(st.lists(st.tuples(TARGETS, SOURCES), max_size=6))
def test_parents_always_come_first_and_mount_points_can_exist(
    wishes: list[tuple[bytes, bytes]],
) -> None:
    """For any set of directories: order is by nesting, and each wish is there exactly once."""
    mounts = [Mount.tree(b"/x"), *(Mount.read(source, target) for target, source in wishes)]
    try:
        got = plan(mounts, DISK)
    except MountConflict:
        return  # something below a file
    place = {operation.target: index for index, operation in enumerate(got)}
    assert len(place) == len(got)
    made = {o.target: o for o in got}
    for target, index in place.items():
        above = target.rpartition(b"/")[0]
        while above:
            assert place.get(above, -1) < index
            parent = made.get(above)
            if parent is not None:
                # Either room in the memory root, or a place that exists in the bind.
                assert parent.how is not How.SYMLINK
                inside = parent.source + target[len(above) :]
                nearest = all(
                    target[: len(above) + i] not in made for i in range(1, len(target) - len(above))
                )
                assert not nearest or not parent.source or DISK.kind(inside) is not None
            above = above.rpartition(b"/")[0]
