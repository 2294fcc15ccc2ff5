"""Plans the mounts of a sandbox: from what shall be seen where to an ordered list of operations.

The sandbox's root is an empty memory file system. Directories on the way to a target are made in
it, except where they lie in something that is mounted there:

* in a writable bind the launcher makes the mount point (an empty file or directory stays there);
* in a read-only bind nothing can be made. What exists is mounted over; where the target does not
  exist, or is of the wrong kind, the bind is taken apart: its directory is made anew and each of
  its entries bound, so that there is room beside them.

Links are followed as they will be in the sandbox, so `/lib -> usr/lib` in a platform tree and a
target below `/lib` go together. Nothing is mounted here; the file system is only asked, through
`View`, and only about sources in which another target lies.
"""

from __future__ import annotations

import enum
import os
import stat
from collections import deque
from collections.abc import Iterable
from typing import Final, Protocol

import attrs

from burst_protocol.errors import ExecutionProblem

_MAX_LINKS: Final = 40  # as in Linux


class MountConflict(ExecutionProblem):
    """these mounts do not fit together: {detail}"""

    code = "mounts"


class Kind(enum.Enum):
    FILE = enum.auto()
    DIRECTORY = enum.auto()
    LINK = enum.auto()


class View(Protocol):
    """What the planner asks of the file system in which the sources lie."""

    def kind(self, path: bytes) -> Kind | None:
        """Kind of what is there, links not followed; None if nothing is."""

    def names(self, path: bytes) -> list[bytes]:
        """Names in a directory."""

    def link(self, path: bytes) -> bytes:
        """Text of a symbolic link."""


class Disk:
    """The real file system. Raises OSError for what cannot be read."""

    def kind(self, path: bytes) -> Kind | None:
        try:
            mode = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(mode):
            return Kind.DIRECTORY
        return Kind.LINK if stat.S_ISLNK(mode) else Kind.FILE

    def names(self, path: bytes) -> list[bytes]:
        return sorted(os.listdir(path))

    def link(self, path: bytes) -> bytes:
        return os.readlink(path)


class How(enum.Enum):
    READ = enum.auto()
    WRITE = enum.auto()
    TREE = enum.auto()
    """Read-only, and together with what other trees have in the same directories."""
    TMPFS = enum.auto()
    DIRECTORY = enum.auto()
    SYMLINK = enum.auto()
    PROC = enum.auto()
    DEV = enum.auto()


@attrs.frozen
class Mount:
    """One wish. `source` is a file or directory outside, or the text of a link."""

    target: bytes
    how: How
    source: bytes = b""
    size_bytes: int = 0

    @classmethod
    def read(cls, source: bytes, target: bytes) -> Mount:
        return cls(target, How.READ, source)

    @classmethod
    def write(cls, source: bytes, target: bytes) -> Mount:
        return cls(target, How.WRITE, source)

    @classmethod
    def tree(cls, source: bytes, target: bytes = b"/") -> Mount:
        """A materialised tree whose entries appear in `target`, beside those of other trees."""
        return cls(target, How.TREE, source)

    @classmethod
    def tmpfs(cls, target: bytes, size_bytes: int = 0) -> Mount:
        """Private memory; `size_bytes` 0 is the kernel's default, half of the memory."""
        return cls(target, How.TMPFS, size_bytes=size_bytes)

    @classmethod
    def directory(cls, target: bytes) -> Mount:
        """Something of that name, if need be an empty directory."""
        return cls(target, How.DIRECTORY)

    @classmethod
    def symlink(cls, text: bytes, target: bytes) -> Mount:
        return cls(target, How.SYMLINK, text)


def standard(tmp_size_bytes: int = 0) -> tuple[Mount, ...]:
    """What every sandbox has: a private /tmp, /proc and a few devices."""
    return (
        Mount.tmpfs(b"/tmp", tmp_size_bytes),
        Mount(b"/proc", How.PROC),
        Mount(b"/dev", How.DEV),
    )


@attrs.frozen
class Operation:
    """One step for a launcher; parents always come before what lies in them."""

    how: How
    target: bytes
    source: bytes = b""
    size_bytes: int = 0


@attrs.define
class _Node:
    """A name in the sandbox. Without `how` it is a plain directory of the memory root, or, if it
    has a `source`, part of the bind above it and needs no operation of its own."""

    kind: Kind = Kind.DIRECTORY
    how: How | None = None
    source: bytes = b""
    size_bytes: int = 0
    writable: bool = False
    wanted: bool = False
    """To be made even if nothing is mounted in it."""
    wish: bool = False
    """Asked for by name, not a part of something."""
    children: dict[bytes, _Node] = attrs.field(factory=dict)

    @property
    def fixed(self) -> bool:
        """Nothing can be made in it."""
        return bool(self.source) and self.kind is Kind.DIRECTORY and not self.writable


_Chain = list[tuple[bytes, _Node]]


def plan(mounts: Iterable[Mount], view: View | None = None) -> tuple[Operation, ...]:
    """Ordered operations. Raises MountConflict for wishes that exclude each other, OSError if a
    source cannot be looked at."""
    planner = _Planner(view or Disk())
    # Shallow first, so that what is deeper comes on top; memory before what shall be seen in it,
    # also before the trees, which may have a linker in /tmp.
    for mount in sorted(mounts, key=_order):
        planner.add(mount)
    return planner.operations()


def _order(mount: Mount) -> tuple[bool, int]:
    return (mount.how is not How.TMPFS, len(_parts(mount.target)))


def _parts(path: bytes) -> list[bytes]:
    """`..` on the way is the sandbox's to resolve, as the command itself will."""
    parts = [part for part in path.split(b"/") if part not in {b"", b"."}]
    if not path.startswith(b"/") or b"\0" in path:
        raise MountConflict(f"{path!r} is no absolute path")
    return parts


class _Planner:
    def __init__(self, view: View) -> None:
        self.view = view
        self.root = _Node()

    # ---- wishes

    def add(self, mount: Mount) -> None:
        parts = _parts(mount.target)
        if mount.how is How.TREE:
            self.add_tree(mount.source, parts)
        elif mount.how is How.DIRECTORY:
            node = self.walk(parts)[-1][1]
            node.wanted = node.wish = True
        elif not parts:
            raise MountConflict("only trees can be mounted at /")
        elif parts[-1] == b"..":
            raise MountConflict(f"{mount.target!r} does not end in a name")
        else:
            kind = Kind.DIRECTORY
            if mount.how is How.SYMLINK:
                kind = Kind.LINK
            elif mount.how in {How.READ, How.WRITE} and not self.is_directory(mount.source):
                kind = Kind.FILE
            node = _Node(
                kind,
                mount.how,
                mount.source,
                mount.size_bytes,
                writable=mount.how is not How.READ,
                wish=True,
            )
            self.place(self.walk(parts[:-1]), parts[-1], node)

    def is_directory(self, source: bytes) -> bool:
        """Follows links, as the mount will."""
        for _ in range(_MAX_LINKS):
            kind = self.view.kind(source)
            if kind is None:
                raise MountConflict(f"{source!r} is not there")
            if kind is not Kind.LINK:
                return kind is Kind.DIRECTORY
            source = os.path.join(os.path.dirname(source), self.view.link(source))
        raise MountConflict(f"too many links at {source!r}")

    def add_tree(self, source: bytes, parts: list[bytes]) -> None:
        """Binds whole directories as long as nobody else has anything there, and takes them apart
        where two meet."""
        chain = self.walk(parts[:-1])
        if parts:
            there = self.child(chain, parts[-1])
            if there is not None and there.kind is Kind.LINK:
                chain = self.walk(parts)
            elif there is None or there.kind is not Kind.DIRECTORY:
                self.place(chain, parts[-1], _Node(Kind.DIRECTORY, How.READ, source))
                return
            else:
                chain = [*chain, (parts[-1], there)]
        self.open_up(chain)
        for name in self.view.names(source):
            entry = source.rstrip(b"/") + b"/" + name
            kind = self.view.kind(entry)
            if kind is Kind.DIRECTORY:
                self.add_tree(entry, [*parts, name])
            elif kind is Kind.LINK:
                there = self.child(chain, name)
                # A link to a directory that another tree has as a directory changes nothing.
                if there is None or there.kind is not Kind.DIRECTORY:
                    node = _Node(Kind.LINK, How.SYMLINK, self.view.link(entry))
                    self.place(chain, name, node)
            elif kind is not None:
                self.place(chain, name, _Node(Kind.FILE, How.READ, entry))

    # ---- the tree of names

    def child(self, chain: _Chain, name: bytes) -> _Node | None:
        """What will be seen under that name; a part of a bind gets a node when first asked for."""
        parent = chain[-1][1]
        node = parent.children.get(name)
        if node is None and parent.source and parent.kind is Kind.DIRECTORY:
            path = parent.source.rstrip(b"/") + b"/" + name
            kind = self.view.kind(path)
            if kind is not None:
                node = _Node(kind, None, path, writable=parent.writable)
                parent.children[name] = node
        return node

    def link_text(self, node: _Node) -> bytes:
        return node.source if node.how is How.SYMLINK else self.view.link(node.source)

    def walk(self, parts: list[bytes]) -> _Chain:
        """Nodes from the root to that directory, links followed; makes it if it is not there."""
        chain: _Chain = [(b"", self.root)]
        todo = deque(parts)
        links = 0
        while todo:
            name = todo.popleft()
            if name in {b"", b"."}:
                continue
            if name == b"..":
                if len(chain) > 1:
                    chain.pop()
                continue
            node = self.child(chain, name)
            if node is None:
                self.make_room(chain)
                node = chain[-1][1].children[name] = _Node(writable=chain[-1][1].writable)
            elif node.kind is Kind.LINK:
                links += 1
                text = self.link_text(node)
                if links > _MAX_LINKS:
                    raise MountConflict(f"too many links at {_path(chain, name)!r}")
                if text.startswith(b"/"):
                    del chain[1:]
                todo.extendleft(reversed(text.split(b"/")))
                continue
            elif node.kind is Kind.FILE:
                raise MountConflict(f"{_path(chain, name)!r} is a file and a directory")
            chain.append((name, node))
        return chain

    def make_room(self, chain: _Chain) -> None:
        if chain[-1][1].fixed:
            self.open_up(chain)

    def open_up(self, chain: _Chain) -> None:
        """Makes the last directory one of the memory root, and so all above it."""
        for depth in range(1, len(chain) + 1):
            node = chain[depth - 1][1]
            if not node.source:
                continue
            if node.writable:
                raise MountConflict(f"{_path(chain[:depth])!r} is writable and shall be shared")
            source = node.source
            for name in self.view.names(source):
                entry = self.child(chain[:depth], name)
                if entry is not None and entry.how is None and entry.source:
                    self.promote(entry)
            node.how, node.source, node.wanted = None, b"", True

    def promote(self, node: _Node) -> None:
        """From a part of a bind to a bind of its own."""
        if node.kind is Kind.LINK:
            node.how, node.source = How.SYMLINK, self.view.link(node.source)
        else:
            node.how = How.READ

    def place(self, chain: _Chain, name: bytes, node: _Node) -> None:
        parent = chain[-1][1]
        there = self.child(chain, name)
        if there is None:
            self.make_room(chain)
        elif there.kind is not node.kind or node.kind is Kind.LINK:
            if parent.source and parent.writable:
                raise MountConflict(f"{_path(chain, name)!r} exists and is something else")
            self.make_room(chain)
        parent.children[name] = node
        if there is not None and node.kind is Kind.DIRECTORY:
            # What was asked for deeper down came here before us, through a link: it goes on top.
            here = [part for part, _ in chain[1:]] + [name]
            for below, wish in _wishes(there, []):
                parts = [*here, *below]
                if wish.how is None:
                    made = self.walk(parts)[-1][1]
                    made.wanted = made.wish = True
                else:
                    self.place(self.walk(parts[:-1]), parts[-1], wish)

    # ---- the result

    def operations(self) -> tuple[Operation, ...]:
        result: list[Operation] = []
        todo: list[tuple[bytes, _Node]] = [(b"", self.root)]
        while todo:
            path, node = todo.pop()
            if node.how is not None:
                result.append(Operation(node.how, path, node.source, node.size_bytes))
            elif node.wanted and not node.source and path:
                result.append(Operation(How.DIRECTORY, path))
            todo.extend(
                (path + b"/" + name, child) for name, child in reversed(node.children.items())
            )
        return tuple(result)


def _path(chain: _Chain, name: bytes | None = None) -> bytes:
    names = [part for part, _ in chain] + ([] if name is None else [name])
    return b"/".join(names) or b"/"


def _wishes(node: _Node, path: list[bytes]) -> list[tuple[list[bytes], _Node]]:
    found: list[tuple[list[bytes], _Node]] = []
    for name, child in node.children.items():
        if child.wish:
            found.append(([*path, name], child))
        if child.how is None or not child.wish:
            found.extend(_wishes(child, [*path, name]))
    return found
