"""Holds the namespaces of one mirror's network, and everything that runs beside its programs.

It is a program of its own (a process with threads cannot make user namespaces), started as a file
by whatever Python the agent runs in; so it imports the standard library alone.

Processes: outer (in the agent's namespaces; writes the maps of ids, waits) - guard (pid 1 of a new
pid namespace) - services, and the program that gives the network its way out. Of outer, guard and
agent, whichever ends first ends the others: outer has PDEATHSIG, guard reads the end of the agent's
socket, and the kernel kills all of a pid namespace with its pid 1. So nothing is ever left.

    holder.py FD

FD holds JSON:

    control   a descriptor of a SOCK_SEQPACKET pair
    lock      a descriptor that all that runs here keeps open
    parent    the agent's pid
    user      user and group of services; 0: the agent's own
    folder    what services see as /tmp/data
    hidden    folders that are empty for services
    files     {PATH: CONTENT}: what they see in place of /etc/passwd and the like
    programs  {NAME: PATH}: what is executed as /tmp/bin/NAME
    out       the argv that gives the network its way out. It runs in the agent's network, with
              all capabilities over the new one, which it finds as /tmp/netns

The guard's first packet is {"ready": true, "out": PID or 0}, with descriptors of the user and the
network namespace; or {"error": TEXT}. Then each packet of the agent is a request {"id", "do"}:

    start    argv env log      {"id", "pid"}, and {"ended": PID, "status": as os.waitpid} later
    signal   pid number        {"id"}
    socket   family            {"id"}, with a TCP socket of the network
    routed                     {"id", "routed": whether there is a way out}

One that failed is answered by {"id", "error"}.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
from typing import Any, Final, NoReturn

METADATA: Final = ("169.254.169.254", "fd00:ec2::254")
"""Where clouds tell a machine's secrets to whoever asks."""
DATA: Final = "/tmp/data"  # noqa: S108 - in a mount namespace of our own
_FOLDER_MODE: Final = 0o755
"""Whatever the agent's umask: services are somebody else."""
BIN: Final = "/tmp/bin"  # noqa: S108 - likewise
"""Programs under another name: AppArmor's profile of a distribution's mysqld, say, is for the path
of that and lets it use the distribution's folders only."""
NETNS: Final = "/tmp/netns"  # noqa: S108 - likewise
"""A name for the new network: one in /proc can only be opened by who may trace us."""
PACKET_BYTES: Final = 128 * 1024

_NEW_MOUNTS: Final = 0x00020000
_NEW_UTS: Final = 0x04000000
_NEW_IPC: Final = 0x08000000
_NEW_USER: Final = 0x10000000
_NEW_PID: Final = 0x20000000
_NEW_NET: Final = 0x40000000
_CLONE: Final = {"x86_64": 56, "aarch64": 220}
_NOSUID, _NODEV, _BIND, _REC, _SLAVE = 2, 4, 4096, 16384, 1 << 19
_PDEATHSIG, _AMBIENT, _AMBIENT_RAISE = 1, 47, 2
_CAPABILITIES_3: Final = 0x20080522
_CAPABILITIES: Final = 64
_RESOLV_CONF: Final = "/etc/resolv.conf"
_MAYBE_HIDDEN: Final = "/run/"
_FAILED: Final = 125
_DESCRIPTORS: Final = 1000
"""More than we have ever open; below the usual soft limit of 1024."""

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *args: object) -> int:
    """A function of libc; OSError that names it."""
    result: int = getattr(_libc, name)(*args)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


# ---- namespaces ------------------------------------------------------------------------------


def _clone(flags: int) -> int:
    """As fork, into new namespaces. Raw, so nothing of Python's runs in between: one thread."""
    number = _CLONE.get(os.uname().machine)
    if number is None:
        raise OSError(0, f"clone: its number on {os.uname().machine} is not known")
    zero = ctypes.c_long(0)
    return _call("syscall", ctypes.c_long(number), ctypes.c_long(flags), zero, zero, zero, zero)


def _map_ids(pid: int, user: int) -> None:
    """Our own ids, and that of services, each to itself."""
    ids = (("uid_map", os.geteuid()), ("gid_map", os.getegid()))
    if not user:
        with open(f"/proc/{pid}/setgroups", "w", encoding="ascii") as file:
            file.write("deny")
    for name, own in ids:
        lines = [f"{i} {i} 1\n" for i in dict.fromkeys((own, user or own))]
        # One write: more than one is refused.
        with open(f"/proc/{pid}/{name}", "wb", buffering=0) as raw:
            raw.write("".join(lines).encode())


def _mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    words = (w.encode() if w else None for w in (source, target, kind))
    _call("mount", *words, ctypes.c_ulong(flags), data.encode() or None)


def _bind(source: str, target: str) -> None:
    """One file, at a new name."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    _mount(source, target, "", _BIND, "")


def _set_read_only(target: str, *, read_only: bool) -> None:
    """With all below it (mount_setattr(2), Linux 5.12). OSError."""
    flags = (1, 0) if read_only else (0, 1)
    attributes = (ctypes.c_uint64 * 4)(*flags, 0, 0)
    at = (ctypes.c_long(442), ctypes.c_long(-100), target.encode(), ctypes.c_long(0x8000))
    _call("syscall", *at, attributes, ctypes.c_long(ctypes.sizeof(attributes)))


def _tmpfs(target: str, mode: str) -> None:
    _mount("tmpfs", target, "tmpfs", _NOSUID | _NODEV, f"mode={mode}")


def _hide(folder: str) -> None:
    """Nothing is to be seen there; what cannot be reached need not be hidden."""
    with contextlib.suppress(FileNotFoundError, PermissionError, NotADirectoryError):
        _mount("tmpfs", folder, "tmpfs", _NOSUID | _NODEV, "mode=755,size=1m")


def _build_view(settings: dict[str, Any]) -> None:
    """The machine's files, read-only and without what is private; a /tmp of our own, with the data
    in it, and users that services find."""
    # What is unmounted on the machine goes here, too: a volume can leave while we are at work.
    _mount("", "/", "", _REC | _SLAVE, "")
    with contextlib.suppress(OSError):  # an older kernel: what is private is hidden all the same
        _set_read_only("/", read_only=True)
    with contextlib.suppress(OSError), open(_RESOLV_CONF, "rb") as file:
        settings["files"][_RESOLV_CONF] = file.read().decode("utf-8", "surrogateescape")
    # Opened before /tmp is covered: it may lie there. So may programs.
    fd = os.open(settings["folder"], os.O_PATH | os.O_DIRECTORY)
    found = {name: os.open(path, os.O_PATH) for name, path in settings["programs"].items()}
    _tmpfs("/tmp", "1777")  # noqa: S108 - see DATA
    with contextlib.suppress(OSError):  # what a killed database leaves there goes with us
        _tmpfs("/dev/shm", "1777")  # noqa: S108
    os.mkdir(DATA)
    _mount(f"/proc/self/fd/{fd}", DATA, "", _BIND, "")
    with contextlib.suppress(OSError):
        _set_read_only(DATA, read_only=False)
    os.close(fd)
    os.mkdir(BIN)
    os.chmod(BIN, _FOLDER_MODE)
    for name, program in found.items():
        _bind(f"/proc/self/fd/{program}", f"{BIN}/{name}")
        os.close(program)
    for folder in settings["hidden"]:
        _hide(folder)
    with contextlib.suppress(OSError):
        _tmpfs("/var/tmp", "1777")  # noqa: S108
    for path, content in settings["files"].items():
        source = f"/tmp/{os.path.basename(path)}"  # noqa: S108 - see DATA
        with open(source, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(content)
        os.chmod(source, 0o644)
        target = os.path.realpath(path)
        with contextlib.suppress(OSError):  # a machine without that file
            if target.startswith(_MAYBE_HIDDEN):  # systemd-resolved's resolv.conf
                os.makedirs(os.path.dirname(target), exist_ok=True)
                os.chmod(os.path.dirname(target), _FOLDER_MODE)
                os.close(os.open(target, os.O_WRONLY | os.O_CREAT, 0o644))
            _mount(source, target, "", _BIND, "")


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8914, struct.pack("16sh22x", b"lo", 0x41))  # SIOCSIFFLAGS: UP, RUNNING


def _close(address: str) -> None:
    """A route to nowhere (rtnetlink(7)), which no wider one gets past."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    target = socket.inet_pton(family, address)
    # Table main, protocol static, scope universe, type unreachable; then RTA_DST.
    body = struct.pack("8BI", family, len(target) * 8, 0, 0, 254, 4, 0, 7, 0)
    body += struct.pack("HH", 4 + len(target), 1) + target
    # RTM_NEWROUTE; REQUEST, ACK, EXCL, CREATE.
    head = struct.pack("IHHII", 16 + len(body), 24, 0x1 | 0x4 | 0x200 | 0x400, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as netlink:
        netlink.bind((0, 0))
        netlink.send(head + body)
        answer = netlink.recv(4096)
    (error,) = struct.unpack_from("i", answer, 16)
    if error:
        raise OSError(-error, f"route to {address}: {os.strerror(-error)}")


def _has_ipv6() -> bool:
    return os.path.exists("/proc/self/net/if_inet6")


def _routed() -> bool:
    """Whether there is a default route."""
    with contextlib.suppress(OSError), open("/proc/self/net/route", "rb") as file:
        for line in file.readlines()[1:]:
            words = line.split()
            if words[1] == words[7] == b"00000000":
                return True
    with contextlib.suppress(OSError), open("/proc/self/net/ipv6_route", "rb") as file:
        for line in file:
            words = line.split()
            if words[0] == b"0" * 32 and words[1] == b"00" and words[9] != b"lo":
                return True
    return False


def _keep_capabilities() -> None:
    """What we may do in our namespaces, the program that we execute may, too: ambient(7)."""
    head = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    _call("capget", head, sets)
    sets[2], sets[5] = sets[1], sets[4]
    _call("capset", head, sets)
    for capability in range(_CAPABILITIES):
        if sets[1 + 3 * (capability // 32)] >> (capability % 32) & 1:
            _libc.prctl(_AMBIENT, _AMBIENT_RAISE, capability, 0, 0)


# ---- processes -------------------------------------------------------------------------------


def _execute(argv: list[str], env: dict[str, str], log: int, lock: int) -> NoReturn:
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.closerange(3, lock)
    os.closerange(lock + 1, _DESCRIPTORS)
    os.set_inheritable(lock, True)
    # What Python ignores: pasta takes an ignored SIGPIPE for a failure.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execve(argv[0], argv, env)  # noqa: S606 - that is what it is for


def _fork_out(argv: list[str], lock: int) -> tuple[int, int]:
    """The way out, waiting to begin; its pid and the descriptor to close when it may."""
    wait, go = os.pipe()
    pid = os.fork()
    if pid:
        os.close(wait)
        return pid, go
    try:
        os.close(go)
        os.read(wait, 1)
        _keep_capabilities()
        env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        _execute(argv, env, 2, lock)
    finally:
        os._exit(_FAILED)


class _Guard:
    """Pid 1: answers the agent, reaps what ends."""

    def __init__(self, control: socket.socket, user: int, lock: int) -> None:
        self._control = control
        self._user = user
        self._lock = lock

    def tell(self, words: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        data = json.dumps(words).encode()
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._control.sendmsg([data], extra)

    def serve(self) -> None:
        """Until the agent has no more to say."""
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._reap()
        waiting = select.poll()
        waiting.register(self._control, select.POLLIN)
        waiting.register(woken, select.POLLIN)
        while True:
            for fd, _ in waiting.poll():
                if fd == woken:
                    os.read(woken, 4096)
                    self._reap()
                    continue
                packet = self._control.recv(PACKET_BYTES)
                if not packet:
                    return
                self._answer(json.loads(packet))

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                self.tell({"ended": pid, "status": status})

    def _answer(self, request: dict[str, Any]) -> None:
        number = request["id"]
        try:
            match request["do"]:
                case "start":
                    self.tell({"id": number, "pid": self._start(request)})
                case "signal":
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(request["pid"], request["number"])
                    self.tell({"id": number})
                case "socket":
                    kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC
                    with socket.socket(request["family"], kind) as sock:
                        self.tell({"id": number}, (sock.fileno(),))
                case "routed":
                    self.tell({"id": number, "routed": _routed()})
                case other:
                    self.tell({"id": number, "error": f"cannot {other}"})
        except OSError as error:
            self.tell({"id": number, "error": str(error)})

    def _start(self, request: dict[str, Any]) -> int:
        """OSError if it cannot be executed: the child says so on a pipe that execve closes."""
        happened, say = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if not pid:
            try:
                self._become(request, say)
            finally:
                os._exit(_FAILED)
        os.close(say)
        with open(happened, "rb") as file:
            trouble = file.read().decode(errors="replace")
        if trouble:
            raise OSError(0, trouble)
        return pid

    def _become(self, request: dict[str, Any], say: int) -> None:
        try:
            os.setsid()
            if self._user:
                os.setgroups(())
                os.setresgid(self._user, self._user, self._user)
                os.setresuid(self._user, self._user, self._user)
            log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.chdir("/")
            os.umask(0o077)
            # Above what `_execute` closes, and closed by execve itself.
            os.dup2(say, _DESCRIPTORS, inheritable=False)
            say = _DESCRIPTORS
            _execute(request["argv"], request["env"], log, self._lock)
        except OSError as error:
            os.write(say, f"{error.filename or request['argv'][0]}: {error.strerror}".encode())


def _guard(settings: dict[str, Any], go: int) -> None:
    with socket.socket(fileno=settings["control"]) as control:
        guard = _Guard(control, settings["user"], settings["lock"])
        try:
            if not os.read(go, 1):
                return
            os.close(go)
            _call("prctl", _PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            os.setsid()
            _build_view(settings)
            out = 0
            begin = -1
            if settings["out"]:
                out, begin = _fork_out(settings["out"], settings["lock"])
            _call("unshare", _NEW_NET)
            _bind("/proc/self/ns/net", NETNS)
            _loopback_up()
            for address in METADATA:
                if ":" not in address or _has_ipv6():
                    _close(address)
            spaces = tuple(os.open(f"/proc/self/ns/{n}", os.O_RDONLY) for n in ("user", "net"))
        except OSError as error:
            guard.tell({"error": error.strerror or str(error)})
            return
        if begin >= 0:
            os.close(begin)
        guard.tell({"ready": True, "out": out}, spaces)
        for fd in spaces:
            os.close(fd)
        guard.serve()


def main(number: int) -> int:
    os.lseek(number, 0, os.SEEK_SET)
    with open(number, "rb") as file:
        settings = json.loads(file.read())
    _call("prctl", _PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != settings["parent"]:
        return _FAILED
    wait, go = os.pipe()
    try:
        spaces = _NEW_USER | _NEW_PID | _NEW_MOUNTS | _NEW_IPC | _NEW_UTS
        pid = _clone(spaces | signal.SIGCHLD)
        if not pid:
            try:
                os.close(go)
                _guard(settings, wait)
            except Exception as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
            finally:
                os._exit(0)
        _map_ids(pid, settings["user"])
        os.write(go, b"!")
    except OSError as error:
        with socket.socket(fileno=settings["control"]) as control:
            control.send(json.dumps({"error": error.strerror or str(error)}).encode())
        return _FAILED
    os.close(settings["control"])
    os.close(wait)
    os.close(go)
    os.waitpid(pid, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
