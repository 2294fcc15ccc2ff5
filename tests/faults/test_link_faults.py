"""A host that fails: not there, not trusted, cut off, stalled, full, too old, damaged.

The unit goes on in the embedded agent at home with the same result, counted under its reason; with
BURST_REQUIRE_REMOTE it fails with one error that names the cause, and the next build works.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import faults
from faults import Phase, Running, kill, refused, same, until
from sshd import SSHD, Proxy, blackhole, closed_port, keygen

if TYPE_CHECKING:
    from ssh_lab import Lab

pytest_plugins = ("ssh_lab",)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(SSHD is None, reason="openssh-server is not installed"),
]

FALLBACK = {"BURST_REQUIRE_REMOTE": "0"}
# Soon enough, and longer than an agent waits for its turn on a machine with more to do.
QUICK = "silence_s = 4\n"


def reasons(lab: Lab) -> Counter[str]:
    """Why units did not run on the host; those that came while it was still tried left out."""
    found = faults.reasons(lab.space)
    del found["not-yet"]
    return found


def falls_back(lab: Lab, reason: str) -> None:
    """Same results, always at home; the reason is counted as soon as it is known."""
    space = lab.space
    expected = faults.plain(space)
    for _ in range(20):
        space.fresh_target()
        same(space, expected, space.cargo("build", **FALLBACK))
        assert all(unit["executor"] in ("embedded", "home store") for unit in space.units())
        shutil.rmtree(space.store / "actions")
        (space.store / "actions").mkdir()
        if reasons(lab):
            break
    assert set(reasons(lab)) == {reason}, space.units()


def works(lab: Lab) -> None:
    """The host is used again."""
    lab.space.fresh_target()
    lab.space.cargo("build").check()


# --- not to be reached ---


def test_nobody_listens_there(lab: Lab) -> None:
    """A closed port."""
    lab.host(f"me@127.0.0.1:{closed_port()}")
    falls_back(lab, "unreachable")
    lab.space.fresh_target()
    refused(lab.space.cargo("build"), about="cannot reach me@127.0.0.1")


def test_packets_vanish(lab: Lab) -> None:
    """No answer at all within the connect timeout; builds meanwhile do not wait for it."""
    faults.configure(lab.space, "connect_timeout_s = 1\n")
    with blackhole() as port:
        lab.host(f"me@127.0.0.1:{port}")
        lab.space.fresh_target()
        refused(lab.space.cargo("build"), about="within 1 s")
        falls_back(lab, "unreachable")


def test_a_name_nobody_knows(lab: Lab) -> None:
    """DNS."""
    lab.host("me@burst.invalid")
    falls_back(lab, "unreachable")


def test_an_address_that_is_none(lab: Lab) -> None:
    """A typing error in BURST_HOST."""
    lab.host("me@host:port:22")
    falls_back(lab, "unreachable")
    lab.space.fresh_target()
    refused(lab.space.cargo("build"), about="me@host:port:22")


def test_an_unknown_host_key(lab: Lab) -> None:
    """Nothing is trusted on first use."""
    lab.sshd.known_hosts.write_text("")
    lab.host(lab.sshd.address)
    falls_back(lab, "host-key")
    lab.space.fresh_target()
    refused(lab.space.cargo("build"), about="is not trusted")


def test_a_changed_host_key(lab: Lab) -> None:
    """Another key than known_hosts says."""
    lab.sshd.change_host_key()
    falls_back(lab, "host-key")
    lab.space.fresh_target()
    refused(lab.space.cargo("build"), about="CHANGED")


def test_a_refused_login(lab: Lab) -> None:
    """The host does not know our key; after it learned it, the next build works."""
    ours = lab.sshd.authorized_keys.read_text()
    other = lab.sshd.folder / "somebody"
    if not other.exists():
        keygen(other)
    lab.sshd.authorized_keys.write_text(other.with_name("somebody.pub").read_text())
    try:
        falls_back(lab, "authentication")
        lab.space.fresh_target()
        refused(lab.space.cargo("build"), about="refused our login")
    finally:
        lab.sshd.authorized_keys.write_text(ours)
    works(lab)


def test_a_python_too_old(lab: Lab) -> None:
    """Only 3.9 there."""
    if any(name.startswith("python3") for name in os.listdir("/usr/local/bin")):
        pytest.skip("a python3 in /usr/local/bin cannot be hidden")
    folder = lab.sshd.folder / "bin"
    folder.mkdir(exist_ok=True)
    for name in ("python3", *(f"python3.{minor}" for minor in range(11, 17))):
        (folder / name).write_text("#!/bin/sh\necho 3 9\n")
        (folder / name).chmod(0o755)
    lab.sshd.environment["PATH"] = f"{folder}:/usr/bin:/bin"
    lab.sshd.restart()
    falls_back(lab, "remote-python")
    lab.space.fresh_target()
    refused(lab.space.cargo("build"), about="has no usable Python: found only 3.9")


@pytest.mark.root
def test_a_full_disk_there(lab: Lab) -> None:
    """The agent fits, the toolchain does not."""
    place = lab.sshd.folder / "small"
    lab.sshd.environment["XDG_CACHE_HOME"] = str(place)
    with faults.small_disk(place, 100_000_000):
        lab.sshd.restart()
        refused(lab.space.cargo("build"), about="no space left")
        falls_back(lab, "disk-full")
        lab.space.stop()
        lab.sshd.wait_sessions_end()


# --- cut off in the middle ---


def cut(lab: Lab, proxy: Proxy) -> None:
    proxy.cut()


def stall(lab: Lab, proxy: Proxy) -> None:
    proxy.stall()


def freeze(lab: Lab, proxy: Proxy) -> None:
    lab.sshd.freeze()


def kill_agent(lab: Lab, proxy: Proxy) -> None:
    pids = lab.agents()
    assert pids
    for pid in pids:
        kill(pid)


def stop_sshd(lab: Lab, proxy: Proxy) -> None:
    lab.sshd.stop()


Breaker = Callable[["Lab", Proxy], None]
BREAKERS = [cut, stall, freeze, kill_agent, stop_sshd]


@pytest.mark.parametrize("phase", faults.PHASES)
@pytest.mark.parametrize("breaks", [cut, stall])
def test_a_link_lost_in_mid_unit(lab: Lab, breaks: Breaker, phase: Phase) -> None:
    """At every stage of the unit: it is done at home and said once; nothing goes on there."""
    lab_loses(lab, breaks, phase)


@pytest.mark.parametrize("breaks", [freeze, kill_agent, stop_sshd])
def test_a_host_lost_in_mid_unit(lab: Lab, breaks: Breaker) -> None:
    """sshd frozen, the agent or all of it killed, after the metadata is in use."""
    lab_loses(lab, breaks, "generating")


def lab_loses(lab: Lab, breaks: Breaker, phase: Phase) -> None:
    space = lab.space
    faults.configure(space, QUICK)
    with Proxy(lab.sshd.port) as proxy:
        lab.through(proxy)
        works(lab)
        lab.write_held(phase)
        expected = faults.plain(space)
        with Running.start(space) as cargo:
            lab.hold(phase)
            breaks(lab, proxy)
            same(space, expected, cargo.finish())
        held = faults.unit(space, "held")
        assert (held["where"], held["executor"]) == ("local", "embedded")
        assert held["reason"] in ("link-lost", "agent-gone"), held
        if breaks is freeze:
            lab.sshd.thaw()
        until(lambda: not lab.remote_rustcs("held"), "the end of rustc on the host")
        if breaks is stop_sshd:
            lab.sshd.restart()
        proxy.resume()
        lab.write_held(phase)
        works(lab)
        assert faults.unit(space, "held")["where"] == "remote"
        space.stop()


def chain(length: int, gates: Path) -> dict[str, str]:
    """Crates that need one another; each is compiled once a file of its number lies in `gates`."""
    names = [f"c{n}" for n in range(length)]
    files = {"Cargo.toml": f'[workspace]\nresolver = "2"\nmembers = {names!r}\n'}
    for number, name in enumerate(names):
        needs = f'[dependencies]\nc{number - 1} = {{ path = "../c{number - 1}" }}\n'
        files |= {
            f"{name}/Cargo.toml": faults.MANIFEST.format(name=name) + needs * bool(number),
            f"{name}/src/lib.rs": "pub fn f() {}\n",
            f"{name}/build.rs": "fn main() {\n"
            f'    while !std::path::Path::new("{gates}/{number}").exists() {{\n'
            "        std::thread::sleep(std::time::Duration::from_millis(5));\n    }\n}\n",
        }
    return files


@pytest.mark.thorough
def test_a_host_that_comes_back_is_used_again_in_the_same_build(lab: Lab) -> None:
    """Rebooted, say: sshd and all that ran there are gone, and a while later it is there again."""
    space, length = lab.space, 12
    gates = space.folder / "gates"
    gates.mkdir()
    works(lab)
    lab.write(chain(length, gates))

    def unit_of(number: int) -> dict[str, Any] | None:
        found = [u for u in space.units() if u["crate"] == f"c{number}"]
        return found[0] if found else None

    def compiled(number: int) -> str:
        (gates / str(number)).write_text("")
        return str(until(lambda: unit_of(number), f"c{number}")["executor"])

    with Running.start(space, "build", "-j", str(2 * length)) as cargo:
        until(lambda: len(space.units()) >= length, "the build scripts")
        assert compiled(0) == lab.sshd.address
        lab.sshd.stop()
        assert compiled(1) == "embedded"
        assert compiled(2) == "embedded"
        lab.sshd.restart()
        until(lab.agents, "an agent there, whoever asks for it")
        after = [compiled(number) for number in range(3, length)]
        assert cargo.finish().status == 0
    assert lab.sshd.address in after, after


@pytest.mark.parametrize("breaks", [cut, stall])
def test_a_link_lost_in_mid_unit_is_an_error_where_remote_is_required(
    lab: Lab, breaks: Breaker
) -> None:
    """The error names the host; the next build connects anew."""
    space = lab.space
    faults.configure(space, QUICK)
    with Proxy(lab.sshd.port) as proxy:
        lab.through(proxy)
        works(lab)
        lab.write_held("checking")
        with Running.start(space, "build", "-p", "held", BURST_REQUIRE_REMOTE="1") as cargo:
            lab.hold("checking")
            breaks(lab, proxy)
            refused(cargo.finish(), about=f"127.0.0.1:{proxy.port}")
        proxy.resume()
        works(lab)
        space.stop()


@pytest.mark.parametrize("breaks", BREAKERS)
def test_a_link_lost_between_builds(lab: Lab, breaks: Breaker) -> None:
    """Noticed at once or at the first use; never a wrong or hanging build."""
    space = lab.space
    faults.configure(space, QUICK)
    with Proxy(lab.sshd.port) as proxy:
        lab.through(proxy)
        works(lab)
        breaks(lab, proxy)
        lab.write(faults.SMALL)
        expected = faults.plain(space)
        same(space, expected, space.cargo("build", **FALLBACK))
        if breaks is freeze:
            lab.sshd.thaw()
        if breaks is stop_sshd:
            lab.sshd.restart()
        proxy.resume()
        works(lab)
        space.stop()


def test_a_link_cut_while_the_platform_travels(lab: Lab) -> None:
    """Units run at home meanwhile and afterwards; nothing waits for the upload."""
    space = lab.space
    expected = faults.plain(space)
    lab.sshd.environment["XDG_CACHE_HOME"] = str(lab.sshd.folder / "empty")
    lab.sshd.restart()
    with Proxy(lab.sshd.port) as proxy:
        lab.through(proxy)
        before = proxy.forwarded_bytes["up"]
        same(space, expected, space.cargo("build", **FALLBACK))
        assert set(faults.reasons(space)) == {"not-yet"}
        proxy.wait_forwarded("up", before + 12_000_000)
        proxy.cut()
        until(lambda: not lab.sshd.session_pids(), "the end of the session")
        shutil.rmtree(space.store / "actions")
        (space.store / "actions").mkdir()
        space.fresh_target()
        same(space, expected, space.cargo("build", **FALLBACK))
        assert set(faults.reasons(space)) == {"link-lost"}
        space.stop()
    shutil.rmtree(lab.sshd.folder / "empty")


# --- over there ---


def test_a_rustc_killed_on_the_host(lab: Lab) -> None:
    """What its OOM killer does: the unit is compiled at home, the others there."""
    works(lab)
    lab.write_held("generating")
    expected = faults.plain(lab.space)
    with Running.start(lab.space) as cargo:
        kill(lab.hold("generating"))
        same(lab.space, expected, cargo.finish())
    held = faults.unit(lab.space, "held")
    assert (held["where"], held["executor"], held["reason"]) == (
        *("local", "embedded", "rustc-killed"),
    )
    assert faults.unit(lab.space, "app")["where"] == "remote"
    lab.write_held("generating")
    with Running.start(lab.space, "build", "-p", "held", BURST_REQUIRE_REMOTE="1") as cargo:
        kill(lab.hold("generating"))
        refused(cargo.finish(), about="rustc was killed: signal 9")


@pytest.mark.parametrize("how", ["flip", "delete"])
def test_damaged_blobs_on_the_host(lab: Lab, how: str) -> None:
    """Outputs of an earlier build: not given out, made again."""
    space = lab.space
    expected = faults.plain(space)
    works(lab)
    outputs = {
        path.read_bytes()
        for path in (space.project / "target/debug/deps").iterdir()
        if path.is_file()
    }
    for path in (lab.sshd.remote_cache / "burst" / "store").glob("cas/*/*"):
        if path.stat().st_size < 20_000_000 and path.read_bytes() in outputs:
            faults.damage(path, how)
    space.stop()
    shutil.rmtree(space.store)
    space.fresh_target()
    same(space, expected, space.cargo("build"))
    assert set(space.where().values()) == {"remote"}


@contextmanager
def installed_differs(lab: Lab, name: str, ours: str, theirs: str) -> Iterator[None]:
    """Somebody changed a file of burst_protocol in the agent that works on the host.

    Its length must stay: one of another length is not complete, and is installed again.
    """
    assert len(ours) == len(theirs)
    works(lab)
    lab.space.stop()
    found = lab.sshd.remote_cache.glob(f"burst/agent/*/lib/python3*/burst_protocol/{name}")
    (path,) = found
    text = path.read_text()
    path.write_text(text.replace(ours, theirs))
    assert path.read_text() != text
    try:
        yield
    finally:
        path.write_text(text)
    works(lab)


def test_an_agent_of_another_version_on_the_host(lab: Lab) -> None:
    """Refused at the first word."""
    with installed_differs(lab, "version.py", '"0.', '"9.'):
        falls_back(lab, "version")
        lab.space.fresh_target()
        refused(lab.space.cargo("build"), about="another version: it is 9.")


def test_a_store_that_cannot_be_opened_there(lab: Lab) -> None:
    """The agent says why it ends before its first word, and so does whoever misses it."""
    works(lab)
    lab.space.stop()
    lab.sshd.wait_sessions_end()
    store = lab.sshd.remote_cache / "burst" / "store"
    aside = store.rename(store.with_name("store-aside"))
    store.write_text("no folder")
    try:
        lab.write(faults.SMALL)
        falls_back(lab, "agent-gone")
        lab.space.fresh_target()
        refused(lab.space.cargo("build"), about="File exists")
        lab.space.stop()
        lab.sshd.wait_sessions_end()
    finally:
        store.unlink()
        aside.rename(store)
    works(lab)


def test_an_agent_that_talks_nonsense(lab: Lab) -> None:
    """Its frames are none: the link is given up."""
    little, big = 'to_bytes(4, "little")', 'to_bytes(4, "big"   )'
    with installed_differs(lab, "framing.py", little, big):
        falls_back(lab, "protocol-remote")
        lab.space.fresh_target()
        refused(lab.space.cargo("build"), about="protocol misused by the peer")


def test_what_came_from_the_host_is_at_home(lab: Lab) -> None:
    """The next build needs no host at all."""
    expected = faults.plain(lab.space)
    works(lab)
    lab.space.stop()
    lab.sshd.stop()
    try:
        lab.space.fresh_target()
        same(lab.space, expected, lab.space.cargo("build"))
        assert {unit["executor"] for unit in lab.space.units()} == {"home store"}
    finally:
        lab.sshd.restart()


def test_everything_of_ours_on_the_host_is_removed(lab: Lab) -> None:
    """`rm -rf ~/.cache/burst` there, with the agent running and afterwards."""
    space = lab.space
    faults.configure(space, QUICK)
    works(lab)
    aside = lab.sshd.folder / "aside"
    (lab.sshd.remote_cache / "burst").rename(aside)
    try:
        lab.write(faults.SMALL)
        expected = faults.plain(space)
        for _ in range(2):
            space.fresh_target()
            same(space, expected, space.cargo("build", **FALLBACK))
        space.stop()
    finally:
        lab.sshd.wait_sessions_end()
        shutil.rmtree(lab.sshd.remote_cache / "burst", ignore_errors=True)
        aside.rename(lab.sshd.remote_cache / "burst")
    works(lab)
