"""One life of a server at the real Hetzner, by hand: names its maximal cost first, deletes all.

    BURST_LIVE_TOKEN_FILE=~/hetzner.token make live                          # says what it may cost
    BURST_LIVE_TOKEN_FILE=~/hetzner.token BURST_LIVE_MAX_EUR=0.20 make live  # does it

The token comes from that file or from HCLOUD_TOKEN, the consent is an amount: nothing is created
unless the most that it can cost, by the price list of that moment and with VAT, is below it. No
test runner collects this, and no other command starts it.

The cheapest type that can be had here, 10 GB of volume: `burst-admin up`, a build on the server
that equals plain cargo's, `down`, up again, all hits from the volume, everything deleted. Its owner
is a name of its own, so it touches nothing else in the account; what is left is looked for by its
labels, and in the whole account. However it ends (Ctrl-C and SIGTERM, too), it deletes first; if it
is killed, servers turn themselves off at their hard end, and `--clean OWNER` or any `burst-admin
down --owner OWNER` deletes them. Exit codes: 0, 1 something did not work, 2 refused, 3 something
is left and bills.

What the API answered is compared with the description by which the tests' local cloud is built:
where the two differ, the local cloud is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

import attrs

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from burst_lifecycle import labels  # noqa: E402
from burst_lifecycle.assembly import home_architecture  # noqa: E402
from burst_lifecycle.cloud.hetzner import HetznerCloud  # noqa: E402
from burst_lifecycle.cloud.model import Image, Inventory, Kind, Prices, Resource, ServerType  # noqa: E402
from burst_lifecycle.pricing import hours_of_month  # noqa: E402
from burst_lifecycle.setting_keys import TokenSource  # noqa: E402
from burst_lifecycle.token import Token, obtain  # noqa: E402
from burst_protocol.errors import BurstError  # noqa: E402
from compare import compare_targets, report  # noqa: E402
from localcloud.schema import expected, problems  # noqa: E402
from space import Done, Space  # noqa: E402

CONSENT: Final = "BURST_LIVE_MAX_EUR"
TOKEN_FILE: Final = "BURST_LIVE_TOKEN_FILE"
ENDPOINT: Final = "https://api.hetzner.cloud/v1"
BURST_ADMIN: Final = Path(sys.executable).parent / "burst-admin"

LIMIT_S: Final = 45 * 60
"""Then it gives up and deletes."""
HARD_END_S: Final = 3600
BOOTS: Final = 2
HOURS: Final = 2
"""A server that begins its second hour while it is being deleted pays for it."""
BAKES: Final = 3
"""Servers of `--bake`: the one it bakes on, and up to two that verify the image."""
VOLUME_GB: Final = 10
IMAGE_GB: Final = 10
"""At most, packed."""
TYPES: Final = 4
"""So many of the cheapest are named: the first may be sold out."""
CLEAN_TRIES: Final = 20

REFUSED, LEFT = 2, 3


class Refused(Exception):
    """Nothing was created, and why."""


@attrs.frozen
class Offer:
    """What it may take, and what that can cost at most."""

    types: tuple[str, ...]
    locations: tuple[str, ...]
    eur_per_hour: Decimal
    """Of the dearest of them, net: the configuration's limit."""
    most_eur: Decimal
    """Of everything, with VAT, rounded up to a cent."""


def offer(known: Sequence[ServerType], prices: Prices, *, bake: bool, now_s: float) -> Offer:
    """The cheapest that are for sale now, of this machine's architecture. Pure."""
    found = sorted(
        (one.offers[number].hourly.gross_eur, one.offers[number].hourly.net_eur, one.name, place)
        for one in known
        if one.architecture == home_architecture()
        for number, place in enumerate(offered.location for offered in one.offers)
        if one.offers[number].available and not one.offers[number].deprecated
    )
    types = tuple(dict.fromkeys(name for _, _, name, _ in found))[:TYPES]
    chosen = [one for one in found if one[2] in types]
    if not chosen:
        raise Refused(f"no server type of {home_architecture()} is for sale now")
    # Dearer places of a type are left out: the first place of each is its cheapest.
    cheapest = {name: gross for gross, _, name, _ in reversed(chosen)}
    chosen = [one for one in chosen if one[0] == cheapest[one[2]]]
    address = max((one.gross_eur for one in prices.ipv4_hourly.values()), default=Decimal(0))
    hours = HOURS * (BOOTS + (BAKES if bake else 0))
    servers = (max(gross for gross, *_ in chosen) + address) * hours
    storage = prices.volume_gb_month.gross_eur * VOLUME_GB
    storage += prices.image_gb_month.gross_eur * IMAGE_GB if bake else 0
    most = servers + storage * hours / hours_of_month(now_s)
    return Offer(
        types,
        tuple(dict.fromkeys(place for _, _, _, place in chosen)),
        max(net for _, net, _, _ in chosen),
        most.quantize(Decimal("0.01"), ROUND_CEILING),
    )


def consent(environ: Mapping[str, str], offered: Offer) -> None:
    """Refused unless the amount that was agreed to covers it."""
    said = environ.get(CONSENT, "")
    if not said:
        raise Refused(f"set {CONSENT}={offered.most_eur} (or more) to have it done")
    try:
        agreed = Decimal(said)
    except InvalidOperation:
        raise Refused(f"{CONSENT} is no amount of euros: {said}") from None
    if not agreed.is_finite() or agreed < offered.most_eur:
        raise Refused(f"it may cost {offered.most_eur} euros, and {CONSENT} allows {said}")


async def find_token(environ: Mapping[str, str]) -> Token:
    """From the file that is named, else HCLOUD_TOKEN. Refused without one."""
    path = environ.get(TOKEN_FILE, "")
    if not path and not environ.get("HCLOUD_TOKEN"):
        raise Refused(f"no token: {TOKEN_FILE} names a file with one, or HCLOUD_TOKEN holds it")
    source = TokenSource(file=path) if path else TokenSource(env=True)
    endpoint = environ.get("HCLOUD_ENDPOINT") or ENDPOINT
    return await obtain(source, endpoint=endpoint, environ=environ, daemon=False)


def said(text: str) -> None:
    print(text, flush=True)


# -- what is there ---------------------------------------------------------------------------------


async def _left(token: Token, owner: str) -> Inventory:
    async with HetznerCloud(token) as cloud:
        return await cloud.inventory(labels.selector(owner))


async def _everything(token: Token) -> dict[tuple[Kind, int], Resource]:
    async with HetznerCloud(token) as cloud:
        found = await cloud.inventory("")
    return {
        (kind, one.id): one
        for kind, one in found.everything()
        if not (isinstance(one, Image) and one.system)
    }


def _names(resources: Sequence[tuple[Kind, Resource]]) -> str:
    return ", ".join(f"{kind.value} {one.name} ({one.id})" for kind, one in resources)


# -- one run ---------------------------------------------------------------------------------------


@attrs.define
class Smoke:
    """One machine in a folder, one owner, one account."""

    token: Token
    owner: str
    offered: Offer
    space: Space
    base_image: str
    took_s: dict[str, float] = attrs.field(factory=dict)
    answers: dict[str, Any] = attrs.field(factory=dict)

    def configure(self) -> None:
        secret = self.space.home / "token"
        secret.touch(0o600)
        secret.write_text(self.token.value)
        folder = self.space.home / ".config" / "burst"
        folder.mkdir(parents=True)
        values = {
            "endpoint": self.token.endpoint,
            "owner": self.owner,
            "base_image": self.base_image,
            "server_type": list(self.offered.types),
            "location": list(self.offered.locations),
            "max_eur_per_hour": float(self.offered.eur_per_hour),
            "volume_gb": VOLUME_GB,
            "volume_keep_alive_s": HARD_END_S,
            "hard_end_s": HARD_END_S,
            "boot_after_s": 0,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        head = f"[hetzner]\ntoken = {{file = {json.dumps(str(secret))}}}\n"
        (folder / "config.toml").write_text(head + "\n".join(lines) + "\n")

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Timed, and said."""
        begun = time.monotonic()
        yield
        self.took_s[name] = round(time.monotonic() - begun, 1)
        said(f"  {name}: {self.took_s[name]} s")

    def admin(self, *arguments: str) -> Done:
        return self.space.run(BURST_ADMIN, *arguments, timeout_s=LIMIT_S).check()

    def life(self, *, bake: bool, mirror: str) -> None:
        """AssertionError, or subprocess errors, with what a command said."""
        space = self.space
        space.write(
            {
                "Cargo.toml": '[package]\nname = "smoke"\nversion = "0.1.0"\nedition = "2021"\n',
                "Cargo.lock": 'version = 4\n\n[[package]]\nname = "smoke"\nversion = "0.1.0"\n',
                "src/lib.rs": "pub fn answer() -> u32 { 42 }\n",
                "src/main.rs": 'fn main() { println!("{}", smoke::answer()); }\n',
            }
        )
        target, plain = space.project / "target", space.project / "target.plain"
        with self.step("plain cargo"):
            space.plain("build", "--offline", CARGO_INCREMENTAL="0").check()
        target.rename(plain)
        with self.step("up, cold"):
            self.admin("up")
        self.record()
        with self.step("a build there"):
            self.build()
        differences = compare_targets(plain, target, incremental=False)
        assert not differences, report(differences)
        status = json.loads(self.admin("status", "--json").stdout)
        self.answers["status"] = status
        with self.step("down"):
            space.stop()
            self.admin("down", "--yes")
        if bake:
            with self.step("a bake"):
                self.admin("image", "build", *(["--mirror", mirror] if mirror else []))
        with self.step("up, again"):
            self.admin("up")
        with self.step("the build, from the volume"):
            space.forget_store()
            self.build()
        assert {unit["where"] for unit in space.units()} == {"hit"}, space.units()
        self.answers["audit"] = json.loads(self.admin("audit", "--json").stdout)

    def build(self) -> None:
        """AssertionError unless all of it is done there."""
        self.space.fresh_target()
        self.space.cargo("build", "--offline", CARGO_INCREMENTAL="0").check()
        at_home = [one for one in self.space.units() if not one["executor"].startswith("burst-")]
        assert not at_home, at_home

    def record(self) -> None:
        """The API's answers, and where they are not what the local cloud's answers are."""
        import hcloud

        client = hcloud.Client(self.token.value, self.token.endpoint, timeout=(5, 30))
        mark = {"label_selector": labels.selector(self.owner)}
        for path in ("servers", "volumes", "firewalls", "ssh_keys", "primary_ips", "pricing"):
            answer = client._client.request(
                "GET", f"/{path}", **({} if path == "pricing" else {"params": mark})
            )
            self.answers[path] = answer
            for wrong in problems(expected(f"GET /{path}", 200), answer):
                said(f"  note: the local cloud differs from the API: GET /{path}: {wrong}")

    def clean(self) -> list[tuple[Kind, Resource]]:
        """Until nothing of this owner is left; what is."""
        left: list[tuple[Kind, Resource]] = []
        for number in range(CLEAN_TRIES):
            if number:
                time.sleep(5)  # deletions that run hold names and volumes for some seconds
            done = self.space.run(
                BURST_ADMIN, "down", "--everything", "--force", "--yes", timeout_s=900
            )
            if done.status:
                said(f"  down: {done.stderr.strip()}")
            try:
                left = list(asyncio.run(_left(self.token, self.owner)).everything())
            except BurstError as error:
                said(f"  what is left cannot be seen: {error}")
                continue
            if not left and done.status == 0:
                return []
        return left


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """See the module's text."""
    token = asyncio.run(find_token(environ))
    before = asyncio.run(_everything(token))
    offered = asyncio.run(_offer(token, bake=options.bake))
    said(f"account: {token.endpoint}, {len(before)} things in it")
    said(f"types:   {', '.join(offered.types)} in {', '.join(offered.locations)}")
    said(f"costs:   at most {offered.most_eur} euros, with VAT")
    said(
        f"         (if this is killed, {offered.eur_per_hour:.4f} euros an hour before VAT until "
        "somebody deletes what it names)"
    )
    consent(environ, offered)
    owner = options.clean or f"live-{secrets.token_hex(4)}"
    said(f"owner:   {owner}")
    more = {}
    if ports := environ.get("BURST_TEST_SSH_PORTS"):  # the local cloud without root
        more["BURST_TEST_SSH_PORTS"] = ports
    failed = False
    with Space.open(**more) as space:
        smoke = Smoke(token, owner, offered, space, options.base_image)
        smoke.configure()
        try:
            if not options.clean:
                signal.alarm(LIMIT_S)
                smoke.life(bake=options.bake, mirror=options.mirror)
        except (Exception, KeyboardInterrupt) as error:
            failed = True
            said(f"FAILED: {type(error).__name__}: {error}")
        finally:
            # From here on nothing but SIGKILL keeps it from deleting.
            signal.alarm(0)
            for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(name, signal.SIG_IGN)
            space.stop()
            with smoke.step("everything deleted"):
                left = smoke.clean()
        if options.json:
            document = {"took_s": smoke.took_s, "answers": smoke.answers, "owner": owner}
            Path(options.json).write_text(json.dumps(document, indent=1, default=str))
    return _verdict(token, before, left, failed=failed)


def _verdict(
    token: Token,
    before: Mapping[tuple[Kind, int], Resource],
    left: Sequence[tuple[Kind, Resource]],
    *,
    failed: bool,
) -> int:
    """Also what has lost its labels, and what was there before and is gone."""
    now = asyncio.run(_everything(token))
    new = [(key[0], one) for key, one in now.items() if key not in before]
    gone = [(key[0], one) for key, one in before.items() if key not in now]
    unlabelled = [(kind, one) for kind, one in new if one.name.startswith("burst-")]
    if left or unlabelled:
        said(f"LEFT, and may bill: {_names([*left, *unlabelled])}")
        said("hint: `burst-admin down --owner OWNER --everything`, or the console")
        return LEFT
    said("left:    nothing")
    if new or gone:
        said(f"note: others changed this account meanwhile: {_names([*new, *gone])}")
    return int(failed)


async def _offer(token: Token, *, bake: bool) -> Offer:
    async with HetznerCloud(token) as cloud:
        types, prices = await cloud.server_types(), await cloud.prices()
        return offer(types, prices, bake=bake, now_s=cloud.now_s())


def _stop(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bake", action="store_true", help="also bake an image and boot from it")
    parser.add_argument("--mirror", default="", help="for --bake; see `burst-admin image build`")
    parser.add_argument("--base-image", default="ubuntu-24.04")
    parser.add_argument("--json", metavar="FILE", help="timings and the API's answers")
    parser.add_argument("--clean", metavar="OWNER", help="only delete what a killed run has left")
    options = parser.parse_args(argv)
    for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(name, _stop)
    try:
        return run(options, os.environ)
    except Refused as refusal:
        said(f"refused: {refusal}")
    except BurstError as error:
        said(f"error: {error}")
        if error.hint:
            said(f"hint: {error.hint}")
    return REFUSED


if __name__ == "__main__":
    sys.exit(main())
