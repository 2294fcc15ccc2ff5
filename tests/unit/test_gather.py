"""burst_wrapper.daemon.gather: the superset of what a unit may read, and nothing beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from burst_protocol.action import KIND_DIRECTORY, KIND_FILE, KIND_SYMLINK, Action, Input
from burst_protocol.digest import Digest
from burst_wrapper import treescan
from burst_wrapper.closures import Closure
from burst_wrapper.config import Config
from burst_wrapper.daemon.gather import CannotGather, Gathered, Gatherer, Learned
from burst_wrapper.daemon.plan import Plan
from burst_wrapper.daemon.platform import Path as Lies
from fake_plan import Home, platform


def gather(
    machine: Home, plan: Plan | None = None, learned: Learned | None = None, *, local: bool = False
) -> Gathered:
    gatherer = Gatherer(machine.stats, machine.closures)
    return gatherer.gather(plan or machine.plan(), learned or Learned(), local=local)


def inputs(gathered: Gathered) -> dict[bytes, Input]:
    """By path, without the platform's; each path once."""
    common = platform().inputs
    own = [item for item in gathered.action.inputs if item not in common]
    assert len({item.path for item in own}) == len(own)
    return {item.path: item for item in own}


def bytes_of(gathered: Gathered, digest: Digest) -> bytes:
    found = gathered.sources.find(digest) or gathered.sources.find_in_trees(digest)
    assert found is not None
    data = Path(os.fsdecode(found.name)).read_bytes() if isinstance(found, Lies) else found
    assert Digest.of(data) == digest
    return data


def test_a_package_at_its_own_path(machine: Home) -> None:
    """As a tree; every directory and file of it can be sent."""
    gathered = gather(machine)
    package = bytes(machine.package)
    found = inputs(gathered)
    assert set(found) == {package}
    assert found[package].kind == KIND_DIRECTORY
    assert bytes_of(gathered, found[package].digest)
    lib = gathered.shown.digest(package + b"/src/lib.rs")
    assert lib is not None
    assert bytes_of(gathered, lib) == b"src/lib.rs"
    assert gathered.shown.listing(package) == frozenset({b"src", b"Cargo.toml"})


def test_the_command_is_home_s(machine: Home) -> None:
    """The toolchain's real rustc with the caller's arguments, cwd, out-dir and variables."""
    plan = machine.plan("-C", "opt-level=3", env={b"FROM_CARGO": b"1"})
    action = gather(machine, plan).action
    assert action.argv[0] == b"/toolchain/bin/rustc"
    assert action.argv[1:] == plan.call.args
    assert (action.cwd, action.out_dir) == (plan.cwd, plan.out_dir)
    assert dict(action.env)[b"FROM_CARGO"] == b"1"
    assert {plan.cwd, plan.out_dir} <= set(action.directories)
    assert action.incremental is None


def test_clippy_is_started_as_cargo_clippy_does(machine: Home) -> None:
    """clippy-driver, then rustc; with every clippy.toml up the tree."""
    (machine.folder / "clippy.toml").write_text("")
    (machine.package / ".clippy.toml").write_text("")
    gathered = gather(machine, machine.plan(driver="clippy-driver"))
    assert gathered.action.argv[:2] == (b"/toolchain/bin/clippy-driver", b"/toolchain/bin/rustc")
    assert bytes(machine.folder / "clippy.toml") in inputs(gathered)
    assert bytes(machine.folder / "clippy.toml") not in inputs(gather(machine))


def test_manifests_up_to_the_workspace(machine: Home) -> None:
    """Macros look `workspace = true` up in them; nothing above the caller's folder is shown."""
    project = machine.folder / "project"
    for folder in (project, machine.folder):
        (folder / "Cargo.toml").write_text("[workspace]")
    found = inputs(gather(machine))
    assert found[bytes(project / "Cargo.toml")].kind == KIND_FILE
    assert bytes(machine.folder / "Cargo.toml") not in found


def test_what_a_build_script_made(machine: Home) -> None:
    """OUT_DIR whole, with what a package would leave out; missing, it is not there."""
    out = machine.target / "debug" / "build" / "app-1" / "out"
    plan = machine.plan(env={b"OUT_DIR": bytes(out)})
    assert bytes(out) not in inputs(gather(machine, plan))
    (out / "nested").mkdir(parents=True)
    (out / "nested" / "Cargo.toml").write_text("generated")
    gathered = gather(machine, plan)
    digest = gathered.shown.digest(bytes(out / "nested" / "Cargo.toml"))
    assert digest == Digest.of(b"generated")
    assert bytes_of(gathered, digest) == b"generated"


def test_crates_it_needs(machine: Home) -> None:
    """Files of the closure, by themselves: not what else lies in that folder."""
    rmeta = machine.out_dir / "libdep-1.rmeta"
    rmeta.write_bytes(b"dep")
    (machine.out_dir / "libother-1.rmeta").write_bytes(b"other")
    machine.closures.remember(Digest.of(b"dep"), Closure(frozenset(), frozenset()))
    arguments = ("-L", f"dependency={machine.out_dir}", "--extern", f"dep={rmeta}")
    gathered = gather(machine, machine.plan(*arguments))
    found = inputs(gathered)
    assert found[bytes(rmeta)].digest == Digest.of(b"dep")
    assert bytes(machine.out_dir / "libother-1.rmeta") not in found


def test_sources_of_crates_whose_macros_may_expand(machine: Home) -> None:
    """As far as they cannot change; a package whose name begins like another one's too."""
    one = machine.registry("dep-1.0.1", "src/lib.rs")
    two = machine.registry("dep-1.0.10", "src/lib.rs", "src/x.rs")
    arguments = ["-L", f"dependency={machine.out_dir}"]
    for name, package in (("one", one), ("two", two)):
        rmeta = machine.out_dir / f"lib{name}-1.rmeta"
        rmeta.write_bytes(name.encode())
        machine.closures.remember(Digest.of(name.encode()), Closure(frozenset(), frozenset()))
        machine.closures.remember_package(f"lib{name}-1".encode(), bytes(package))
        arguments += ["--extern", f"{name}={rmeta}"]
    gathered = gather(machine, machine.plan(*arguments))
    assert {bytes(one), bytes(two)} <= set(inputs(gathered))
    assert gathered.shown.listing(bytes(two / "src")) == frozenset({b"lib.rs", b"x.rs"})
    digest = gathered.shown.digest(bytes(two / "src" / "x.rs"))
    assert digest is not None
    assert bytes_of(gathered, digest) == b"dep-1.0.10/src/x.rs"


def test_native_libraries(machine: Home, tmp_path: Path) -> None:
    """Every file directly in a `-L native` folder; not in the system's."""
    native = tmp_path / "native"
    (native / "deeper").mkdir(parents=True)
    (native / "libz.a").write_bytes(b"archive")
    (native / "deeper" / "libq.a").write_bytes(b"archive")
    plan = machine.plan("-L", f"native={native}", "-L", "native=/usr/lib", "-L", "native=/nowhere")
    found = inputs(gather(machine, plan))
    assert bytes(native / "libz.a") in found
    assert bytes(native / "deeper" / "libq.a") not in found
    assert not any(path.startswith(b"/usr/lib") for path in found)


def test_what_the_unit_wrote_before_is_no_native_library(machine: Home) -> None:
    """With `-L target/debug/deps` among the flags; nobody may write an input."""
    for name in ("libapp-0123.rmeta", "libapp-0123.a", "app-0123.d", "libother-0123.a"):
        (machine.out_dir / name).write_bytes(b"from an earlier build")
    found = inputs(gather(machine, machine.plan("-L", machine.out_dir)))
    assert [path for path in found if path.startswith(bytes(machine.out_dir) + b"/")] == [
        bytes(machine.out_dir / "libother-0123.a")
    ]


def test_what_was_learned_or_configured(machine: Home, tmp_path: Path) -> None:
    """Files, folders with their content, mere existence, variables."""
    outside = tmp_path / "outside"
    (outside / "tree").mkdir(parents=True)
    (outside / "tree" / "a").write_text("a")
    (outside / "file").write_text("file")
    (outside / "exists").mkdir()
    (outside / "configured").write_text("configured")
    config = Config(extra_inputs=(bytes(outside / "configured"), b"missing"))
    plan = machine.plan(config=config, cargo_env={b"GREETING": b"hello"})
    learned = Learned(
        {bytes(outside / "file"), bytes(outside / "gone")},
        {bytes(outside / "tree")},
        {bytes(outside / "exists")},
        {b"GREETING"},
    )
    gathered = gather(machine, plan, learned)
    found = inputs(gathered)
    assert found[bytes(outside / "tree")].kind == KIND_DIRECTORY
    assert {bytes(outside / "file"), bytes(outside / "configured")} <= set(found)
    assert bytes(outside / "gone") not in found
    assert bytes(outside / "exists") in gathered.action.directories
    assert dict(gathered.action.env)[b"GREETING"] == b"hello"
    assert b"GREETING" not in dict(gather(machine, plan).action.env)


def test_links_on_the_way_are_shown(machine: Home, tmp_path: Path) -> None:
    """A learned file behind a link: the link, and the file where it really lies."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "data").write_text("data")
    (tmp_path / "link").symlink_to("real")
    gathered = gather(machine, learned=Learned({bytes(tmp_path / "link" / "data")}))
    found = inputs(gathered)
    assert found[bytes(tmp_path / "link")].kind == KIND_SYMLINK
    assert found[bytes(tmp_path / "link")].target == b"real"
    assert found[bytes(tmp_path / "real" / "data")].digest == Digest.of(b"data")
    assert bytes(tmp_path / "link" / "data") not in found
    assert gathered.shown.digest(bytes(tmp_path / "link" / "data")) == Digest.of(b"data")
    assert gathered.shown.resolved(bytes(tmp_path / "link" / ".." / "x")) == bytes(tmp_path / "x")


def test_a_local_agent_is_told_places(machine: Home) -> None:
    """Immutable packages are shown where they lie; a project's files, which change, are copied."""
    package = machine.registry("dep-1.0.0", "src/lib.rs")
    plan = machine.plan(package=package)
    here, there = gather(machine, plan, local=True), gather(machine, plan, local=False)
    assert inputs(here)[bytes(package)].local == bytes(package)
    assert inputs(there)[bytes(package)].local == b""
    assert here.shown.digest(bytes(package / "src" / "lib.rs")) == there.shown.digest(
        bytes(package / "src" / "lib.rs")
    )
    assert inputs(gather(machine, local=True))[bytes(machine.package)].local == b""


def test_what_lies_in_place_is_looked_at_again(machine: Home) -> None:
    """A source that changed under a run: its result is not kept."""
    package = machine.registry("dep-1.0.0", "src/lib.rs", "src/x.rs")
    gatherer = Gatherer(machine.stats, machine.closures)
    plan = machine.plan(package=package)
    path = bytes(package / "src" / "lib.rs")
    shown = gatherer.gather(plan, Learned(), local=True).shown
    assert gatherer.unchanged(shown, [path, b"/elsewhere"], isolated=True)
    (package / "src" / "x.rs").write_text("nobody read it")
    assert gatherer.unchanged(shown, [path], isolated=True)
    (package / "src" / "lib.rs").write_text("changed")
    assert not gatherer.unchanged(shown, [path], isolated=True)
    again = gatherer.gather(plan, Learned(), local=True).shown
    assert again.digest(path) == Digest.of(b"changed")


def test_copies_cannot_change(machine: Home) -> None:
    """But without a sandbox the run saw the files themselves."""
    gatherer = Gatherer(machine.stats, machine.closures)
    shown = gatherer.gather(machine.plan(), Learned(), local=True).shown
    path = bytes(machine.package / "src" / "lib.rs")
    (machine.package / "src" / "lib.rs").write_text("changed")
    assert gatherer.unchanged(shown, [path], isolated=True)
    assert not gatherer.unchanged(shown, [path], isolated=False)


def test_a_package_that_is_too_large(machine: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reason to compile at home, by name."""
    monkeypatch.setattr(treescan, "MAX_FILES", 1)
    with pytest.raises(CannotGather, match="too many files"):
        gather(machine)


# Keys of actions


def key(machine: Home, plan: Plan, learned: Learned | None = None) -> bytes:
    return gather(machine, plan, learned).action_key


def test_every_input_is_in_the_key_of_an_action(machine: Home, tmp_path: Path) -> None:
    """Equal keys are equal actions: one of them is run, all get its result."""
    (tmp_path / "file").write_text("x")
    keys = [key(machine, machine.plan())]
    assert key(machine, machine.plan()) == keys[0]
    keys.append(key(machine, machine.plan("-C", "opt-level=1")))
    keys.append(key(machine, machine.plan("--diagnostic-width=80")))
    keys.append(key(machine, machine.plan(), Learned({bytes(tmp_path / "file")})))
    keys.append(key(machine, machine.plan(), Learned(directories={bytes(tmp_path)})))
    shell = {b"GREETING": b"1"}
    keys.append(key(machine, machine.plan(cargo_env=shell), Learned(env={b"GREETING"})))
    machine.write("src/new.rs")
    keys.append(key(machine, machine.plan()))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("folder", ["worktree", "a"])
def test_equal_actions_of_two_worktrees(machine: Home, folder: str) -> None:
    """A registry crate for two target directories is compiled once, whatever comes first in the
    order of names: the registry or the target directory."""
    package = machine.registry("dep-1.0.0", "src/lib.rs")
    elsewhere = machine.folder / folder / "target"
    arguments = ("-L", f"dependency={machine.out_dir}")
    one = machine.plan(*arguments, package=package)
    two = machine.plan(*arguments, package=package, target=elsewhere)
    assert key(machine, one) == key(machine, two)
    action: Action = gather(machine, one).action
    assert action.scan_for == bytes(machine.target)


def test_incremental_state_belongs_to_unit_and_platform(machine: Home) -> None:
    """At the path rustc is told; another toolchain starts anew."""
    path = machine.target / "debug" / "incremental"
    states = []
    for plan in (
        machine.plan("-C", f"incremental={path}"),
        machine.plan("-C", f"incremental={path}", key=b"q" * 32),
        machine.plan("-C", f"incremental={path}", kind="bin"),
    ):
        state = gather(machine, plan).action.incremental
        assert state is not None
        assert state.path == bytes(path)
        states.append(state.state_key)
    assert len(set(states)) == 3


def test_what_was_learned_before_is_no_news() -> None:
    """A run that lacks what was added for it would lack it again."""
    known = Learned(files={b"/a", b"/b"}, trees={b"/t"}, env={b"V"})
    assert not Learned().beyond(known)
    assert not Learned(files={b"/a"}, env={b"V"}).beyond(known)
    assert Learned(files={b"/a", b"/c"}).beyond(known)
    assert Learned(directories={b"/a"}).beyond(known)
    assert Learned(trees={b"/a"}).beyond(known)
