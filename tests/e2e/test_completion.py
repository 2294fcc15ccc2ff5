"""What shells offer behind `cargo burst`, by the shells themselves where they are installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from space import CARGO_BURST, Space

pytest_plugins = ("verbs_machine",)


def offered(desk: Space, *words: str) -> list[str]:
    done = desk.run(CARGO_BURST, "completion", "--query", "--", *words).check()
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "some"),
    [
        (("b",), {"build", "bench"}),
        (("xt",), {"xtask"}),
        (("sta",), {"status"}),
        (("--h",), {"--host", "--help"}),
        (("+nightly", "--locked", "cl"), {"clippy", "clean"}),
        (("build", "--re"), {"--release"}),
        (("test", "--no-d"), {"--no-doctests", "--no-default-features"}),
        (("test", "--test", ""), {"own"}),
        (("test", "-p", ""), {"core-of-it", "tool"}),
        (("run", "--bin", "t"), {"tool"}),
        (("xtask", ""), set()),
        (("bench", "--", "--save"), {"--save-baseline"}),
        (("clippy", "--", "--de"), {"--deny"}),
        (("nextest", ""), {"run", "list", "archive"}),
        (("nextest", "run", "--no-cap"), {"--no-capture"}),
        (("build", "--driver", ""), {"local", "remote"}),
        (("build", "--host", ""), set()),
        (("image", ""), {"build", "list", "prune"}),
        (("down", "--with"), {"--with-volumes"}),
        (("enable", "h"), {"hetzner"}),
        (("build", "--manifest-path", ""), {":files"}),
    ],
)
def test_candidates(desk: Space, words: tuple[str, ...], some: set[str]) -> None:
    """From the tables, cargo's metadata and its configuration."""
    found = set(offered(desk, *words))
    assert some <= found
    begun = words[-1]
    assert all(word.startswith(begun) or word == ":files" for word in found)
    if not some:
        assert found <= {":files"} | set(found if words[0] == "xtask" else ())


def path_with_us(desk: Space) -> dict[str, str]:
    return {**desk.env, "PATH": f"{Path(sys.executable).parent}:{desk.env['PATH']}"}


@pytest.mark.parametrize("line", ["cargo burst bui", "cargo-burst bui"])
def test_bash(desk: Space, line: str) -> None:
    """Both spellings; what was there for cargo before is still asked."""
    script = desk.burst("completion", "bash").check().stdout
    words = line.split()
    program = f"""
before() {{ COMPREPLY=(as-before); }}
complete -F before cargo
{script}
COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}
{"_cargo_or_burst" if words[0] == "cargo" else "_cargo_burst"}; printf '%s\\n' "${{COMPREPLY[@]}}"
COMP_WORDS=(cargo b); COMP_CWORD=1
_cargo_or_burst; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "-c", program],
        env=path_with_us(desk),
        cwd=desk.project,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["build", "as-before"]


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
@pytest.mark.parametrize("line", ["cargo burst test --no-doc", "cargo-burst test --no-doc"])
def test_fish(desk: Space, line: str) -> None:
    """It completes by itself, with what the option means."""
    script = desk.burst("completion", "fish").check().stdout
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"{script}\ncomplete -C '{line}'"],
        env=path_with_us(desk),
        cwd=desk.project,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--no-doctests\tleave doctests out" in done.stdout


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh(desk: Space, tmp_path: Path) -> None:
    """It reads the file, and the function gathers what there is."""
    (tmp_path / "_cargo-burst").write_text(desk.burst("completion", "zsh").check().stdout)
    program = f"""
fpath=({tmp_path} $fpath); autoload -Uz _cargo-burst
_describe() {{ print -l -- "${{(@P)${{@[-1]}}}}"; }}
_files() {{ print files; }}
words=(cargo-burst down --with); CURRENT=3
_cargo-burst
"""
    done = subprocess.run(
        ["zsh", "-f", "-c", program],
        env=path_with_us(desk),
        cwd=desk.project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("--with-volumes:")
