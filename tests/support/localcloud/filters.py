"""Hetzner's firewall rules in nftables' words.

Stateful; without an `in` rule nothing comes in, without an `out` rule everything goes out (API
reference, "Firewalls").
"""

from __future__ import annotations

from typing import Any, Final

Json = dict[str, Any]
_TABLE: Final = "table inet hetzner"
_ANY: Final = {"0.0.0.0/0", "::/0"}


def ruleset(rules: list[Json] | None) -> str:
    """Replaces whatever was there."""
    clear = f"{_TABLE}\ndelete {_TABLE}\n"
    if rules is None:
        return clear
    inward = [rule for rule in rules if rule["direction"] == "in"]
    outward = [rule for rule in rules if rule["direction"] == "out"]
    chains = _chain("inward", "input", "iif", inward, drop=True)
    chains += _chain("outward", "output", "oif", outward, drop=bool(outward))
    return f"{clear}{_TABLE} {{\n{chains}}}\n"


def _chain(name: str, hook: str, interface: str, rules: list[Json], *, drop: bool) -> str:
    policy = "drop" if drop else "accept"
    lines = [
        f"type filter hook {hook} priority -300; policy {policy};",
        f'{interface} "lo" accept',
        "ct state established,related accept",
    ]
    lines += [line for rule in rules for line in _lines(rule)]
    return f"chain {name} {{\n" + "".join(f"  {line}\n" for line in lines) + "}\n"


def _lines(rule: Json) -> list[str]:
    inward = rule["direction"] == "in"
    networks = rule["source_ips"] if inward else rule["destination_ips"]
    side = "saddr" if inward else "daddr"
    port = f" {rule['protocol']} dport {rule['port']}" if rule["port"] else ""
    found = []
    for family, mark in (("ip", "."), ("ip6", ":")):
        chosen = [network for network in networks if mark in network]
        protocol = {"icmp": "icmp" if family == "ip" else "ipv6-icmp"}.get(
            rule["protocol"], rule["protocol"]
        )
        for network in chosen:
            version = f"meta nfproto {'ipv4' if family == 'ip' else 'ipv6'}"
            where = "" if network in _ANY else f" {family} {side} {network}"
            found.append(f"{version}{where} meta l4proto {protocol}{port} accept")
    return found
