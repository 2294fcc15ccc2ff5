"""MySQL, or MariaDB, which Debian has in its place."""

from __future__ import annotations

import os
from typing import ClassVar

from burst_agent.network.holder import BIN
from burst_agent.network.namespace import Command
from burst_agent.network.services.service import (
    Conversation,
    Dial,
    Installed,
    Service,
    look,
)
from burst_protocol.services import DATABASE, PASSWORD, USER

_GREETING = 10
"""First byte of a server's handshake (protocol version); 255 is an error."""
_ACCOUNTS = tuple(f"'{USER}'@'{host}'" for host in ("localhost", "127.0.0.1", "%"))
_INIT = "".join(
    f"{line};\n"
    for line in (
        f"CREATE DATABASE IF NOT EXISTS {DATABASE}",
        *(f"CREATE USER IF NOT EXISTS {it} IDENTIFIED BY '{PASSWORD}'" for it in _ACCOUNTS),
        *(f"GRANT ALL PRIVILEGES ON *.* TO {it} WITH GRANT OPTION" for it in _ACCOUNTS),
    )
)
"""One statement a line, as --init-file wants it."""


class MySql(Service):
    name: ClassVar[str] = "mysql"
    title: ClassVar[str] = "MySQL or MariaDB"
    package: ClassVar[str] = "mariadb-server"
    renamed: ClassVar[frozenset[str]] = frozenset({"mysqld"})
    files: ClassVar[dict[str, str]] = {"init.sql": _INIT}

    def find(self) -> Installed | None:
        maria = look(("mariadbd",))
        if maria is not None:
            maker = look(("mariadb-install-db", "mysql_install_db"))
            return None if maker is None else Installed({"mysqld": maria, "maker": maker})
        server = look(("mysqld",))
        return None if server is None else Installed({"mysqld": server})

    def initialise(self, installed: Installed) -> list[Command]:
        data = f"--datadir={self.folder}/data"
        if "maker" not in installed.programs:
            argv = (f"{BIN}/mysqld", *_oracles(installed), data, "--initialize-insecure")
            return [Command(argv, self.log)]
        quick = (
            "--skip-test-db",
            "--skip-name-resolve",
            "--auth-root-authentication-method=normal",
        )
        return [Command((installed["maker"], "--no-defaults", data, *quick), self.log)]

    def serve(self, installed: Installed) -> Command:
        begin = ("--no-defaults",) if "maker" in installed.programs else _oracles(installed)
        options = (
            f"--datadir={self.folder}/data",
            f"--tmpdir={self.folder}",
            f"--socket={self.folder}/mysqld.sock",
            f"--pid-file={self.folder}/mysqld.pid",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            # A client is whoever connects; nobody is blocked for hanging up.
            "--skip-name-resolve",
            f"--init-file={self.folder}/init.sql",
            # Test data: what a crash of the machine costs is made again. 2: to the kernel, so that
            # a server that is killed has lost nothing.
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-doublewrite=0",
            "--innodb-flush-method=nosync",
            "--performance-schema=OFF",
        )
        return Command((f"{BIN}/mysqld", *begin, *options), self.log)

    async def ready(self, dial: Dial) -> bool:
        talk = await Conversation.begin(dial, self.port)
        try:
            head = await talk.reader.readexactly(5)
            return head[4] == _GREETING
        finally:
            talk.end()


def _oracles(installed: Installed) -> tuple[str, ...]:
    """What MySQL itself needs besides: it would look for its messages beside its new name, and for
    a folder of the distribution's that belongs to another user."""
    base = os.path.dirname(os.path.dirname(installed["mysqld"]))
    log = ("--skip-log-bin", "--mysqlx=OFF")
    return ("--no-defaults", f"--basedir={base}", "--secure-file-priv=", *log)
