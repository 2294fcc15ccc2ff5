"""burst_lifecycle.token and machine: whose token, from where, to where, and never shown."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from burst_lifecycle.errors import TokenProblem
from burst_lifecycle.machine import machine_id, machine_key
from burst_lifecycle.setting_keys import TokenSource
from burst_lifecycle.token import ENDPOINT, Token, check_endpoint, is_loopback, obtain

SECRET = "s3cret" * 10
LOOPBACK = "http://127.0.0.1:8080/v1"


def get(
    source: TokenSource,
    environ: dict[str, str] | None = None,
    *,
    daemon: bool = False,
    endpoint: str = ENDPOINT,
) -> Token:
    return asyncio.run(obtain(source, endpoint=endpoint, environ=environ or {}, daemon=daemon))


@pytest.fixture
def file(home: Path) -> Path:
    path = home / "hetzner.token"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    return path


def test_a_file_that_only_we_can_read(file: Path) -> None:
    """Relative to home with `~`; also through a link."""
    token = get(TokenSource(file="~/hetzner.token"), daemon=True)
    assert token.value == SECRET
    assert token.endpoint == ENDPOINT
    (file.parent / "link").symlink_to(file)
    assert get(TokenSource(file=str(file.parent / "link"))).value == SECRET


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_a_file_that_others_can_read_or_write(file: Path, mode: int) -> None:
    """Is refused, with what to do."""
    file.chmod(mode)
    with pytest.raises(TokenProblem, match="chmod 600"):
        get(TokenSource(file=str(file)))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_file_of_somebody_else(file: Path) -> None:
    """Who owns it can change it."""
    os.chown(file, 65534, 65534)
    with pytest.raises(TokenProblem, match="belongs to somebody else"):
        get(TokenSource(file=str(file)))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"two words", "holds no token"),
        (b"two\nlines", "holds no token"),
        (b"\xff\xfe", "holds what no token has"),
        (b"x" * 5000, "longer than any token"),
    ],
)
def test_content_that_is_no_token(file: Path, content: bytes, complaint: str) -> None:
    """Never shown."""
    file.write_bytes(content)
    with pytest.raises(TokenProblem, match=complaint) as caught:
        get(TokenSource(file=str(file)))
    assert "two" not in str(caught.value)


def test_what_is_no_file(home: Path) -> None:
    """A folder, a pipe (without waiting for it), nothing."""
    os.mkfifo(home / "pipe", 0o600)
    for name, complaint in (("pipe", "is no file"), ("", "is no file"), ("no", "No such file")):
        with pytest.raises(TokenProblem, match=complaint):
            get(TokenSource(file=str(home / name)))


def python(code: str) -> TokenSource:
    return TokenSource(command=(sys.executable, "-c", code))


def test_a_command() -> None:
    """Its first line; without a shell, and without our input."""
    assert (
        get(python(f"import sys; print({SECRET!r}); print('x'); sys.stdin.read()")).value == SECRET
    )


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("import sys; print('leak'); sys.exit(3)", r"failed \(status 3\)"),
        ("pass", "is empty"),
        ("print('leak' * 2000)", "more than any token"),
    ],
)
def test_a_command_that_fails(code: str, complaint: str) -> None:
    """Is named, its output is not shown."""
    with pytest.raises(TokenProblem, match=complaint) as caught:
        get(python(code))
    assert "leak" not in str(caught.value)


def test_a_command_that_does_not_exist() -> None:
    """As an error like any other."""
    with pytest.raises(TokenProblem, match="cannot be started"):
        get(TokenSource(command=("/no/such/program",)))


def test_a_cancelled_command_is_ended(tmp_path: Path) -> None:
    """Whoever waits for a password manager may change their mind."""
    started = tmp_path / "pid"

    async def run() -> None:
        os.mkfifo(started)
        tell = f"open({str(started)!r}, 'w').write(str(os.getpid()))"
        code = f"import os, signal; {tell}; signal.pause()"
        task = asyncio.create_task(obtain(python(code), endpoint=ENDPOINT, environ={}, daemon=True))
        pid = int(await asyncio.to_thread(started.read_text))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    asyncio.run(run())


def test_the_environment_never_makes_the_daemon_boot() -> None:
    """A direnv variable of somebody's production account; only `env = true` says otherwise."""
    environ = {"HCLOUD_TOKEN": SECRET, "HCLOUD_ENDPOINT": LOOPBACK}
    with pytest.raises(TokenProblem):
        get(TokenSource(), environ, daemon=True)
    assert get(TokenSource(env=True), environ, daemon=True) == get(TokenSource(), environ)
    assert get(TokenSource(), environ).endpoint == LOOPBACK


def test_a_configured_token_is_stronger_than_the_environment(file: Path) -> None:
    """And stays at the configured endpoint."""
    source = TokenSource(file=str(file))
    environ = {"HCLOUD_TOKEN": "other"}
    for daemon in (True, False):
        assert get(source, environ, daemon=daemon).value == SECRET
    environ["HCLOUD_ENDPOINT"] = "https://evil.example/v1"
    assert get(source, environ, daemon=True).endpoint == ENDPOINT
    with pytest.raises(TokenProblem, match="goes with HCLOUD_TOKEN"):
        get(source, environ)
    environ["HCLOUD_ENDPOINT"] = LOOPBACK
    assert get(source, environ).endpoint == LOOPBACK


@pytest.mark.parametrize(
    "text",
    [
        "https://api.hetzner.cloud/v1",
        "https://proxy.example:8443/hetzner/v1",
        "http://127.0.0.1:1/v1",
        "http://127.8.9.10/v1",
        "http://[::1]:99/v1",
        "http://localhost:99/v1",
    ],
)
def test_endpoints(text: str) -> None:
    """Without a slash at the end, as the library wants them."""
    assert check_endpoint(text) == check_endpoint(text + "/") == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "api.hetzner.cloud",
        "http://api.hetzner.cloud/v1",
        "http://127.0.0.1.evil.example/v1",
        "http://localhost.evil.example/v1",
        "http://127.0.0.1@evil.example/v1",
        "https://user:password@api.example/v1",
        "ftp://127.0.0.1/",
        "https:///v1",
        "https://a.example/v1?x=1",
        "https://a.example/v1#x",
        "https://a.example:port/v1",
        "https://a.example\\@b.example/v1",
        "https://a.example/ v1",
        "http://0.0.0.0/v1",
        "http://2130706433/v1",
    ],
)
def test_where_no_token_is_sent(text: str) -> None:
    """Plain text to other machines, and what is no address at all."""
    with pytest.raises(ValueError, match=r"."):
        check_endpoint(text)
    with pytest.raises(TokenProblem, match="endpoint"):
        get(TokenSource(), {"HCLOUD_TOKEN": SECRET, "HCLOUD_ENDPOINT": text or "x"})


def test_a_token_is_never_shown(file: Path) -> None:
    """Not by repr, str or a formatted exception."""
    token = get(TokenSource(file=str(file)))
    assert SECRET not in f"{token!r} {token}"
    assert is_loopback(LOOPBACK)
    assert not is_loopback(ENDPOINT)


def test_fingerprints_are_of_this_machine(tmp_path: Path) -> None:
    """Equal for equal tokens, different elsewhere; the key is private and made once."""
    here, there = (machine_key(str(tmp_path / name)) for name in ("here", "there"))
    one, two = (Token(value, ENDPOINT, "") for value in (SECRET, SECRET + "x"))
    assert one.fingerprint(here) == Token(SECRET, LOOPBACK, "file").fingerprint(here)
    assert len({one.fingerprint(here), one.fingerprint(there), two.fingerprint(here)}) == 3
    assert machine_key(str(tmp_path / "here")) == here
    assert machine_id(here) != machine_id(there)
    file = tmp_path / "here" / "machine-key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path / "here") == ["machine-key"]
    file.write_bytes(b"short")
    assert len(machine_key(str(tmp_path / "here"))) == 32
