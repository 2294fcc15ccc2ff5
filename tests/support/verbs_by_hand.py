"""`cargo burst VERB` without its front end: a session, and cargo with the three hooks set."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from burst_wrapper.session_client import (
    Session,
    SessionRequest,
    Summary,
    hook_path,
    open_session,
)
from faults import MANIFEST
from space import Done, Space

TRIPLE = subprocess.run(
    ["rustc", "-vV"], check=True, capture_output=True, text=True
).stdout.split("host: ")[1].split("\n")[0]  # fmt: skip
RUNNER = f"CARGO_TARGET_{TRIPLE.upper().replace('-', '_')}_RUNNER"


APP = {
    "Cargo.toml": MANIFEST.format(name="app") + '[[bench]]\nname = "b"\nharness = false\n',
    "src/lib.rs": "/// ```\n/// assert_eq!(app::seven(), 7);\n/// ```\n"
    "pub fn seven() -> u32 { 7 }\n"
    "#[test]\nfn unit() { assert_eq!(seven(), 7); }\n",
    "src/main.rs": """
use std::io::{Read, Write};
fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some("exit") => std::process::exit(words[1].parse().unwrap()),
        Some("abort") => { unsafe { libc_kill(std::process::id() as i32, 15) } ; loop {} }
        Some("cat") => {
            let mut all = Vec::new();
            std::io::stdin().read_to_end(&mut all).unwrap();
            std::io::stdout().write_all(&all).unwrap();
        }
        Some("pour") => loop {
            if let Err(error) = std::io::stdout().write_all(&[b'y'; 4096]) {
                eprintln!("{:?}", error.kind());
                std::process::exit(9);
            }
        },
        Some("wait") => {
            println!("waits");
            loop { std::thread::park() }
        }
        Some("env") => for (name, value) in std::env::vars() { println!("{name}={value}") },
        _ => println!("{} in {}", app::seven(), std::env::current_dir().unwrap().display()),
    }
}
unsafe fn libc_kill(pid: i32, signal: i32) {
    extern "C" { fn kill(pid: i32, signal: i32) -> i32; }
    unsafe { kill(pid, signal); }
}
""",
    "tests/files.rs": """
#[test]
fn reads() { assert_eq!(std::fs::read_to_string("data.txt").unwrap(), "data\\n"); }
#[test]
fn starts() {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_app")).output().unwrap();
    assert!(String::from_utf8(out.stdout).unwrap().starts_with("7 in "));
}
""",
    "benches/b.rs": 'fn main() { println!("benched") }\n',
    "data.txt": "data\n",
}
"""A program of many habits, with a unit test, tests that read and start things, and a bench."""


def request_of(space: Space, verb: str = "test", **more: Any) -> SessionRequest:
    """As the front end would ask in this project."""
    root = os.fsencode(space.project)
    return SessionRequest(
        verb=verb,
        cwd=root,
        workspace_root=root,
        target_dir=root + b"/target",
        environ=tuple((os.fsencode(n), os.fsencode(v)) for n, v in space.env.items()),
        **more,
    )


def hooks(space: Space, session: Session) -> dict[str, str]:
    """What cargo's environment gets."""
    environ = {os.fsencode(name): os.fsencode(value) for name, value in space.env.items()}
    found = {
        "RUSTC_WRAPPER": os.fsdecode(hook_path("burst-rustc", environ)),
        "RUSTDOC": os.fsdecode(hook_path("burst-rustdoc", environ)),
        RUNNER: os.fsdecode(hook_path("burst-runner", environ)),
    }
    found |= {os.fsdecode(n): os.fsdecode(v) for n, v in session.environ.items()}
    return found


@attrs.frozen
class Verb:
    done: Done
    summary: Summary
    session: Session


@contextmanager
def session_of(
    space: Space, verb: str = "test", *, executes: bool = True, **more: Any
) -> Iterator[Session]:
    with open_session(request_of(space, verb, executes=executes, **more)) as session:
        yield session


def run(
    space: Space,
    *arguments: str,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    env_named: tuple[tuple[bytes, bytes], ...] = (),
    **more: Any,
) -> Verb:
    """`cargo ARGUMENTS` in a session of its own. `env_named`: by `--env`."""
    with session_of(space, arguments[0], env=env_named, **more) as session:
        settings = {**hooks(space, session), **(env or {})}
        done = space.plain(*arguments, cwd=cwd, **settings)
        return Verb(done, session.close(), session)


@contextmanager
def waiting_program(space: Space, session: Session) -> Iterator[subprocess.Popen[bytes]]:
    """`cargo run` of APP in a session, once its program has said that it waits."""
    with subprocess.Popen(
        ["cargo", "run", "-q", "--", "wait"],
        cwd=space.project,
        env={**space.env, **hooks(space, session)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waits\n"
        yield process


def not_run_to_its_end(process: subprocess.Popen[bytes]) -> str:
    """The runner ends with 125, an error and a hint: the error."""
    assert process.stderr is not None
    assert process.wait(60) == 125
    error, hint = process.stderr.read().decode().splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    return error
