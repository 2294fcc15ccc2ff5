"""Mirrors as a client makes them: plain values, over the real protocol."""

from __future__ import annotations

from collections.abc import Mapping

from agent_client import AgentClient
from burst_protocol import messages as m
from burst_protocol.digest import Digest
from burst_protocol.programs import Mirrored, SyncMirror
from mirrors import Tree, build


async def sync(
    client: AgentClient, roots: Mapping[bytes, Tree], mirror: str = "project"
) -> Mirrored:
    """Until nothing is missing."""
    blobs: dict[Digest, bytes] = {}
    trees = tuple((path, build(tree, blobs)) for path, tree in roots.items())
    while True:
        answer = await client.ask(SyncMirror(client.new_id(), mirror, trees))
        if isinstance(answer, Mirrored):
            return answer
        assert isinstance(answer, m.Missing), answer
        await client.put(*(blobs[digest] for digest in answer.digests))
