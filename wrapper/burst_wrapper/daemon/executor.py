"""An agent that is ready to work, and where its output blobs can be read at home."""

from __future__ import annotations

from burst_protocol import messages as m
from burst_protocol.digest import Digest
from burst_protocol.errors import BlobMissing
from burst_protocol.layout import blob_path
from burst_wrapper.daemon.link import AgentLink
from burst_wrapper.daemon.spool import Spool
from burst_wrapper.daemon.upload import Uploader


class Executor:
    """`name` is `embedded` or the host. A link that is gone needs a new Executor."""

    def __init__(
        self, name: str, link: AgentLink, spool: Spool | None, *, lasting: bool = True
    ) -> None:
        """`lasting`: what is stored there outlives the machine, or the machine stays."""
        self.name = name
        self.lasting = lasting
        self.offered: set[bytes] = set()
        """Strong keys of what its store was offered; see `offers`."""
        self.link = link
        self.uploader = Uploader(link)
        self.spool = spool
        self.in_flight = 0
        if spool is not None:
            link.on_blob = spool.chunk

    @property
    def local(self) -> bool:
        return self.link.local

    @property
    def usable(self) -> bool:
        return self.link.gone is None

    @property
    def isolates(self) -> bool:
        """Whether runs see only their inputs; otherwise the observer alone carries the promise."""
        return self.link.ready is None or self.link.ready.launcher != "none"

    @property
    def slots(self) -> int:
        return 1 if self.link.ready is None else self.link.ready.slots

    def blob(self, digest: Digest) -> bytes:
        """Path of an output blob; it is verified by whoever reads it."""
        if self.spool is not None:
            return self.spool.path(digest)
        ready = self.link.ready
        return blob_path(b"" if ready is None else ready.store_root, digest)

    async def fetch(self, digest: Digest) -> int:
        """Have this blob in the spool; the bytes it took on the wire. Whoever asked drops it.

        BlobMissing, or why the link is gone.
        """
        spool, link = self.spool, self.link
        assert spool is not None
        if spool.has(digest):
            return 0
        identity = link.new_id()
        queue = link.open_stream(identity)
        try:
            link.send(m.Fetch(identity, digest))
            message = await queue.get()
            if message is None and link.gone is not None:
                raise link.gone
            if not isinstance(message, m.BlobChunk):
                raise BlobMissing(digest.hex)
            return spool.received.get(identity, 0)
        finally:
            link.close_stream(identity)
            spool.forget(identity)

    def received(self, identity: int) -> int:
        return 0 if self.spool is None else self.spool.received.get(identity, 0)

    def forget(self, identity: int, digests: list[Digest]) -> None:
        """A request is over and its blobs are not needed."""
        if self.spool is not None:
            self.spool.drop(digests)
            self.spool.forget(identity)
