"""`python -m localcloud [paper|processes|containers]`: a cloud until standard input ends.

Prints one line of JSON: endpoint, token, root, secret, and `ssh_ports` for processes.
"""

from __future__ import annotations

import json
import sys

from .cloud import LocalCloud
from .machines import Backend


def main(kind: str = "paper") -> None:
    backend: Backend | None = None
    more = {}
    if kind == "processes":
        from .processes import Processes

        backend = processes = Processes()
        more["ssh_ports"] = str(processes.ports)
    elif kind == "containers":
        from .containers import Containers

        backend = Containers()
    elif kind != "paper":
        raise SystemExit(f"error: no kind of servers called {kind}")
    with LocalCloud(backend=None if backend is None else lambda _: backend) as cloud:
        found = {
            "endpoint": cloud.endpoint,
            "token": cloud.token,
            "root": cloud.root,
            "secret": cloud.secret,
            **more,
        }
        print(json.dumps(found), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
