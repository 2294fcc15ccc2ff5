"""`tests/live/smoke.py`, against the local cloud: it asks first, it works, it leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import runpy
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import attrs
import pytest

from bake_mirror import mirror
from burst_lifecycle.cloud.hetzner import HetznerCloud
from burst_lifecycle.cloud.model import Prices, ServerType
from burst_lifecycle.token import Token
from localcloud import LocalCloud, Server
from trixie import Unavailable

pytest_plugins = ("cloud_fixtures",)

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "tests" / "live" / "smoke.py"


def smoke(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """In an environment that holds nothing of ours but what is given."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HCLOUD", "BU"))}
    return subprocess.run(
        [sys.executable, SMOKE, *arguments],
        env={**kept, **environ},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


def account(cloud: LocalCloud) -> dict[str, str]:
    return {"HCLOUD_TOKEN": cloud.token, "HCLOUD_ENDPOINT": cloud.endpoint}


def test_nobody_collects_it() -> None:
    """Whatever pytest is told to run, it is not this; `make test` and CI do not name it."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q"]
    done = subprocess.run(
        [*command, "tests/live"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout
    makefile = (ROOT / "Makefile").read_text()
    (target,) = [line for line in makefile.splitlines() if "smoke.py" in line]
    before = makefile[: makefile.index(target)].splitlines()
    assert before[-1].startswith("live:"), before[-1]
    for line in makefile.splitlines():
        if line.partition(":")[0] in {"test", "test-all", "test-fast", "demo", "lint", "bench"}:
            assert "live" not in line
    assert "live" not in (ROOT / ".ci" / "run").read_text()


def test_without_a_token_nothing_is_asked() -> None:
    """Not even prices."""
    done = smoke(BURST_LIVE_MAX_EUR="100")
    assert done.returncode == 2
    assert "refused: no token" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("agreed", ["", "0.01", "0", "-1", "nan", "inf", "much"])
def test_without_consent_nothing_is_made(paper_cloud: LocalCloud, agreed: str) -> None:
    """It says what it may cost, and has only read."""
    cloud = paper_cloud
    environ = {"BURST_LIVE_MAX_EUR": agreed} if agreed else {}
    done = smoke(**account(cloud), **environ)
    assert done.returncode == 2, done.stdout
    assert "at most 0.10 euros, with VAT" in done.stdout
    assert "refused: " in done.stdout
    assert {name.split()[0] for name in cloud.journal.operations()} == {"GET"}


def test_the_amount_counts_with_vat_and_only_what_is_for_sale(paper_cloud: LocalCloud) -> None:
    """cx23 is the cheapest of its architecture; while it is sold out, it is not named."""
    cloud = paper_cloud
    said = smoke(**account(cloud)).stdout
    assert "types:   cx23, cpx11, cx33, cpx12 in fsn1" in said
    # Twice two hours of the dearest with its address (4 x 0.0188), 10 GB so long, 19 % VAT.
    assert "at most 0.10 euros, with VAT" in said, said

    async def sold() -> tuple[tuple[ServerType, ...], Prices]:
        async with HetznerCloud(Token(cloud.token, cloud.endpoint, "test")) as api:
            return await api.server_types(), await api.prices()

    types, prices = asyncio.run(sold())
    there = tuple(
        attrs.evolve(one, offers=tuple(attrs.evolve(o, available=False) for o in one.offers))
        if one.name == "cx23"
        else one
        for one in types
    )
    module = runpy.run_path(str(SMOKE))
    offered = module["offer"](there, prices, bake=True, now_s=0.0)
    assert offered.types == ("cpx11", "cx33", "cpx12", "cx43")
    # Five servers of two hours: 10 x (0.0256 + 0.0008) x 1.19, and the disks.
    assert Decimal("0.31") < offered.most_eur < Decimal("0.34")
    with pytest.raises(module["Refused"]):
        module["offer"]((), prices, bake=False, now_s=0.0)


@pytest.mark.root
@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_a_whole_life(real_cloud: LocalCloud, tmp_path: Path) -> None:
    """Boots, builds, comes back warm, is gone; and it cost less than it had said."""
    cloud = real_cloud
    theirs = cloud.client().ssh_keys.create(
        "theirs", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJTCnrF7jWLJRvVbfzBdV8aGQKS8TCSkhfGl1LbSJd1k"
    )
    record = tmp_path / "record.json"
    done = smoke(
        "--base-image",
        "debian-13",
        "--json",
        str(record),
        BURST_LIVE_MAX_EUR="0.10",
        **account(cloud),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left:    nothing" in done.stdout
    assert "differs from the API" not in done.stdout
    assert cloud.journal.operations().count("POST /servers") == 2
    assert cloud.bill().cents <= Decimal("0.10")
    assert cloud.token not in record.read_text() + done.stdout + done.stderr
    cloud.expect(ssh_keys=[theirs.name or ""])


@pytest.mark.root
@pytest.mark.thorough
@pytest.mark.timeout(1800)
def test_a_whole_life_with_a_bake(real_cloud: LocalCloud) -> None:
    """`--bake`: an image, a server from it, and both gone afterwards."""
    cloud = real_cloud
    try:
        sources = mirror()
    except Unavailable as error:
        pytest.skip(str(error))
    options = ["--base-image", "debian-13", "--bake", "--mirror", str(sources)]
    done = smoke(*options, BURST_LIVE_MAX_EUR="0.40", **account(cloud))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a bake: " in done.stdout
    assert "left:    nothing" in done.stdout
    assert cloud.bill().cents <= Decimal("0.40")
    assert cloud.holdings() == {}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_it_deletes_first(paper_cloud: LocalCloud, number: signal.Signals) -> None:
    """While it waits for a server that never lets anybody in."""
    cloud = paper_cloud
    child = subprocess.Popen(
        [sys.executable, SMOKE, "--base-image", "debian-13"],
        env={**os.environ, **account(cloud), "BURST_LIVE_MAX_EUR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with child:
        try:
            cloud.wait_for(lambda: cloud.all(Server), "a server is made")
            child.send_signal(number)
            said, _ = child.communicate(timeout=100)
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
    assert child.returncode == 1, said
    assert "left:    nothing" in said
    assert cloud.holdings() == {}


@pytest.mark.slow
def test_what_a_killed_one_left_is_deleted(paper_cloud: LocalCloud) -> None:
    """By the name that it had said."""
    cloud = paper_cloud
    child = subprocess.Popen(
        [sys.executable, SMOKE, "--base-image", "debian-13"],
        env={**os.environ, **account(cloud), "BURST_LIVE_MAX_EUR": "1"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with child:
        try:
            assert child.stdout is not None
            owner = ""
            while not owner and (line := child.stdout.readline()):
                owner = line.partition("owner:")[2].strip()
            cloud.wait_for(lambda: cloud.all(Server), "a server is made")
        finally:
            os.killpg(child.pid, signal.SIGKILL)
    assert cloud.holdings()["servers"]
    done = smoke("--clean", owner, BURST_LIVE_MAX_EUR="1", **account(cloud))
    assert done.returncode == 0, done.stdout
    assert cloud.holdings() == {}
