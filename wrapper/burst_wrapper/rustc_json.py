r"""One line of rustc's stderr under `--error-format=json`.

Artifact lines are frequent and short and are read without a JSON parser; a diagnostic is read by
one expression over its head, because an explanation and rendered text of some kilobytes follow.
Forms seen on 1.95 and 1.97::

    {"$message_type":"artifact","artifact":"/t/libx.rmeta","emit":"metadata"}
    {"$message_type":"diagnostic","message":"…","code":{"code":"E0583","explanation":"…"},"level":…
    {"$message_type":"section_timing","name":"codegen","event":"start","timestamp":66754}

Kinds of artifact: dep-info, metadata, link, asm, llvm-bc, llvm-ir, mir, obj; of level: error,
warning, note, help, failure-note, "error: internal compiler error".
"""

from __future__ import annotations

import json
import re
from typing import TypeAlias

import attrs


@attrs.frozen
class Artifact:
    """An output is complete on disk."""

    path: bytes
    emit: bytes


@attrs.frozen
class Diagnostic:
    """A message of the compiler. `code` is `E0583`, a lint's name, or None."""

    level: str
    code: str | None
    message: str

    @property
    def is_error(self) -> bool:
        """An error or a crash of the compiler."""
        return self.level.startswith("error")


@attrs.frozen
class FutureIncompat:
    """A future-incompatibility report."""


@attrs.frozen
class UnusedExterns:
    """Externs that were not used."""


@attrs.frozen
class SectionTiming:
    """A `--json=timings` line: microseconds, never the same twice."""


@attrs.frozen
class OtherJson:
    """JSON of a kind this version does not know."""

    kind: str


@attrs.frozen
class Text:
    """No JSON: a macro's own prints, a panic, LLVM's last words."""

    line: bytes


Message: TypeAlias = (
    Artifact | Diagnostic | FutureIncompat | UnusedExterns | SectionTiming | OtherJson | Text
)

_STRING = rb'"([^"\\]*(?:\\.[^"\\]*)*)"'
_ARTIFACT = re.compile(
    rb'\{(?:"\$message_type":"artifact",)?"artifact":' + _STRING + rb',"emit":"([a-z-]+)"\}\s*\Z'
)
_DIAGNOSTIC = re.compile(
    rb'\{(?:"\$message_type":"diagnostic",)?"message":'
    + _STRING
    + rb',"code":(?:null|\{"code":'
    + _STRING
    + rb',"explanation":(?:null|'
    + _STRING.replace(b"(", b"(?:", 1)
    + rb')\}),"level":'
    + _STRING
)
_KINDS: dict[str, Message] = {
    "future_incompat": FutureIncompat(),
    "unused_extern": UnusedExterns(),
    "section_timing": SectionTiming(),
}
_TYPE_PREFIX = b'{"$message_type":"'


def classify(line: bytes) -> Message:
    """What `line` is, with or without its newline. Never raises."""
    if line[:1] != b"{":  # as cargo decides
        return Text(line)
    match = _ARTIFACT.match(line)
    if match:
        path = _unescape(match[1])
        return Text(line) if path is None else Artifact(path, match[2])
    match = _DIAGNOSTIC.match(line)
    if match:
        message, level = _unescape(match[1]), _unescape(match[3])
        code = None if match[2] is None else _unescape(match[2])
        if message is not None and level is not None:
            return Diagnostic(_text(level), None if code is None else _text(code), _text(message))
    if line.startswith(_TYPE_PREFIX):
        kind = line[len(_TYPE_PREFIX) : line.find(b'"', len(_TYPE_PREFIX))].decode("latin-1")
        known = _KINDS.get(kind)
        if known is not None:
            return known
    return _slowly(line)


def relocate_artifact(line: bytes, old_prefix: bytes, new_prefix: bytes) -> bytes:
    """The artifact line for another target directory; any other line as it is."""
    match = _ARTIFACT.match(line)
    path = _unescape(match[1]) if match else None
    old, new = old_prefix.rstrip(b"/"), new_prefix.rstrip(b"/")
    if match is None or path is None or not old:
        return line
    if path != old and not path.startswith(old + b"/"):
        return line
    return line[: match.start(1)] + _escape(new + path[len(old) :]) + line[match.end(1) :]


# A missing input shows as one of these: unresolved names of crates and modules, crates of the
# wrong make, feature gates that RUSTC_BOOTSTRAP opens, files that are not there
_SUSPICIOUS_CODES = frozenset(
    {
        *("E0432", "E0433", "E0454", "E0455", "E0457", "E0458", "E0459", "E0460", "E0461", "E0462"),
        *("E0463", "E0464", "E0466", "E0514", "E0519", "E0523", "E0554", "E0583", "E0584"),
        *("E0635", "E0636", "E0658", "E0786"),
    }
)
_SUMMARY = re.compile(r"aborting due to (?:\d+ )?previous errors?(?:; \d+ warnings? emitted)?\Z")


def is_error(message: Message) -> bool:
    """Does rustc say here that it fails ("error: internal compiler error" counts)."""
    return isinstance(message, Diagnostic) and message.is_error


def is_suspicious(message: Message) -> bool:
    """May this line of a failed remote run come from something that only home has?

    Such a failure is shown only where the observer saw the whole run; else the unit runs again.
    Errors without a code are all suspicious: "couldn't read", linker errors, proc macros that
    panicked, `env!` of a variable that was not sent, and unluckily plain syntax errors.
    """
    match message:
        case Text(line):
            return bool(line.strip())
        case Diagnostic(level, code, text):
            if not level.startswith("error"):
                return False
            if code is None:
                return not _SUMMARY.match(text)
            return code in _SUSPICIOUS_CODES or level != "error"
        case OtherJson():
            return True
        case Artifact() | FutureIncompat() | UnusedExterns() | SectionTiming():
            return False


def _slowly(line: bytes) -> Message:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return Text(line)
    if not isinstance(value, dict):
        return Text(line)
    kind = value.get("$message_type")
    path, emit = value.get("artifact"), value.get("emit")
    if isinstance(path, str) and isinstance(emit, str):
        return Artifact(_bytes(path), _bytes(emit))
    level, message, code = value.get("level"), value.get("message"), value.get("code")
    if isinstance(level, str) and isinstance(message, str):
        name = code.get("code") if isinstance(code, dict) else None
        return Diagnostic(level, name if isinstance(name, str) else None, message)
    if isinstance(kind, str):
        return _KINDS.get(kind) or OtherJson(kind)
    return OtherJson("")


def _unescape(escaped: bytes) -> bytes | None:
    if b"\\" not in escaped:
        return escaped
    try:
        return _bytes(json.loads(b'"' + escaped + b'"'))
    except ValueError:
        return None


def _escape(path: bytes) -> bytes:
    """As serde_json writes a string: only quotes, backslashes and control characters."""
    text = json.dumps(path.decode(errors="surrogateescape"), ensure_ascii=False)[1:-1]
    return text.encode(errors="surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
