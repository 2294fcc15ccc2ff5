"""A developer's machine with `[hetzner]` configured against a local cloud."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from localcloud import LocalCloud
from space import Done, Space

BURST_ADMIN = Path(sys.executable).parent / "burst-admin"


def configure(space: Space, cloud: LocalCloud, **settings: object) -> None:
    """A token file and `[hetzner]`; `settings` are its other keys, as TOML has them in JSON."""
    token = space.home / "hetzner.token"
    token.write_text(cloud.token + "\n")
    token.chmod(0o600)
    values: dict[str, object] = {
        "endpoint": cloud.endpoint,
        "base_image": "debian-13",
        "server_type": ["ccx13"],
        "location": ["fsn1"],
        "max_eur_per_hour": 0.5,
        "volume_gb": 10,
        **settings,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    folder = space.home / ".config" / "burst"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(
        "\n".join(["[hetzner]", f"token = {{file = {json.dumps(str(token))}}}", *lines, ""])
    )


def admin(space: Space, *arguments: str) -> Done:
    """`burst-admin`, as the user of that machine."""
    return space.run(BURST_ADMIN, *arguments)


def admin_json(space: Space, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(admin(space, *arguments, "--json").check().stdout)
    return found


def settle(space: Space, cloud: LocalCloud, theirs: Collection[int] = ()) -> None:
    """What `audit` says was spent is what the cloud charges, to the cent, and is certain. `theirs`:
    ids of what somebody else pays for."""
    found = admin_json(space, "audit")
    charged = [item for item in cloud.bill().items if item.id not in theirs]
    total = sum((item.euros for item in charged), Decimal(0))
    said = Decimal(found["total"]["eur"])
    cent = Decimal("0.01")
    groups = {line["group"]: line["eur"] for line in found["costs"]}
    assert said.quantize(cent, ROUND_HALF_UP) == total.quantize(cent, ROUND_HALF_UP), (
        f"the audit says {said} ({groups}), the bill {total}: {charged}"
    )
    assert found["total"]["exact"], found["unknown"]


def ready_servers(cloud: LocalCloud) -> list[str]:
    """Names of those whose agent has answered, by their labels."""
    servers = cloud.client().servers.get_all(label_selector="burst-ready")
    return sorted(server.name or "" for server in servers)
