"""What a server's own labels may lose is said twice: by them, and by those of its address.

Labels are read, merged and written back as a whole, and the API has no condition for a write: a
machine that was suspended in between takes back what others wrote meanwhile. A server whose labels
lost `burst-ready` that way looks as if it had never been ready, and like one that may be deleted;
one whose labels lost the pin of its new host key can be verified by nobody. Its address is another
resource, which hardly anybody writes to. There stands, before a key is activated, what it will be;
and once the server was ready, the boot in which it was, and its pin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from burst_lifecycle import hostkey, labels
from burst_lifecycle.cloud.model import Kind, PrimaryIp, Server
from burst_lifecycle.context import Context
from burst_lifecycle.errors import Busy, NotFound
from burst_lifecycle.labels import Claim


@attrs.frozen
class Proof:
    """Somebody has seen it ready."""

    pin: str
    """Of its host key from then on."""
    boot: str
    """Which boot that was, see `labels.BOOT`."""

    def lost(self, found: Mapping[str, str]) -> dict[str, str | None]:
        """See `hostkey.lost`."""
        return hostkey.lost(found, self.pin, self.boot)


@attrs.frozen
class Promise:
    """The key that it will show in that boot. Whether it came so far is not known."""

    pin: str
    boot: str

    def lost(self, found: Mapping[str, str]) -> dict[str, str | None]:
        """See `hostkey.forgot`."""
        return hostkey.forgot(found, self.pin, self.boot)


Witness = Proof | Promise


def witness_of(server: Server, addresses: Iterable[PrimaryIp]) -> Witness | None:
    """What the server's address says, if it is one of those. Pure."""
    claim = Claim.of(server.labels)
    for address in addresses:
        its = Claim.of(address.labels)
        if address.id not in {server.ipv4_id, server.ipv6_id} or its is None or claim is None:
            continue
        if (its.owner, its.operation) != (claim.owner, claim.operation):
            continue
        found = address.labels
        if (pin := found.get(labels.PIN)) and (boot := found.get(labels.READY)):
            return Proof(pin, boot)
        if (pin := found.get(labels.NEXT_PIN)) and (boot := found.get(labels.BOOT)):
            return Promise(pin, boot)
    return None


async def promise(context: Context, server: Server, next_pin: str) -> None:
    """Write there what its host key will be, before it is."""
    boot = hostkey.boot_of(server.labels)
    await _say(context, server, "promise", {labels.BOOT: boot, labels.NEXT_PIN: next_pin})


async def prove(context: Context, server: Server) -> None:
    """Write there that it is ready. A server that is `burst-ready` is as good without it."""
    boot = hostkey.boot_of(server.labels)
    pin = server.labels.get(labels.PIN, "")
    await _say(context, server, "proof", {labels.READY: boot, labels.PIN: pin})


async def _say(context: Context, server: Server, what: str, more: Mapping[str, str]) -> None:
    claim = Claim.of(server.labels)
    address_id = server.ipv4_id or server.ipv6_id
    if claim is None or address_id is None or not all(more.values()):
        return
    # What an address says besides is its server's: it needs no reading first.
    try:
        with context.effect(f"label the {what}"):
            await context.cloud.set_labels(Kind.PRIMARY_IP, address_id, claim.labels(**more))
    except (Busy, NotFound):
        pass


async def was_ready(context: Context, server: Server) -> bool:
    """Whether its labels are not what they were when it was ready in this boot."""
    witness = await _ask(context, server)
    return isinstance(witness, Proof) and bool(witness.lost(server.labels))


async def recall(context: Context, server: Server) -> bool:
    """Give its labels back what they lost, as far as its address knows; whether they had. Asked
    where a server does not show what its labels say, or is about to be changed for good."""
    witness = await _ask(context, server)
    return witness is not None and await restore(context, server, witness)


async def _ask(context: Context, server: Server) -> Witness | None:
    claim = Claim.of(server.labels)
    if claim is None:
        return None
    found = await context.cloud.find(Kind.PRIMARY_IP, labels.selector(claim.owner))
    return witness_of(server, (one for one in found if isinstance(one, PrimaryIp)))


async def restore(context: Context, server: Server, witness: Witness) -> bool:
    """Its labels as that witness has them; whether they were not. NotFound: the server is gone."""
    if not witness.lost(server.labels):
        return False
    fresh = await context.cloud.server(server.id)
    lost = witness.lost(fresh.labels)
    if lost:
        with context.effect("put its labels right"):
            await context.cloud.set_labels(
                Kind.SERVER, server.id, labels.merged(fresh.labels, **lost)
            )
    return bool(lost)
