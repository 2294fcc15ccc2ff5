"""Judging a run: did it see what it would have seen at home?

What was looked for in vain and exists at home is missing: the unit is run again with it. What was
listed and looks different at home likewise. A started program, the network, a variable that must
not be sent: such a unit runs at home. Nothing of a run is shown before it was judged.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Final

import attrs

from burst_protocol.action import ASK, Access, Observation
from burst_wrapper import environ
from burst_wrapper.daemon.answers import manifest_of
from burst_wrapper.daemon.gather import Learned, Shown
from burst_wrapper.daemon.plan import Plan
from burst_wrapper.depinfo import DepInfo
from burst_wrapper.inputlist import (
    ABSENT,
    ANSWER,
    FILE,
    LINK,
    LISTING,
    NOTHING,
    PRESENT,
    SOME_DIRECTORY,
    SOME_FILE,
    VARIABLE,
    InputList,
    World,
    names_key,
)

_KERNEL: Final = (b"/proc/", b"/sys/", b"/dev/")
_KERNEL_FACTS: Final = (b"/proc/", b"/sys/")
_SHARED_MEMORY: Final = b"/dev/shm/"
_LIST: Final = "list"
_WRITES: Final = ("write", "change")
_LINK: Final = "readlink"
# Macros that write `last_modified` or `created` of what they embed into the program, and what tells
# that they did: most ask the path, one asks the open file.
_TELL_AGES: Final = {
    b"rust_embed_impl": "stat",
    b"include_dir_macros": "stat",
    b"embed_it_macros": "stat",
    b"rust_embed_for_web_impl": "open",
}


@attrs.define
class Verdict:
    """`missing`: run again with it. `home`: run at home, for this reason. Neither: right."""

    missing: Learned = attrs.field(factory=Learned)
    home: str = ""
    complete: bool = True

    @property
    def right(self) -> bool:
        return not self.missing and not self.home


@attrs.define
class Judge:
    """Collects one run's observations."""

    plan: Plan
    shown: Shown
    sent_env: tuple[tuple[bytes, bytes], ...]
    isolated: bool = True
    """Without a sandbox everything was visible: nothing can be missing, all must be keyed."""
    complete: bool = True
    seen: bool = False
    ran_in: bytes = b""
    """The target directory of the unit whose run this is, if that is another one than ours."""
    accesses: dict[tuple[str, bytes, bool], Access] = attrs.field(factory=dict)
    env_names: dict[bytes, None] = attrs.field(factory=dict)
    early_names: set[bytes] = attrs.field(factory=set)
    """Those of rustc and its macros for sure; the others may be the linker's."""
    programs: dict[bytes, None] = attrs.field(factory=dict)
    network: bool = False
    _judged: set[tuple[str, bytes, bool]] = attrs.field(factory=set)
    _tell_ages: dict[str, bytes] = attrs.field(init=False)
    """By what is done to a file: the macro that is known to write down how old it is."""
    _aged: set[bytes] = attrs.field(factory=set)
    """To which files that was done while macros ran."""
    _externs: frozenset[bytes] = attrs.field(init=False)
    _searched: frozenset[bytes] = attrs.field(init=False)
    _searched_for_crates: frozenset[bytes] = attrs.field(init=False)
    _own: tuple[bytes, ...] = attrs.field(init=False)
    """Where the run's own outputs lie, if a link leads there: the agent names them by the other
    path and leaves those out."""
    _never_news: tuple[bytes, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        places = [self.plan.out_dir]
        if self.plan.call.incremental is not None:
            places.append(os.path.join(self.plan.cwd, self.plan.call.incremental))
        self._own = tuple(os.path.realpath(place) + b"/" for place in places)
        self._never_news = (*_KERNEL, *self._own)
        externs = self.plan.externs
        self._externs = frozenset(file.path for file in (*externs.files, *externs.macros))
        self._tell_ages = {}
        for macro in externs.macros:
            crate = os.path.basename(macro.path).removeprefix(b"lib").rpartition(b"-")[0]
            if crate in _TELL_AGES:
                self._tell_ages[_TELL_AGES[crate]] = crate
        searched = [
            (os.path.join(self.plan.cwd, search.path), search.kind)
            for search in self.plan.call.search_paths
        ]
        self._searched = frozenset(place for place, _ in searched)
        self._searched_for_crates = frozenset(
            [self.plan.out_dir, *(p for p, kind in searched if kind not in (b"native", b"all"))]
        )

    def add(self, observation: Observation, *, last: bool = False) -> None:
        """`last`: of the time since the dep-info line, when macros have run and links begin."""
        self.seen = True
        if not last:
            self.early_names.update(observation.env_names)
        self.complete = self.complete and observation.complete
        for access in observation.accesses:
            path = self.here(access.path)
            here = access if path is access.path else attrs.evolve(access, path=path)
            self.accesses[access.op, path, access.found] = here
            if not last and access.op in self._tell_ages:
                self._aged.add(path)
        for name in observation.env_names:
            self.env_names[name] = None
        for program in observation.programs:
            self.programs[program] = None
        self.network = self.network or observation.network

    def here(self, path: bytes) -> bytes:
        """A path of the run as it is called in our own target directory."""
        there = self.ran_in
        if there and (path == there or path.startswith(there + b"/")):
            return self.plan.target_dir + path[len(there) :]
        return path

    def uses_target(self, dep_info: DepInfo | None) -> bool:
        """Whether the run used what only its own target directory has: OUT_DIR, for example."""
        plan = self.plan
        if not plan.shareable:
            return False
        named = () if dep_info is None else dep_info.env
        if any(plan.speaks_of_target(name) for name in (*self.env_names, *(n for n, _ in named))):
            return True
        inside = plan.target_dir + b"/"
        return any(
            access.found
            and access.path.startswith(inside)
            and access.path not in self._externs
            and not _is_below(access.path, self._own)
            and not self._is_search_folder(access.path)
            for access in self.accesses.values()
        )

    def verdict(self, dep_info: DepInfo | None) -> Verdict:
        """Of all that was observed so far; cheap for what was judged before."""
        verdict = Verdict(complete=self.seen and self.complete)
        if self.programs:
            program = os.fsdecode(os.path.basename(next(iter(self.programs))))
            verdict.home = starts(program)
            return verdict
        if self.network:
            verdict.home = "a macro uses the network"
            return verdict
        self._judge_env(verdict, dep_info)
        for name in () if dep_info is None else dep_info.files:
            if name.startswith(_KERNEL_FACTS):
                verdict.home = f"the unit includes {os.fsdecode(name)}, which is this machine's"
        for key, access in self.accesses.items():
            if key not in self._judged and not self._judge_access(access, verdict):
                continue
            self._judged.add(key)
        return verdict

    def _judge_env(self, verdict: Verdict, dep_info: DepInfo | None) -> None:
        late = self.env_names.keys() - self.early_names if self.plan.call.links else frozenset()
        judged = environ.judge(
            self.env_names.keys() - late,
            () if dep_info is None else dep_info.env,
            self.sent_env,
            self.plan.env,
            linker_names=late,
            forward=self.plan.forward,
        )
        verdict.missing.env |= judged.missing
        if judged.refused:
            name = os.fsdecode(min(judged.refused))
            verdict.home = f"the unit reads ${name}, which is not sent"

    def _judge_access(self, access: Access, verdict: Verdict) -> bool:
        """True if this access was like home's; else the verdict says what to do."""
        path = access.path
        if access.op == ASK:
            return self._judge_question(access, verdict)
        if self._is_search_folder(path) or _is_below(path, self._never_news):
            return True
        if access.op in _WRITES:
            verdict.home = f"the unit writes {os.fsdecode(path)}"
            return False
        if not self.isolated:
            return True
        if access.op == _LIST and access.found:
            return self._judge_listing(path, verdict)
        if access.found:
            self._judge_age(access, verdict)
            return not verdict.home
        try:
            mode = os.stat(path).st_mode
        except OSError:
            return True
        if stat.S_ISDIR(mode):
            if access.op == _LIST:
                verdict.missing.trees.add(path)
            else:
                verdict.missing.directories.add(path)
        elif stat.S_ISREG(mode):
            verdict.missing.files.add(path)
        else:
            verdict.home = f"the unit reads {os.fsdecode(path)}, which is no ordinary file"
        return False

    def _judge_question(self, access: Access, verdict: Verdict) -> bool:
        if access.path != manifest_of(self.plan):
            verdict.home = starts("cargo")
        elif not access.found:
            verdict.missing.answers.add(access.path)
        return access.found and not verdict.home

    def _judge_age(self, access: Access, verdict: Verdict) -> None:
        """Files are of one age in a sandbox; some macros write home's into the program.

        A look at a file may mean its existence, its size or its age, and mostly means the first:
        only macros known for the last are not believed.
        """
        crate = self._tell_ages.get(access.op)
        if crate is None or access.path not in self._aged or access.path in self._externs:
            return
        if access.path.endswith((b".rs", b"/Cargo.toml")):
            return
        if self.shown.digest(access.path) is not None:
            verdict.home = f"{os.fsdecode(crate)} tells the age of {os.fsdecode(access.path)}"

    def _judge_listing(self, path: bytes, verdict: Verdict) -> bool:
        shown = self.shown.listing(path)
        try:
            names = frozenset(os.listdir(path))
        except OSError:
            names = frozenset()
        if shown is not None and shown == names:
            return True
        place = self.shown.resolved(path)
        if place in self.shown.hidden or self._contains_outputs(place):
            verdict.home = f"the unit lists {os.fsdecode(path)}, of which only a part is sent"
            return False
        verdict.missing.trees.add(path)
        return False

    def _contains_outputs(self, path: bytes) -> bool:
        inside = path.rstrip(b"/") + b"/"
        return (self.plan.out_dir + b"/").startswith(inside) or path == b"/"

    def _is_search_folder(self, path: bytes) -> bool:
        """The crates in `-L` folders are in the weak key; looking around there is rustc's habit."""
        if path in self._searched:
            return True
        return path[: path.rfind(b"/")] in self._searched_for_crates

    def input_list(self, dep_info: DepInfo) -> InputList:
        """What this run used, as a list for the strong key. Only after a right verdict."""
        plan = self.plan
        entries: set[tuple[int, bytes]] = set()
        for name in dep_info.files:
            entries.add((FILE, os.path.join(plan.cwd, name)))
        for name in (*self.env_names, *(name for name, _ in dep_info.env)):
            if not self._is_keyed(name):
                entries.add((VARIABLE, name))
        # The platform's digest covers its directories whole, and so what is absent there.
        whole = (
            *self._never_news,
            *(item.path + b"/" for item in plan.platform.inputs if item.local),
        )
        for access in self.accesses.values():
            path = access.path
            if access.op == ASK:
                entries.add((ANSWER, path))
                continue
            if path in self._externs or _is_below(path, whole) or self._is_search_folder(path):
                continue
            if not access.found:
                entries.add((ABSENT, path))
            elif access.op == _LIST:
                entries.add((LISTING, path))
            elif self.shown.digest(path) is not None or not self.isolated:
                # By content even if it was only looked at: that look may have been for its size.
                entries.add((FILE, path))
            else:
                entries.add((PRESENT, path))
            if access.found and access.op == _LINK:
                entries.add((LINK, path))
        return InputList.of(entries)

    def _is_keyed(self, name: bytes) -> bool:
        """Whether the weak key has the variable already, or has it as soon as it is set."""
        if self.plan.speaks_of_target(name):
            return False
        if name in environ.HIDDEN or environ.is_declared(name, links=self.plan.call.links):
            return True
        late = self.plan.call.links and name not in self.early_names
        if late and name in environ.LINKER_HIDDEN:
            return True
        return any(name == declared for declared, _ in self.plan.declared)


def starts(program: str) -> str:
    """Why such a unit runs at home."""
    return f"a macro starts a program ({program})"


def _is_below(path: bytes, folders: tuple[bytes, ...]) -> bool:
    """Whether the path lies in one of the folders (each with its final slash).

    The kernel's folders hold no files of people, but for one.
    """
    if path.startswith(_SHARED_MEMORY):
        folders = tuple(folder for folder in folders if folder not in _KERNEL)
    return (path + b"/").startswith(folders)


def wide_list(shown: Shown, dep_info: DepInfo, plan: Plan) -> InputList:
    """For a run that was not seen whole: everything it could see, and the listings around it."""
    entries: set[tuple[int, bytes]] = {(FILE, path) for path in shown.files}
    entries |= {(LISTING, path) for path in shown.listings if path not in shown.hidden}
    for tree in shown.borrowed:
        if tree.root in shown.in_place:
            entries |= {(FILE, path) for path in tree.files}
            entries |= {(LISTING, path) for path in tree.directories}
    entries |= {(FILE, os.path.join(plan.cwd, name)) for name in dep_info.files}
    entries |= {(VARIABLE, name) for name, _ in dep_info.env}
    entries |= {(ANSWER, manifest) for manifest in shown.answers}
    return InputList.of(entries)


def expected(lists: Iterable[InputList]) -> Learned:
    """What earlier runs were seen to use: shown from the start, it need not be missed again."""
    known = Learned()
    for inputs in lists:
        known.env.update(inputs.names(VARIABLE))
        known.files.update(inputs.files())
        known.trees.update(path for path in inputs.names(LISTING) if os.path.isdir(path))
        for path in inputs.names(PRESENT):
            (known.directories if os.path.isdir(path) else known.files).add(path)
        known.files.update(inputs.names(LINK))
        known.answers.update(inputs.names(ANSWER))
    return known


def pin(world: World, inputs: InputList, shown: Shown) -> None:
    """What a run was shown counts, not what lies there by now."""
    for kind, path in inputs.entries:
        value: bytes | None = None
        if kind == ABSENT:
            value = NOTHING
        elif kind == FILE:
            digest = shown.digest(path)
            value = None if digest is None else digest.hash
        elif kind == ANSWER:
            answer = shown.answers.get(path)
            value = None if answer is None else answer.hash
        elif kind == PRESENT and shown.digest(path) is not None:
            value = SOME_FILE
        elif kind in (PRESENT, LISTING):
            names = shown.listing(path)
            if names is not None:
                value = names_key(names) if kind == LISTING else SOME_DIRECTORY
        if value is not None:
            world.pin(kind, path, value)
