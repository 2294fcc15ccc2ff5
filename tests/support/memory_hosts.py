"""Servers of the cloud in memory, as ssh shows them: host keys, firewall, lease, volumes.

They answer the argvs that `burst_lifecycle.host` sends, as `burst-agent` answers them.
"""

from __future__ import annotations

import base64
import gzip
import ipaddress
import json
from collections.abc import AsyncIterable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from burst_lifecycle.cloud.model import Kind, ServerState
from burst_lifecycle.context import Answer, Login
from burst_lifecycle.hostkey import bare, pin
from burst_protocol.errors import AuthenticationFailed, HostKeyProblem, LinkLost, Unreachable

if TYPE_CHECKING:
    from memory_cloud import Account

AGENT = "/usr/local/bin/burst-agent"


def make_key(number: int) -> tuple[str, str]:
    """Looks like an ed25519 pair in OpenSSH's format; the private half is nobody's."""
    name = b"ssh-ed25519"
    blob = (
        len(name).to_bytes(4, "big") + name + (32).to_bytes(4, "big") + number.to_bytes(32, "big")
    )
    public = f"ssh-ed25519 {base64.b64encode(blob).decode()}"

    def string(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    body = b"openssh-key-v1\0" + string(b"none") * 2 + string(b"") + (1).to_bytes(4, "big")
    body += string(blob) + string(b"secret")
    text = base64.b64encode(body).decode()
    private = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{text}\n-----END OPENSSH PRIVATE KEY-----\n"
    return private, public


@attrs.define
class KeyMaker:
    number: int = 0

    def __call__(self) -> tuple[str, str]:
        self.number += 1
        return make_key(self.number)


@attrs.define
class Disk:
    """What is on a volume."""

    uuid: str | None = None
    """Of its file system; None: blank."""
    data: str = ""
    formatted: int = 0
    grown: int = 0
    damaged: bool = False


@attrs.define
class Baked:
    """What a server's disk has of an image."""

    recipe: str = ""
    """By its marker."""
    agent: bool = False
    identity: bool = True
    """Host keys, authorized keys, machine id: it is one particular machine."""


@attrs.define
class Box:
    """One server's inside."""

    account: Account
    server_id: int
    user_data: str
    on: bool = False
    up_s: float = 0.0
    hears_acpi: bool = True
    host_key: str = ""
    next_key: str = ""
    authorized: tuple[str, ...] = ()
    boots: int = 0
    keys: int = 1000

    running: int = 0
    crates: Sequence[str] = ()
    """What runs, if its agent says so; each for a minute."""
    detached: int = 0
    active_s: float = 0.0
    seen: bool = False
    draining: bool = False
    hard_end_s: float = 0.0
    keep_alive_s: float = 300.0
    secret: str = ""
    """With which it may delete itself."""
    created_s: float = 0.0
    mounted: set[int] = attrs.field(factory=set)
    in_use: set[int] = attrs.field(factory=set)
    device_missing: int = 0
    """So many times the device is not there yet."""
    lost_writes: bool = False
    """Power was cut, or a volume pulled, with something mounted."""
    disk: Baked = attrs.field(factory=Baked)

    def power_on(self, at_s: float) -> None:
        """cloud-init reads the user data at the first boot; later ones keep what is on disk."""
        self.on, self.up_s, self.boots = True, at_s, self.boots + 1
        if self.boots == 1:
            assert not self.disk.recipe or not self.disk.identity, "an image with an identity"
            self.disk.identity = True
            config = self.config()
            self.host_key = bare(config["ssh_keys"]["ed25519_public"])
            self.authorized = tuple(bare(key) for key in config["ssh_authorized_keys"])
            assert any(line[-1] == "arm" for line in config["bootcmd"])
        self.running = self.detached = 0
        self.draining = self.seen = False
        self.active_s = at_s
        self.created_s = at_s
        self.hard_end_s = at_s + 12 * 3600
        self.mounted.clear()

    def config(self) -> dict[str, Any]:
        text = self.user_data
        if not text.startswith("#cloud-config\n"):
            text = gzip.decompress(base64.b64decode(text)).decode()
        found: dict[str, Any] = json.loads(text.partition("\n")[2])
        return found

    def power_off(self) -> None:
        if self.on and self.mounted:
            self.lost_writes = True
        self.on = False
        self.mounted.clear()

    def shut_down(self) -> None:
        """Ends what runs, unmounts, syncs."""
        self.on = False
        self.running = self.detached = 0
        self.mounted.clear()

    def pull(self, volume_id: int) -> None:
        if volume_id in self.mounted:
            self.lost_writes = True
            self.mounted.discard(volume_id)

    def wants_off(self, now_s: float) -> bool:
        """The dead man's three reasons."""
        if not self.on:
            return False
        if not self.seen and now_s >= self.up_s + 900:
            return True
        if now_s >= self.hard_end_s:
            return True
        idle = not self.running and not self.detached and now_s - self.active_s >= self.keep_alive_s
        return idle and self.seen and (now_s - self.created_s) % 3600 >= 3000

    @property
    def now_s(self) -> float:
        return self.account.world.now_s

    def work(self) -> bool:
        """A client begins an action. False: refused."""
        if self.draining or not self.on:
            return False
        self.running += 1
        self.active_s = self.now_s
        self.seen = True
        return True

    def answer(self, argv: Sequence[str]) -> Answer:
        if not self.disk.agent:
            return Answer(127, b"", b"no agent")
        options = {
            argv[at][2:]: argv[at + 1] for at in range(len(argv) - 1) if argv[at].startswith("--")
        }
        words = list(argv)
        if "--label" in words:
            words = words[:3]
        match words:
            case ["lease", "status"]:
                return _json(self._status())
            case ["lease", "drain", *_]:
                return self._drain(float(options["min-idle"]))
            case ["lease", "extend", *_]:
                if self.draining:
                    return _json({"extended": False, "why": "draining"}, 1)
                self.seen = True
                if "hard-end-in" in options:
                    self.hard_end_s = self.now_s + float(options["hard-end-in"])
                if "keep-alive" in options:
                    self.keep_alive_s = float(options["keep-alive"])
                if "age" in options:
                    self.created_s = self.now_s - float(options["age"])
                return _json({"extended": True})
            case ["lease", "notice", *_]:
                return _json({"noticed": True})
            case ["volume", "format" | "mount", number]:
                return self._volume(argv[1], int(number), options["label"])
            case ["volume", "unmount", number]:
                if self.running or int(number) in self.in_use:
                    return _json({"why": "busy", "detail": "1 rustc"}, 1)
                self.mounted.discard(int(number))
                return _json({"unmounted": True})
            case ["volume", "grow", number]:
                disk = self.account.disks[int(number)]
                disk.grown += 1
                return _json({"grown": True})
            case ["volume", "list"]:
                return _json({"volumes": [{"id": one} for one in sorted(self.mounted)]})
            case ["hostkey", "rotate"]:
                if not self.next_key:
                    self.keys += 1
                    self.next_key = make_key(self.server_id * 100_000 + self.keys)[1]
                return _json({"current": self.host_key, "next": self.next_key})
            case ["hostkey", "rotate", "--commit"]:
                if not self.next_key:
                    return _json({"committed": False, "why": "nothing to commit"}, 1)
                self.host_key, self.next_key = self.next_key, ""
                return _json({"current": self.host_key, "next": None, "committed": True})
            case _:
                return Answer(2, b"", b"no such command")

    def _status(self) -> dict[str, Any]:
        busy = self.running or self.detached
        return {
            "state": "draining" if self.draining else "ready",
            "clients": 0,
            "running": self.running,
            "detached": self.detached,
            "idle_s": 0.0 if busy else self.now_s - self.active_s,
            "uptime_s": self.now_s - self.up_s,
            "hard_end_in_s": self.hard_end_s - self.now_s,
            "keep_alive_s": self.keep_alive_s,
            "boot_id": f"{self.server_id}-{self.boots}",
            "build": "test",
            "actions": [{"crate": one, "for_s": 60.0, "detached": False} for one in self.crates],
        }

    def _drain(self, min_idle_s: float) -> Answer:
        idle_s = self.now_s - self.active_s
        if self.draining:
            return _json({"granted": True, "idle_s": idle_s})
        why = "detached" if self.detached else "running" if self.running else ""
        if not why and idle_s < min_idle_s:
            why = "active"
        if why:
            return _json({"granted": False, "why": why, "idle_s": idle_s}, 1)
        self.draining = True
        return _json({"granted": True, "idle_s": idle_s})

    def _volume(self, verb: str, volume_id: int, label: str) -> Answer:
        volume = self.account.held[Kind.VOLUME].get(volume_id)
        if volume is None or volume.server_id != self.server_id or self.device_missing > 0:
            self.device_missing -= 1
            return _json({"why": "absent"}, 1)
        content, _, uuid = label.partition("-")
        assert content in {"new", "ready"}
        disk = self.account.disks.setdefault(volume_id, Disk())
        if verb == "format":
            if content != "new":
                return _json({"why": "ready"}, 1)
            if disk.uuid is None and not disk.data:
                disk.uuid, disk.formatted = uuid, disk.formatted + 1
            if disk.uuid != uuid:
                return _json({"why": "not-blank"}, 1)
            return _json({"formatted": True})
        if disk.uuid != uuid or disk.damaged:
            return _json({"why": "bad", "detail": "holds something else"}, 1)
        self.mounted.add(volume_id)
        return _json({"mounted": True})


def _json(found: dict[str, Any], status: int = 0) -> Answer:
    return Answer(status, json.dumps(found).encode())


@attrs.define
class MemorySsh:
    """ssh from one machine. Implements `context.Ssh`."""

    account: Account
    public_key: str
    address: str = "198.51.100.7"
    runs: list[tuple[str, ...]] = attrs.field(factory=list)
    broken: bool = False
    before: Any = lambda _name: None
    after: Any = lambda _name: None

    async def run(
        self, login: Login, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30.0
    ) -> Answer:
        self.runs.append(tuple(argv))
        name = "ssh " + " ".join(argv[1:3] if argv[0] == AGENT else argv[:1])
        self.before(name)
        box = self._box(login)
        if pin(box.host_key) not in login.pins:
            raise HostKeyProblem("changed", host=login.host)
        if self.public_key not in box.authorized:
            raise AuthenticationFailed("not known", host=login.host)
        if argv[0] == AGENT:
            answer = box.answer(argv[1:])
        elif argv[-1] == "/run/burst-private/self-delete":
            box.secret = stdin.decode()
            answer = Answer(0, b"")
        elif argv[:2] == ["sh", "-c"]:
            keys = [word for word in argv[4:] if word.startswith("ssh-")]
            box.authorized = tuple(dict.fromkeys((*box.authorized, *keys)))
            answer = Answer(0, b"")
        elif argv == ["printenv", "SSH_CONNECTION"]:
            answer = Answer(0, f"{self.address} 50000 {login.host} 22\n".encode())
        elif argv == ["cat", "/etc/burst/image.json"]:
            answer = Answer(0, json.dumps({"recipe": box.disk.recipe}).encode())
        elif argv == ["sh", "-s"]:
            answer = self._clean(box, stdin)
        else:
            answer = Answer(0, b"")
        key = box.host_key
        if not box.disk.identity:
            box.authorized = ()
        self.after(name)
        return attrs.evolve(answer, host_key=key)

    def _clean(self, box: Box, script: bytes) -> Answer:
        assert b"burst-clean ok" in script
        box.disk.identity = False
        return Answer(0, b"burst-clean ok\n")

    async def follow(
        self,
        login: Login,
        argv: Sequence[str],
        *,
        stdin: AsyncIterable[bytes],
        show: Callable[[bytes], None],
        timeout_s: float,
    ) -> Answer:
        """The recipe takes twenty minutes; home may be gone in the middle of it."""
        async for _ in stdin:
            pass
        self.before("ssh recipe")
        box = self._box(login)
        if self.public_key not in box.authorized:
            raise AuthenticationFailed("not known", host=login.host)
        box.seen = True
        assert box.disk.agent, "the recipe checks the agent"
        self.account.world.pass_time(1200)
        box.active_s = self.account.world.now_s
        if not self.account.recipe_works:
            return Answer(1, b"E: no such package\n", host_key=box.host_key)
        show(b"== 20-packages\n")
        box.disk.recipe = argv[-2]
        self.after("ssh recipe")
        return Answer(0, b"burst-bake ok\n", host_key=box.host_key)

    def _box(self, login: Login) -> Box:
        account = self.account
        for server in account.held[Kind.SERVER].values():
            if server.ipv4 == login.host:
                break
        else:
            raise Unreachable("no route", host=login.host)
        box = account.boxes[server.id]
        if account.state(server) is not ServerState.RUNNING or self.broken or account.never_ssh:
            raise Unreachable("no answer", host=login.host)
        if account.world.now_s < box.up_s + 3 or not box.on:
            raise Unreachable("connection refused", host=login.host)
        rules = [
            rule for wall in server.firewall_ids for rule in account.held[Kind.FIREWALL][wall].rules
        ]
        here = ipaddress.ip_address(self.address)
        allowed = any(
            here in ipaddress.ip_network(source)
            for rule in rules
            for source in rule.sources
            if ipaddress.ip_network(source).version == here.version
        )
        if not allowed:
            raise Unreachable("no answer within 10 s", host=login.host)
        if account.wrong_key:
            raise HostKeyProblem("changed", host=login.host)
        return box

    async def forget(self, login: Login) -> None:
        """Connections are not kept here."""


@attrs.define
class MemoryAgent:
    """Implements `context.AgentInstaller`."""

    ssh: MemorySsh
    fails: bool = False

    async def ensure(self, login: Login) -> str:
        if self.fails:
            raise LinkLost("cut", host=login.host)
        answer = await self.ssh.run(login, ["true"])
        assert answer.status == 0
        self.ssh._box(login).disk.agent = True
        return "test-agent"
