"""`cargo burst test`: which runners run which tests, with which arguments. Pure.

nextest runs what has the usual harness, doctests and targets with `harness = false` go through
`cargo test` afterwards, and so does everything where an argument has no counterpart in nextest. The
exit code is cargo's: 101 for any failure.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

import attrs

from burst_wrapper.verbs.cargo import Package, Project, Target, kind_of
from burst_wrapper.verbs.cargo_options import of
from burst_wrapper.verbs.command_line import CommandLine

EXIT_FAILED: Final = 101
"""cargo's, for a build or a test that failed."""
EXIT_USAGE: Final = 1
"""cargo's, for words that it does not understand: nothing has run."""
NEXTEST_REFUSES: Final = frozenset({2, 70, 94, 95, 96, 102, 104})
"""Exit codes of a nextest that has run no test: usage, double spawn, filterset, experimental,
setup, metadata, list (`nextest_metadata::NextestExitCode`)."""

_SAME_NAMES: Final = (
    "-p --package --workspace --exclude --all --lib --bins --bin --examples --example --tests "
    "--test --benches --bench --all-targets -F --features --all-features "
    "--no-default-features -r --release --target-dir --manifest-path --ignore-rust-version "
    "--locked --offline --frozen --no-fail-fast --color --config -Z --future-incompat-report"
)
_SAME: Final = frozenset(_SAME_NAMES.split())
_OTHER_NAME: Final = {
    "-j": "--build-jobs",
    "--jobs": "--build-jobs",
    "--profile": "--cargo-profile",
    "-v": "--cargo-verbose",
    "--verbose": "--cargo-verbose",
}
_EMULATED: Final = frozenset(
    {"--ignored", "--include-ignored", "--exact", "--nocapture", "--no-capture"}
)
"""What nextest takes behind its `--` (`cargo nextest run --help`); and `--skip`."""
_SELECTING: Final = frozenset(
    {
        "--lib",
        "--bins",
        "--bin",
        "--examples",
        "--example",
        "--tests",
        "--test",
        "--benches",
        "--bench",
        "--all-targets",
    }
)
_KIND_OF_OPTION: Final = {
    "--bin": "bin",
    "--example": "example",
    "--test": "test",
    "--bench": "bench",
}
_KIND_OF_PLURAL: Final = {"--lib": "lib", "--bins": "bin", "--examples": "example"}
_PACKAGES: Final = frozenset({"-p", "--package", "--workspace", "--all", "--exclude"})


@attrs.frozen
class Step:
    """One cargo command. `words` begin with its verb."""

    words: tuple[str, ...]
    what: str
    """`nextest`, `doctests`, `own harness`, `cargo test`."""


@attrs.frozen
class TestPlan:
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()
    """For the summary: why not nextest."""
    instead: Step | None = None
    """Where nextest refuses to run anything."""
    doubtful: tuple[OwnHarness, ...] = ()
    """Of those that steps name: cargo passes them over unless some features are on, but calls it an
    error to name them then."""

    __test__ = False


@attrs.frozen
class OwnHarness:
    """A target with `harness = false`."""

    package: str
    kind: str
    name: str
    test: bool
    bench: bool
    has_required_features: bool = False


def plan(
    line: CommandLine,
    project: Project | None,
    own_harness: Sequence[OwnHarness],
    *,
    nextest: bool,
    runner: str,
    without: Collection[OwnHarness] = (),
) -> TestPlan:
    """`nextest`: whether it is installed. `runner`: `auto`, `nextest`, `libtest`, `cargo`.
    `without`: targets that cargo does not build for these arguments."""
    whole = Step(line.words, "cargo test")
    if line.own.no_doctests:
        whole = _without_doctests(line)
    why_not = _why_not_nextest(line, runner, nextest=nextest)
    if why_not is None:
        words, why_not = _translated(line)
    else:
        words = []
    if why_not is not None or project is None:
        return TestPlan((whole,), (why_not,) if why_not else ())
    selected = list(_selected(line, project, own_harness))
    steps: list[Step] = []
    if not _only(selected, line):
        steps.append(Step(("nextest", "run", *_leaving_out(words, selected)), "nextest"))
    selected = [one for one in selected if one not in without]
    steps += [Step(words, "own harness") for words in _harness_commands(line, project, selected)]
    if _wants_doctests(line):
        steps += [Step(words, "doctests") for words in _doctest_commands(line, project)]
    notes = []
    if selected:
        names = ", ".join(one.name for one in selected)
        notes.append(f"without the usual harness, so by `cargo test`: {names}")
    doubtful = tuple(
        one for one in selected if one.has_required_features and not _is_named(line, one)
    )
    return TestPlan(tuple(steps), tuple(notes), whole, doubtful)


def listing(line: CommandLine) -> tuple[str, ...]:
    """The command that has cargo name all that it builds for these arguments, and run nothing."""
    return ("test", "--no-run", "--message-format=json", *line.own_words())


def not_built(doubtful: Sequence[OwnHarness], messages: bytes, project: Project) -> set[OwnHarness]:
    """Those of them that cargo's messages do not name as executables of tests."""
    names = {package.id: package.name for package in project.packages}
    built: set[tuple[str, str, str]] = set()
    for text in messages.splitlines():
        message = json.loads(text) if text.startswith(b"{") else {}
        if message.get("reason") == "compiler-artifact" and message["profile"]["test"]:
            target = message["target"]
            package = names.get(message["package_id"], "")
            built |= {(package, kind_of(target["kind"]), target["name"])}
    return {one for one in doubtful if (one.package, one.kind, one.name) not in built}


# -- nextest ---------------------------------------------------------------------------------------


def _why_not_nextest(line: CommandLine, runner: str, *, nextest: bool) -> str | None:
    if line.own.cargo_test or runner in ("libtest", "cargo"):
        return ""
    if line.given("--doc", "--no-run"):
        return ""  # cargo's own affair
    if not nextest:
        missing = "cargo-nextest is not installed: tests ran by `cargo test`"
        return missing if runner == "nextest" else ""
    return None


def _translated(line: CommandLine) -> tuple[list[str], str | None]:
    """Words for `nextest run`, or why there are none. `--` is the last of its options' words."""
    words: list[str] = []
    filters: list[str] = []
    targets = 0
    for name, value in line.options():
        if not name:
            filters.append(value or "")
        elif name == "--target":
            targets += 1
            if value is None or targets > 1:
                return [], _refused(name)
            words += [name, value]
        elif name in ("-q", "--quiet"):
            words += ["--cargo-quiet", "--status-level=fail", "--show-progress=none"]
        elif name in _OTHER_NAME:
            words.append(_OTHER_NAME[name])
            words += [value] if value is not None else []
        elif name == "--timings" and value is None:
            words.append(name)
        elif name in _SAME:
            if value is None and of("nextest run").get(name, ""):
                return [], _refused(name)  # `--test` without a name: cargo lists them
            words += [name] if value is None else [name, value]
        else:
            return [], _refused(name)
    more, behind, refused = _behind(line.behind or ())
    if refused:
        return [], _refused(f"-- {refused}")
    # Not before the `--`: nextest's `--exact` is only about filters behind it.
    return [*words, *more, "--", *filters, *behind], None


def _behind(words: Sequence[str]) -> tuple[list[str], list[str], str]:
    """libtest's arguments: as options of nextest, as what it takes itself, and what it does not."""
    options: list[str] = []
    kept: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("-") or word in _EMULATED:
            kept.append(word)
        elif name in ("--skip", "--test-threads"):
            if not equals:
                if not rest:
                    return [], [], word
                value = rest.pop(0)
            if name == "--skip":
                kept += [name, value]
            else:
                options.append(f"--test-threads={value}")
        elif word == "--show-output":
            options.append("--success-output=immediate")
        else:
            return [], [], word
    return options, kept, ""


def _refused(what: str) -> str:
    return f"nextest has nothing like `{what}`: tests ran by `cargo test`"


def _leaving_out(words: list[str], own: Sequence[OwnHarness]) -> list[str]:
    """nextest lists the tests of a program by asking it, and one with its own harness may do
    anything when it is asked. `--no-tests=pass`: as in cargo, no test at all is no failure."""
    at = words.index("--")
    out = [
        f"not (package(={one.package}) and kind({one.kind}) and binary(={one.name}))" for one in own
    ]
    expression = [f"--filterset={' and '.join(out)}"] if out else []
    return [*words[:at], "--no-tests=pass", *expression, *words[at:]]


# -- targets with their own harness ----------------------------------------------------------------


def own_harness(package: Package, manifest: Mapping[str, object]) -> Iterator[OwnHarness]:
    """Those of one package, from its parsed manifest: cargo's metadata does not tell."""
    for kind in ("lib", "bin", "test", "bench", "example"):
        tables = manifest.get(kind)
        for table in tables if isinstance(tables, list) else [tables]:
            if not isinstance(table, dict) or table.get("harness") is not False:
                continue
            target = _target(package, kind, table)
            if target is not None:
                bench = bool(table.get("bench", kind in ("lib", "bin", "bench")))
                features = bool(table.get("required-features"))
                yield OwnHarness(package.name, kind, target.name, target.test, bench, features)


def _target(package: Package, kind: str, table: Mapping[str, object]) -> Target | None:
    for target in package.targets:
        if target.kind == kind and (kind == "lib" or target.name == table.get("name")):
            return target
    return None


def _selected(
    line: CommandLine, project: Project, own: Sequence[OwnHarness]
) -> Iterator[OwnHarness]:
    """Those that `cargo test` would run with these arguments."""
    packages = {package.name for package in selected_packages(line, project)}
    for one in own:
        if one.package in packages and _is_selected(line, one):
            yield one


def _is_selected(line: CommandLine, one: OwnHarness) -> bool:
    options = [(name, value) for name, value in line.options() if name in _SELECTING]
    if not options:
        return one.test and one.kind != "bench"
    for name, value in options:
        if name == "--all-targets" or (name == "--tests" and one.test):
            return True
        if (name == "--benches" and one.bench) or _KIND_OF_PLURAL.get(name) == one.kind:
            return True
        if _KIND_OF_OPTION.get(name) == one.kind and fnmatch.fnmatchcase(one.name, value or ""):
            return True
    return False


def _is_named(line: CommandLine, one: OwnHarness) -> bool:
    """By an option of its own: what cargo says of it then is meant to be seen."""
    return any(
        _KIND_OF_OPTION.get(name) == one.kind and fnmatch.fnmatchcase(one.name, value or "")
        for name, value in line.options()
    )


def _only(selected: Sequence[OwnHarness], line: CommandLine) -> bool:
    """Whether nothing is left for nextest."""
    named = [value for name, value in line.options() if name in _KIND_OF_OPTION]
    wider = line.given(*_KIND_OF_PLURAL, "--tests", "--benches", "--all-targets")
    names = {one.name for one in selected}
    return bool(named) and not wider and all(value in names for value in named)


def _harness_commands(
    line: CommandLine, project: Project, selected: Sequence[OwnHarness]
) -> Iterator[tuple[str, ...]]:
    """`cargo test` for exactly these, with the other arguments as they are."""
    if not selected:
        return
    kept = line.own_words(_SELECTING)
    tail = () if line.behind is None else ("--", *line.behind)
    if _unambiguous(selected, project):
        options = [word for one in selected for word in _select(one)]
        yield ("test", *options, *kept, *tail)
        return
    for package in dict.fromkeys(one.package for one in selected):
        options = [word for one in selected if one.package == package for word in _select(one)]
        others = line.own_words(_SELECTING | _PACKAGES)
        yield ("test", "--package", package, *options, *others, *tail)


def _unambiguous(selected: Sequence[OwnHarness], project: Project) -> bool:
    """Whether their names mean nothing else in the workspace."""
    wanted = {(one.kind, one.name) for one in selected}
    found = [
        (target.kind, target.name)
        for package in project.packages
        for target in package.targets
        if (target.kind, target.name) in wanted
    ]
    return len(found) == len(wanted) and all(one.kind != "lib" for one in selected)


def _select(one: OwnHarness) -> list[str]:
    return ["--lib"] if one.kind == "lib" else [f"--{one.kind}", one.name]


# -- doctests --------------------------------------------------------------------------------------


def _wants_doctests(line: CommandLine) -> bool:
    return not (line.own.no_doctests or line.given(*_SELECTING))


def _doctest_commands(line: CommandLine, project: Project) -> Iterator[tuple[str, ...]]:
    """Nothing without a library that has some: cargo calls that an error."""
    packages = selected_packages(line, project)
    having = [package for package in packages if any(target.doctest for target in package.targets)]
    if not having:
        return
    tail = () if line.behind is None else ("--", *line.behind)
    if len(having) == len(packages):
        yield ("test", "--doc", *line.own_words(), *tail)
        return
    named = [word for package in having for word in ("--package", package.name)]
    yield ("test", "--doc", *named, *line.own_words(_PACKAGES), *tail)


def _without_doctests(line: CommandLine) -> Step:
    """`cargo test` for what it would run anyway, but for doctests."""
    if line.given(*_SELECTING, "--doc"):
        return Step(line.words, "cargo test")
    # The same targets, but for examples that are only compiled.
    tail = () if line.behind is None else ("--", *line.behind)
    return Step(("test", "--tests", *line.arguments, *tail), "cargo test")


# -- both ------------------------------------------------------------------------------------------


def selected_packages(line: CommandLine, project: Project) -> list[Package]:
    """Those that the arguments are about, as far as names tell."""
    excluded = line.values("--exclude")
    named = line.values("-p", "--package")
    if line.given("--workspace", "--all"):
        return [one for one in project.packages if not _matches(one, excluded)]
    if named:
        return [one for one in project.packages if _matches(one, named)]
    return [one for one in project.packages if one.id in project.defaults]


def _matches(package: Package, specs: Sequence[str]) -> bool:
    """`name`, `name@1.0`, `path+file:///…#name@1.0`, with the wildcards of cargo."""
    for spec in specs:
        name = spec.rpartition("#")[2].partition("@")[0].partition(":")[0]
        if fnmatch.fnmatchcase(package.name, name) or spec == package.id:
            return True
    return False
