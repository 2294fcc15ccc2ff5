"""That a server was ready is said twice: by its own labels, and by those of its address.

Labels are read, merged and written back as a whole, and the API has no condition for a write: a
machine that was suspended in between takes back what others wrote meanwhile. A server whose labels
lost `burst-ready` that way looks as if it had never been ready, and like one that may be deleted.
Its address is another resource, which hardly anybody writes to: there stand the boot in which
it was ready, and its pin.
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


def proof_of(server: Server, addresses: Iterable[PrimaryIp]) -> Proof | None:
    """What the server's address says, if it is one of those. Pure."""
    claim = Claim.of(server.labels)
    for address in addresses:
        its = Claim.of(address.labels)
        if address.id not in {server.ipv4_id, server.ipv6_id} or its is None or claim is None:
            continue
        if (its.owner, its.operation) == (claim.owner, claim.operation):
            pin, boot = address.labels.get(labels.PIN), address.labels.get(labels.READY)
            if pin and boot:
                return Proof(pin, boot)
    return None


async def prove(context: Context, server: Server) -> None:
    """Write it there. A server that is `burst-ready` is as good without it."""
    claim = Claim.of(server.labels)
    address_id = server.ipv4_id or server.ipv6_id
    pin, boot = server.labels.get(labels.PIN), hostkey.boot_of(server.labels)
    if claim is None or address_id is None or not pin or not boot:
        return
    # What an address says besides is its server's: it needs no reading first.
    told = claim.labels(**{labels.READY: boot, labels.PIN: pin})
    try:
        with context.effect("label the proof"):
            await context.cloud.set_labels(Kind.PRIMARY_IP, address_id, told)
    except (Busy, NotFound):
        pass


async def was_ready(context: Context, server: Server) -> bool:
    """Whether its labels are not what they were when it was ready in this boot."""
    claim = Claim.of(server.labels)
    if claim is None:
        return False
    found = await context.cloud.find(Kind.PRIMARY_IP, labels.selector(claim.owner))
    proof = proof_of(server, (one for one in found if isinstance(one, PrimaryIp)))
    return proof is not None and bool(proof.lost(server.labels))
