"""Runs one workload on a store again and again, and kills itself at the n-th filesystem call.

`python store_crash_driver.py <base folder> <before|half>`: for n = 1, 2, … a forked child works on
`<base>/<n>` and sends itself SIGKILL before its n-th call (`half`: a write is done by half first).
Ends, printing the number of runs, when a child finishes without reaching its n-th call.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from burst_agent.actions import ActionCache
from burst_agent.evict import Limits, evict
from burst_agent.lists import InputLists
from burst_agent.materialise import Materialiser
from burst_agent.store import BlobStore
from burst_protocol.digest import Digest
from burst_protocol.tree import TreeBuilder

# Everything the store does to a disk goes through one of these names of `os`.
CALLS = [
    "open",
    "write",
    "close",
    "rename",
    "link",
    "unlink",
    "rmdir",
    "mkdir",
    "makedirs",
    "chmod",
    "fchmod",
    "utime",
    "symlink",
    "ftruncate",
    "copy_file_range",
    "fsync",
]
ENTRY_KEY = b"k" * 32


def entry_digests(entry: bytes) -> list[Digest]:
    return [Digest.unpacked(entry[at : at + 40]) for at in range(0, len(entry), 40)]


def workload(base: bytes) -> None:
    """Every kind of write once: blobs four ways, a twin, entries, lists, trees, removals."""
    store = BlobStore(base + b"/store")
    blobs = [store.put_bytes(b"bytes" * 3000)]
    for name, move in ((b"copied", False), (b"moved", True)):
        path = base + b"/" + name
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.write(fd, name * 1000)
        os.close(fd)
        blobs.append(store.put_file(path, move=move))
    streamed = b"streamed" * 1000
    with store.open_writer(Digest.of(streamed)) as writer:
        writer.write(streamed[:3000])
        writer.write(streamed[3000:])
    blobs.append(Digest.of(streamed))
    cache, lists = ActionCache(store, entry_digests), InputLists(store)
    for used in (blobs[:2], blobs):
        cache.put(ENTRY_KEY, b"".join(digest.packed() for digest in used))
        lists.add(ENTRY_KEY, b"list of %d" % len(used))
    builder, directories = TreeBuilder(), dict[Digest, bytes]()
    builder.file(b"bin/tool", blobs[0], executable=True)
    builder.file(b"text", blobs[1], executable=False)
    builder.symlink(b"link", b"text")
    tree = builder.build(directories)
    for data in directories.values():
        store.put_bytes(data)
    Materialiser(store).lease(tree).close()
    store.quarantine(blobs[3])
    evict(store, Limits(limit_bytes=1, keep_s=-1000, blind_s=0, min_free_bytes=0))
    store.put_bytes(b"after the eviction")
    store.close()


def trap(name: str, at: int, counter: list[int], half: bool) -> Callable[..., Any]:
    real = getattr(os, name)

    def call(*args: Any, **named: Any) -> Any:
        counter[0] += 1
        if counter[0] == at:
            if half and name == "write":
                real(args[0], bytes(args[1])[: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **named)

    return call


def main(base: bytes, half: bool) -> int:
    number = 0
    while True:
        number += 1
        folder = b"%s/%d" % (base, number)
        os.mkdir(folder)
        pid = os.fork()
        if pid == 0:
            counter = [0]
            for name in CALLS:
                setattr(os, name, trap(name, number, counter, half))
            workload(folder)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                return os.WEXITSTATUS(status)
            sys.stdout.write(f"{number}\n")
            return 0


if __name__ == "__main__":
    sys.exit(main(os.fsencode(sys.argv[1]), sys.argv[2] == "half"))
