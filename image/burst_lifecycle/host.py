"""What home asks of a server over ssh: the lease, the volumes, the host key.

Every question is one argv for `burst-agent` there and one JSON document back; see its `lease`,
`volume` and `hostkey`. Durations only, never dates: the server's clock may be anything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Final

import attrs

from burst_lifecycle import firewall
from burst_lifecycle.context import Login, Ssh
from burst_lifecycle.errors import ServerProblem
from burst_lifecycle.guard import Granted
from burst_lifecycle.hostkey import bare, blob
from burst_lifecycle.token import Token

AGENT: Final = "/usr/local/bin/burst-agent"
_AUTHORIZE: Final = (
    # A constant; the keys are its arguments.
    "for f in /root/.ssh/authorized_keys /home/burst/.ssh/authorized_keys; do "
    '[ -f "$f" ] || continue; for key in "$@"; do '
    'grep -qxF -- "$key" "$f" || printf \'\\n%s\\n\' "$key" >>"$f" || exit 1; done; done'
)
_SELF_DELETE: Final = "/run/burst-private/self-delete"
"""In memory, and root's alone: `deadman.sh` reads it, builds cannot."""
_PUT_PRIVATELY: Final = 'umask 077 && mkdir -p "${1%/*}" && cat >"$1.new" && mv -f "$1.new" "$1"'
_QUICK_S: Final = 20.0
_DISK_S: Final = 300.0
"""Making or checking a file system, writing back what is dirty."""


@attrs.frozen
class Running:
    """One action on a server."""

    crate: str
    for_s: float
    detached: bool = False


@attrs.frozen
class Lease:
    """Who uses a server. Seconds are durations as of the answer."""

    draining: bool
    running: int
    detached: int
    clients: int
    idle_s: float
    uptime_s: float = 0.0
    hard_end_in_s: float | None = None
    keep_alive_s: float | None = None
    boot_id: str = ""
    build: str = ""
    actions: tuple[Running, ...] = ()
    """What runs, the longest first; older agents do not say, and none lists more than a hundred."""

    @property
    def busy(self) -> bool:
        return self.running > 0 or self.detached > 0


@attrs.frozen
class Refusal:
    """A drain that was not granted: `running`, `active` or `detached`."""

    why: str
    idle_s: float


@attrs.frozen
class Mount:
    """What became of a volume there."""

    mounted: bool
    why: str = ""
    """One of the words of `burst-agent volume`."""
    detail: str = ""

    @property
    def is_bad(self) -> bool:
        """There is something on it that we must not touch."""
        return self.why in {"bad", "not-blank"}

    @property
    def may_pass(self) -> bool:
        """Its device is not there yet, or its link leads elsewhere for now."""
        return self.why in {"absent", "other", "busy"}


@attrs.frozen(eq=False)
class Host:
    """One server, as one login reaches it."""

    ssh: Ssh
    login: Login
    server_id: int

    async def hello(self) -> Login:
        """Log in and out; the login with the host key that was shown. Errors of `Ssh.run`."""
        answer = await self.ssh.run(self.login, ["true"], timeout_s=_QUICK_S)
        return attrs.evolve(self.login, host_key=answer.host_key)

    async def peer(self) -> str:
        """Where we come from, as the server sees it. ServerProblem if it does not say."""
        answer = await self.ssh.run(self.login, ["printenv", "SSH_CONNECTION"], timeout_s=_QUICK_S)
        try:
            return firewall.peer_of(answer.stdout.decode("ascii", "replace"))
        except ValueError as error:
            raise ServerProblem("does not say where we come from", what=self.login.host) from error

    async def authorize(self, public_keys: Sequence[str]) -> None:
        """Let these log in, too: machines of the owner that came after its boot."""
        answer = await self.ssh.run(
            self.login, ["sh", "-c", _AUTHORIZE, "burst", *public_keys], timeout_s=_QUICK_S
        )
        if answer.status != 0:
            raise self._problem(f"keys cannot be added: it ended with {answer.status}")

    async def may_delete_itself(self, token: Token) -> None:
        """With that token: its dead man does it, after everything is safe, before it powers off.

        It goes over stdin into the memory of that server, into no argument and on no disk.
        """
        value = token.value.replace("\\", "\\\\").replace('"', '\\"')  # curl(1), --config
        config = (
            f'url = "{token.endpoint}/servers/{self.server_id}"\n'
            'request = "DELETE"\n'
            f'header = "Authorization: Bearer {value}"\n'
        )
        answer = await self.ssh.run(
            self.login,
            ["sh", "-c", _PUT_PRIVATELY, "burst", _SELF_DELETE],
            stdin=config.encode(),
            timeout_s=_QUICK_S,
        )
        if answer.status != 0:
            raise self._problem("the token for its own deletion cannot be put there")

    async def lease(self) -> Lease:
        """ServerProblem if its agent does not answer."""
        found = await self._ask("lease", "status")
        try:
            return Lease(
                draining=found["state"] != "ready",
                running=int(found["running"]),
                detached=int(found["detached"]),
                clients=int(found["clients"]),
                idle_s=_seconds(found["idle_s"]) or 0.0,
                uptime_s=_seconds(found["uptime_s"]) or 0.0,
                hard_end_in_s=_seconds(found.get("hard_end_in_s")),
                keep_alive_s=_seconds(found.get("keep_alive_s")),
                boot_id=str(found.get("boot_id", "")),
                build=str(found.get("build", "")),
                actions=tuple(
                    Running(
                        str(one["crate"]), _seconds(one["for_s"]) or 0.0, one["detached"] is True
                    )
                    for one in found.get("actions", ())
                ),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._problem(f"its lease is unreadable ({error})") from error

    async def drain(self, min_idle_s: float, reason: str) -> Granted | Refusal:
        """Whether it may be deleted; when granted it refuses all work from then on."""
        found = await self._ask(
            "lease", "drain", "--min-idle", _text(min_idle_s), "--reason", reason, refusals=True
        )
        if found.get("granted") is True:
            return Granted(self.server_id)
        return Refusal(str(found.get("why", "unknown")), _seconds(found.get("idle_s")) or 0.0)

    async def extend(
        self,
        *,
        hard_end_in_s: float,
        age_s: float | None = None,
        keep_alive_s: float | None = None,
    ) -> None:
        """Tell the dead man, in durations from now. ServerProblem while it drains."""
        argv = ["lease", "extend", "--hard-end-in", _text(hard_end_in_s)]
        if age_s is not None:
            argv += ["--age", _text(age_s)]
        if keep_alive_s is not None:
            argv += ["--keep-alive", _text(keep_alive_s)]
        if (await self._ask(*argv, refusals=True)).get("extended") is not True:
            raise self._problem("it drains: its time cannot be changed any more")

    async def notice(self, text: str) -> None:
        """Told to all its clients."""
        await self._ask("lease", "notice", text)

    async def format(self, volume_id: int, label: str) -> Mount:
        """Make the file system that a label `new-<uuid>` announces, if the volume reads blank."""
        return await self._volume("formatted", "format", str(volume_id), "--label", label)

    async def mount(self, volume_id: int, label: str) -> Mount:
        """Mount it if it holds the file system that its label names."""
        return await self._volume("mounted", "mount", str(volume_id), "--label", label)

    async def grow(self, volume_id: int) -> str:
        """Its file system takes what the volume was enlarged by. Why not, or nothing."""
        mount = await self._volume("grown", "grow", str(volume_id))
        return "" if mount.mounted else f"{mount.why}: {mount.detail}"

    async def unmount(self, volume_id: int) -> bool:
        """Unmount and sync it. False if something still uses it."""
        return (await self._volume("unmounted", "unmount", str(volume_id))).mounted

    async def _volume(self, done: str, *argv: str) -> Mount:
        found = await self._ask("volume", *argv, limit_s=_DISK_S, refusals=True)
        return Mount(
            found.get(done) is True, str(found.get("why", "")), str(found.get("detail", ""))[:200]
        )

    async def mounted(self) -> tuple[int, ...]:
        """Which volumes are mounted."""
        found = await self._ask("volume", "list")
        try:
            return tuple(int(one["id"]) for one in found["volumes"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._problem(f"its list of volumes is unreadable ({error})") from error

    async def prepare_host_key(self) -> str:
        """Make the next host key there (or say which it made before); its public half."""
        public = str((await self._ask("hostkey", "rotate")).get("next", ""))
        try:
            blob(public)
        except ValueError as error:
            raise self._problem("it made no host key") from error
        return bare(public)

    async def activate_host_key(self) -> None:
        """From its next connection on the server shows the prepared key. Done before: no matter."""
        await self._ask("hostkey", "rotate", "--commit", refusals=True)

    async def _ask(
        self, *argv: str, limit_s: float = _QUICK_S, refusals: bool = False
    ) -> dict[str, Any]:
        answer = await self.ssh.run(self.login, (AGENT, *argv), timeout_s=limit_s)
        accepted: Sequence[int] = (0, 1) if refusals else (0,)
        try:
            found = json.loads(answer.stdout)
        except ValueError:
            found = None
        if not isinstance(found, dict) or answer.status not in accepted:
            said = answer.stderr.decode("utf-8", "replace").strip().splitlines()
            detail = str(found.get("detail", "")) if isinstance(found, dict) else ""
            words = "".join(f": {text[:200]}" for text in (detail, *said[-1:]) if text)
            raise self._problem(f"`burst-agent {argv[0]}` ended with {answer.status}{words}")
        return found

    def _problem(self, detail: str) -> ServerProblem:
        return ServerProblem(detail, what=self.login.host)


def _text(duration_s: float) -> str:
    return f"{max(0.0, duration_s):.0f}"


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    number = float(value)  # type: ignore[arg-type]  # a TypeError is caught by the callers
    if not math.isfinite(number):
        raise ValueError("no duration")
    return number
