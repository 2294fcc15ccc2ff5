"""What the documents say about the code is compared with the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs

from burst_protocol.version import BUILD
from burst_wrapper.cli.cargo_burst import VERBS
from burst_wrapper.config import _KEYS, Config
from documents import README, REPOSITORY, with_error_table

TEXT = README.read_text()
ARCHITECTURE = (REPOSITORY / "ARCHITECTURE.md").read_text()
PACKAGES = {
    "agent/burst_protocol": "burst_protocol",
    "agent/burst_agent": "burst_agent",
    "wrapper/burst_wrapper": "burst_wrapper",
    "image/burst_lifecycle": "burst_lifecycle",
}
# Between our own processes, not for people.
INTERNAL = {"BURST_OBSERVER_FD", "BURST_RESUME"}


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
    if isinstance(value, tuple):
        return "[]"
    return '""' if value == "" else f"{value:g}"


def test_every_configuration_key_with_its_default() -> None:
    """In the order of nobody's liking, but all of them, and none that does not exist."""
    defaults = {field.name: field.default for field in attrs.fields(Config)}
    table = {key: (default, meaning) for key, default, meaning in rows("| key | default |")}
    assert set(table) == set(_KEYS)
    for key, (shown, meaning) in table.items():
        assert len(meaning) > 20, key
        if key == "crate":
            continue
        assert shown == as_toml(defaults[key]), key


def test_every_variable_that_is_read() -> None:
    """Whatever the sources call BURST_SOMETHING is in the table, or internal."""
    read: set[str] = set()
    for root in ("wrapper", "agent", "image"):
        for path in (REPOSITORY / root).rglob("*"):
            if path.suffix in {".py", ".c"} or path.name == "burst-rustc":
                read |= set(re.findall(r"\bBURST_[A-Z]+(?:_[A-Z]+)*\b", path.read_text()))
    table = {row[0] for row in rows("| variable | meaning |")}
    assert read - INTERNAL == table


def test_every_error_that_users_see() -> None:
    """Made from the classes: `python tests/support/documents.py` writes it anew."""
    assert with_error_table(TEXT) == TEXT


def test_every_verb() -> None:
    """A subcommand that nobody can find is none."""
    for verb in VERBS:
        assert f"cargo burst {verb}" in TEXT, verb


def test_the_two_commands_for_developers() -> None:
    """And what they say exists."""
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in ("demo", "test", "test-fast", "lint", "bench"):
        assert f"make {target}" in TEXT
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_module_is_on_the_code_map() -> None:
    """One line for each, and none for what is gone."""
    mapped = set(re.findall(r"`((?:[a-z]+/)?\w+\.(?:py|c))`", ARCHITECTURE))
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
