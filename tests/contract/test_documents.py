"""What the documents say about the code is compared with the code."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from burst_lifecycle.admin.parser import VERBS as ADMIN_VERBS
from burst_lifecycle.setting_keys import KEYS, Scope
from burst_protocol.services import SERVICES
from burst_protocol.version import BUILD
from burst_wrapper.cli.cargo_burst import VERBS
from documents import README, REPOSITORY, with_error_table

TEXT = README.read_text()
ARCHITECTURE = (REPOSITORY / "ARCHITECTURE.md").read_text()
PACKAGES = {
    "agent/burst_protocol": "burst_protocol",
    "agent/burst_agent": "burst_agent",
    "wrapper/burst_wrapper": "burst_wrapper",
    "image/burst_lifecycle": "burst_lifecycle",
}
VARIABLE = re.compile(r"\b(?:BURST|HCLOUD)_[A-Z]+(?:_[A-Z]+)*\b")
# Between our own processes, not for people.
INTERNAL = {
    "BURST_SESSION",
    "BURST_ONLINE",
    "BURST_TOOLCHAIN",
    "BURST_SSH_KEY",  # of the CI recipe: secrets by their names there
    "BURST_KNOWN_HOSTS",
    "BURST_RUSTDOC",
    "BURST_OBSERVER_ANSWER",
    "BURST_OBSERVER_FD",
    "BURST_REAPER",
    "BURST_RESUME",
    "BURST_TEST_SSH_PORTS",
}


def rows(heading: str) -> list[list[str]]:
    """Cells of the table that begins with that line."""
    lines = TEXT[TEXT.index(heading) :].split("\n")[2:]
    table = []
    for line in lines:
        if not line.startswith("|"):
            break
        table.append([cell.strip().strip("`") for cell in line.strip("|").split(" | ")])
    return table


def as_toml(value: Any) -> str:
    """As one writes it into the file."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return f"[{', '.join(as_toml(entry) for entry in value)}]"
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"


def test_every_configuration_key_with_its_default() -> None:
    """In the order of nobody's liking, but all of them, and none that does not exist."""
    table = {key: (default, meaning) for key, default, meaning in rows("| key | default |")}
    inner = {
        f"hetzner.{key}": (default, meaning)
        for key, default, meaning in rows("| key in `[hetzner]` | default |")
    }
    assert set(table) == {name for name in KEYS if "." not in name}
    assert set(inner) == {name for name in KEYS if "." in name}
    for name, (shown, meaning) in (table | inner).items():
        assert len(meaning) > 20, name
        default = None if name == "crate" else KEYS[name].default
        assert shown == as_toml(default), name


def test_what_a_project_may_set() -> None:
    """The two lists of the README are those of the table."""
    for scope, begin in ((Scope.PROJECT, "always"), (Scope.TRUSTED, "once you trust it")):
        (line,) = [line for line in TEXT.split("\n") if line.startswith(f"- *{begin}*:")]
        named = set(re.findall(r"`([a-z_.]+)`", line))
        assert named == {name for name, key in KEYS.items() if key.scope is scope}, begin


def test_every_variable_that_is_read() -> None:
    """Whatever the sources call BURST_ or HCLOUD_SOMETHING is in the table, or internal."""
    read: set[str] = set()
    for root in ("wrapper", "agent", "image"):
        for path in (REPOSITORY / root).rglob("*"):
            if path.suffix in {".py", ".c"} or path.name == "burst-rustc":
                read |= set(
                    re.findall(r"\b(?:BURST|HCLOUD)_[A-Z]+(?:_[A-Z]+)*\b", path.read_text())
                )
    table = {row[0] for row in rows("| variable | meaning |")}
    assert read - INTERNAL == table


def test_every_error_that_users_see() -> None:
    """Made from the classes: `python tests/support/documents.py` writes it anew."""
    assert with_error_table(TEXT) == TEXT


def test_addresses_of_services() -> None:
    """A row for each, with its address."""
    shown = {row[0]: row[1] for row in rows("| service | address | Debian package |")}
    assert shown.keys() == SERVICES.keys()
    for name, service in SERVICES.items():
        assert shown[name].startswith(f"{service.url}"), name


def test_every_verb() -> None:
    """A subcommand that nobody can find is none."""
    for verb in VERBS:
        assert f"cargo burst {verb}" in TEXT, verb
    for verb in ADMIN_VERBS:
        assert f"`burst-admin {verb}" in TEXT, verb


def test_the_two_commands_for_developers() -> None:
    """And what they say exists."""
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in ("demo", "test", "test-fast", "lint", "bench"):
        assert f"make {target}" in TEXT
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_module_is_on_the_code_map() -> None:
    """One line for each, and none for what is gone."""
    mapped = set(re.findall(r"`((?!tests/)(?:[a-z]+/)*\w+\.(?:py|c))`", ARCHITECTURE))
    present = {
        str(path.relative_to(REPOSITORY / package))
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*")
        if path.suffix in {".py", ".c"} and path.name != "__init__.py"
    }
    assert present - mapped == set(), "add one line to ARCHITECTURE.md"
    assert mapped - present == set(), "no such module any more"


def test_the_changelog_knows_this_version() -> None:
    """In the form of Keep a Changelog."""
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    assert re.search(r"^## Unreleased$", changelog, re.MULTILINE)
    assert re.search(rf"^## {re.escape(BUILD)}\b", changelog, re.MULTILINE)


def test_links_lead_somewhere() -> None:
    """Between the documents themselves."""
    for path in (README, REPOSITORY / "ARCHITECTURE.md", REPOSITORY / "CHANGELOG.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
            assert (Path(path).parent / target).exists(), target


def block(mark: str) -> str:
    """The code block of the README behind `<!-- mark -->`."""
    text = README.read_text()
    return text.partition(f"<!-- {mark} -->\n```")[2].partition("\n")[2].partition("\n```")[0]


def test_the_recipe_for_ci(tmp_path: Path) -> None:
    """The job is YAML and its shell is sound; the team's file is one that burst reads."""
    import yaml

    from burst_lifecycle.places import Places
    from burst_lifecycle.settings import load

    steps = yaml.safe_load(block("ci job"))["jobs"]["test"]["steps"]
    for step in steps:
        if "run" in step:
            subprocess.run(["sh", "-n", "-c", step["run"]], check=True)
    assert any("cargo burst test" in step.get("run", "") for step in steps)
    (tmp_path / ".config").mkdir()
    (tmp_path / ".config" / "burst.toml").write_text(block("ci burst.toml"))
    settings = load(Places.of({b"HOME": bytes(tmp_path)}), str(tmp_path))
    assert settings.services == ("postgresql",)
    assert settings.test_runner == "nextest"
    assert settings.untrusted == ()


def test_the_tests_that_the_map_of_verbs_names_are_there() -> None:
    """By module and function."""
    table = ARCHITECTURE[ARCHITECTURE.index("| verb, option |") - 200 :]
    named = set(re.findall(r"`(\w+)::(\w+)`", table))
    assert len(named) > 20
    for module, function in named:
        (path,) = (REPOSITORY / "tests").glob(f"*/test_{module}.py")
        assert f"\ndef test_{function}(" in path.read_text(), f"{module}::{function}"
