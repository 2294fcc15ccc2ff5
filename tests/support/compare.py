"""Are two target folders the same? The question behind "same bits as local rustc".

Paths are part of artifacts, so both builds must have run at the same path:
`build_twice_at_same_path` builds, moves the target folder aside and builds again.

With incremental compilation rustc puts a random part into the names of object files, so rlibs and
staticlibs differ between two plain builds, in the names of their members only. With split debug
info besides, these names stand in what is linked: programs, shared libraries and .dwp files of
incremental units differ then, their sizes do not. Cargo's own `.d` file of a library of several
kinds begins with one of them, at random. What a build script printed has its lines in another
order if it ran compilers side by side, as the cc crate does with the tokens it finds.
All else is equal (measured, rustc 1.95), and is compared.
Only for builds that succeed: how far a failing one gets is a race.
"""

import contextlib
import difflib
import os
import re
import shutil
import stat
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Literal

import attrs

from projects import Project, plain_environ

Kind = Literal["missing", "extra", "type", "mode", "links", "content"]

# Cargo's own notes: times, absolute mtimes, locks, and the wrapper's path.
_CARGOS_OWN = frozenset({".fingerprint", "incremental", ".rustc_info.json", "cargo-timings"})
_LOCK = re.compile(r"\.cargo(-[a-z]+)*-lock$")
# `name-0123456789abcdef.<codegen unit>.<random>.rcgu.o`
_OBJECT = re.compile(r"^(?P<unit>[^.]+)\.(?P<cgu>.+)\.[0-9a-z]{7}\.rcgu\.(?P<kind>o|dwo)$")
_CRATE = re.compile(r"^(?P<crate>.+?)(?:-[0-9a-f]{16})?(?P<suffix>\.[a-z.]+)?$")
_SAME_EVEN_IF_INCREMENTAL = (".rmeta", ".d", ".rlib", ".a")
# What cargo's own dep-info begins with: the last of the library's files, in a hash map's order.
_KIND_OF_LIBRARY = re.compile(rb"^((?:\\ |[^ ])*/lib[^/ ]*)\.(?:rlib|so|a):")
_AR = b"!<arch>\n"
_TEXT_BYTES = 1 << 20
_SHOWN_LINES = 12


@attrs.frozen
class Difference:
    """One way in which a file under target/ is not what plain rustc left there."""

    path: str
    kind: Kind
    detail: str

    def __str__(self) -> str:
        return f"{self.kind:8}{self.path}: {self.detail}"


@attrs.frozen
class Run:
    """What one cargo command said and where its target folder is now."""

    target: Path
    exit_code: int
    stdout: str
    stderr: str


def report(differences: list[Difference], *, most: int = 20) -> str:
    """All differences as text, the first `most` of them in full; for an assertion's message."""
    lines = [str(difference) for difference in differences[:most]]
    if len(differences) > most:
        kinds = Counter(difference.kind for difference in differences[most:])
        more = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        lines.append(f"and {len(differences) - most} more ({more})")
    return "\n".join(lines)


def build_twice_at_same_path(
    project: Project,
    first: Mapping[str, str],
    second: Mapping[str, str],
    *arguments: str,
    verb: str = "build",
) -> tuple[Run, Run]:
    """Run the same cargo command with two environments, both from an empty target/ at one path.

    `first` and `second` are added to a plain environment. The first target folder ends beside the
    project, with `.first` added to its name; a folder left there by an earlier call is removed.
    """
    aside = project.target.with_name("target.first")
    _remove(aside)
    runs: list[Run] = []
    for extra in (first, second):
        _remove(project.target)
        run = subprocess.run(
            project.cargo_argv(verb, *arguments),
            cwd=project.path,
            env=plain_environ(extra),
            capture_output=True,
            text=True,
            check=False,
        )
        runs.append(Run(project.target, run.returncode, run.stdout, run.stderr))
        if not aside.exists() and project.target.exists():
            project.target.rename(aside)
    return attrs.evolve(runs[0], target=aside), runs[1]


def compare_targets(plain: Path, burst: Path, *, incremental: bool) -> list[Difference]:
    """Everything in which `burst` is not `plain`; empty if the two are the same.

    Compared: which files there are, type, permission bits, hard links among them, bytes.
    With `incremental`, what differs between any two such builds is let pass (see the module).
    Raises FileNotFoundError if one of the folders does not exist.
    """
    ours, theirs = _files(plain), _files(burst)
    units = _Incremental.of(plain) if incremental else None
    differences = _absences(ours.keys() - theirs.keys(), theirs.keys() - ours.keys(), units)
    both = sorted(ours.keys() & theirs.keys())
    for path in both:
        one, other = ours[path].st_mode, theirs[path].st_mode
        modes = f"{stat.filemode(one)} became {stat.filemode(other)}"
        if stat.S_IFMT(one) != stat.S_IFMT(other):
            differences.append(Difference(path, "type", modes))
            continue
        if one != other:
            differences.append(Difference(path, "mode", modes))
        if stat.S_ISDIR(one):
            continue
        if units is not None and units.names_are_in(path):
            if ours[path].st_size != theirs[path].st_size:
                sizes = f"{ours[path].st_size} bytes became {theirs[path].st_size}"
                differences.append(Difference(path, "content", sizes))
            continue
        detail = _content(plain / path, burst / path, units)
        if detail:
            differences.append(Difference(path, "content", detail))
    links = _links(both, ours, theirs, incremental=incremental)
    return differences + [_with_others(each, burst, theirs[each.path]) for each in links]


def _absences(
    missing: AbstractSet[str], extra: AbstractSet[str], units: "_Incremental | None"
) -> list[Difference]:
    if units is not None:
        # The same codegen unit of the same crate under another random name is no absence.
        here, there = (Counter(map(_without_random, paths)) for paths in (missing, extra))
        missing = {path for path in missing if not there[_without_random(path)]}
        extra = {path for path in extra if not here[_without_random(path)]}
    return [
        *(Difference(path, "missing", "plain rustc leaves it") for path in sorted(missing)),
        *(Difference(path, "extra", "plain rustc does not leave it") for path in sorted(extra)),
    ]


def _without_random(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    match = _OBJECT.match(name)
    return f"{folder}{slash}{match['unit']}.{match['cgu']}.rcgu.{match['kind']}" if match else path


@attrs.frozen
class _Incremental:
    """Which units were incremental, and whether debug info lies beside what they link."""

    crates: frozenset[str]
    build_script_folders: frozenset[str]
    is_split: bool

    @classmethod
    def of(cls, target: Path) -> "_Incremental":
        """Read it from the folder that has one directory per incremental unit, named by crate.

        All build scripts have one crate name; those of workspace members name their sources
        relative to the workspace, those of packages (never incremental) by absolute paths.
        """
        crates = {
            unit.name.rpartition("-")[0]
            for folder in target.glob("**/incremental")
            for unit in folder.iterdir()
        }
        scripts = {
            str(dep_info.parent.relative_to(target))
            for dep_info in target.glob("**/build/*/build_script_*.d")
            if not dep_info.read_text().split(": ", 1)[1].startswith("/")
        }
        is_split = any(any(target.glob(f"**/*.{kind}")) for kind in ("dwo", "dwp"))
        return cls(frozenset(crates), frozenset(scripts), is_split)

    def names_are_in(self, path: str) -> bool:
        """Whether a linked file holds random names of debug info files."""
        folder, _, name = path.rpartition("/")
        match = _CRATE.match(name)
        if not self.is_split or match is None or "/out/" in path:
            return False
        if match["suffix"] in _SAME_EVEN_IF_INCREMENTAL:
            return False
        crate = match["crate"].replace("-", "_")
        if crate.startswith("build_script_"):
            return folder in self.build_script_folders
        return crate in self.crates or crate.removeprefix("lib") in self.crates


def _files(target: Path) -> dict[str, os.stat_result]:
    """Everything below `target` but cargo's own notes, by path relative to it."""
    found: dict[str, os.stat_result] = {}
    pending = [target]
    while pending:
        for entry in os.scandir(pending.pop()):
            if entry.name in _CARGOS_OWN or _LOCK.match(entry.name):
                continue
            found[str(Path(entry.path).relative_to(target))] = entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))
    return found


def _links(
    both: Sequence[str],
    ours: Mapping[str, os.stat_result],
    theirs: Mapping[str, os.stat_result],
    *,
    incremental: bool,
) -> list[Difference]:
    """Cargo uplifts by hard link; a link into a cache would let a later write change the cache.

    rustc links metadata into the incremental folder, which lies elsewhere if it runs elsewhere.
    """
    groups = [_link_groups(files) for files in (ours, theirs)]
    differences = []
    for path in both:
        if stat.S_ISDIR(ours[path].st_mode) or not stat.S_ISREG(theirs[path].st_mode):
            continue
        one, other = (group[path] - {path} for group in groups)
        if one != other:
            names = [", ".join(sorted(names)) or "nothing" for names in (one, other)]
            detail = f"linked with {names[0]}, became linked with {names[1]}"
            differences.append(Difference(path, "links", detail))
        elif theirs[path].st_nlink not in {ours[path].st_nlink, len(one) + 1 if incremental else 0}:
            detail = f"{ours[path].st_nlink} hard links became {theirs[path].st_nlink}"
            differences.append(Difference(path, "links", detail))
    return differences


def _with_others(links: Difference, target: Path, status: os.stat_result) -> Difference:
    """With every name that the file has around the project: who made the link is what one asks."""
    names = []
    for folder, _, files in os.walk(target.parents[1]):
        for path in (os.path.join(folder, name) for name in files):
            with contextlib.suppress(FileNotFoundError):  # a daemon lives there
                if os.path.samestat(os.lstat(path), status):
                    names.append(path)
    return attrs.evolve(links, detail=f"{links.detail}: {', '.join(sorted(names))}")


def _link_groups(files: Mapping[str, os.stat_result]) -> dict[str, set[str]]:
    by_inode: dict[tuple[int, int], set[str]] = defaultdict(set)
    for path, status in files.items():
        by_inode[status.st_dev, status.st_ino].add(path)
    return {path: by_inode[status.st_dev, status.st_ino] for path, status in files.items()}


def _content(plain: Path, burst: Path, units: _Incremental | None) -> str:
    """What differs between two files of one type, or an empty string."""
    if plain.is_symlink():
        one, other = plain.readlink(), burst.readlink()
        return "" if one == other else f"link to {one} became link to {other}"
    ours, theirs = plain.read_bytes(), burst.read_bytes()
    if ours == theirs:
        return ""
    if plain.suffix == ".d" and plain.parent.name != "deps":
        bare = [_KIND_OF_LIBRARY.sub(rb"\1:", file) for file in (ours, theirs)]
        if bare[0] == bare[1]:
            return ""
    said = plain.parent.parent.name == "build" and plain.name in {"output", "stderr"}
    if said and sorted(ours.splitlines()) == sorted(theirs.splitlines()):
        return ""
    sizes = f"{len(ours)} bytes became {len(theirs)}"
    if ours.startswith(_AR) and theirs.startswith(_AR):
        one_has, other_has = (Counter(_members(file, units)) for file in (ours, theirs))
        names = sorted({name for name, _ in (one_has - other_has) + (other_has - one_has)})
        if not names and units is not None:
            return ""
        shown = ", ".join(names[:_SHOWN_LINES]) or "none, but their order or attributes do"
        return f"{sizes}; archive members that differ: {shown}"
    if max(len(ours), len(theirs)) < _TEXT_BYTES and b"\0" not in ours + theirs:
        lines = [file.decode(errors="replace").splitlines() for file in (ours, theirs)]
        changes = list(difflib.unified_diff(lines[0], lines[1], lineterm="", n=0))[2:]
        return "\n    ".join([sizes, *changes[:_SHOWN_LINES]])
    offset = _first_difference(ours, theirs)
    excerpts = [file[max(0, offset - 16) : offset + 32] for file in (ours, theirs)]
    return f"{sizes}; first at byte {offset}:\n    {excerpts[0]!r}\n    {excerpts[1]!r}"


def _members(archive: bytes, units: _Incremental | None) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a GNU ar archive, which rlibs and staticlibs are.

    For an incremental build names are without their random part; with split debug info besides,
    objects hold such names too, so that only their size counts.
    """
    long_names, offset = b"", len(_AR)
    while offset + 60 <= len(archive):
        raw = archive[offset : offset + 16].rstrip()
        size = int(archive[offset + 48 : offset + 58])
        body = archive[offset + 60 : offset + 60 + size]
        offset += 60 + size + size % 2
        if raw == b"//":
            long_names = body
            continue
        if raw in (b"/", b"/SYM64/"):
            continue
        if raw.startswith(b"/"):
            raw = long_names[int(raw[1:]) :].split(b"/\n", 1)[0]
        name = raw.rstrip(b"/").decode(errors="replace")
        if units is not None and _OBJECT.match(name):
            name = _without_random(name)
            body = b"%d bytes" % size if units.is_split else body
        yield name, body


def _first_difference(one: bytes, other: bytes) -> int:
    """The length of what two unequal files have in common at their start, by bisection."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
