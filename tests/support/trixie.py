"""A Debian trixie machine of its own, as far as a test can tell: files, network, processes.

Made by debootstrap once (one to two minutes, 300 MB below ~/.cache/burst-tests, from whatever
mirror this machine's apt uses), started in 0.2 s: an overlay over the made tree, new mount,
process, IPC, host name and network namespaces, a veth pair, its own sshd. No way leads from it to
the network. A plain user `builder` has our key and may create user namespaces: the tree is entered
by pivot_root, as the kernel denies them to a process in a chroot. Needs root, debootstrap and
iproute2.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import re
import shutil
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from sshd import descendants, keygen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

RECIPE: Final = 1
"""Raise it to have the tree made anew."""
PACKAGES: Final = ("python3", "openssh-server")
UID: Final = 1000
USER: Final = "builder"

# Arguments: tree, upper, work, root, then folders of this machine and their places there. Runs in
# the new namespaces; waits for the network, then sshd.
_INIT: Final = r"""
set -e
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4"
cd "$4"
shift 4
while [ $# -gt 0 ]; do
  mkdir -p ".$2"; mount --bind "$1" ".$2"; mount -o remount,bind,ro ".$2"
  shift 2
done
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do
  touch dev/$node; mount --bind /dev/$node dev/$node
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs run
mkdir run/sshd .old
hostname trixie
pivot_root . .old
umount -l /.old
rmdir /.old
echo ready
read -r _
exec /usr/sbin/sshd -D -e -f /etc/ssh/burst_config
"""

_SSHD_CONFIG: Final = """
Port 22
HostKey /etc/ssh/burst_host_key
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
LogLevel VERBOSE
"""


class Unavailable(Exception):
    """Why there can be no such machine here."""


def mirror() -> str:
    """The archive this machine's apt uses. Unavailable if apt names none."""
    try:
        done = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"apt: {error}") from error
    for line in done.stdout.splitlines():
        uri, _, release = line.partition(" ")
        if not re.search(r"-(security|updates|backports)\b", release) and "debian" in uri:
            return uri
    raise Unavailable("apt uses no Debian archive")


def tree() -> Path:
    """The made tree; makes it the first time. Unavailable says why not."""
    for tool in ("ip", "unshare", "nsenter"):
        if shutil.which(tool) is None:
            raise Unavailable(f"{tool} is not installed")
    return cached_tree(f"trixie-{RECIPE}", make)


def cached_tree(name: str, make: Callable[[Path], None]) -> Path:
    """A tree of that name; `make` fills an empty place with it the first time, while others wait.

    Unavailable without root or debootstrap.
    """
    if shutil.which("debootstrap") is None:
        raise Unavailable("debootstrap is not installed")
    if os.getuid() != 0:
        raise Unavailable("needs root")
    # Not the HOME that tests change.
    folder = Path("~root").expanduser() / ".cache" / "burst-tests"
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / name
    with open(folder / f"{name}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            making = folder / f"making-{name}"
            shutil.rmtree(making, ignore_errors=True)
            make(making)
            making.rename(made)
    return made


def debootstrap(root: Path, packages: Sequence[str]) -> None:
    """Debian trixie with these besides the minimum. Unavailable shows debootstrap's last words."""
    include = f"--include={','.join(packages)}"
    run_or_unavailable(["debootstrap", "--variant=minbase", include, "trixie", str(root), mirror()])


def run_or_unavailable(command: Sequence[str]) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Unavailable(f"{command[0]}: " + "\n".join(done.stdout.splitlines()[-5:]))


def make(root: Path, packages: Sequence[str] = PACKAGES) -> None:
    """The tree of such a machine, in an empty place."""
    debootstrap(root, packages)
    # The password `*` never fits, but does not lock the account, which `!` does for sshd.
    user = ["useradd", "-m", "-u", str(UID), "-s", "/bin/bash", "-p", "*", USER]
    subprocess.run(["chroot", root, *user], check=True)
    shutil.rmtree(root / "var" / "cache" / "apt", ignore_errors=True)


class TrixieHost:
    """One running machine. `root` shows its files, `run` executes something inside."""

    def __init__(self, folder: Path, shown: Mapping[Path, str]) -> None:
        self.folder = folder
        self.client_home = folder / "client"
        self.user = USER
        self.ip = ""
        self.our_ip = ""
        """Of this machine, as it is reached from there."""
        self._shown = shown
        self.log: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._drain: threading.Thread | None = None
        self._link = ""

    @classmethod
    @contextlib.contextmanager
    def start(
        cls, folder: Path, *, lower: Path | None = None, shown: Mapping[Path, str] | None = None
    ) -> Iterator[Self]:
        """Boot it; files of this run go below `folder` and are gone afterwards. `lower`: another
        tree than `tree`. `shown`: folders of this machine, read-only, and their places there."""
        lower = tree() if lower is None else lower
        host = cls(folder, shown or {})
        try:
            host._prepare()
            host._boot(lower)
            yield host
        finally:
            host._end()

    @property
    def address(self) -> str:
        return f"{self.user}@{self.ip}"

    @property
    def known_hosts(self) -> Path:
        return self.client_home / ".ssh" / "known_hosts"

    @property
    def root(self) -> Path:
        """Its file system, as seen from here."""
        return Path(f"/proc/{self._init_pid}/root")

    @property
    def host_key_line(self) -> str:
        public = self.folder / "upper" / "etc" / "ssh" / "burst_host_key.pub"
        return " ".join(public.read_text().split()[:2])

    def run(
        self, argv: Sequence[str], *, user: str | None = USER, cwd: str = "/", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """A command inside; user None is root. `cwd` is a folder of its own."""
        become = [] if user is None else ["setpriv", f"--reuid={UID}", f"--regid={UID}"]
        if become:
            become += ["--clear-groups", "env", "-i", f"HOME=/home/{USER}", "PATH=/usr/bin:/bin"]
            become += [f"{name}={value}" for name, value in environ.items()]
        enter = ["nsenter", f"--target={self._init_pid}", "--all", f"--wdns={cwd}"]
        return subprocess.run(
            [*enter, *become, *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def _init_pid(self) -> int:
        assert self._process is not None
        return descendants(self._process.pid)[0]

    def _prepare(self) -> None:
        upper = self.folder / "upper"
        ssh = upper / "home" / USER / ".ssh"
        for path in (upper / "etc" / "ssh", ssh, self.folder / "work", self.folder / "root"):
            path.mkdir(parents=True)
        upper.chmod(0o755)
        (self.client_home / ".ssh").mkdir(mode=0o700, parents=True)
        keygen(upper / "etc" / "ssh" / "burst_host_key")
        (upper / "etc" / "ssh" / "burst_config").write_text(_SSHD_CONFIG)
        key = keygen(self.client_home / ".ssh" / "id_ed25519")
        (ssh / "authorized_keys").write_text(key + "\n")
        for path in (ssh / "authorized_keys", ssh, ssh.parent):
            os.chown(path, UID, UID)
        ssh.chmod(0o700)

    def _boot(self, lower: Path) -> None:
        spaces = ["--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child=SIGKILL"]
        folders = [str(lower), *(str(self.folder / name) for name in ("upper", "work", "root"))]
        for path, place in self._shown.items():
            folders += [str(path), place]
        self._process = process = subprocess.Popen(
            ["unshare", *spaces, "--propagation=private", "sh", "-c", _INIT, "init", *folders],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        if process.stdout.readline() != "ready\n":
            raise Unavailable("the namespaces: " + process.stderr.read())
        self._connect(process.pid)
        process.stdin.write("go\n")
        process.stdin.flush()
        for line in process.stderr:
            self.log.append(line)
            if "Server listening on 0.0.0.0" in line:
                break
        else:
            raise RuntimeError("sshd inside does not start: " + "".join(self.log))
        self._drain = threading.Thread(target=self.log.extend, args=(process.stderr,))
        self._drain.start()
        self.known_hosts.write_text(f"{self.ip} {self.host_key_line}\n")

    def _connect(self, pid: int) -> None:
        """A veth pair; addresses of RFC 2544's range for test networks, a /30 not in use here."""
        used = subprocess.run(
            ["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True
        ).stdout
        while True:
            net = f"198.18.{random.randrange(256)}.{random.randrange(0, 256, 4)}"
            prefix, _, last = net.rpartition(".")
            ours, self.ip = f"{prefix}.{int(last) + 1}", f"{prefix}.{int(last) + 2}"
            self.our_ip = ours
            if f" {ours}/" not in used:
                break
        # Not by pid: another run may live in a process namespace of its own. 15 characters at most.
        link = f"bt{random.randrange(1 << 48):012x}"
        inside = ["nsenter", f"--net=/proc/{pid}/ns/net"]
        peer = ["peer", "name", "eth0", "netns", str(pid)]
        for command in (
            ["ip", "link", "add", link, "type", "veth", *peer],
            ["ip", "addr", "add", f"{ours}/30", "dev", link],
            ["ip", "link", "set", link, "up"],
            [*inside, "ip", "addr", "add", f"{self.ip}/30", "dev", "eth0"],
            [*inside, "ip", "link", "set", "eth0", "up"],
            [*inside, "ip", "link", "set", "lo", "up"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Unavailable(f"{' '.join(command)}: {done.stderr.strip()}")
            self._link = link

    def _end(self) -> None:
        """Its first process takes all others and every mount with it; then the link is removed."""
        process = self._process
        if process is not None:
            for pid in descendants(process.pid)[:1]:
                # The others live in its process namespace and end with it.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            process.kill()
            process.wait()
            if self._drain is not None:
                self._drain.join()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        if self._link:  # goes with its namespace, but not at once
            subprocess.run(["ip", "link", "del", self._link], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
