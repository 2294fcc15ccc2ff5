"""One small workspace that has something for every verb of `cargo burst`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from faults import alive, until

FILES = {
    "Cargo.toml": """\
[workspace]
members = ["core", "tool"]
resolver = "2"
""",
    ".cargo/config.toml": """\
[alias]
ship = "build --package tool"
xtask = ["run", "--quiet", "--package", "tool", "--", "say"]
""",
    "core/Cargo.toml": '[package]\nname = "core-of-it"\nversion = "0.1.0"\nedition = "2021"\n',
    "core/src/lib.rs": """\
/// ```
/// assert_eq!(core_of_it::twice(2), 4);
/// ```
pub fn twice(x: u32) -> u32 { x * 2 }
#[cfg(test)]
mod tests {
    #[test]
    fn doubles() { assert_eq!(super::twice(3), 6); }
    #[test]
    fn may_fail() { assert!(std::env::var_os("FAIL").is_none()); }
}
""",
    "tool/Cargo.toml": """\
[package]
name = "tool"
version = "0.1.0"
edition = "2021"
[dependencies]
core-of-it = { path = "../core" }
[features]
board = []
[[test]]
name = "own"
harness = false
[[test]]
name = "onboard"
harness = false
required-features = ["board"]
[[bench]]
name = "speed"
harness = false
""",
    "tool/src/main.rs": """\
use std::io::Read;
extern "C" { fn kill(pid: i32, number: i32) -> i32; }
fn main() {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    match words.first().and_then(|word| word.to_str()) {
        Some("exit") => std::process::exit(core_of_it::twice(1) as i32 + 1),
        Some("signal") => unsafe { kill(std::process::id() as i32, 15); },
        Some("read") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).unwrap();
            println!("read {}", text.len());
        }
        Some("wait") => {
            println!("waiting");
            loop { std::thread::sleep(std::time::Duration::from_secs(1)); }
        }
        Some("variable") => println!("{:?}", std::env::var_os("SPECIAL")),
        _ => println!("{:?}", words),
    }
}
""",
    "tool/tests/own.rs": """\
fn main() {
    println!("my own harness");
    if std::env::args().any(|word| word == "fails") { std::process::exit(3) }
}
""",
    "tool/tests/onboard.rs": 'fn main() { println!("on the board"); }\n',
    "tool/benches/speed.rs": """\
fn main() {
    let mut seen: Vec<_> = std::env::args().skip(1).collect();
    seen.extend(std::env::var("SPECIAL").ok());
    println!("measured {seen:?}");
}
""",
}


def the_one_that_runs(program: Path, word: str) -> int:
    """Waits for the one process that `running` finds."""
    (pid,) = until(lambda: running(program, word), "the program")
    return pid


def end(pid: int) -> None:
    """Kills it, and waits until it is gone."""
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: not alive(pid), "its end")


def running(program: Path, word: str) -> list[int]:
    """Processes with this argument that were started by this path or by its end, on whatever
    machine, as this kernel numbers them."""
    wanted = os.fsencode(program)
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[1:2] == [os.fsencode(word)] and wanted.endswith(words[0] or b"\0"):
            found.append(int(path.parent.name))
    return found
