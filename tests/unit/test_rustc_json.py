"""burst_wrapper.rustc_json on lines that rustc 1.95 and 1.97 wrote."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burst_wrapper import rustc_json
from burst_wrapper.rustc_json import (
    Artifact,
    Diagnostic,
    FutureIncompat,
    OtherJson,
    SectionTiming,
    Text,
    UnusedExterns,
)


def diagnostic(message: str, code: str | None = None, level: str = "error") -> bytes:
    """A line as serde_json writes it, in rustc's order of fields."""
    explained = {"code": code, "explanation": 'say "x"\n```\n\\ {level: "level":"note"}\n'}
    value = {
        "$message_type": "diagnostic",
        "message": message,
        "code": explained if code else None,
        "level": level,
        "spans": [{"file_name": "e.rs", "text": [{"text": '"level":"warning"'}]}],
        "children": [{"message": "child", "code": None, "level": "help"}],
        "rendered": f"{level}: {message}\n",
    }
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            b'{"$message_type":"artifact","artifact":"dd/mm.d","emit":"dep-info"}\n',
            Artifact(b"dd/mm.d", b"dep-info"),
        ),
        (
            b'{"$message_type":"artifact","artifact":"dd/libe.rmeta","emit":"metadata"}',
            Artifact(b"dd/libe.rmeta", b"metadata"),
        ),
        (b'{"artifact":"/t/libx.rlib","emit":"link"}\n', Artifact(b"/t/libx.rlib", b"link")),
        (
            b'{"$message_type":"artifact","artifact":"q\\"u\\\\te \xc3\xa9/m.d","emit":"dep-info"}',
            Artifact(b'q"u\\te \xc3\xa9/m.d', b"dep-info"),
        ),
        (
            b'{ "emit":"link", "artifact":"/\\u00e9\\u0001" }',
            Artifact(b"/\xc3\xa9\x01", b"link"),
        ),
        (
            b'{"$message_type":"section_timing","name":"codegen","event":"start","timestamp":66754}',
            SectionTiming(),
        ),
        (b'{"$message_type":"future_incompat","future_incompat_report":[]}', FutureIncompat()),
        (
            b'{"$message_type":"unused_extern","lint_level":"warn","unused_extern_names":["a"]}',
            UnusedExterns(),
        ),
        (b'{"$message_type":"novelty","x":1}', OtherJson("novelty")),
        (b"{}", OtherJson("")),
        (b"{ not json", Text(b"{ not json")),
        (b'{"x":1}', OtherJson("")),
        (b"thread 'rustc' panicked at x", Text(b"thread 'rustc' panicked at x")),
        (
            b'{"$message_type":"artifact","artifact":"x',
            Text(b'{"$message_type":"artifact","artifact":"x'),
        ),
        (b"", Text(b"")),
    ],
)
def test_classifies(line: bytes, expected: rustc_json.Message) -> None:
    """Artifacts, timings, reports, and what is no JSON."""
    assert rustc_json.classify(line) == expected


@pytest.mark.parametrize(
    ("message", "code", "level"),
    [
        ("file not found for module `zz`", "E0583", "error"),
        ('unused variable: "é\\"\n', "unused_variables", "warning"),
        ("couldn't read `sp ace/we ird#$\t.txt`", None, "error"),
        (
            "For more information about this error, try `rustc --explain E0308`.",
            None,
            "failure-note",
        ),
        ("boom", None, "error: internal compiler error"),
    ],
)
def test_reads_the_head_of_a_diagnostic(message: str, code: str | None, level: str) -> None:
    """Quotes, explanations and children do not confuse it."""
    found = rustc_json.classify(diagnostic(message, code, level))
    assert found == Diagnostic(level, code, message)
    assert isinstance(found, Diagnostic)
    assert found.is_error == level.startswith("error")


@pytest.mark.parametrize(
    ("line", "suspicious"),
    [
        (diagnostic("mismatched types", "E0308"), False),
        (diagnostic("unused variable", "unused_variables"), False),
        (diagnostic("aborting due to 1 previous error"), False),
        (diagnostic("aborting due to 2 previous errors; 13 warnings emitted"), False),
        (diagnostic("aborting due to previous error"), False),
        (diagnostic("unused", None, "warning"), False),
        (diagnostic("Some errors have detailed explanations: E0432.", None, "failure-note"), False),
        (b'{"$message_type":"artifact","artifact":"dd/mm.d","emit":"dep-info"}\n', False),
        (b"\n", False),
        (diagnostic("unresolved import `foo`", "E0432"), True),
        (diagnostic("cannot find module", "E0433"), True),
        (diagnostic("can't find crate for `foo`", "E0463"), True),
        (diagnostic("`#![feature]` may not be used on the stable release channel", "E0554"), True),
        (diagnostic("file not found for module `zz`", "E0583"), True),
        (diagnostic("couldn't read `nosuch.rs`: No such file or directory (os error 2)"), True),
        (diagnostic("linking with `cc` failed: exit status: 1"), True),
        (diagnostic("linker `clang` not found"), True),
        (diagnostic("proc macro panicked"), True),
        (diagnostic("environment variable `X` not defined at compile time"), True),
        (diagnostic("boom", "E0308", "error: internal compiler error"), True),
        (b"LLVM ERROR: out of memory\n", True),
        (b'{"$message_type":"novelty"}', True),
    ],
)
def test_suspicion(line: bytes, suspicious: bool) -> None:
    """What a missing input could look like is never shown without a second run."""
    assert rustc_json.is_suspicious(rustc_json.classify(line)) is suspicious


def test_relocates_only_paths_below_the_prefix() -> None:
    """The rest of the line stays byte for byte; other lines stay whole."""
    line = b'{"$message_type":"artifact","artifact":"/a \\"b/x","emit":"link"}\n'
    assert rustc_json.relocate_artifact(line, b'/a "b/', b"/c\\d") == (
        b'{"$message_type":"artifact","artifact":"/c\\\\d/x","emit":"link"}\n'
    )
    assert rustc_json.relocate_artifact(line, b'/a "', b"/c") == line
    assert rustc_json.relocate_artifact(b"text /a", b"/a", b"/c") == b"text /a"


@given(st.text(st.characters(codec="utf-8")), st.sampled_from(["link", "dep-info", "obj"]))
def test_reads_every_path(path: str, emit: str) -> None:
    """Escaped by a JSON writer that keeps or escapes other than ASCII letters."""
    for ascii_only in (True, False):
        value = {"$message_type": "artifact", "artifact": path, "emit": emit}
        line = json.dumps(value, separators=(",", ":"), ensure_ascii=ascii_only).encode()
        assert rustc_json.classify(line) == Artifact(path.encode(), emit.encode())


@given(st.text(st.characters(codec="utf-8")), st.sampled_from([None, "E0308", "dead_code"]))
def test_fast_and_slow_reading_agree(message: str, code: str | None) -> None:
    """A line with unusual spaces goes through the JSON parser and means the same."""
    line = diagnostic(message, code)
    assert rustc_json.classify(b"{ " + line[1:]) == rustc_json.classify(line)
    assert rustc_json.classify(line) == Diagnostic("error", code, message)


@given(
    st.binary() | st.binary().map(lambda tail: b'{"$message_type":"artifact","artifact":"' + tail)
)
def test_never_raises(line: bytes) -> None:
    """Any bytes."""
    message = rustc_json.classify(line)
    rustc_json.is_suspicious(message)
    rustc_json.relocate_artifact(line, b"/a", b"/b")
