"""What git knows of a folder that `.gitignore` files in it do not say.

Patterns above the folder, `.git/info/exclude` and the user's own; and which files are tracked
though a pattern ignores them, for those are part of the project. Git is asked where it is
installed; without it the patterns are found all the same, at their usual places.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import attrs

from burst_lifecycle.folders import ancestors
from burst_lifecycle.git_directory import common_directory, git_directory
from burst_wrapper.mirror.ignore import Level, Patterns
from burst_wrapper.processes import find_program, run_program

Stamp = tuple[int, int, int]

_NOTHING: Final = (0, 0, 0)


def stamp(path: bytes) -> Stamp:
    """Another one: the file is another one."""
    try:
        info = os.stat(path)
    except OSError:
        return _NOTHING
    return (info.st_ino, info.st_size, info.st_mtime_ns)


@attrs.frozen
class Repository:
    """Of one folder, which need not be in a repository."""

    levels: tuple[Level, ...] = ()
    """From the least to the most telling; not those of the folder itself and below."""
    tracked: frozenset[bytes] = frozenset()
    """Absolute paths of files below it that are tracked and ignored."""
    watched: tuple[tuple[bytes, Stamp], ...] = ()
    """While these are what they were, so are the patterns."""
    index: tuple[bytes, Stamp] = (b"", _NOTHING)
    """While git's index is what it was, so is what is tracked."""


def look_again(known: Repository, folder: bytes, environ: Mapping[bytes, bytes]) -> Repository:
    """The same one, if nothing has changed; with the same patterns, if only the index has."""
    if any(stamp(path) != was for path, was in known.watched):
        return look_up(folder, environ)
    path, was = known.index
    now = stamp(path) if path else was
    if now == was:
        return known
    return attrs.evolve(known, tracked=_tracked(folder, environ), index=(path, now))


def look_up(folder: bytes, environ: Mapping[bytes, bytes]) -> Repository:
    """Blocking: two short runs of git, if there is one."""
    top = _top(folder)
    if top is None:
        return Repository()
    own = git_directory(top) or os.path.join(top, b".git")
    common = common_directory(own)
    files: list[bytes] = [_global_excludes(top, environ), os.path.join(common, b"info/exclude")]
    between = os.path.relpath(folder, top).split(b"/")
    above = [top]
    for part in between[:-1]:
        above.append(os.path.join(above[-1], part))
    bases = [top, top]
    if folder != top:
        files += [os.path.join(place, b".gitignore") for place in above]
        bases += above
    watched = [(path, stamp(path)) for path in _configurations(common, environ)]
    levels = []
    for path, base in zip(files, bases, strict=True):
        watched.append((path, stamp(path)))
        patterns = read_patterns(path)
        if patterns:
            prefix = os.fsdecode(base).rstrip("/") + "/"
            levels.append(Level(prefix, patterns, os.fsdecode(path)))
    index = os.path.join(own, b"index")
    now = stamp(index)
    return Repository(tuple(levels), _tracked(folder, environ), tuple(watched), (index, now))


def read_patterns(path: bytes) -> Patterns:
    """Of a file; none if it cannot be read, as with git."""
    try:
        with open(path, "rb") as file:
            return Patterns.parse(file.read())
    except OSError:
        return Patterns()


def _top(folder: bytes) -> bytes | None:
    tops = (top for top in ancestors(folder) if os.path.lexists(os.path.join(top, b".git")))
    return next(tops, None)


def _configurations(common: bytes, environ: Mapping[bytes, bytes]) -> list[bytes]:
    home = environ.get(b"HOME", b"/nonexistent")
    return [
        b"/etc/gitconfig",
        os.path.join(home, b".gitconfig"),
        os.path.join(_xdg(environ), b"git/config"),
        os.path.join(common, b"config"),
    ]


def _xdg(environ: Mapping[bytes, bytes]) -> bytes:
    home = environ.get(b"HOME", b"/nonexistent")
    return environ.get(b"XDG_CONFIG_HOME") or os.path.join(home, b".config")


def _global_excludes(top: bytes, environ: Mapping[bytes, bytes]) -> bytes:
    said = _git((b"config", b"--type=path", b"--get", b"core.excludesFile"), top, environ)
    if said:
        return os.path.join(top, said.removesuffix(b"\n"))
    return os.path.join(_xdg(environ), b"git/ignore")


def _tracked(folder: bytes, environ: Mapping[bytes, bytes]) -> frozenset[bytes]:
    words = (b"ls-files", b"-z", b"--cached", b"--ignored", b"--exclude-standard")
    said = _git(words, folder, environ)
    return frozenset(os.path.join(folder, name) for name in said.split(b"\0") if name)


def _git(words: tuple[bytes, ...], folder: bytes, environ: Mapping[bytes, bytes]) -> bytes:
    """What it prints; nothing if it is not there or fails."""
    program = find_program(b"git", folder, environ)
    if program is None:
        return b""
    # Read only, and no program of the repository's choice is started.
    env = {**environ, b"GIT_OPTIONAL_LOCKS": b"0"}
    for name in (b"GIT_DIR", b"GIT_WORK_TREE", b"GIT_INDEX_FILE"):
        env.pop(name, None)
    done = run_program((program, b"-c", b"core.fsmonitor=false", *words), folder, env)
    return done.stdout if done.status == 0 else b""
