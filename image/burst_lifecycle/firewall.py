"""Who may knock: one firewall per owner, one rule per client, closed to everybody else.

A client behind a router does not know its address, so its rule is open until its first verified
login, which says where it came from (`SSH_CONNECTION`); then it is narrowed to that address. A
laptop that moved opens its rule again. Other machines of the owner write the same firewall, so a
change is read, merged, written and read again. Rules say for whom they are and until when, in their
description; those of others are kept, whatever they are.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Sequence
from typing import Final

import attrs

from burst_lifecycle import creation, labels
from burst_lifecycle.cloud.model import Firewall, FirewallRule, Kind, Server
from burst_lifecycle.context import Context
from burst_lifecycle.errors import Busy, NameTaken, NotFound
from burst_lifecycle.labels import Claim, Role

RULE_LIMIT: Final = 50
OPEN_S: Final = 1800
"""An open rule of a client that never came is removed by the next one who writes."""
ANYWHERE: Final = (str(ipaddress.IPv4Network((0, 0))), str(ipaddress.IPv6Network((0, 0))))
FIREWALL_LIFE_S: Final = 30 * 24 * 3600
_MARK: Final = re.compile(r"burst (?P<client>[0-9a-f]{16}) (?P<kind>open|only) (?P<until>\d{1,12})")
_ROUNDS: Final = 5


@attrs.frozen
class ClientRule:
    """One rule of ours, as its description says."""

    client: str
    open: bool
    until_s: int


def parse(rule: FirewallRule) -> ClientRule | None:
    """None for a rule that is not ours: it stays as it is."""
    if found := _MARK.fullmatch(rule.description):
        return ClientRule(found["client"], found["kind"] == "open", int(found["until"]))
    return None


def open_rule(client: str, now_s: float) -> FirewallRule:
    """From anywhere, until the first login."""
    until = int(now_s + OPEN_S)
    return FirewallRule("tcp", "22", ANYWHERE, f"burst {client} open {until}")


def narrow_rule(client: str, peer: str, until_s: float) -> FirewallRule:
    """From one address only. ValueError if it is none."""
    address = ipaddress.ip_address(peer.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return FirewallRule(
        "tcp",
        "22",
        (f"{address}/{address.max_prefixlen}",),
        f"burst {client} only {int(until_s)}",
    )


def merge(rules: Sequence[FirewallRule], mine: FirewallRule, now_s: float) -> list[FirewallRule]:
    """Ours replaced, expired ones of ours dropped, everything else kept in its order.

    At the limit of 50 the client's rule that ends first gives way. Busy if none of ours can.
    """
    me = parse(mine)
    assert me is not None
    kept: list[FirewallRule] = []
    for rule in rules:
        theirs = parse(rule)
        if theirs is None or (theirs.client != me.client and theirs.until_s > now_s):
            kept.append(rule)
    while len(kept) >= RULE_LIMIT:
        clients = [(found.until_s, at) for at, rule in enumerate(kept) if (found := parse(rule))]
        if not clients:
            raise Busy(f"it has {len(kept)} rules that are not ours", what="the firewall")
        del kept[min(clients)[1]]
    return [*kept, mine]


def is_narrow(rules: Sequence[FirewallRule], client: str) -> bool:
    """Whether that client has a rule for its address only."""
    return any((r := parse(rule)) and r.client == client and not r.open for rule in rules)


def without_expired(rules: Sequence[FirewallRule], now_s: float) -> list[FirewallRule]:
    """For the reaper: what is left when the clients' time is over."""
    return [rule for rule in rules if (r := parse(rule)) is None or r.until_s > now_s]


def shared_name(role: str, owner: str) -> str:
    """A name that all machines of an owner agree on: there can be one of it only."""
    return f"burst-{role}-{hashlib.sha256(owner.encode()).hexdigest()[:16]}"


async def of_owner(context: Context) -> Firewall:
    """The owner's firewall, with a rule that lets this client in; made if there is none."""
    cloud, owner = context.cloud, context.wishes.owner
    name = shared_name("access", owner)
    for _ in range(_ROUNDS):
        found = await cloud.find(Kind.FIREWALL, labels.selector(owner, role=str(Role.ACCESS)))
        mine = [one for one in found if isinstance(one, Firewall) and one.name == name]
        if mine:
            try:
                await _keep(context, mine[0])
                return await let_in(context, mine[0].id)
            except NotFound:
                continue
        claim = Claim(
            owner=owner,
            role=Role.ACCESS,
            operation=labels.new_operation(),
            expires_s=int(cloud.now_s() + FIREWALL_LIFE_S),
        )
        rule = open_rule(context.key.client, cloud.now_s())
        try:
            return await creation.create(
                context,
                Kind.FIREWALL,
                claim,
                lambda taken, rule=rule, claim=claim: cloud.create_firewall(  # type: ignore[misc]
                    taken, [rule], claim.labels()
                ),
                name=name,
            )
        except NameTaken:
            await context.time.sleep(1)
    raise Busy("another machine of yours makes and removes it", what=f"firewall {name}")


async def _keep(context: Context, firewall: Firewall) -> None:
    """Its expiry moves along while it is used."""
    claim, now_s = Claim.of(firewall.labels), context.cloud.now_s()
    if claim is not None and claim.expires_s < now_s + FIREWALL_LIFE_S / 2:
        fresh = labels.merged(
            firewall.labels, **{labels.EXPIRES: str(int(now_s + FIREWALL_LIFE_S))}
        )
        with context.effect("keep the firewall"):
            await context.cloud.set_labels(Kind.FIREWALL, firewall.id, fresh)


async def let_in(context: Context, firewall_id: int, *, anew: bool = False) -> Firewall:
    """See to a rule for this client: its narrow one if it has one (unless `anew`), else an open."""
    firewall = await context.cloud.firewall(firewall_id)
    if not anew and is_narrow(firewall.rules, context.key.client):
        return firewall
    rule = open_rule(context.key.client, context.cloud.now_s())
    return await _write(context, firewall_id, rule)


async def narrow(context: Context, firewall_id: int, peer: str, until_s: float) -> Firewall:
    """From now on this client comes from that address only."""
    return await _write(context, firewall_id, narrow_rule(context.key.client, peer, until_s))


async def _write(context: Context, firewall_id: int, mine: FirewallRule) -> Firewall:
    cloud = context.cloud
    for _ in range(_ROUNDS):
        firewall = await cloud.firewall(firewall_id)
        wanted = merge(firewall.rules, mine, cloud.now_s())
        if list(firewall.rules) == wanted:
            return firewall
        with context.effect("set rules"):
            await cloud.set_rules(firewall_id, wanted)
        # Another machine may have written between our read and our write: then ours, or theirs, is
        # lost. Ours is seen here; theirs they see in the same way.
        again = await cloud.firewall(firewall_id)
        if any(rule.description == mine.description for rule in again.rules):
            return again
    raise Busy("another machine of yours writes it all the time", what="the firewall")


async def reopen(context: Context, server: Server) -> bool:
    """This client's address changed: open its rule on the server's own firewalls. False: none.

    Not for a machine whose key is not registered: it could not log in anyway.
    """
    if await context.cloud.ssh_key_by_fingerprint(context.key.fingerprint) is None:
        return False
    for firewall_id in server.firewall_ids:
        try:
            firewall = await context.cloud.firewall(firewall_id)
        except NotFound:
            continue
        claim = Claim.of(firewall.labels)
        if claim is not None and claim.owner == context.wishes.owner:
            await let_in(context, firewall_id, anew=True)
            return True
    return False


def peer_of(ssh_connection: str) -> str:
    """The client's address out of `SSH_CONNECTION` ("peer port own port"). ValueError if none."""
    fields = ssh_connection.split()
    if len(fields) != 4:
        raise ValueError("no SSH_CONNECTION")
    return str(ipaddress.ip_address(fields[0].partition("%")[0]))
