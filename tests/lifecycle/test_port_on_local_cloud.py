"""burst_lifecycle.cloud.hetzner against the local cloud, whose answers its schema checks."""

from __future__ import annotations

import asyncio
import base64
import functools
import os
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import TypeVar

import attrs
import pytest

from burst_lifecycle import errors
from burst_lifecycle.books import Account, add_up
from burst_lifecycle.clock import ApiClock, Standing
from burst_lifecycle.cloud.calls import Timing
from burst_lifecycle.cloud.hetzner import HetznerCloud
from burst_lifecycle.cloud.model import (
    FirewallRule,
    Image,
    ImageState,
    Inventory,
    Kind,
    Prices,
    ServerSpec,
    ServerState,
    ServerType,
    SshKey,
    VolumeSpec,
)
from burst_lifecycle.errors import CloudProblem
from burst_lifecycle.events import Created as Born
from burst_lifecycle.events import Deleted, Event, Resized
from burst_lifecycle.labels import Claim, Role, new_operation, selector
from burst_lifecycle.pricing import Rate, cost_of, total
from burst_lifecycle.token import Token
from localcloud import Clock, Fault, LocalCloud

pytest_plugins = ("cloud_fixtures",)

T = TypeVar("T")
QUICK = Timing(poll=lambda _: 0.02, factor=0.01, request_s=10.0, read_s=5.0)
OWNER = "me"
OURS = selector(OWNER)
RULES = (FirewallRule("tcp", "22", ("0.0.0.0/0", "::/0"), "first login"),)


def public_key() -> str:
    """A new one each time: the API takes none twice."""
    words = b"ssh-ed25519", os.urandom(32)
    blob = b"".join(len(word).to_bytes(4, "big") + word for word in words)
    return f"ssh-ed25519 {base64.b64encode(blob).decode()}"


def claim(role: Role = Role.BUILD) -> Claim:
    return Claim(OWNER, role, new_operation(), 2_000_000_000, project="p1")


def run(
    cloud: LocalCloud,
    use: Callable[[HetznerCloud], Awaitable[T]],
    *,
    token: str | None = None,
    timing: Timing = QUICK,
    clock: ApiClock | None = None,
) -> T:
    async def inside() -> T:
        value = Token(token or cloud.token, cloud.endpoint, "test")
        async with HetznerCloud(value, timing=timing, clock=clock) as port:
            return await use(port)

    return asyncio.run(inside())


@attrs.frozen
class Ground:
    """What a server needs."""

    image: Image
    key: SshKey
    firewall: int


async def ground(port: HetznerCloud) -> Ground:
    access = claim(Role.ACCESS)
    image = await port.system_image("ubuntu-24.04", "x86")
    public = public_key()
    key = await port.create_ssh_key(f"burst-key-{access.operation}", public, access.labels())
    firewall = await port.create_firewall(
        f"burst-access-{access.operation}", RULES, access.labels()
    )
    return Ground(image, key, firewall.id)


def spec(ground_: Ground, type_: str = "ccx13", location: str = "fsn1") -> ServerSpec:
    mine = claim()
    return ServerSpec(
        name=f"burst-build-{mine.operation[:10]}",
        type=type_,
        location=location,
        image_id=ground_.image.id,
        ssh_key_ids=(ground_.key.id,),
        firewall_ids=(ground_.firewall,),
        labels=mine.labels(),
        user_data="#cloud-config\n{}\n",
    )


async def sweep(port: HetznerCloud) -> None:
    """Everything of ours, in the order in which it may go."""
    for kind, resource in (await port.inventory(OURS)).everything():
        if kind in {Kind.VOLUME, Kind.IMAGE}:
            await port.protect(kind, resource.id, delete=False)
        await port.delete(kind, resource.id)
    assert (await port.inventory(OURS)).everything() == ()


def test_a_life(paper_cloud: LocalCloud) -> None:
    """Everything the port can do, once; nothing is left, and the answers were the schema's."""

    async def use(port: HetznerCloud) -> None:
        given = await ground(port)
        assert await port.ssh_key_by_fingerprint(given.key.fingerprint) == given.key
        made = await port.create_server(spec(given))
        await port.wait(made.actions, 30)
        server = await port.server(made.resource.id)
        assert (server.state, server.type, server.location) == (
            ServerState.RUNNING,
            "ccx13",
            "fsn1",
        )
        assert server.firewall_ids == (given.firewall,)
        assert server.image_id == given.image.id
        volume = await port.create_volume(
            VolumeSpec("burst-store", 10, "fsn1", claim(Role.STORE).labels())
        )
        await port.wait(volume.actions, 30)
        await port.protect(Kind.VOLUME, volume.resource.id, delete=True)
        for _ in range(2):
            await port.attach(volume.resource.id, server.id)
        await port.resize_volume(volume.resource.id, 20)
        with pytest.raises(CloudProblem):
            await port.delete(Kind.VOLUME, volume.resource.id)
        seen = await port.volume(volume.resource.id)
        assert (seen.server_id, seen.size_gb, seen.delete_protected) == (server.id, 20, True)
        assert (await port.server(server.id)).volume_ids == (seen.id,)
        for _ in range(2):
            await port.detach(seen.id)
        await port.set_labels(Kind.SERVER, server.id, {**server.labels, "burst-pin": "x"})
        assert (await port.server(server.id)).labels["burst-pin"] == "x"
        await port.set_rules(given.firewall, ())
        assert (await port.firewall(given.firewall)).rules == ()
        await port.apply_firewall(given.firewall, server.id)
        await port.shutdown(server.id)
        await port.power_off(server.id)
        assert (await port.server(server.id)).state is ServerState.OFF
        image = await port.create_image(server.id, "burst image", claim(Role.IMAGE).labels())
        await port.wait(image.actions, 30)
        snapshot = await port.image(image.resource.id)
        assert (snapshot.state, snapshot.system) == (ImageState.AVAILABLE, False)
        assert snapshot.size_gb is not None
        await port.power_on(server.id)
        inventory = await port.inventory(OURS)
        assert [kind for kind, _ in inventory.everything()] == [
            Kind.SERVER,
            Kind.VOLUME,
            Kind.IMAGE,
            Kind.FIREWALL,
            Kind.SSH_KEY,
        ]
        addresses = {server.ipv4_id, server.ipv6_id}
        found = await port.find(Kind.PRIMARY_IP, "")
        assert {ip.id for ip in found} == addresses
        await sweep(port)

    run(paper_cloud, use)


def test_prices_and_types_are_live(paper_cloud: LocalCloud) -> None:
    """Each offer has a price, and the catalogue's own."""

    async def use(port: HetznerCloud) -> tuple[tuple[ServerType, ...], Prices]:
        return await port.server_types(), await port.prices()

    types, prices = run(paper_cloud, use)
    ccx63 = next(kind for kind in types if kind.name == "ccx63")
    offer = ccx63.offer("fsn1")
    assert offer is not None
    assert offer.hourly.net_eur == Decimal("1.3678")
    assert (ccx63.architecture, ccx63.cores, ccx63.dedicated) == ("x86", 48, True)
    assert prices.currency == "EUR"
    assert "fsn1" in prices.ipv4_hourly


CREATING = ("POST /servers", "POST /volumes", "POST /ssh_keys", "POST /firewalls")


@pytest.mark.parametrize("operation", CREATING)
@pytest.mark.parametrize("kind", ["lost", "drop", "hang_lost"])
def test_an_answer_that_is_lost(paper_cloud: LocalCloud, operation: str, kind: str) -> None:
    """Ambiguous, sent once; and whether it was done is found by its labels."""
    mine = claim()
    public = public_key()
    labels = mine.labels()

    async def use(port: HetznerCloud) -> Inventory:
        given = await ground(port)
        paper_cloud.fault(Fault(operation, kind, seconds=0.3))  # type: ignore[arg-type]
        creates: dict[str, Callable[[], Awaitable[object]]] = {
            "POST /servers": lambda: port.create_server(attrs.evolve(spec(given), labels=labels)),
            "POST /volumes": lambda: port.create_volume(VolumeSpec("v", 10, "fsn1", labels)),
            "POST /ssh_keys": lambda: port.create_ssh_key("other", public, labels),
            "POST /firewalls": lambda: port.create_firewall("other", (), labels),
        }
        before = len(paper_cloud.calls(operation))
        with pytest.raises(errors.Ambiguous):
            await creates[operation]()
        assert len(paper_cloud.calls(operation)) == before + 1
        paper_cloud.wait_idle()
        found = await port.inventory(selector(OWNER, op=mine.operation))
        await sweep(port)
        return found

    found = run(paper_cloud, use)
    assert len(found.everything()) == (0 if kind == "drop" else 1)


def test_capacity_and_quota(paper_cloud: LocalCloud) -> None:
    """Each in its own class: elsewhere, smaller, or not at all."""
    paper_cloud.set_capacity("ccx13", "fsn1", 0)
    paper_cloud.quota().dedicated_cores = 8

    async def use(port: HetznerCloud) -> None:
        given = await ground(port)
        with pytest.raises(errors.NoCapacity):
            await port.create_server(spec(given))
        with pytest.raises(errors.QuotaExceeded) as caught:
            await port.create_server(spec(given, "ccx63"))
        assert caught.value.facts["limits"]
        with pytest.raises(errors.NoCapacity):
            await port.create_server(spec(given, "cpx22", "ash"))
        one = spec(given, location="hel1")
        made = await port.create_server(one)
        with pytest.raises(errors.NameTaken):
            await port.create_server(one)
        await port.wait(made.actions, 30)
        await sweep(port)

    run(paper_cloud, use)


def test_locks_are_waited_for(paper_cloud: LocalCloud) -> None:
    """Of a request, and of an action that finds one."""

    async def use(port: HetznerCloud) -> None:
        given = await ground(port)
        made = await port.create_server(spec(given))
        await port.power_off(made.resource.id)  # while it is still being created
        paper_cloud.hold("server", made.resource.id, 0.3)
        await port.power_on(made.resource.id)
        paper_cloud.fail_action("stop_server", "locked")
        await port.power_off(made.resource.id)
        paper_cloud.hold("server", made.resource.id, 0.3)
        await sweep(port)

    run(paper_cloud, use)


@pytest.mark.parametrize("code", ["unavailable", "timeout", "server_error", "rate_limit_exceeded"])
def test_trouble_in_the_middle_of_everything(paper_cloud: LocalCloud, code: str) -> None:
    """Every fourth call of each kind that may be repeated fails; it ends all the same."""
    status = {"unavailable": 503, "timeout": 504, "server_error": 500}.get(code, 429)
    for operation in ("GET *", "DELETE *", "PUT *", "POST /*/{id}/actions/*"):
        for nth in range(2, 60, 4):
            paper_cloud.faults.answer(operation, status, code, nth=nth)

    async def use(port: HetznerCloud) -> None:
        given = await ground(port)
        made = await port.create_server(spec(given))
        await port.wait(made.actions, 30)
        volume = await port.create_volume(VolumeSpec("v", 10, "fsn1", claim(Role.STORE).labels()))
        await port.attach(volume.resource.id, made.resource.id)
        await port.detach(volume.resource.id)
        await sweep(port)

    run(paper_cloud, use)


def test_tokens(paper_cloud: LocalCloud) -> None:
    """One that only reads, one that is revoked: told apart, and nothing happens."""
    readonly = paper_cloud.add_token(readonly=True)
    revoked = paper_cloud.add_token()
    paper_cloud.revoke(revoked)

    async def create(port: HetznerCloud) -> None:
        await port.create_volume(VolumeSpec("v", 10, "fsn1", {}))

    async def read(port: HetznerCloud) -> Inventory:
        return await port.inventory(OURS)

    assert run(paper_cloud, read, token=readonly.value).everything() == ()
    with pytest.raises(errors.Unauthorized, match="may only read"):
        run(paper_cloud, create, token=readonly.value)
    with pytest.raises(errors.Unauthorized) as caught:
        run(paper_cloud, read, token=revoked.value)
    assert revoked.value not in str(caught.value)


@pytest.mark.parametrize("days", [-1, 0, 1])
def test_home_a_day_off(paper_cloud: LocalCloud, days: int) -> None:
    """API time is the cloud's whatever home's clock says; told by the first own action."""
    paper_cloud.clock.advance(days * 86400)

    async def use(port: HetznerCloud) -> None:
        await port.inventory(OURS)  # whoever only looks has the Date of the answers
        assert port.offset_s is not None
        assert abs(port.offset_s - days * 86400) < 5
        given = await ground(port)
        made = await port.create_server(spec(given))
        assert abs(port.offset_s - days * 86400) < 5
        assert abs(port.now_s() - paper_cloud.clock.now()) < 5
        assert port.clock.standing is (Standing.LARGE if days else Standing.GOOD)
        assert abs(made.resource.created_s - port.now_s()) < 5
        await port.wait(made.actions, 30)
        await sweep(port)

    run(paper_cloud, use)


def test_many_pages(paper_cloud: LocalCloud) -> None:
    """More than the 50 of a page, all seen."""
    paper_cloud.quota().firewalls = 200

    async def use(port: HetznerCloud) -> None:
        for number in range(51):
            await port.create_firewall(f"burst-access-{number}", (), claim().labels())
        assert len((await port.inventory(OURS)).firewalls) == 51
        await sweep(port)

    run(paper_cloud, use)


@pytest.mark.slow
def test_cancelled_at_every_await_of_a_boot(paper_cloud: LocalCloud) -> None:
    """After the n-th request of a boot the caller goes; what exists is found by its labels."""

    async def boot(port: HetznerCloud) -> None:
        given = await ground(port)
        made = await port.create_server(spec(given))
        await port.wait(made.actions, 30)
        volume = await port.create_volume(VolumeSpec("v", 10, "fsn1", claim(Role.STORE).labels()))
        await port.wait(volume.actions, 30)
        await port.attach(volume.resource.id, made.resource.id)

    async def use(port: HetznerCloud, cut: int) -> bool:
        before = len(paper_cloud.calls())
        task = asyncio.create_task(boot(port))
        while not task.done() and len(paper_cloud.calls()) < before + cut:  # noqa: ASYNC110
            await asyncio.sleep(0)
        task.cancel()
        whole = (await asyncio.wait([task]))[0] and not task.cancelled()
        await asyncio.to_thread(paper_cloud.wait_idle)
        # A request whose caller has gone may still be under way.
        while any(call.status is None for call in paper_cloud.calls()):  # noqa: ASYNC110
            await asyncio.sleep(0)
        await sweep(port)
        return bool(whole)

    whole = (cut for cut in range(1, 100) if run(paper_cloud, functools.partial(use, cut=cut)))
    assert 5 < next(whole) < 99
    assert paper_cloud.holdings() == {}


def shown_s(clock: Clock) -> float:
    """The API's times are whole seconds, and so are the bill's."""
    return float(int(clock.now()))


def test_the_bill_to_the_cent() -> None:
    """What the ledger would hold, priced by us, is what the cloud asks for: over two months."""
    clock = Clock()
    clock.set(1_788_000_000.0)  # 2026-08-29
    home = ApiClock(wall=lambda: 0.0)
    with LocalCloud(clock=clock) as cloud:
        account = Account(cloud.endpoint, "f")

        async def use(port: HetznerCloud) -> list[Event]:
            given = await ground(port)
            prices = await port.prices()
            types = {kind.name: kind for kind in await port.server_types()}
            events: list[Event] = []

            def born(kind: Kind, ident: int, created_s: float, rate: Rate, size: object) -> None:
                events.append(
                    Born(
                        at_s=created_s,
                        kind=kind,
                        id=ident,
                        created_s=created_s,
                        token=account.token,
                        endpoint=account.endpoint,
                        size_gb=None if size is None else Decimal(str(size)),
                        eur_per_hour=rate.per_hour or None,
                        eur_per_month=rate.per_month,
                        eur_per_gb_month=rate.per_gb_month or None,
                    )
                )

            made = await port.create_server(spec(given, "ccx33"))
            await port.wait(made.actions, 30)
            server = await port.server(made.resource.id)
            offer = types["ccx33"].offer("fsn1")
            assert offer is not None
            assert server.ipv4_id is not None
            born(Kind.SERVER, server.id, server.created_s, Rate.of_offer(offer), None)
            address = Rate.of_ipv4(prices, "fsn1")
            born(Kind.PRIMARY_IP, server.ipv4_id, server.created_s, address, None)
            created = await port.create_volume(
                VolumeSpec("v", 30, "fsn1", claim(Role.STORE).labels())
            )
            volume = created.resource
            born(Kind.VOLUME, volume.id, volume.created_s, Rate.of_volume(prices), 30)
            await port.wait(created.actions, 30)
            clock.advance(5.5 * 86400)
            await port.resize_volume(volume.id, 100)
            events.append(Resized(at_s=shown_s(clock), id=volume.id, size_gb=Decimal(100)))
            clock.advance(32 * 86400 + 1234)
            for kind, ident in ((Kind.SERVER, server.id), (Kind.VOLUME, volume.id)):
                await port.delete(kind, ident)
                events.append(Deleted(at_s=shown_s(clock), kind=kind, id=ident))
            events.append(Deleted(at_s=shown_s(clock), kind=Kind.PRIMARY_IP, id=server.ipv4_id))
            await sweep(port)
            return events

        events = run(cloud, use, clock=home)
        assert add_up(events).open == ()
        ends = {(e.kind, e.id): e.at_s for e in events if isinstance(e, Deleted)}
        grown = [(e.at_s, e.size_gb) for e in events if isinstance(e, Resized)]
        amounts = []
        for event in events:
            if isinstance(event, Born):
                is_volume = event.kind is Kind.VOLUME and event.size_gb is not None
                sizes = [(event.at_s, event.size_gb or Decimal(0)), *grown] if is_volume else []
                amounts.append(cost_of(event, ends[event.key], sizes))
        ours = total(amounts)
        assert not ours.at_least
        assert ours.cents == cloud.bill().cents
        assert ours.cents > 100
