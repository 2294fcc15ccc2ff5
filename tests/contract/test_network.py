"""The network of a mirror: its own loopback, databases, way out and end; for root and others."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from burst_agent.network import users
from burst_agent.network.namespace import Command, Namespace, Wish
from burst_agent.network.outgoing import NO_PROGRAM
from burst_agent.network.services.running import Running
from burst_agent.network.services.service import Dial, Installed, Service
from burst_protocol.errors import ServiceUnavailable
from networks import (
    Refused,
    Starter,
    all_gone,
    as_plain_user,
    as_we_are,
    begun_since,
    below,
    needs,
    unpacked_bundle,
)

pytestmark = pytest.mark.slow

SERVER = """
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)
while True:
    client, _ = server.accept()
    client.sendall(b"hello " + client.recv(100))
    client.close()
"""
REACH = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
    print("reached")
except OSError as error:
    print(error.strerror or error)
"""


@pytest.fixture(scope="module")
def bundle() -> Iterator[Path]:
    # Not below pytest's own folder: another user must be able to enter it.
    with tempfile.TemporaryDirectory(prefix="burst-network-") as folder:
        yield unpacked_bundle(Path(folder))


@pytest.fixture(params=["as we are", pytest.param("plain user", marks=pytest.mark.root)])
def start(request: pytest.FixtureRequest) -> Iterator[Starter]:
    with tempfile.TemporaryDirectory(prefix="burst-network-") as name:
        folder = Path(name)
        if request.param == "as we are":
            yield as_we_are(folder)
        else:
            yield as_plain_user(folder, request.getfixturevalue("bundle"))


@pytest.fixture
def ours(tmp_path: Path) -> Starter:
    return as_we_are(tmp_path)


def test_two_projects_create_the_same_table_at_once(start: Starter) -> None:
    """Each has a PostgreSQL of its own, on the same port."""
    needs("postgres")
    with start() as driver:
        for name in ("one", "two"):
            driver("enter", name, ["postgresql"])
        for name in ("one", "two"):
            assert driver("sql", name, "burst", "burst", "CREATE TABLE t (name text)") == []
            driver("sql", name, "burst", "burst", f"INSERT INTO t VALUES ('{name}')")
        for name in ("one", "two"):
            assert driver("sql", name, "postgres", "burst", "SELECT name FROM t") == [name]


def test_all_three_databases_on_their_ports(start: Starter) -> None:
    needs("postgres", "mariadbd", "redis-server")
    with start() as driver:
        entry = driver("enter", "proj", ["postgresql", "mysql", "redis"])["entry"]
        assert driver("talk", "proj", 6379, "PING\r\n") == "+PONG\r\n"
        login = ["mariadb", "--host=127.0.0.1", "--user=burst", "--password=burst", "burst"]
        create = "create table t (n int); show tables"
        said = driver("inside", entry, [*login, "--batch", "--execute", create])
        assert said == {"status": 0, "said": "Tables_in_burst\nt\n"}
        answer = driver("sql", "proj", "burst", "burst", "SELECT current_database()")
        assert answer == ["burst"]


def test_a_server_is_reached_through_connect(start: Starter) -> None:
    """Listening on the loopback of its network, where this machine's is another one."""
    with start() as driver:
        entry = driver("enter", "proj", [])["entry"]
        driver("enter", "other", [])
        driver("start", entry, ["python3", "-c", SERVER, "127.0.0.1", "7878"])
        assert driver("talk", "proj", 7878, "you\n") == "hello you\n"
        with pytest.raises(Refused, match="no program of this project listens on port 7878"):
            driver("talk", "other", 7878, "you\n")


def test_a_server_on_ipv6_alone(ours: Starter) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    with ours() as driver:
        entry = driver("enter", "proj", [])["entry"]
        script = SERVER.replace("))\nprint", "), family=socket.AF_INET6)\nprint", 1)
        driver("start", entry, ["python3", "-c", script, "::1", "7878"])
        assert driver("talk", "proj", 7878, "you\n") == "hello you\n"


@pytest.mark.parametrize(
    ("mirror", "port", "words"),
    [
        ("proj", 7878, "no program of this project listens on port 7878"),
        ("none", 7878, "no program of this project runs: port 7878 is closed"),
        ("proj", 70000, "70000 is no port"),
    ],
)
def test_nobody_listens(ours: Starter, mirror: str, port: int, words: str) -> None:
    with ours() as driver:
        driver("enter", "proj", [])
        with pytest.raises(Refused, match=words) as caught:
            driver("talk", mirror, port, "")
        assert caught.value.code == "nobody-listens"


def test_killed_with_all_its_processes(start: Starter) -> None:
    """SIGKILL leaves an agent no last word; the kernel ends what it has started."""
    needs("postgres", "redis-server")
    with start() as driver:
        driver("enter", "proj", ["postgresql", "redis"])
        left = below(driver.pid)
        assert len(left) > 6
        os.kill(driver.pid, signal.SIGKILL)
        driver.process.wait()
        all_gone(left)
    with start() as driver:  # and the next one finds its data in order
        driver("enter", "proj", ["postgresql", "redis"])


def test_a_databases_superuser_sees_nothing_private(start: Starter) -> None:
    """A program that is kept from the account's files could ask its database to look at them."""
    needs("postgres")
    secret = start.folder / "secret"
    secret.write_text("mine")
    secret.chmod(0o644)
    with start() as driver:
        driver("enter", "proj", ["postgresql"])

        def ask(statement: str) -> list[str]:
            answer: list[str] = driver("sql", "proj", "burst", "burst", statement)
            return answer

        for folder in ("/root", "/home", "/mnt", "/media", "/var/tmp"):
            if os.path.isdir(folder):
                assert ask(f"SELECT pg_ls_dir('{folder}')") == [], folder
        assert ask(f"SELECT pg_read_file('{secret}')") == ["error 58P01"]
        # No socket of the machine's; /run may hold the way to a name server.
        assert set(ask("SELECT pg_ls_dir('/run')")) <= {"systemd"}
        if os.geteuid() == 0:
            with tempfile.TemporaryDirectory(dir="/opt") as writable:
                Path(writable).chmod(0o777)
                assert ask(f"SELECT pg_ls_dir('{writable}')") == []
                ask(f"COPY (SELECT 1) TO PROGRAM 'touch {writable}/x || exit 0'")
                assert os.listdir(writable) == []
        # What it needs is there.
        assert ask("SELECT pg_read_file('/etc/os-release') <> ''") == ["t"]


def test_what_was_written_is_there_again(ours: Starter) -> None:
    """As with a database on one's own machine; also after a kill."""
    needs("postgres")
    with ours() as driver:
        driver("enter", "proj", ["postgresql"])
        driver("sql", "proj", "burst", "burst", "CREATE TABLE t (n int)")
        os.kill(driver.pid, signal.SIGKILL)
        driver.process.wait()
    with ours() as driver:
        driver("enter", "proj", ["postgresql"])
        assert driver("sql", "proj", "burst", "burst", "SELECT count(*) FROM t") == ["0"]
        driver("close")
        driver("enter", "proj", ["postgresql"])
        assert driver("sql", "proj", "burst", "burst", "SELECT count(*) FROM t") == ["0"]


def test_data_that_does_not_start_is_made_anew(ours: Starter) -> None:
    needs("postgres")
    with ours() as driver:
        driver("enter", "proj", ["postgresql"])
        driver("close")
        control = ours.folder / "proj/postgresql/data/global/pg_control"
        control.write_bytes(b"\xff" * control.stat().st_size)
        driver("enter", "proj", ["postgresql"])
        assert driver("sql", "proj", "burst", "burst", "SELECT 1") == ["1"]


def test_two_agents_with_one_store_share_no_data(ours: Starter) -> None:
    """Of two versions, say: two servers on one folder would destroy it."""
    needs("postgres")
    with ours() as one, ours() as two:
        for driver in (one, two):
            driver("enter", "proj", ["postgresql"])
            assert driver("sql", "proj", "burst", "burst", "CREATE TABLE t (n int)") == []


def test_a_network_ends_some_time_after_its_last_program(ours: Starter) -> None:
    with ours(linger_s=0.1) as driver:
        entries = [driver("enter", "proj", [])["entry"] for _ in range(2)]
        driver("leave", entries[0])
        assert (
            "Conn"
            in driver("inside", entries[1], ["python3", "-c", REACH, "127.0.0.1", "1"])["said"]
        )
        left = below(driver.pid)
        assert left
        driver("leave", entries[1])
        all_gone(left)


def test_a_holder_that_was_killed_is_made_again(ours: Starter) -> None:
    needs("redis-server")
    with ours() as driver:
        driver("enter", "proj", ["redis"])
        left = below(driver.pid)
        os.kill(left[0].pid, signal.SIGKILL)
        all_gone(left)
        driver("enter", "proj", ["redis"])
        assert driver("talk", "proj", 6379, "PING\r\n") == "+PONG\r\n"


@pytest.mark.root
@pytest.mark.parametrize(
    ("service", "package"),
    [("postgresql", "postgresql"), ("mysql", "mariadb-server"), ("redis", "redis-server")],
)
def test_a_service_that_is_not_installed(tmp_path: Path, service: str, package: str) -> None:
    """The error names what to install; and the project's network is there all the same."""
    hide = (
        "for d in /usr/lib/postgresql /usr/local/bin; do [ ! -d $d ] || mount -t tmpfs t $d; done;"
        "for p in /usr/sbin/mariadbd /usr/sbin/mysqld /usr/bin/redis-server; do"
        " [ ! -e $p ] || mount -o noexec --bind /dev/null $p; done;"
        'exec "$@"'
    )
    with as_we_are(tmp_path)("unshare", "--mount", "sh", "-c", hide, "sh") as driver:
        with pytest.raises(Refused, match=f"Debian package {package}") as caught:
            driver("enter", "proj", [service])
        assert caught.value.code == "service"
        driver("enter", "proj", [])


def test_a_service_that_does_not_come_up_in_time(ours: Starter) -> None:
    """It is refused, each time; the network is there all the same."""
    needs("mariadbd")
    with ours(deadline_s=0.05) as driver:
        for _ in range(2):
            with pytest.raises(Refused, match=r"mysql: no answer within 0\.05 s"):
                driver("enter", "proj", ["mysql"])
        assert driver("enter", "proj", [])["own"]


class NeverReady(Service):
    """Starts, has a child of its own, and never answers."""

    name = "redis"
    title = "Never"
    package = "never"

    def find(self) -> Installed:
        return Installed({"shell": "/bin/sh"})

    def initialise(self, installed: Installed) -> list[Command]:
        del installed
        return []

    def serve(self, installed: Installed) -> Command:
        return Command((installed["shell"], "-c", "sleep 1000 & sleep 1000"), self.log)

    async def ready(self, dial: Dial) -> bool:
        del dial
        return False


@pytest.mark.parametrize("how", ["deadline", "cancelled"])
def test_what_was_begun_is_ended(tmp_path: Path, how: str) -> None:
    """Whoever asks next would take it for one that answers."""

    tmp_path.chmod(0o711)

    async def scenario() -> None:
        lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
        folder = os.fsencode(tmp_path)
        user = users.current()
        wish = Wish(folder, user=user, files=users.files(user), programs={}, out=(), lock=lock)
        namespace = await Namespace.open(wish)
        try:
            before = below(os.getpid())
            running = Running(
                NeverReady(),
                namespace,
                namespace.socket,
                folder,
                user,
                0.5 if how == "deadline" else 60,
            )
            starting = asyncio.ensure_future(running.start())
            begun = await asyncio.to_thread(begun_since, os.getpid(), before, 3)
            if how == "cancelled":
                starting.cancel()
            with pytest.raises((ServiceUnavailable, asyncio.CancelledError)):
                await starting
            assert not running.alive
            await asyncio.to_thread(all_gone, begun)
        finally:
            await namespace.close()
            os.close(lock)

    asyncio.run(scenario())


MACHINE = """
set -e
ip link set lo up
ip link add v0 type veth peer name v1
ip addr add 10.77.0.1/24 dev v0
ip link set v0 up
ip link set v1 up
ip route add default via 10.77.0.254
ip addr add 10.88.0.1/32 dev lo
ip addr add 169.254.169.254/32 dev lo
mount -t tmpfs none /dev/net
mknod -m 666 /dev/net/tun c 10 200
echo 'nameserver 127.0.0.53' >/dev/net/resolv.conf
chmod 644 /dev/net/resolv.conf
mount --bind /dev/net/resolv.conf /etc/resolv.conf
echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start
exec "$@"
"""
"""A machine with one interface, somebody it can reach, a metadata service, and a name server on its
own loopback, as systemd-resolved is."""
DNS = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("127.0.0.53", 53))
    print("listening", flush=True)
    while True:
        data, sender = sock.recvfrom(512)
        sock.sendto(data[:2] + b"answer", sender)
"""
ASK = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(5)
    sock.connect((sys.argv[1], 53))
    sock.send(b"id")
    print(sock.recv(100))
"""
WAYS = {"pasta": "198.51.100.53", "slirp4netns": "10.0.2.3"}


@pytest.mark.root
@pytest.mark.parametrize("way", WAYS)
def test_a_way_out_but_not_to_the_metadata_service(
    start: Starter, tmp_path: Path, way: str
) -> None:
    """Others are reached, names are resolved; not what clouds tell a machine, nor its loopback."""
    needs(way)
    only = tmp_path / "bin"
    only.mkdir()
    hide = [f"mount --bind /dev/null {shutil.which(other)}" for other in WAYS if other != way]
    machine = "\n".join(("set -e", *hide, MACHINE))
    with start("unshare", "--net", "--mount", "sh", "-c", machine, "sh") as driver:
        for address in ("10.88.0.1", "169.254.169.254", "127.0.0.1"):
            driver("start", 0, ["python3", "-c", SERVER, address, "8000"])
            reach = ["python3", "-c", REACH, address, "8000"]
            assert driver("inside", 0, reach)["said"] == "reached\n"
        driver("start", 0, ["python3", "-c", DNS])

        entered = driver("enter", "proj", [])
        assert entered["notes"] == []
        assert entered["resolv_conf"] == f"nameserver {WAYS[way]}\n"

        def inside(script: str, *args: str) -> str:
            said: str = driver("inside", entered["entry"], ["python3", "-c", script, *args])["said"]
            return said

        assert inside(REACH, "10.88.0.1", "8000") == "reached\n"
        assert inside(ASK, WAYS[way]) == "b'idanswer'\n"
        assert inside(REACH, "169.254.169.254", "8000") == "No route to host\n"
        for loopback in ("127.0.0.1", "10.77.0.254", "10.0.2.2"):
            assert inside(REACH, loopback, "8000") != "reached\n"


@pytest.mark.root
def test_no_way_out_is_said(start: Starter) -> None:
    """Programs have a loopback then."""
    hide = "".join(
        f"mount --bind /dev/null {path};" for way in WAYS if (path := shutil.which(way)) is not None
    )
    with start("unshare", "--mount", "sh", "-c", f'{hide} exec "$@"', "sh") as driver:
        entered = driver("enter", "proj", [])
        assert entered["notes"] == [NO_PROGRAM]
        said = driver("inside", entered["entry"], ["python3", "-c", REACH, "10.0.0.1", "80"])[
            "said"
        ]
        assert said == "Network is unreachable\n"


@pytest.mark.root
def test_a_volume_can_leave(start: Starter, tmp_path: Path) -> None:
    """What the machine unmounts is not held by a network, which would keep its disk in use."""
    needs("redis-server")
    volume = tmp_path / "volume"
    volume.mkdir()
    mounted = f'mount --make-rshared /; mount -t tmpfs burst-volume {volume}; exec "$@"'
    with start("unshare", "--mount", "sh", "-c", mounted, "sh") as driver:
        driver("enter", "proj", ["redis"])
        mounts = [Path(f"/proc/{it.pid}/mounts") for it in below(driver.pid)]
        assert len(mounts) >= 3
        assert any("burst-volume" in it.read_text() for it in mounts)
        subprocess.run(["nsenter", "-m", f"--target={driver.pid}", "umount", volume], check=True)
        assert not any("burst-volume" in it.read_text() for it in mounts)


@pytest.mark.root
def test_where_no_namespace_can_be_made(ours: Starter) -> None:
    """Programs run in the machine's own network, which is said; services do not: another
    project's could be there already."""
    limit = 'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"'
    with ours("unshare", "--user", "--map-root-user", "sh", "-c", limit, "sh") as driver:
        entered = driver("enter", "proj", [])
        assert not entered["own"]
        assert entered["notes"][0].startswith("programs share that machine's network: ")
        with pytest.raises(Refused, match="redis: no network of its own: "):
            driver("enter", "proj", ["redis"])
