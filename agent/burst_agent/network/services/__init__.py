"""Databases of a mirror: private instances of what is installed on the agent's machine."""

from __future__ import annotations

from typing import Final

from burst_agent.network.services.mysql import MySql
from burst_agent.network.services.postgresql import PostgreSql
from burst_agent.network.services.redis import Redis
from burst_agent.network.services.service import Service

SERVICES: Final[dict[str, Service]] = {it.name: it for it in (PostgreSql(), MySql(), Redis())}
"""By the names that StartProgram gives."""
