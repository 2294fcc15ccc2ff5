"""What a cargo command line becomes on its way to the machine that drives, and what comes back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from burst_wrapper.driver import artifacts, foreign
from burst_wrapper.driver.command import Command, Fetch, option, plan
from space import without_waiting

INJECTED = ("--message-format", "json-render-diagnostics")


@pytest.mark.parametrize(
    ("line", "sent", "fetch"),
    [
        ("build", "build --message-format json-render-diagnostics", Fetch.MESSAGES),
        ("b -r -- x", "b --message-format json-render-diagnostics -r -- x", Fetch.MESSAGES),
        (
            "--color always --locked build -p x",
            "--color always --locked build --message-format json-render-diagnostics -p x",
            Fetch.MESSAGES,
        ),
        (
            "build --message-format short",
            "build --message-format json-render-diagnostics,json-diagnostic-short",
            Fetch.MESSAGES,
        ),
        ("build --message-format=json", "build --message-format=json", Fetch.MESSAGES),
        ("build --help", "build --help", Fetch.NOTHING),
        ("check", "check", Fetch.NOTHING),
        ("test -- --no-run", "test -- --no-run", Fetch.NOTHING),
        ("test --no-run", "test --no-run", Fetch.ASK_AGAIN),
        ("run -- build", "run -- build", Fetch.NOTHING),
        ("doc --no-deps", "doc --no-deps", Fetch.DOCUMENTS),
        ("install --path .", "install --path .", Fetch.INSTALLED),
        ("-Z unstable-options -C x tree", "-Z unstable-options -C x tree", Fetch.NOTHING),
        ("--version", "--version", Fetch.NOTHING),
        ("", "", Fetch.NOTHING),
    ],
)
def test_what_is_sent_and_fetched(line: str, sent: str, fetch: Fetch) -> None:
    command = plan(line.split())
    assert (command.arguments, command.fetch) == (tuple(sent.split()), fetch)
    assert command.ours == (fetch is Fetch.MESSAGES and "json\n" not in line + "\n")


def test_the_quiet_question_after_a_test_build() -> None:
    command = plan(
        ["test", "-v", "--no-run", "-p", "x", "--message-format", "short", "--", "--nocapture"]
    )
    assert command.again == (
        "test",
        "--quiet",
        "--message-format",
        "json-render-diagnostics,json-diagnostic-short",
        "--no-run",
        "-p",
        "x",
        "--",
        "--nocapture",
    )


@pytest.mark.parametrize(
    ("line", "profiles"),
    [
        ("build", ("debug",)),
        ("build --release", ("release",)),
        ("build --profile=fat --target a --target=b", ("a/fat", "b/fat")),
        ("bench", ("release",)),
        ("test --profile test", ("debug",)),
        ("install --debug --path .", ("debug",)),
    ],
)
def test_where_results_lie(line: str, profiles: tuple[str, ...]) -> None:
    assert plan(line.split()).profiles == profiles


def test_toolchain_and_manifest() -> None:
    command = plan(["+1.80", "-C", "sub", "build", "--manifest-path=x/Cargo.toml"])
    assert (command.toolchain, command.folder) == ("1.80", "sub")
    assert command.manifest_path == "x/Cargo.toml"
    assert command.arguments[0] == "-C"
    assert option(["--p", "1", "--p=2"], "--p") == "2"


def sifted(command: Command, *pieces: bytes) -> tuple[bytes, artifacts.Artifacts]:
    kept: list[bytes] = []
    found = artifacts.Artifacts()
    sieve = artifacts.Sieve(found, kept.append, ours=command.ours)
    for piece in pieces:
        sieve.feed(piece)
    sieve.close()
    return b"".join(kept), found


LINES = (
    b'{"reason":"compiler-artifact","filenames":["/t/debug/deps/libd.rlib"],"executable":null}\n'
    b"[a 0.1.0] a build script's word, with -vv\n"
    b'{"reason":"compiler-artifact","filenames":["/t/debug/build/a-1/build-script-build"],'
    b'"executable":null}\n'
    b'{"reason":"compiler-artifact","filenames":["/t/debug/deps/a-1"],'
    b'"executable":"/t/debug/deps/a-1"}\n'
    b'{"reason":"compiler-artifact","filenames":["/t/debug/libx.so","/t/debug/x"],'
    b'"executable":"/t/debug/x"}\n'
    b'{"reason":"build-finished","success":true}\n'
    b'{"reason":"compiler-artifact","filenames":["/etc/passwd"],"executable":"/etc/x"}\nend'
)


def test_our_messages_are_not_shown() -> None:
    """What is no message is shown; a program's own lines, after the build, are none."""
    for size in (1, 7, len(LINES)):
        pieces = [LINES[at : at + size] for at in range(0, len(LINES), size)]
        shown, found = sifted(plan(["build"]), *pieces)
        assert shown.splitlines() == [
            LINES.splitlines()[1],
            LINES.splitlines()[-2],
            b"end",
        ]
        assert found.paths == (b"/t/debug/deps/a-1", b"/t/debug/x", b"/t/debug/libx.so")
        assert found.success


def test_the_users_messages_are_shown_as_they_come() -> None:
    shown, found = sifted(plan(["build", "--message-format=json"]), LINES[:20], LINES[20:])
    assert shown == LINES
    assert len(found.paths) == 3


def test_only_what_lies_in_the_target_directory() -> None:
    paths = (b"/t/debug/x", b"/t/../etc/passwd", b"/etc/x", b"/tt/x")
    assert artifacts.below(paths, b"/t") == (b"debug/x",)


@pytest.mark.slow
def test_cargo_says_the_same_with_our_messages(tmp_path: Path) -> None:
    """Its stderr is equal line by line, and what it names exists."""
    (tmp_path / "Cargo.toml").write_text('[package]\nname = "a"\nversion = "0.1.0"\n')
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.rs").write_text("fn main() { let x = 1; }\n")

    def run(target: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["cargo", *arguments, "--target-dir", target],
            cwd=tmp_path,
            capture_output=True,
            check=True,
        )

    def words(done: subprocess.CompletedProcess[bytes]) -> list[str]:
        lines = without_waiting(done.stderr.decode()).splitlines()
        return [line for line in lines if "Finished" not in line]

    for line in (["build"], ["build", "--message-format", "short"]):
        kind = str(len(line))
        with_ours = run(f"t{kind}", *plan(line).arguments)
        assert words(with_ours) == words(run(f"u{kind}", *line))
        (path,) = artifacts.of_output(with_ours.stdout).paths
        assert Path(path.decode()).is_file()
        assert foreign.why_not(path) is None


ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00"


@pytest.mark.parametrize(
    ("head", "system", "machine", "says"),
    [
        (ELF + b"\x3e\x00", "Linux", "x86_64", None),
        (ELF + b"\xb7\x00", "Linux", "x86_64", "it is for AArch64, this machine is x86_64"),
        (ELF + b"\x3e\x00", "Linux", "aarch64", "it is for x86-64, this machine is aarch64"),
        (ELF + b"\x3e\x00", "Darwin", "arm64", "it is for Linux, this is macOS"),
        (b"\x7fELF\x01\x02\x01" + bytes(9) + b"\0\x02\0\x08", "Linux", "x86_64", "MIPS"),
        (ELF + b"\x3e\x00", "Linux", "unheard-of", None),
        (b"\xcf\xfa\xed\xfe" + bytes(20), "Linux", "x86_64", "it is for Darwin"),
        (b"MZ" + bytes(30), "Linux", "x86_64", "it is for Windows"),
        (b"#!/bin/sh\n", "Darwin", "arm64", None),
        (b"", "Linux", "x86_64", None),
        (b"!<arch>\n" + bytes(30), "Darwin", "arm64", None),
    ],
)
def test_what_cannot_run_here(
    tmp_path: Path, head: bytes, system: str, machine: str, says: str | None
) -> None:
    (tmp_path / "x").write_bytes(head)
    found = foreign.why_not(bytes(tmp_path / "x"), system, machine)
    assert found == says or (says is not None and found is not None and says in found)
