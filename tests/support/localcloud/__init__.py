"""A local Hetzner Cloud for tests."""

from .clock import Clock
from .cloud import LocalCloud
from .control import Barrier
from .faults import Call, Fault
from .model import Firewall, Image, PrimaryIp, Server, SshKey, Volume
from .world import REALISTIC, Quota, Timings, Token

__all__ = [
    "REALISTIC",
    "Barrier",
    "Call",
    "Clock",
    "Fault",
    "Firewall",
    "Image",
    "LocalCloud",
    "PrimaryIp",
    "Quota",
    "Server",
    "SshKey",
    "Timings",
    "Token",
    "Volume",
]
