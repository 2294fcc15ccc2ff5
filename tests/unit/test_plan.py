"""burst_wrapper.daemon.plan: what is in a weak key, and what must not be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from burst_protocol.digest import Digest
from burst_wrapper.closures import Closure
from burst_wrapper.config import Config, Rule
from burst_wrapper.daemon.account import shown_manifest
from burst_wrapper.daemon.plan import Plan
from fake_plan import Home


def differ(one: Plan, two: Plan) -> bool:
    return one.weak_key != two.weak_key


def test_the_same_call_has_the_same_key(machine: Home) -> None:
    """Again and again, whoever calls and under whatever umask."""
    assert not differ(machine.plan(), machine.plan())


@pytest.mark.parametrize(
    "arguments",
    [
        ("-C", "opt-level=3"),
        ("--cfg", 'feature="x"'),
        ("-C", "metadata=4567"),
        ("-C", "debuginfo=2"),
        ("-A", "warnings"),
        ("-C", "incremental=inc"),
    ],
)
def test_arguments_are_in_the_key(machine: Home, arguments: tuple[str, ...]) -> None:
    """All that can change an output."""
    assert differ(machine.plan(*arguments), machine.plan())


def test_what_only_shapes_messages_is_not(machine: Home) -> None:
    """A resized terminal is no miss; a stored result with diagnostics is told apart by it."""
    one = machine.plan("--json=artifacts,diagnostic-short", "--diagnostic-width=80")
    two = machine.plan("--json=artifacts", "--diagnostic-width=120", "--error-format=json")
    assert not differ(one, two)
    assert one.stderr_key != two.stderr_key


def test_platform_and_driver_are(machine: Home) -> None:
    """Another toolchain, and clippy for the same crate."""
    plans = [
        machine.plan(),
        machine.plan(key=b"q" * 32),
        machine.plan(driver="clippy-driver"),
        machine.plan(kind="bin"),
    ]
    assert len({plan.weak_key for plan in plans}) == len(plans)


def test_variables_that_cargo_added_are(machine: Home) -> None:
    """By value; what cargo had itself is not, until somebody reads it."""
    base = machine.plan()
    assert differ(machine.plan(env={b"FROM_BUILD_SCRIPT": b"1"}), base)
    assert differ(
        machine.plan(env={b"FROM_BUILD_SCRIPT": b"1"}),
        machine.plan(env={b"FROM_BUILD_SCRIPT": b""}),
    )
    assert not differ(machine.plan(cargo_env={b"EDITOR": b"vi"}), base)


def test_what_the_configuration_names_is(machine: Home) -> None:
    """`key_env` and `extra_inputs`, of everybody or of this crate only."""
    shell = {b"GREETING": b"hello"}
    plain = machine.plan(cargo_env=shell)
    for config in (
        Config(key_env=(b"GREETING",)),
        Config(forward_env=(b"GREETING",)),
        Config(crates=((b"app", Rule(key_env=(b"GREETING",))),)),
    ):
        assert differ(machine.plan(cargo_env=shell, config=config), plain)
    other = Config(crates=((b"other", Rule(key_env=(b"GREETING",), extra_inputs=(b"x",))),))
    assert not differ(machine.plan(cargo_env=shell, config=other), plain)


def test_extra_inputs_are_there_by_content(machine: Home) -> None:
    """Relative to the package; absent is a state like any other."""
    config = Config(extra_inputs=(b"../schema.graphql",))
    path = machine.folder / "project" / "schema.graphql"
    absent = machine.plan(config=config)
    assert absent.extra_files == (bytes(path),)
    keys = {machine.plan().weak_key, absent.weak_key}
    for text in ("one", "two"):
        path.write_text(text)
        keys.add(machine.plan(config=config).weak_key)
    assert len(keys) == 4


def test_files_that_argv_names_are_too(machine: Home) -> None:
    """A target JSON, a linker script: the policy finds them."""
    path = machine.folder / "project" / "target.json"
    path.write_text("{}")
    one = machine.plan(input_files=(b"target.json",))
    path.write_text("{ }")
    two = machine.plan(input_files=(b"target.json",))
    assert one.extra_files == (bytes(path),)
    assert differ(one, two)


def test_externs_are_there_by_content(machine: Home) -> None:
    """Of the whole closure."""
    rmeta = machine.out_dir / "libdep-1.rmeta"
    keys = set()
    for content in (b"one", b"two"):
        rmeta.write_bytes(content)
        machine.closures.remember(Digest.of(content), Closure(frozenset(), frozenset()))
        plan = machine.plan("--extern", f"dep={rmeta}")
        assert plan.externs.known
        keys.add(plan.weak_key)
    assert len(keys) == 2


def test_sources_are_not_in_the_weak_key(machine: Home) -> None:
    """They belong to the strong one: which of them matter is seen in a run."""
    before = machine.plan()
    machine.write("src/other.rs")
    (machine.package / "src" / "lib.rs").write_text("changed")
    assert not differ(machine.plan(), before)


# Sharing between target directories


def shared(machine: Home) -> tuple[Plan, Plan]:
    """The same registry package, built into two target directories."""
    package = machine.registry("dep-1.0.0", "src/lib.rs")
    elsewhere = machine.folder / "worktree" / "target"
    arguments = ("-L", f"dependency={machine.out_dir}")
    one = machine.plan(*arguments, package=package)
    two = machine.plan(*arguments, package=package, target=elsewhere)
    return one, two


def test_packages_that_cannot_change_are_shared(machine: Home) -> None:
    """Worktrees and `cargo install` find each other's registry crates."""
    one, two = shared(machine)
    assert one.immutable
    assert one.shareable
    assert one.out_dir != two.out_dir
    assert one.weak_key == two.weak_key


def test_own_packages_are_not_shared(machine: Home) -> None:
    """Nor those with native libraries or incremental state."""
    elsewhere = machine.folder / "worktree" / "target"
    assert differ(machine.plan(), machine.plan(target=elsewhere))
    package = machine.registry("dep-1.0.0", "src/lib.rs")
    assert machine.plan(package=package, env={b"OUT_DIR": b"/o"}).shareable
    assert not machine.plan("-L", "native=/n", package=package).shareable
    assert not machine.plan("-C", "incremental=i", package=package).shareable
    assert machine.plan("-L", "dependency=/d", package=package).shareable


@pytest.mark.parametrize(
    ("place", "immutable"),
    [
        ("registry/src/index/x-1", True),
        ("git/checkouts/x-0123/abc", True),
        ("registry/cache/x", False),
        ("other", False),
    ],
)
def test_what_cannot_change(machine: Home, place: str, immutable: bool) -> None:
    """What cargo unpacked and nobody edits."""
    package = machine.cargo_home / place
    assert machine.plan(package=package).immutable == immutable


def test_paths_are_taken_from_the_callers_folder(machine: Home) -> None:
    """Relative ones, as cargo writes them for workspace members."""
    plan = machine.plan("--out-dir", "target/debug/deps")
    assert plan.out_dir == bytes(machine.folder / "project" / "target" / "debug" / "deps")
    assert plan.package_dir == bytes(machine.package)


def test_without_cargos_variable_the_package_is_the_roots_folder(machine: Home) -> None:
    """As other tools call rustc."""
    plan = machine.plan(env={b"CARGO_MANIFEST_DIR": b""})
    assert plan.package_dir == bytes(machine.folder / "project" / "src")


def test_owners_of_outputs(machine: Home) -> None:
    """Out-dir and unit name it: a later call for the same replaces this one."""
    assert machine.plan().outputs_key == (bytes(machine.out_dir), b"app-0123 lib")
    assert machine.plan().outputs_key != machine.plan(kind="bin").outputs_key


def test_the_manifest_is_the_key(machine: Home) -> None:
    """What `explain` shows of a miss is what was hashed."""
    one, two = machine.plan(), machine.plan(env={b"V": b"1"})
    assert set(two.manifest) - set(one.manifest) == {(b"env V", b"1")}
    labels = [label for label, _ in one.manifest]
    assert labels[:5] == [b"version", b"platform", b"driver", b"cwd", b"argfile"]
    assert os.fsencode(Path(os.fsdecode(one.cwd))) in [value for _, value in one.manifest]


def test_arguments_are_shown_as_they_are(machine: Home) -> None:
    """An argument of as many bytes as a digest is none."""
    argument = "extra-filename=-0123456789abcdef"
    assert len(argument) == 32
    shown = shown_manifest(machine.plan("-C", argument, env={b"V": b"v" * 32}))
    assert ("arg", argument) in shown
    assert ("env V", "v" * 32) in shown


def test_macros_that_are_known_to_read_nothing(machine: Home) -> None:
    """`pure_macros` names crates; one that is not on the list is unknown."""
    arguments: list[str | Path] = []
    for name in ("my_derive", "other"):
        library = machine.out_dir / f"lib{name}-0123.so"
        library.write_bytes(name.encode())
        stem = frozenset({f"lib{name}-0123".encode()})
        machine.closures.remember(Digest.of(name.encode()), Closure(frozenset(), stem))
        arguments += ["--extern", f"{name}={library}"]
    listed = Config(pure_macros=(b"my_derive", b"unused"))
    assert not machine.plan().unknown_macros
    assert not machine.plan(*arguments[:2], config=listed).unknown_macros
    assert machine.plan(*arguments, config=listed).unknown_macros
    assert machine.plan(*arguments[:2]).unknown_macros
