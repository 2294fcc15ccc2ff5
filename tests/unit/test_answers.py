"""burst_wrapper.daemon.answers: home's cargo is asked as the macro would, and seldom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from burst_protocol.digest import Digest
from burst_wrapper.argv import RustcCall
from burst_wrapper.daemon.answers import Answers, manifest_of
from burst_wrapper.daemon.plan import Plan
from fake_plan import Home

Cargo = Callable[[str], Plan]


@pytest.fixture
def cargo(machine: Home, tmp_path: Path) -> Cargo:
    """A plan whose $CARGO is that script; it notes each of its calls."""
    program = tmp_path / "cargo"

    def plan(script: str) -> Plan:
        program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{script}\n')
        program.chmod(0o755)
        return machine.plan(env={b"CARGO": bytes(program), b"WORD": b"word"})

    return plan


def calls(tmp_path: Path) -> int:
    return len((tmp_path / "calls").read_text().splitlines())


def test_the_answer_is_all_that_cargo_said(cargo: Cargo, tmp_path: Path) -> None:
    """In the unit's directory, with its variables, by the arguments of proc-macro-crate."""
    plan = cargo("pwd; echo $WORD >&2; exit 101")
    answer = Answers().ask(plan)
    manifest = manifest_of(plan)
    assert answer is not None
    fields = [manifest, plan.cwd, b"101", plan.cwd + b"\n", b"word\n", b""]
    assert answer.data.split(b"\0") == fields
    assert answer.digest == Digest.of(answer.data)
    words = "locate-project --workspace --message-format=plain --manifest-path="
    assert (tmp_path / "calls").read_text() == f"{words}{manifest.decode()}\n"


@pytest.mark.parametrize(
    "script", ["kill -9 $$", r"printf 'a\0b'", "head -c 70000 /dev/zero | tr '\\0' x", "exit 127"]
)
def test_what_cannot_be_shown_is_no_answer(cargo: Cargo, script: str) -> None:
    """Killed, odd, or more than the observer has room for."""
    assert Answers().ask(cargo(script)) is None


def test_without_a_cargo_nobody_is_asked(machine: Home) -> None:
    """Nor one that is looked for along PATH."""
    assert Answers().ask(machine.plan()) is None
    assert Answers().ask(machine.plan(env={b"CARGO": b"cargo"})) is None
    assert Answers().ask(machine.plan(env={b"CARGO": b"/none/cargo"})) is None


def test_one_build_asks_once(cargo: Cargo, machine: Home, tmp_path: Path) -> None:
    """Until a manifest on the way up comes, changes or goes; another cargo asks anew."""
    answers = Answers()
    root = machine.folder / "project" / "Cargo.toml"
    plan = cargo(f"echo {root}")
    manifests = [None, "[workspace]", "[workspace]\n", None]
    for count, text in enumerate(manifests, start=1):
        if text is not None:
            root.write_text(text)
        elif root.exists():
            root.unlink()
        assert answers.ask(plan) == answers.ask(plan)
        assert calls(tmp_path) == count
    assert plan.caller is not None
    answers.ask(attrs.evolve(plan, caller=attrs.evolve(plan.caller, pid=2)))
    assert calls(tmp_path) == len(manifests) + 1
    for _ in range(2):
        answers.ask(attrs.evolve(plan, caller=None))
    assert calls(tmp_path) == len(manifests) + 3


def test_a_manifest_that_changes_meanwhile_is_asked_about_again(
    cargo: Cargo, machine: Home, tmp_path: Path
) -> None:
    """What cargo had read by then is anybody's guess."""
    answers = Answers()
    root = machine.folder / "project" / "Cargo.toml"
    plan = cargo(f"echo {root}; [ -e {root} ] || touch {root}")
    for count in (1, 2, 2):
        assert answers.ask(plan) is not None
        assert calls(tmp_path) == count


def test_who_will_ask_is_known_before(machine: Home) -> None:
    """Macros on proc-macro-crate, used directly or by way of one crate: one run less."""
    answers = Answers()
    deps = machine.out_dir

    def call(*externs: str, kind: str = "lib", extra: str = "-0123") -> RustcCall:
        words = ["-C", f"extra-filename={extra}"]
        words += [word for name in externs for word in ("--extern", f"x={deps}/{name}")]
        return machine.call(*words, kind=kind)

    def is_expected(*externs: str) -> bool:
        plan = machine.plan()
        return answers.expected(attrs.evolve(plan, call=call(*externs)))

    answers.made(call("libproc_macro_crate-01.rlib", kind="proc-macro"))
    macro = call().lib_stem.decode()
    assert is_expected(f"{macro}.so")
    assert not is_expected("libother-01.so", "libproc_macro_crate-01.rlib")
    user = call(f"{macro}.so", extra="-4567")
    answers.made(user)
    name = user.lib_stem.decode()
    assert name != macro
    assert is_expected(f"{name}.rmeta")
    above = call(f"{name}.rmeta", extra="-89ab")
    answers.made(above)
    assert not is_expected(f"{above.lib_stem.decode()}.rmeta")
