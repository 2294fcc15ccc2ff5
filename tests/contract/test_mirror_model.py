"""Random edits at home and by runs, against a model of what a mirror is."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from burst_protocol.programs import ChangedFile
from mirror_home import put, without_folders
from mirrors import Entry, L, Lab, X
from tiers import EVERYTHING

NAMES = st.lists(st.sampled_from((b"a", b"b", b"c\n\xff")), min_size=1, max_size=3)
PATHS = NAMES.map(b"/".join)
ENTRIES = st.one_of(
    st.sampled_from((b"", b"1", b"2", b"a longer one")),
    st.sampled_from((X(b"1"), X(b"2"))),
    st.sampled_from((L(b"a"), L(b"/nowhere"))),
)


def parents(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:count]) for count in range(1, len(parts))]


def place(tree: dict[bytes, Entry], path: bytes, entry: Entry) -> None:
    """As a file system would have it: what is in the way goes."""
    for other in [*parents(path), *(p for p in tree if p.startswith(path + b"/"))]:
        tree.pop(other, None)
    tree[path] = entry


class Mirroring(RuleBasedStateMachine):
    """`home`, `there` and `owned` are the model; all hold files and links by relative path."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="burst-model-"))
        self.lab = Lab(self.base / "store")
        self.home: dict[bytes, Entry] = {}
        self.there: dict[bytes, Entry] = {}
        self.owned: set[bytes] = set()
        self.synced = False

    def teardown(self) -> None:
        self.lab.close()
        shutil.rmtree(self.base)

    # Home

    @rule(path=PATHS, entry=ENTRIES)
    def home_writes(self, path: bytes, entry: Entry) -> None:
        place(self.home, path, entry)

    @rule(path=PATHS)
    def home_removes(self, path: bytes) -> None:
        for name in [p for p in self.home if p == path or p.startswith(path + b"/")]:
            del self.home[name]

    # Runs

    @precondition(lambda self: self.synced)
    @rule(path=PATHS, entry=ENTRIES, told=st.booleans())
    def run_writes(self, path: bytes, entry: Entry, told: bool) -> None:
        self._run_removes(path)
        for folder in parents(path):
            if folder in self.there:
                os.unlink(self._file(folder))
        place(self.there, path, entry)
        put(self.lab.folder, {path: entry})
        self._ran(told=told)

    @precondition(lambda self: self.synced)
    @rule(path=PATHS, told=st.booleans())
    def run_removes(self, path: bytes, told: bool) -> None:
        self._run_removes(path)
        for name in [p for p in self.there if p == path or p.startswith(path + b"/")]:
            del self.there[name]
        self._ran(told=told)

    def _run_removes(self, path: bytes) -> None:
        if any(folder in self.there for folder in parents(path)):
            return  # not below a link
        file = self._file(path)
        if os.path.islink(file) or os.path.isfile(file):
            os.unlink(file)
        elif os.path.isdir(file):
            shutil.rmtree(file)

    def _file(self, path: bytes) -> bytes:
        return os.path.join(os.fsencode(self.lab.folder), path)

    def _ran(self, *, told: bool) -> None:
        """As a program's host does it: by a word, or by having used it."""
        if told:
            self.lab.mirrors.touched(self.lab.name)
        else:
            with self.lab.mirrors.using(self.lab.name):
                pass

    # Both

    @rule()
    def sync(self) -> None:
        self.lab.sync(self.home)
        for path in self.owned - self.home.keys():
            self.there.pop(path, None)
        for path, entry in self.home.items():
            place(self.there, path, entry)
        self.owned = set(self.home)
        self.synced = True

    @precondition(lambda self: self.synced)
    @rule()
    def another_process(self) -> None:
        """Nothing is remembered but what lies on the disk."""
        self.lab.close()
        self.lab = Lab(self.base / "store")

    @precondition(lambda self: self.synced)
    @rule(take=st.booleans())
    def fetch(self, take: bool) -> None:
        """Every regular file that is not what home last sent; home may take them all."""
        found = self.lab.changes("*")
        files = {path for path, entry in self.there.items() if not isinstance(entry, L)}
        assert found.keys() <= files
        for path in files - found.keys():
            assert path in self.owned
        if take:
            for path, file in found.items():
                self._take(path, file)

    def _take(self, path: bytes, file: ChangedFile) -> None:
        entry = self.there[path]
        assert file.executable == isinstance(entry, X)
        assert self.lab.store.read(file.digest) == (entry.data if isinstance(entry, X) else entry)
        place(self.home, path, entry)
        self.lab.fetched(file)
        self.owned.add(path)

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        if self.synced:
            assert without_folders(self.lab.tree()) == self.there


TestMirroring = Mirroring.TestCase
TestMirroring.settings = settings(
    max_examples=300 if EVERYTHING else 20,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
