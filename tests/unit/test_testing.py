"""`cargo burst test`: what nextest runs, what `cargo test` runs afterwards, what only cargo can."""

from __future__ import annotations

import shlex
import tomllib

import attrs
import pytest

from burst_wrapper.verbs.cargo import Package, Project, Target
from burst_wrapper.verbs.command_line import parse
from burst_wrapper.verbs.testing import OwnHarness, TestPlan, not_built, own_harness, plan


def package(name: str, *targets: Target) -> Package:
    return Package(f"path+file:///w/{name}#{name}@0.1.0", name, f"/w/{name}/Cargo.toml", targets)


LIB = Target("core", ("lib",), test=True, doctest=True)
CORE = package("core", LIB, Target("usual", ("test",), test=True, doctest=False))
TOOL = package(
    "tool",
    Target("tool", ("bin",), test=True, doctest=False),
    Target("own", ("test",), test=True, doctest=False),
    Target("speed", ("bench",), test=False, doctest=False),
)
WORKSPACE = Project("/w", "/w/target", (CORE, TOOL), (CORE.id,))
OWN = (
    OwnHarness("tool", "test", "own", test=True, bench=False),
    OwnHarness("tool", "bench", "speed", test=False, bench=True),
)
LEAVING = "--filterset='not (package(=tool) and kind(test) and binary(=own))'"


def planned(text: str, *, nextest: bool = True, runner: str = "auto") -> TestPlan:
    return plan(parse(shlex.split(text)), WORKSPACE, OWN, nextest=nextest, runner=runner)


def steps(text: str, *, nextest: bool = True, runner: str = "auto") -> list[str]:
    found = planned(text, nextest=nextest, runner=runner)
    return [shlex.join(step.words) for step in found.steps]


@pytest.mark.parametrize(
    ("typed", "commands"),
    [
        ("test", ["nextest run --no-tests=pass --", "test --doc"]),
        ("t -r name", ["nextest run -r --no-tests=pass -- name", "test --doc -r name"]),
        (
            "test --profile ci -j 3 -vv --features a,b",
            [
                (
                    "nextest run --cargo-profile ci --build-jobs 3 --cargo-verbose --cargo-verbose "
                    "--features a,b --no-tests=pass --"
                ),
                "test --doc --profile ci -j 3 -v -v --features a,b",
            ],
        ),
        ("test --lib", ["nextest run --lib --no-tests=pass --"]),
        ("test --no-doctests", ["nextest run --no-tests=pass --"]),
        ("test --test usual", ["nextest run --test usual --no-tests=pass --"]),
        (
            "test name -- --exact --skip x --nocapture",
            [
                "nextest run --no-tests=pass -- name --exact --skip x --nocapture",
                "test --doc name -- --exact --skip x --nocapture",
            ],
        ),
        (
            "test -- --test-threads 1 --show-output other",
            [
                "nextest run --test-threads=1 --success-output=immediate --no-tests=pass -- other",
                "test --doc -- --test-threads 1 --show-output other",
            ],
        ),
        (
            "test --workspace",
            [
                f"nextest run --workspace --no-tests=pass {LEAVING} --",
                "test --test own --workspace",
                "test --doc --package core",
            ],
        ),
        ("test -p tool --test own", ["test --test own -p tool"]),
        (
            "test -p tool --tests",
            [
                f"nextest run -p tool --tests --no-tests=pass {LEAVING} --",
                "test --test own -p tool",
            ],
        ),
        ("test -p tool --bench speed", ["test --bench speed -p tool"]),
        (
            "test -p tool",
            [f"nextest run -p tool --no-tests=pass {LEAVING} --", "test --test own -p tool"],
        ),
        # Cargo's own affair.
        ("test --doc", ["test --doc"]),
        ("test --no-run", ["test --no-run"]),
        ("test --cargo-test", ["test"]),
    ],
)
def test_which_commands(typed: str, commands: list[str]) -> None:
    """In this order; what follows runs only after success."""
    assert steps(typed) == [shlex.join(shlex.split(command)) for command in commands]


@pytest.mark.parametrize(
    ("typed", "what"),
    [
        ("test --message-format=json", "--message-format"),
        ("test --unit-graph", "--unit-graph"),
        ("test -- --list", "-- --list"),
        ("test -- --format=json", "-- --format=json"),
        ("test -- --logfile x", "-- --logfile"),
        ("test --target a --target b", "--target"),
        ("test --test", "--test"),
        ("test --made-up", "--made-up"),
    ],
)
def test_what_only_cargo_takes(typed: str, what: str) -> None:
    """All of it goes to `cargo test` then, as it was typed, and the summary says why."""
    found = planned(typed)
    assert [shlex.join(step.words) for step in found.steps] == [typed]
    assert found.notes == (f"nextest has nothing like `{what}`: tests ran by `cargo test`",)


def test_without_nextest() -> None:
    """Not a word unless the project wants nextest."""
    assert steps("test -r", nextest=False) == ["test -r"]
    assert planned("test", nextest=False).notes == ()
    assert "not installed" in planned("test", nextest=False, runner="nextest").notes[0]
    assert steps("test", runner="libtest") == ["test"]
    assert steps("test --no-doctests", nextest=False) == ["test --tests"]
    assert steps("test --lib --no-doctests", nextest=False) == ["test --lib"]
    assert steps("test --no-doctests --cargo-test name") == ["test --tests name"]


def test_a_name_that_others_have_too() -> None:
    """Then the package has to be named, too."""
    twin = package("twin", Target("own", ("test",), test=True, doctest=False))
    project = attrs.evolve(WORKSPACE, packages=(CORE, TOOL, twin))
    found = plan(parse(["test", "--workspace"]), project, OWN, nextest=True, runner="auto")
    assert found.steps[1].words == ("test", "--package", "tool", "--test", "own")


def test_harness_in_a_manifest() -> None:
    """Where cargo's metadata is silent."""
    text = """
    [[test]]
    name = "own"
    harness = false
    [[bench]]
    name = "speed"
    harness = false
    [[bin]]
    name = "tool"
    """
    assert tuple(own_harness(TOOL, tomllib.loads(text))) == OWN


ONBOARD = OwnHarness("tool", "test", "onboard", test=True, bench=False, has_required_features=True)


def test_what_needs_a_feature_is_not_named_before_cargo_has_built_it() -> None:
    """A name that cargo is given must have its features; without one it is passed over."""
    target = Target("onboard", ("test",), test=True, doctest=False)
    tool = attrs.evolve(TOOL, targets=(*TOOL.targets, target))
    project = attrs.evolve(WORKSPACE, packages=(CORE, tool))

    def planned_for(text: str, *without: OwnHarness) -> TestPlan:
        line, own = parse(shlex.split(text)), (*OWN, ONBOARD)
        return plan(line, project, own, nextest=True, runner="auto", without=without)

    found = planned_for("test -p tool")
    assert found.doubtful == (ONBOARD,)
    assert found.steps[1].words == ("test", "--test", "own", "--test", "onboard", "-p", "tool")
    found = planned_for("test -p tool", ONBOARD)
    assert found.steps[1].words == ("test", "--test", "own", "-p", "tool")
    assert "binary(=onboard)" in " ".join(found.steps[0].words)
    assert found.notes == ("without the usual harness, so by `cargo test`: own",)
    assert planned_for("test -p tool --test onboard").doubtful == ()

    def said(test: str, kind: str = "test") -> bytes:
        return (
            f'{{"reason":"compiler-artifact","package_id":"{TOOL.id}","profile":{{"test":{test}}},'
            f'"target":{{"kind":["{kind}"],"name":"onboard"}}}}\n'
        ).encode()

    assert not_built([ONBOARD], b"", project) == {ONBOARD}
    assert not_built([ONBOARD], said("false") + said("true", "bin"), project) == {ONBOARD}
    assert not_built([ONBOARD], b"words\n" + said("true"), project) == set()
