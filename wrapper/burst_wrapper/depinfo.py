"""The dep-info file as rustc writes it (`rustc_interface::passes::write_out_deps`, seen on 1.95).

::

    out dir/m.d: sp\\ ace/m.rs sp\\ ace/x.rs      the target is not escaped, the files are

    sp\\ ace/m.rs:                                one such line per file
    sp\\ ace/x.rs:

    # env-dep:EMPTY=                              set and empty
    # env-dep:MULT=a\\nb                          \\n, \\r and \\\\ are escaped
    # env-dep:UNSET                               not set, or not UTF-8
    # checksum:blake3=… file_len:192 sp\\ ace/m.rs   nightly
"""

from __future__ import annotations

import re

import attrs

_ENV_DEP = b"# env-dep:"
_CHECKSUM = b"# checksum:"
_ESCAPE = re.compile(rb"\\([nr\\])")
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"\\": b"\\"}
_UNESCAPED_SPACE = re.compile(rb"(?<!\\) ")


@attrs.frozen
class DepInfo:
    """What one compile read, in the order rustc names it, without repeats.

    `files` are as rustc saw them: relative to the cwd where the crate root was. A variable's value
    is None where it was unset (or was not UTF-8: `option_env!` of such a one is an error).
    """

    files: tuple[bytes, ...]
    env: tuple[tuple[bytes, bytes | None], ...]


def parse(text: bytes) -> DepInfo:
    """Read a dep-info file; lines that are none of the known forms are passed over."""
    files: dict[bytes, None] = {}
    listed: dict[bytes, None] = {}
    env: dict[bytes, bytes | None] = {}
    for line in text.split(b"\n"):
        if line.startswith(b"#"):
            if line.startswith(_ENV_DEP):
                name, equals, value = line[len(_ENV_DEP) :].partition(b"=")
                env[_unescape(name)] = _unescape(value) if equals else None
        elif _is_phony(line):
            files[_file(line[:-1])] = None
        else:
            _, colon, rest = line.partition(b": ")
            if colon:
                for word in _UNESCAPED_SPACE.split(rest):
                    if word:
                        listed[_file(word)] = None
    # the one-per-line form is exact; a target with ": " in its path spoils the other one
    return DepInfo(tuple(files or listed), tuple(env.items()))


def relocate(text: bytes, old_prefix: bytes, new_prefix: bytes) -> bytes:
    """The same file for another target directory: paths that are `old_prefix` or below it.

    Values of variables are left alone: where one holds the old directory, so does the artifact,
    and it must not be used elsewhere.
    """
    old, new = old_prefix.rstrip(b"/"), new_prefix.rstrip(b"/")
    if not old or old == new:
        return text
    escaped_old, escaped_new = old.replace(b" ", b"\\ "), new.replace(b" ", b"\\ ")
    lines = []
    for line in text.split(b"\n"):
        if line.startswith(b"#"):
            if line.startswith(_CHECKSUM):
                words = line.split(b" ", 3)
                if len(words) == 4:
                    words[3] = _moved(words[3], escaped_old, escaped_new)
                lines.append(b" ".join(words))
            else:
                lines.append(line)
        elif _is_phony(line):
            lines.append(_moved(line[:-1], escaped_old, escaped_new) + b":")
        else:
            lines.append(_relocate_rule(line, (old, new), (escaped_old, escaped_new)))
    return b"\n".join(lines)


def _relocate_rule(line: bytes, plain: tuple[bytes, bytes], escaped: tuple[bytes, bytes]) -> bytes:
    skip = len(plain[0]) if line.startswith(plain[0]) else 0
    colon = line.find(b": ", skip)
    if colon < 0:
        return line
    target = _moved(line[:colon], *plain)
    words = [_moved(word, *escaped) for word in _UNESCAPED_SPACE.split(line[colon + 2 :])]
    return target + b": " + b" ".join(words)


def _moved(path: bytes, old: bytes, new: bytes) -> bytes:
    if path == old or path.startswith(old + b"/"):
        return new + path[len(old) :]
    return path


def _is_phony(line: bytes) -> bool:
    return line.endswith(b":") and len(line) > 1 and not _UNESCAPED_SPACE.search(line)


def _file(word: bytes) -> bytes:
    return word.replace(b"\\ ", b" ")


def _unescape(text: bytes) -> bytes:
    if b"\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: _ESCAPED[match[1]], text)
