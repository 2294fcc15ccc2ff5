"""The input root of a unit: the superset of what it may read, by digest.

Package directory, OUT_DIR, the crates it needs, native library directories, what argv and the
configuration name, what earlier runs were seen to read elsewhere. What is not gathered does not
exist in the sandbox; what turns out to be missing there is learned and gathered the next time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Final, Self

import attrs

from burst_protocol.action import (
    ANSWER_PATH,
    KIND_DIRECTORY,
    KIND_EXECUTABLE,
    KIND_FILE,
    KIND_SYMLINK,
    Action,
    Incremental,
    Input,
)
from burst_protocol.digest import EMPTY, Digest, KeyHasher
from burst_wrapper import environ
from burst_wrapper.closures import Closures
from burst_wrapper.daemon.answers import Answer, manifest_of
from burst_wrapper.daemon.plan import Plan
from burst_wrapper.daemon.platform import Sources
from burst_wrapper.pathwalk import walk
from burst_wrapper.statcache import StatCache
from burst_wrapper.treescan import CHANGED, TooLarge, Tree, TreeScanner

_MAX_LINKS: Final = 40
_SYSTEM: Final = (b"/usr/lib/", b"/lib/", b"/usr/lib64/", b"/lib64/")


class CannotGather(Exception):
    """The inputs are beyond what can be sent; the unit runs at home. args[0] says why."""


@attrs.define
class Learned:
    """What a rerun adds to the superset."""

    files: set[bytes] = attrs.field(factory=set)
    trees: set[bytes] = attrs.field(factory=set)
    directories: set[bytes] = attrs.field(factory=set)
    env: set[bytes] = attrs.field(factory=set)
    answers: set[bytes] = attrs.field(factory=set)
    """Manifests that cargo is asked about; only the unit's own can be answered for."""

    def __ior__(self, other: Learned) -> Self:
        self.files |= other.files
        self.trees |= other.trees
        self.directories |= other.directories
        self.env |= other.env
        self.answers |= other.answers
        return self

    def __bool__(self) -> bool:
        return any((self.files, self.trees, self.directories, self.env, self.answers))

    def beyond(self, known: Learned) -> bool:
        """Whether this names something that `known` does not."""
        return not (
            self.files <= known.files
            and self.trees <= known.trees
            and self.directories <= known.directories
            and self.env <= known.env
            and self.answers <= known.answers
        )


@attrs.define
class Shown:
    """What the sandbox shows of home, besides the platform."""

    files: dict[bytes, Digest] = attrs.field(factory=dict)
    listings: dict[bytes, frozenset[bytes]] = attrs.field(factory=dict)
    hidden: dict[bytes, tuple[bytes, ...]] = attrs.field(factory=dict)
    borrowed: list[Tree] = attrs.field(factory=list)
    """Whole trees, not merged into the above: sources of other packages, shown for what their
    macros expand to, and what a local agent shows in place."""
    in_place: list[bytes] = attrs.field(factory=list)
    """Trees that a local agent binds instead of copying: looked at again after the run."""

    links: dict[bytes, bytes] = attrs.field(factory=dict)
    """Absolute path to what the symbolic link there says."""
    answers: dict[bytes, Digest] = attrs.field(factory=dict)
    """Manifest to what cargo says of it."""

    def has(self, path: bytes) -> bool:
        """Whether a file was shown at this very path."""
        return path in self.files or any(path in tree.files for tree in self.borrowed)

    def digest(self, path: bytes) -> Digest | None:
        """What was shown at this path, if it was a file."""
        known = self._digest(path)
        return self._digest(self.resolved(path)) if known is None else known

    def _digest(self, path: bytes) -> Digest | None:
        known = self.files.get(path)
        if known is None:
            for tree in self.borrowed:
                if path.startswith(tree.root):
                    known = tree.files.get(path)
                    if known is not None:
                        break
        return known

    def listing(self, path: bytes) -> frozenset[bytes] | None:
        """The names shown in this directory, if it was shown whole."""
        known = self._listing(path)
        return self._listing(self.resolved(path)) if known is None else known

    def _listing(self, path: bytes) -> frozenset[bytes] | None:
        known = self.listings.get(path)
        if known is None:
            for tree in self.borrowed:
                if path.startswith(tree.root):
                    known = tree.directories.get(path)
                    if known is not None:
                        break
        return known

    def resolved(self, path: bytes) -> bytes:
        """Where the path led in the sandbox: `..` and links taken as they were shown, not as they
        are now."""
        todo = path.split(b"/")[::-1]
        here = b""
        followed = 0
        while todo:
            name = todo.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                here = here.rpartition(b"/")[0]
                continue
            child = here + b"/" + name
            target = self._link(child)
            if target is None or followed > _MAX_LINKS:
                here = child
                continue
            followed += 1
            if target.startswith(b"/"):
                here = b""
            todo.extend(target.split(b"/")[::-1])
        return here or b"/"

    def _link(self, path: bytes) -> bytes | None:
        known = self.links.get(path)
        if known is None:
            for tree in self.borrowed:
                if path.startswith(tree.root):
                    known = tree.links.get(path)
                    if known is not None:
                        break
        return known


@attrs.define
class Gathered:
    action: Action
    action_key: bytes
    shown: Shown
    sources: Sources
    sent_env: tuple[tuple[bytes, bytes], ...]


class Gatherer:
    def __init__(self, stats: StatCache, closures: Closures) -> None:
        self._stats = stats
        self._closures = closures
        self._scanner = TreeScanner(stats)
        self._immutable: dict[tuple[bytes, bool], Tree] = {}
        self._stamps: dict[bytes, Digest] = {}

    def gather(
        self, plan: Plan, learned: Learned, *, local: bool, answer: Answer | None = None
    ) -> Gathered:
        """Blocking (stats and hashes): call it in a thread. CannotGather if it cannot be done.

        `answer`: cargo's, of the unit's own manifest.

        `local`: for an agent on this machine, which sees immutable packages and OUT_DIR where they
        are; they need no content digest before somebody reads them.
        """
        inputs: dict[bytes, Input] = {}
        shown = Shown()
        sources = Sources()
        out_dir = plan.env.get(b"OUT_DIR")

        def show(tree: Tree) -> None:
            inputs[tree.root] = Input(tree.root, KIND_DIRECTORY, tree.digest)
            shown.files.update(tree.files)
            shown.listings.update(tree.directories)
            shown.hidden.update(tree.hidden)
            shown.links.update(tree.links)
            sources.add(tree)

        def show_in_place(tree: Tree) -> None:
            inputs[tree.root] = Input(
                tree.root, KIND_DIRECTORY, tree.digest, local=tree.root if local else b""
            )
            shown.borrowed.append(tree)
            sources.more.append(tree)

        if plan.immutable:
            if not local:
                self._look_again(plan.package_dir)
            show_in_place(self._immutable_tree(plan.package_dir, local=local))
            shown.in_place.append(plan.package_dir)
        else:
            show(self._package_tree(plan.package_dir))
        if out_dir is not None and os.path.isdir(out_dir):
            show_in_place(self._outline(out_dir) if local else self._whole(out_dir))
            shown.in_place.append(out_dir)
        way = _Way(plan, inputs, shown)
        for path in sorted(learned.trees):
            real = way.to(path)
            if real is not None and shown.listing(real) is None:
                show(self._whole(real))
        for package_dir in self._closures.packages(plan.externs.closure):
            if package_dir not in inputs and os.path.isdir(package_dir):
                show_in_place(self._immutable_tree(package_dir, local=local))

        def add(path: bytes) -> None:
            if shown.has(path):
                return
            real = way.to(path)
            if real is None or shown.has(real):
                return
            state = self._stats.digest(real)
            if state is not None:
                kind = KIND_EXECUTABLE if state.executable else KIND_FILE
                inputs[real] = Input(real, kind, state.digest)
                shown.files[real] = state.digest
                sources.files[state.digest] = real

        for file in (*plan.externs.files, *plan.externs.macros):
            inputs[file.path] = Input(file.path, KIND_FILE, file.digest)
            sources.files[file.digest] = file.path
        for path in plan.macro_libraries:
            add(path)
        for path in _native_files(plan):
            add(path)
        for path in plan.extra_files:
            add(path)
        for path in _manifests_above(plan):
            add(path)
        if plan.call.is_clippy:
            for path in _clippy_configurations(plan):
                add(path)
        for path in sorted(learned.files):
            add(path)
        if answer is not None:
            inputs[ANSWER_PATH] = Input(ANSWER_PATH, KIND_FILE, answer.digest)
            shown.answers[manifest_of(plan)] = answer.digest
            sources.blobs[answer.digest] = answer.data
        directories = self._directories(plan, learned)
        for path in {os.path.dirname(file.path) for file in plan.externs.files} | directories:
            way.to(path)
        action = self._action(plan, learned, inputs, directories | way.directories)
        return Gathered(action, _action_key(plan, action), shown, sources, action.env)

    def unchanged(self, shown: Shown, paths: Iterable[bytes], *, isolated: bool) -> bool:
        """Whether the files that were read at their own places are what they were before.

        Copies cannot change; what lies in place can, and without a sandbox everything does.
        """
        prefixes = tuple(root + b"/" for root in shown.in_place)
        for path in paths:
            expected = shown.digest(path)
            if expected == CHANGED:
                self._immutable.clear()
                return False
            if expected is not None and (not isolated or path.startswith(prefixes)):
                state = self._stats.digest(path)
                if state is None or state.digest != expected:
                    self._immutable.clear()
                    return False
        return True

    def forget(self) -> None:
        """An agent says that files are not what we took them for: look again."""
        self._immutable.clear()

    def _package_tree(self, package_dir: bytes) -> Tree:
        try:
            return self._scanner.package(package_dir)
        except TooLarge as error:
            raise CannotGather("the package has too many files") from error

    def _immutable_tree(self, package_dir: bytes, *, local: bool) -> Tree:
        known = self._immutable.get((package_dir, local))
        if known is None:
            outline = self._outline(package_dir)
            self._stamps[package_dir] = outline.digest
            if local:
                known = outline
            elif b"/git/checkouts/" in package_dir:
                # Not the history; the local agent has it in place, for others it is not sent.
                known = self._package_tree(package_dir)
            else:
                known = self._whole(package_dir)
            self._immutable[package_dir, local] = known
        return known

    def _look_again(self, package_dir: bytes) -> None:
        """People do edit what cargo unpacked. A local agent shows the edit anyhow and notices it
        afterwards; elsewhere it would be the old text that is compiled."""
        stamp = self._stamps.get(package_dir)
        if stamp is not None and stamp != self._outline(package_dir).digest:
            self._immutable.pop((package_dir, False), None)

    def _outline(self, path: bytes) -> Tree:
        try:
            return self._scanner.outline(path)
        except TooLarge as error:
            raise CannotGather(f"{os.fsdecode(path)} has too many files") from error

    def _whole(self, path: bytes) -> Tree:
        try:
            return self._scanner.whole(path)
        except TooLarge as error:
            raise CannotGather(f"{os.fsdecode(path)} has too many files") from error

    def _directories(self, plan: Plan, learned: Learned) -> set[bytes]:
        """What must exist even if nothing is in it."""
        directories = {plan.cwd, plan.out_dir, *learned.directories}
        for search in plan.call.search_paths:
            path = os.path.join(plan.cwd, search.path)
            if os.path.isdir(path):
                directories.add(path)
        temporary = plan.env.get(b"CARGO_TARGET_TMPDIR")
        if temporary:
            directories.add(temporary)
        return directories

    def _action(
        self,
        plan: Plan,
        learned: Learned,
        inputs: dict[bytes, Input],
        directories: set[bytes],
    ) -> Action:
        call = plan.call
        toolchain = plan.platform.toolchain
        env = environ.select(
            plan.env,
            None if plan.caller is None else plan.caller.environ,
            learned=frozenset(learned.env),
            forward=plan.forward,
            links=call.links,
        )
        driver = toolchain.rustc
        argv = [driver, *call.args]
        if call.is_clippy:
            argv = [toolchain.clippy_driver or driver, driver, *call.args]
        incremental = None
        if call.incremental is not None:
            path = os.path.join(plan.cwd, call.incremental)
            hasher = KeyHasher(b"incremental")
            hasher.add(path, call.stem, b",".join(call.crate_types), plan.platform.key)
            incremental = Incremental(path, hasher.key())
        return Action(
            argv=tuple(argv),
            env=env,
            cwd=plan.cwd,
            out_dir=plan.out_dir,
            inputs=(*plan.platform.inputs, *inputs.values()),
            directories=tuple(sorted(directories)),
            incremental=incremental,
            scan_for=plan.target_dir if plan.shareable else b"",
            programs=plan.platform.programs,
            quiet=plan.platform.quiet,
            priority=0 if call.links and not (call.is_build_script or call.is_proc_macro) else 1,
        )


class _Way:
    """Follows paths at home and has every link shown that is met on the way."""

    def __init__(self, plan: Plan, inputs: dict[bytes, Input], shown: Shown) -> None:
        self._system = tuple(path.rstrip(b"/") + b"/" for path in plan.platform.quiet)
        self._inputs = inputs
        self._shown = shown
        self.directories: set[bytes] = set()
        """Passed on the way to their `..`."""

    def to(self, path: bytes) -> bytes | None:
        """The physical place; None if there is nothing of an ordinary kind."""
        try:
            way = walk(path)
        except OSError:
            return None
        for entry in way.entries:
            place = entry.path
            if entry.kind == "directory" and place != way.real:
                self.directories.add(place)
            if entry.kind != "symlink" or (place + b"/").startswith(self._system):
                continue
            folder, name = os.path.split(place)
            if name not in (self._shown.listing(folder) or ()):
                self._inputs[place] = Input(place, KIND_SYMLINK, EMPTY, target=entry.target)
                self._shown.links[place] = entry.target
        return way.real


def _action_key(plan: Plan, action: Action) -> bytes:
    """Equal for equal actions of two worktrees, as far as the unit can be shared at all."""
    hasher = KeyHasher(b"burst action 1")
    neutral = plan.neutral
    fields = [plan.weak_key, plan.stderr_key]
    for name, value in action.env:
        fields += [b"env", name, neutral(value)]
    own = plan.env.get(b"OUT_DIR") if plan.shareable and not plan.alone else None
    # In the order of their neutral names: where a target directory lies must not matter.
    for path, item in sorted(((neutral(item.path), item) for item in action.inputs), key=_first):
        # A run that looks at its OUT_DIR is not used for another target directory.
        digest = b"" if item.path == own else item.digest.hash
        fields += [b"input", path, bytes((item.kind,)), digest, item.target]
    for path in sorted(map(neutral, action.directories)):
        fields += [b"directory", path]
    hasher.add(*fields)
    return hasher.key()


def _first(named: tuple[bytes, object]) -> bytes:
    return named[0]


def _native_files(plan: Plan) -> list[bytes]:
    """Every file directly in `-L native` and `-L all` directories that are not the system's."""
    files: list[bytes] = []
    for search in plan.call.search_paths:
        if search.kind not in (b"native", b"all", b"framework"):
            continue
        folder = os.path.join(plan.cwd, search.path)
        if (folder + b"/").startswith(_SYSTEM):
            continue
        own = folder == plan.out_dir  # `-L target/debug/deps` among the flags
        with contextlib.suppress(OSError):
            files += [
                entry.path
                for entry in os.scandir(folder)
                if entry.is_file() and not (own and plan.call.writes(entry.name))
            ]
    return sorted(files)


def _manifests_above(plan: Plan) -> list[bytes]:
    """Manifests from the package up to its workspace: macros look `workspace = true` up in them."""
    if plan.immutable:
        return []
    found: list[bytes] = []
    folder = plan.package_dir
    while len(folder) > 1:
        folder = os.path.dirname(folder)
        path = os.path.join(folder, b"Cargo.toml")
        if os.path.isfile(path):
            found.append(path)
        if folder == plan.cwd:
            break
    return found


def _clippy_configurations(plan: Plan) -> list[bytes]:
    found: list[bytes] = []
    folder = plan.env.get(b"CLIPPY_CONF_DIR") or plan.package_dir
    while True:
        for name in (b".clippy.toml", b"clippy.toml"):
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                found.append(path)
        if len(folder) <= 1:
            return found
        folder = os.path.dirname(folder)
