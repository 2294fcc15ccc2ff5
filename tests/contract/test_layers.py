"""The layers of pyproject.toml, as a test: who may import whom, and who never does."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ROOTS = ("wrapper", "agent", "image")


def test_import_contracts_hold(capfd: pytest.CaptureFixture[str]) -> None:
    """wrapper -> lifecycle -> protocol, agent -> protocol, one module per third party."""
    cli = pytest.importorskip("importlinter.cli", reason="import-linter is in the lint group")
    config = str(REPOSITORY / "pyproject.toml")
    broken = cli.lint_imports(config_filename=config, no_cache=True, verbose=False)
    assert not broken, capfd.readouterr().out


def test_no_mocks() -> None:
    """Fakes are written by hand, and fail where the real thing would."""
    offenders = [
        path.relative_to(REPOSITORY)
        for path in (REPOSITORY / "tests").rglob("*.py")
        if any(name.startswith(("unittest.mock", "mock", "pytest_mock")) for name in imported(path))
    ]
    assert offenders == []


def test_the_protocol_never_does_io() -> None:
    """It turns bytes into messages and back; sockets, processes and loops are its users' business.

    `digest` and `elf` alone read files, because that is what they are for.
    """
    forbidden = {"asyncio", "socket", "subprocess", "threading", "selectors", "shutil", "tempfile"}
    for path in sorted((REPOSITORY / "agent" / "burst_protocol").glob("*.py")):
        names = {name.split(".")[0] for name in imported(path)}
        allowed_os = path.name in {"digest.py", "elf.py"}
        assert not names & forbidden, path
        assert allowed_os or "os" not in names, path


def test_the_agent_never_opens_connections() -> None:
    """It serves one client over what it is given, and calls nobody."""
    forbidden = {"asyncssh", "urllib", "http", "ssl", "requests", "hcloud", "ftplib", "smtplib"}
    calls = ("create_connection(", "open_unix_connection(", "getaddrinfo(", "AF_INET")
    for path in sorted((REPOSITORY / "agent" / "burst_agent").glob("*.py")):
        assert not {name.split(".")[0] for name in imported(path)} & forbidden, path
        text = path.read_text()
        assert not any(call in text for call in calls), path
        assert text.count("open_connection(") == text.count("open_connection(sock="), path


def test_nothing_listens_on_a_network() -> None:
    """One Unix socket in a private folder; the rest are socket pairs and SSH channels. What `-L`
    asks for is on home's loopback, and the agent connects to loopbacks of its own making."""
    for root in ROOTS:
        for path in sorted((REPOSITORY / root).rglob("*.py")):
            text = path.read_text()
            words = {"AF_INET", "start_server(", "0.0.0.0"}
            if path.name == "forwards.py":
                assert text.count("start_server(") == text.count(", _HOST, ") == 1, path
                assert '_HOST: Final = "127.0.0.1"' in text, path
                words -= {"AF_INET", "start_server("}
            elif path.parent.name == "network":
                words -= {"AF_INET"}
            for word in words:
                assert word not in text, path


def test_one_module_deletes() -> None:
    """`guard` asks whether a thing is ours and may go; nobody deletes past it."""
    for path in sorted((REPOSITORY / "image").rglob("*.py")):
        if path.name != "guard.py" and path.parent.name != "cloud":
            assert "cloud.delete(" not in path.read_text(), path


def imported(path: Path) -> set[str]:
    """Names of all modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names
