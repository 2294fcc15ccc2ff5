"""The process cargo starts for every rustc call: ask the daemon, relay its answer, leave.

It runs as `python -I -S` hundreds of times per build, so it imports builtin modules only (no
`socket`, `os`, `struct`, not even `__future__`; a test holds the list) and leaves through
`posix._exit`, which skips the interpreter's shutdown: the whole request costs no more than an
empty interpreter.

It never prints anything of its own, since cargo stores and replays what a wrapper prints. The
three exceptions end the call: `BURST_REQUIRE_REMOTE`, no arguments at all, no such compiler.
Whatever goes wrong otherwise, `execute` replaces this process by the compiler that cargo named.

Request, wrapper to daemon: `MAGIC`, u32 total length, then fields of u32 length and bytes:
protocol version, pid, umask (octal), cwd, argv joined by NUL, environment as in
/proc/self/environ. Answer: frames of tag (1 byte), u32 length, payload; `_obey` lists the tags.
All numbers are little endian.

Where there is a C compiler, `native/client.c` does the common case of this in a tenth of the
time. It makes the same decisions, and leaves everything unusual to this module (`_take_over`).
"""

import _socket
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

PROTOCOL = b"1"
MAGIC = b"BRS1"
OWN_NAME = b"burst-rustc"

# The daemon answers within 2 s and then at least every 5 s.
SILENCE_S = 15.0
# As long as one wrapper waited in vain lately, the others wait for a first word only that long.
HURRY_S = 2.5
# A longer frame is a damaged stream: outputs travel as files, frames hold text.
MAX_FRAME_BYTES = 1 << 28
# `sun_path` holds 108 bytes with its NUL; the name and the suffix of the temporary name need 45.
MAX_RUNTIME_DIR_BYTES = 62
# A daemon that dies at once must not cost every rustc call an interpreter start.
MAX_START_FAILURES = 3
START_PAUSE_S = 60.0

# What a daemon may know of the environment of the call that happened to start it.
DAEMON_ENVIRON = frozenset(
    b"HOME PATH LANG LC_ALL USER LOGNAME SSH_AUTH_SOCK CARGO_HOME RUSTUP_HOME".split()
)
DAEMON_ENVIRON_PREFIXES = (b"XDG_", b"BURST_")
# A shell sets these on its own; every other name it either hands on as it is or drops.
SHELL_ENVIRON = frozenset((b"PWD", b"OLDPWD", b"SHLVL", b"_"))

SIGPIPE = 13
SIGXFSZ = 25
ENOEXEC = 8
EAGAIN = 11
EXIT_INTERRUPTED = 130


class _Unavailable(Exception):
    """No answer from a daemon; the text completes "remote execution was required, but ..."."""


class _Local(Exception):
    """The daemon decided that the compiler runs here; not a failure."""


class _Refused(Exception):
    """The daemon says that this unit must fail; the argument is the text to show."""


class _Lost(_Unavailable):
    """The daemon left before its first frame: it was just ending, another one may be started."""


def from_launcher() -> "NoReturn":
    """Entry of the launcher: its arguments are those of cargo."""
    main(_arguments(1), own_environ())


def from_script() -> "NoReturn":
    """Entry of the installed `sh` script, which puts its environment before cargo's arguments."""
    shell, *argv = _arguments(1)
    main(argv, environ_before_shell(shell))


def main(argv: list[bytes], environ: dict[bytes, bytes]) -> "NoReturn":
    """Do one wrapper call. `argv` starts with the compiler; `environ` is what cargo gave."""
    try:
        _run(argv, environ)
    except KeyboardInterrupt:
        posix._exit(EXIT_INTERRUPTED)  # the closed connection tells the daemon


def _run(argv: list[bytes], environ: dict[bytes, bytes]) -> "NoReturn":
    begun = _take_over(environ)
    # RUSTC_WRAPPER and RUSTC_WORKSPACE_WRAPPER may both name us.
    while argv and _name(argv[0]) == OWN_NAME:
        argv = argv[1:]
    if not argv:
        _write(2, b"usage: RUSTC_WRAPPER=burst-rustc cargo build\n")
        posix._exit(2)
    if argv[0].startswith(b"-"):  # set as RUSTC rather than as RUSTC_WRAPPER
        argv = [b"rustc", *argv]
    if begun is not None and begun.early:
        _start_if_none(argv[0], environ)
    if _switch(environ, b"BURST_DISABLE"):
        execute(argv, environ)
    if not wants_daemon(argv):
        if is_cargos_probe(argv):
            _start_early(argv[0], environ)
        execute(argv, environ)
    try:
        _ask(argv, environ, begun)
    except _Local:
        _compile(argv, environ)
    except _Refused as problem:
        _refuse(argv, problem.args[0])
    except _Unavailable as problem:
        reason = str(problem)
    except Exception as problem:  # our failure must never become the user's
        reason = f"{type(problem).__name__}: {problem}"
    required = _switch(environ, b"BURST_REQUIRE_REMOTE")
    _count(argv, environ, reason, required=required)
    if required:
        # The words of burst_protocol.errors.RemoteRequired, which is too dear to import here.
        text = (
            f"error: remote execution was required, but {reason}\n"
            "hint: unset BURST_REQUIRE_REMOTE to compile at home instead\n"
        )
        _refuse(argv, text.encode("utf-8", "surrogateescape"))
    _compile(argv, environ)


class _Begun:
    """A call that the native client began. No connection: it was not even accepted in time."""

    def __init__(self, fields: list[bytes]) -> None:
        stream, connection, obeyed, silent = fields
        self.silent = silent == b"1"
        self.early = silent == b"2"
        self.connection: _socket.socket | None = None
        if stream:
            self.connection = _socket.socket(fileno=int(connection))
            posix.set_inheritable(int(connection), False)
            received = _read(b"/proc/self/fd/" + stream)
            posix.close(int(stream))
            for tag, payload in _frames(bytearray(received[: int(obeyed)])):
                _note(tag, payload)
            self.rest = bytearray(received[int(obeyed) :])
            self.answered = obeyed != b"0"


def _take_over(environ: dict[bytes, bytes]) -> _Begun | None:
    """Where to go on after the native client; None for the beginning.

    BURST_RESUME holds a version, the pid (exec keeps it, so what some other process inherited says
    nothing), descriptors of what the daemon sent and of the connection, how many of these bytes
    were obeyed, 1 if the daemon was silent for too long and 2 if starting one is all that is
    wanted, and the client's path.
    """
    fields = environ.pop(b"BURST_RESUME", b"").split(b":", 6)
    if len(fields) < 7 or fields[:2] != [b"1", b"%d" % posix.getpid()]:
        return None
    _own.append(fields[6])
    return _Begun(fields[2:6]) if fields[2] or fields[5] != b"0" else None


def _refuse(argv: list[bytes], text: bytes) -> "NoReturn":
    """Fail the unit with our own `error: ...` and `hint: ...` lines.

    To cargo they are one of rustc's messages: after any other text it would go on with our whole
    command line, and an editor would not see the error at all.
    """
    if b"--error-format=json" in argv:
        message = _json(text.partition(b"\n")[0].removeprefix(b"error: "))
        text = (
            b'{"$message_type":"diagnostic","message":%b,"code":null,"level":"error","spans":[],'
            b'"children":[],"rendered":%b}\n'
        ) % (message, _json(text))
    _write(2, text)
    posix._exit(1)


def _count(argv: list[bytes], environ: dict[bytes, bytes], reason: str, *, required: bool) -> None:
    """Tell `cargo burst explain` of a unit that no daemon can tell of; see `journal`."""
    import time  # noqa: PLC0415 - builtin, and only needed when something is wrong

    try:
        base = environ.get(b"XDG_STATE_HOME", b"")
        if not base.startswith(b"/"):
            base = environ[b"HOME"] + b"/.local/state"
        folder = base + b"/burst/builds"
        _make_folders(folder)
        cargo = posix.getppid()
        started = int(_read(b"/proc/%d/stat" % cargo).rpartition(b")")[2].split()[19])
        build = b"-%d-%d.jsonl" % (cargo, started)
        now_ms = time.time_ns() // 1_000_000
        name, head = b"%d%b" % (now_ms, build), b""
        for known in posix.listdir(folder):
            if known.endswith(build):
                name = known
                break
        else:
            head = b'{"build":[%d,%d],"cwd":%b,"time_s":%d}\n' % (
                *(cargo, started, _json(posix.getcwdb()), now_ms // 1000),
            )
        where = (b"failed", b"-") if required else (b"local", b"home")
        line = (
            b'{"crate":%b,"kind":%b,"where":"%b","executor":"%b","why":%b,"reason":"daemon",'
            b'"wall_ms":0,"sent_bytes":0,"received_bytes":0,"started_ms":%d,"key":""}\n'
        ) % (
            _json(_option(argv, b"--crate-name")),
            _json(b"test" if b"--test" in argv else _option(argv, b"--crate-type")),
            *where,
            _json(reason.encode("utf-8", "surrogateescape")),
            now_ms,
        )
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_CLOEXEC
        fd = posix.open(folder + b"/" + name, flags, 0o600)
        posix.write(fd, head + line)
        posix.close(fd)
    except Exception:  # noqa: S110 - not counted then; the unit matters more
        pass


def _option(argv: list[bytes], name: bytes) -> bytes:
    for index, argument in enumerate(argv[:-1]):
        if argument == name:
            return argv[index + 1]
    return b"?"


def _make_folders(path: bytes) -> None:
    """Private, with their parents; OSError if that cannot be."""
    try:
        posix.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except FileNotFoundError:
        _make_folders(path.rpartition(b"/")[0])
        posix.mkdir(path, 0o700)


def _json(text: bytes) -> bytes:
    quoted = text.decode("utf-8", "replace")
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
        quoted = quoted.replace(plain, escaped)
    return b'"%b"' % "".join([max(c, " ") for c in quoted]).encode()


def _arguments(first: int) -> list[bytes]:
    """The arguments as the bytes they came as, whatever the locale (PEP 383)."""
    encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
    return [argument.encode(encoding, errors) for argument in sys.argv[first:]]


def own_environ() -> dict[bytes, bytes]:
    """The environment we were started with.

    Not `posix.environ`: Python adds LC_CTYPE to it in the C locale (PEP 538), and rustc would
    inherit that.
    """
    try:
        entries = _read(b"/proc/self/environ").split(b"\0")
    except OSError:
        return dict(posix.environ)
    return _parse_environ(entries)


def environ_before_shell(text: bytes) -> dict[bytes, bytes]:
    r"""The environment that the installed script's `sh` was started with.

    dash drops variables whose names are not shell names (cargo's CARGO_BIN_EXE_my-tool) and
    every shell sets PWD. So the script hands over its /proc/<pid>/environ with NUL and newline
    translated to newline and \1. A \1 of a value is lost there and taken from our own
    environment, which holds what the shell did not touch.
    """
    if not text:
        return _without_the_shell(own_environ())
    environ = _parse_environ([entry.replace(b"\1", b"\n") for entry in text.split(b"\n")])
    for name, value in posix.environ.items():
        if name in environ and name not in SHELL_ENVIRON:
            environ[name] = value
    return environ


def _without_the_shell(environ: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Undo what the script's shell did, by the environment of who called it (cargo).

    The caller hands all of its own variables on, so what a shell dropped for its odd name, and
    what it set on its own, is there.
    """
    try:
        entries = _read(b"/proc/%d/environ" % posix.getppid()).split(b"\0")
    except OSError:
        return environ
    caller = _parse_environ(entries)
    for name in SHELL_ENVIRON:
        if name in caller:
            environ[name] = caller[name]
        else:
            environ.pop(name, None)
    for name, value in caller.items():
        if name not in environ and not (name.isascii() and name.decode().isidentifier()):
            environ[name] = value
    return environ


def _parse_environ(entries: list[bytes]) -> dict[bytes, bytes]:
    environ: dict[bytes, bytes] = {}
    for entry in entries:
        name, separator, value = entry.partition(b"=")
        if name and separator:
            environ.setdefault(name, value)  # getenv returns the first of two
    return environ


def wants_daemon(argv: list[bytes]) -> bool:
    """Whether this is a compile that cargo follows through artifact messages.

    Everything else is run at once and not counted: `-vV` and other questions, input from stdin,
    and the probes of build scripts, which fail by design and have no `--json=...artifacts`. Also
    what another wrapper is to run, which may call us again; but not what a compiler of another name
    is to run: the daemon sends that home, and counts it.
    """
    if not is_compiler(argv[0]) and argv[1:] and argv[1][:1] not in (b"-", b"@"):
        return False
    try:
        arguments = _expanded(argv[1:])
    except OSError:
        return False  # let rustc say what is wrong with its argument file
    artifacts = False
    previous = b""
    for argument in arguments:
        if argument in QUESTIONS or argument.startswith(b"--explain"):
            return False
        if argument.startswith(b"--print="):
            if argument[len(b"--print=") :] not in COMPILING_PRINTS:
                return False
        elif previous == b"--print" and argument not in COMPILING_PRINTS:
            return False
        if (argument.startswith(b"--json=") or previous == b"--json") and b"artifacts" in argument:
            artifacts = True
        previous = argument
    return artifacts


def is_cargos_probe(argv: list[bytes]) -> bool:
    """Whether cargo asks about a target, as it does before the first unit of a build in an empty
    target folder (`TargetInfo::new` in cargo's target_info.rs)."""
    probe = [b"-", b"--crate-name", b"___", b"--print=file-names"]
    return argv[1:5] == probe and is_compiler(argv[0])


# What rustc prints beside compiling; see `policy`.
COMPILING_PRINTS = frozenset((b"native-static-libs", b"link-args"))
QUESTIONS = frozenset((b"-", b"-V", b"-vV", b"-Vv", b"--version", b"-h", b"--help"))


def is_compiler(path: bytes) -> bool:
    """`rustc` and `clippy-driver`, also with a version as distributions add (`rustc-1.85`)."""
    name, _, version = _name(path).rpartition(b"-")
    if name in {b"rustc", b"clippy-driver"}:
        return version[:1].isdigit()
    return _name(path) in {b"rustc", b"clippy-driver"}


def _name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _expanded(arguments: list[bytes]) -> list[bytes]:
    """`arguments` with each `@file` replaced by its lines, as rustc does (one level)."""
    result: list[bytes] = []
    for argument in arguments:
        if argument.startswith(b"@"):
            result += _read(argument[1:]).splitlines()
        else:
            result.append(argument)
    return result


def _switch(environ: dict[bytes, bytes], name: bytes) -> bool:
    return environ.get(name, b"0") not in {b"", b"0"}


def _read(path: bytes) -> bytes:
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        parts = []
        while part := posix.read(fd, 1 << 18):
            parts.append(part)
        return b"".join(parts)
    finally:
        posix.close(fd)


# --- the compiler itself ---


def execute(argv: list[bytes], environ: dict[bytes, bytes]) -> "NoReturn":
    """Become the program that cargo named, with the arguments and environment cargo gave."""
    _default_signal(SIGPIPE)  # Python ignores these two, and exec would hand that on
    _default_signal(SIGXFSZ)
    program = argv[0]
    places = [program]
    if b"/" not in program:
        path = environ.get(b"PATH", b"/bin:/usr/bin")
        places = [(folder or b".") + b"/" + program for folder in path.split(b":")]
    problem: OSError = FileNotFoundError("not found on PATH")
    for place in places:
        try:
            if len(places) > 1 and _is_own_script(place):
                continue  # a `rustc` on PATH that is a link to us would call us for ever
            posix.execve(place, argv, environ)
        except OSError as error:
            if error.errno == ENOEXEC:  # a script without #!, which execvp gives to sh
                posix.execve(b"/bin/sh", [b"/bin/sh", place, *argv[1:]], environ)
            absent = isinstance(error, FileNotFoundError | NotADirectoryError)
            if len(places) == 1 or not absent:
                problem = error
    reason = problem.strerror or str(problem)
    _write(2, b"error: cannot execute `%b`: %b\n" % (program, reason.encode()))
    posix._exit(127 if isinstance(problem, FileNotFoundError) else 126)


# What was relayed for this call before it had to go on here: bytes by descriptor, renamed files.
_told: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
_named: dict[bytes, None] = {}


def _compile(argv: list[bytes], environ: dict[bytes, bytes]) -> "NoReturn":
    """Compile here, whatever was relayed before.

    A second announcement of the same metadata makes cargo panic (1.95), and a warning must not
    come twice. So then the compiler is a child, and only what it says anew is passed on. Dependents
    may be using the metadata already: it must come out the same, and keeps its time, or cargo would
    build them again.
    """
    if not _told[1] and not _told[2]:
        execute(argv, environ)
    used = {
        path: (_read(path), posix.stat(path).st_mtime_ns)
        for path in _named
        if path.endswith(b".rmeta")
    }
    child, stdout, stderr = _spawn_compiler(argv, environ)
    relaying = posix.fork()
    if not relaying:
        posix.close(stderr)
        _relay_rest(stdout, len(_told[1]))
        posix._exit(0)
    posix.close(stdout)
    _relay_new_lines(stderr)
    posix.waitpid(relaying, 0)
    status = posix.waitstatus_to_exitcode(posix.waitpid(child, 0)[1])
    if status < 0:
        _die(-status)
    if status == 0:
        for path, (content, mtime_ns) in used.items():
            if _read(path) != content:
                text = b"error: `%b` came out different from the one dependents already use\n"
                _write(2, text % path + b"hint: build again; this crate is compiled anew then\n")
                posix._exit(1)
            posix.utime(path, ns=(mtime_ns, mtime_ns))
    posix._exit(status)


def _spawn_compiler(argv: list[bytes], environ: dict[bytes, bytes]) -> tuple[int, int, int]:
    """The compiler's pid, and where its stdout and stderr can be read."""
    out_read, out_write = posix.pipe()
    err_read, err_write = posix.pipe()
    child = posix.fork()
    if not child:
        try:
            posix.dup2(out_write, 1)
            posix.dup2(err_write, 2)
            execute(argv, environ)
        finally:
            posix._exit(127)
    posix.close(out_write)
    posix.close(err_write)
    return child, out_read, err_read


def _relay_rest(fd: int, known: int) -> None:
    """Everything from `fd` to stdout but the first `known` bytes."""
    while data := posix.read(fd, 1 << 18):
        _write(1, data[known:])
        known = max(0, known - len(data))


def _relay_new_lines(fd: int) -> None:
    """Lines from `fd` to stderr, without those that were told before."""
    told: dict[bytes, int] = {}
    for line in bytes(_told[2]).split(b"\n"):
        told[line] = told.get(line, 0) + 1
    rest = b""
    while data := posix.read(fd, 1 << 18):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if told.get(line, 0):
                told[line] -= 1
            else:
                _write(2, line + b"\n")
    if not told.get(rest, 0):
        _write(2, rest)


# What leads to this module again.
_own: list[bytes] = [*_arguments(0)[:1]]


def _is_own_script(place: bytes) -> bool:
    return any(_is_same_file(place, own) for own in _own)


def _is_same_file(place: bytes, other: bytes) -> bool:
    try:
        one, two = posix.stat(place), posix.stat(other)
    except OSError:
        return False
    return (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)


def _default_signal(number: int) -> None:
    # The interpreter loads this module for itself; there are no stubs to import it by name.
    signals = sys.modules.get("_signal")
    if signals is not None:
        signals.signal(number, signals.SIG_DFL)


def _die(number: int) -> "NoReturn":
    """End by the signal that ended rustc, so that cargo reports it as it does at home."""
    try:
        _default_signal(number)
    except (OSError, ValueError):
        pass  # SIGKILL has no disposition
    posix.kill(posix.getpid(), number)
    posix._exit(128 + number)


# --- where the daemon is ---


def runtime_dir(environ: dict[bytes, bytes]) -> bytes:
    """The folder of the socket: below XDG_RUNTIME_DIR if that is ours and short, else in /tmp.

    Ownership counts because `sudo -E` keeps the variable: root must not ask the user's daemon.
    """
    base = environ.get(b"XDG_RUNTIME_DIR", b"")
    if base.startswith(b"/") and len(base) + len(b"/burst") <= MAX_RUNTIME_DIR_BYTES:
        try:
            if posix.stat(base).st_uid == posix.geteuid():
                return base + b"/burst"
        except OSError:
            pass
    return b"/tmp/burst-%d" % posix.geteuid()


def socket_name() -> bytes:
    """One daemon per mount namespace: a toolbox container shares our folders but not our libc."""
    namespace = posix.readlink(b"/proc/self/ns/mnt")  # mnt:[4026531841]
    return b"d-%b-v%b.sock" % (namespace.partition(b"[")[2].rstrip(b"]"), PROTOCOL)


def socket_path(environ: dict[bytes, bytes]) -> bytes:
    """Where the daemon of this user, mount namespace and protocol version listens."""
    return runtime_dir(environ) + b"/" + socket_name()


def check_private(folder: bytes) -> None:
    """Make the folder, or see that nobody else can have put a socket there to read our sources."""
    try:
        try:
            status = posix.lstat(folder)
        except FileNotFoundError:
            try:
                posix.mkdir(folder, 0o700)
            except FileExistsError:
                pass  # another wrapper was faster
            status = posix.lstat(folder)
    except OSError as problem:
        name = folder.decode("utf-8", "replace")
        why = posix.strerror(problem.errno or 0)
        message = f"there is no folder for its socket: {name}: {why} (see XDG_RUNTIME_DIR)"
        raise _Unavailable(message) from None
    is_directory = status.st_mode & 0o170000 == 0o040000
    if not is_directory or status.st_uid != posix.geteuid() or status.st_mode & 0o077:
        message = f"{folder.decode('utf-8', 'replace')} is not a private folder of this user"
        raise _Unavailable(message)


# --- asking it ---


def _ask(argv: list[bytes], environ: dict[bytes, bytes], begun: _Begun | None) -> "NoReturn":
    folder = runtime_dir(environ)
    check_private(folder)
    path = folder + b"/" + socket_name()
    request = _request(argv, environ)
    silence_s = float(environ.get(b"BURST_SILENCE_S") or SILENCE_S)
    mark = path + b".silent"
    first_s = _patience_s(mark, silence_s)
    if begun is not None and begun.silent:
        if begun.connection is None:
            raise BlockingIOError(EAGAIN, posix.strerror(EAGAIN))
        raise _silent(mark, silence_s)
    connection = begun.connection if begun is not None else _connect(path, silence_s)
    if connection is not None:
        try:
            _relay(connection, request, silence_s, first_s, mark, begun=begun)
        except _Lost:
            connection.close()
    # A daemon asks it about itself while it loads; not a program that may do anything then.
    rustc = argv[0] if is_compiler(argv[0]) else b""
    connection = _connect_or_start(path, rustc, environ, silence_s)
    try:
        _relay(connection, request, silence_s, silence_s, mark, starts=path + b".lock")
    except _Lost as problem:
        raise _Unavailable(_why_not_started(path) or str(problem)) from None


def _patience_s(mark: bytes, silence_s: float) -> float:
    """How long to wait for the first word: less if another wrapper waited in vain a moment ago."""
    try:
        since_s = posix.stat(mark).st_mtime
    except OSError:
        return silence_s
    import time  # noqa: PLC0415 - builtin, and only needed when something is wrong

    return min(silence_s, HURRY_S) if time.time() - since_s < START_PAUSE_S else silence_s


def _why_not_started(path: bytes) -> str:
    """What a daemon that could not start left behind to say; empty if it did not."""
    try:
        why = _read(path + b".error").decode("utf-8", "replace")
    except OSError:
        return ""
    return f"the daemon does not start: {why}"


def _request(argv: list[bytes], environ: dict[bytes, bytes]) -> bytes:
    umask = posix.umask(0o077)
    posix.umask(umask)
    fields = (
        PROTOCOL,
        b"%d" % posix.getpid(),
        b"%o" % umask,
        posix.getcwdb(),
        b"\0".join(argv),
        b"".join([b"%b=%b\0" % item for item in environ.items()]),
    )
    body = b"".join([len(field).to_bytes(4, "little") + field for field in fields])
    return MAGIC + len(body).to_bytes(4, "little") + body


def _connect(path: bytes, silence_s: float) -> "_socket.socket | None":
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    # Wait if many are in line before us, which non-blocking sockets (`settimeout`) do not. The
    # value is a `struct timeval`: two longs.
    size = 8 if sys.maxsize > 1 << 32 else 4
    timeout = (int(silence_s) or 1).to_bytes(size, sys.byteorder) + bytes(size)
    connection.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, timeout)
    try:
        connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    return connection


def _relay(
    connection: "_socket.socket",
    request: bytes,
    silence_s: float,
    first_s: float,
    mark: bytes,
    *,
    starts: bytes = b"",
    begun: _Begun | None = None,
) -> "NoReturn":
    """Send the request and do what the answer says.

    `first_s` is the patience for the first word; `mark` tells others that the daemon was silent;
    `starts` is the count of starts to clear, if any; `begun` is what happened before.
    """
    connection.settimeout(first_s)
    received = bytearray()
    answered = False
    if begun is not None:
        request, received, answered = b"", begun.rest, begun.answered
    while True:
        for tag, payload in _frames(received):
            if not answered:
                answered = True
                connection.settimeout(silence_s)
                if first_s < silence_s:
                    _forget(mark)
                if starts:
                    posix.truncate(starts, 0)
            _obey(tag, payload)
        try:
            if request:
                connection.sendall(request)
                request = b""
            data = connection.recv(1 << 18)
        except TimeoutError:
            raise _silent(mark, silence_s if answered else first_s) from None
        except (ConnectionResetError, BrokenPipeError):
            data = b""
        if not data:
            kind = _Unavailable if answered else _Lost
            message = "the daemon closed the connection"
            raise kind(message)
        received += data


def _frames(received: bytearray) -> "Iterator[tuple[bytes, bytes]]":
    """Take the whole frames out of `received`: tag and payload of each."""
    while len(received) >= 5:
        end = 5 + int.from_bytes(received[1:5], "little")
        if end > MAX_FRAME_BYTES:
            message = "the daemon sent a damaged frame"
            raise _Unavailable(message)
        if len(received) < end:
            return
        tag, payload = bytes(received[:1]), bytes(received[5:end])
        del received[:end]
        yield tag, payload


def _silent(mark: bytes, patience_s: float) -> _Unavailable:
    """The failure of a daemon that says nothing; the mark tells other wrappers of it."""
    posix.close(posix.open(mark, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC, 0o600))
    return _Unavailable(f"the daemon was silent for {patience_s:g} s")


def _forget(mark: bytes) -> None:
    try:
        posix.unlink(mark)
    except FileNotFoundError:
        pass  # another wrapper was faster


def _note(tag: bytes, payload: bytes) -> None:
    """Remember what a frame shows or renames."""
    if tag == b"E":
        _told[2].extend(payload)
    elif tag == b"O":
        _told[1].extend(payload)
    elif tag == b"R":
        names = payload.removesuffix(b"\0").split(b"\0")
        _named.update(dict.fromkeys(names[1::2]))


def _obey(tag: bytes, payload: bytes) -> None:
    """Do what one frame says. Returns if more frames are to come."""
    if tag == b"E":
        _note(tag, payload)
        _write(2, payload)
    elif tag == b"O":
        _note(tag, payload)
        _write(1, payload)
    elif tag == b"R":
        # The daemon writes under temporary names; only we rename. A wrapper that cargo killed
        # then never changes an output, however late the daemon notices.
        names = payload.removesuffix(b"\0").split(b"\0")
        if len(names) % 2:
            message = "the daemon sent a rename without its target"
            raise _Unavailable(message)
        for index in range(0, len(names), 2):
            posix.rename(names[index], names[index + 1])
            _named[names[index + 1]] = None
    elif tag == b"X":
        status = int.from_bytes(payload, "little", signed=True)
        if status < 0:
            _die(-status)
        posix._exit(status & 0xFF)
    elif tag == b"L":
        raise _Local
    elif tag == b"J":
        _take_token(payload)
        raise _Local
    elif tag == b"F":
        raise _Refused(payload)
    elif tag == b"A":
        posix._exit(EXIT_INTERRUPTED)
    elif tag != b"H":
        message = f"the daemon sent an unknown frame {tag!r}"
        raise _Unavailable(message)


def _take_token(jobserver: bytes) -> None:
    """Take back from cargo's jobserver the token that the daemon gave away for this call.

    Cargo itself returns it when this process ends. A jobserver that is gone costs nothing but
    one compile more at a time.
    """
    try:
        if jobserver.isdigit():
            fd = int(jobserver)
        else:  # O_RDWR: opening a fifo for reading alone waits for a writer
            fd = posix.open(jobserver, posix.O_RDWR | posix.O_CLOEXEC)
        while True:
            try:
                posix.read(fd, 1)
            except BlockingIOError:
                _pause()
            else:
                return
    except OSError:
        return


def _write(fd: int, data: bytes) -> None:
    try:
        write_all(fd, data)
    except BrokenPipeError:
        _die(SIGPIPE)  # cargo is gone; rustc would die the same way


def write_all(fd: int, data: bytes) -> None:
    """OSError if that cannot be."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[posix.write(fd, rest) :]
        except BlockingIOError:  # somebody else made the shared terminal or pipe non-blocking
            _pause()


def _pause() -> None:
    """Sleep for 10 ms, with the modules we have."""
    ours, theirs = _socket.socketpair()
    ours.settimeout(0.01)
    try:
        ours.recv(1)
    except TimeoutError:
        pass
    ours.close()
    theirs.close()


# --- starting it ---


def connect_or_start(environ: dict[bytes, bytes]) -> "_socket.socket":
    """For who is no wrapper (`session_client`): a connection to this user's daemon.

    An exception whose text completes "the daemon is not available: ...".
    """
    folder = runtime_dir(environ)
    check_private(folder)
    path = folder + b"/" + socket_name()
    connection = _connect(path, SILENCE_S)
    if connection is None:
        connection = _connect_or_start(path, b"", environ, SILENCE_S)
    return connection


def answered(environ: dict[bytes, bytes]) -> None:
    """For who called `connect_or_start`, once answered: that daemon did not fail to start."""
    try:
        posix.truncate(socket_path(environ) + b".lock", 0)
    except OSError:
        pass  # nobody has ever started one


def _connect_or_start(
    path: bytes, rustc: bytes, environ: dict[bytes, bytes], silence_s: float
) -> "_socket.socket":
    """Of all wrappers that find no daemon, the first to get the lock starts one."""
    lock = posix.open(path + b".lock", posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC, 0o600)
    try:
        posix.lockf(lock, posix.F_LOCK, 0)
        connection = _connect(path, silence_s)
        if connection is None:
            _count_start(lock, path)
            _start(path, rustc, environ)
            connection = _connect(path, silence_s)
        if connection is None:
            message = "the daemon's socket does not answer"
            raise _Unavailable(message)
        return connection
    finally:
        posix.close(lock)


def _start_early(rustc: bytes, environ: dict[bytes, bytes]) -> None:
    """Have a daemon started while cargo is still asking questions: a core is idle then.

    Costs this call two forks, and nothing if there is a socket. Whatever goes wrong meets the first
    unit again, which can tell of it.
    """
    try:
        posix.stat(socket_path(environ))
    except FileNotFoundError:
        pass
    except OSError:
        return
    else:
        return
    try:
        child = posix.fork()
    except OSError:
        return
    if child:
        posix.waitpid(child, 0)  # the compiler must not find a child it never started
        return
    try:
        if posix.fork():
            posix._exit(0)
        # Cargo waits for the end of these pipes.
        null = posix.open("/dev/null", posix.O_RDWR)
        for fd in (0, 1, 2):
            posix.dup2(null, fd)
        _start_if_none(rustc, environ)
    finally:
        posix._exit(0)


def _start_if_none(rustc: bytes, environ: dict[bytes, bytes]) -> "NoReturn":
    """In a process of its own. Not counted: the lock's count is for those who wait for an answer,
    and only they clear it. But not after a failure: then there is something to be told."""
    try:
        posix.setsid()
        folder = runtime_dir(environ)
        check_private(folder)
        path = folder + b"/" + socket_name()
        lock = posix.open(path + b".lock", posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC, 0o600)
        posix.lockf(lock, posix.F_LOCK, 0)
        if not posix.pread(lock, 1, 0):
            connection = _connect(path, SILENCE_S)
            if connection is None:
                _start(path, rustc, environ)
    finally:
        posix._exit(0)


def _count_start(lock: int, path: bytes) -> None:
    """Give up for a while after daemons that ended without a first answer.

    The lock file holds their number and the time of the last start (seconds since boot).
    """
    now_s = posix.times().elapsed
    try:
        failures, _, last_s = posix.pread(lock, 64, 0).partition(b" ")
        count, idle_s = int(failures), now_s - float(last_s)
    except ValueError:
        count, idle_s = 0, START_PAUSE_S
    if not 0 <= idle_s < START_PAUSE_S:
        count = 0
    if count >= MAX_START_FAILURES:
        message = "the daemon does not start"
        raise _Unavailable(_why_not_started(path) or message)
    posix.ftruncate(lock, 0)
    posix.pwrite(lock, b"%d %.2f" % (count + 1, now_s), 0)


def _start(path: bytes, rustc: bytes, environ: dict[bytes, bytes]) -> None:
    """Listen, then start the daemon on that socket: whoever connects meanwhile waits in line."""
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    temporary = b"%b.%d" % (path, posix.getpid())
    try:
        listener.bind(temporary)
        listener.listen(4096)
        posix.rename(temporary, path)
        _spawn(listener.fileno(), rustc, _daemon_environ(environ))
    finally:
        listener.close()


def _daemon_environ(environ: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {
        name: value
        for name, value in environ.items()
        if name in DAEMON_ENVIRON or name.startswith(DAEMON_ENVIRON_PREFIXES)
    }


def _spawn(listener: int, rustc: bytes, environ: dict[bytes, bytes]) -> None:
    """Start the daemon with nothing of ours but its socket, as descriptor 3.

    A daemon that kept our stderr would keep cargo waiting for the end of that pipe. Forked twice:
    this process may become rustc, which must not find a child it never started.
    """
    if listener < 3:
        message = "standard input, output and error must be open"
        raise _Unavailable(message)
    child = posix.fork()
    if child:
        posix.waitpid(child, 0)
        return
    try:
        posix.setsid()
        if posix.fork():
            posix._exit(0)
        posix.chdir("/")
        posix.umask(0o077)
        null = posix.open("/dev/null", posix.O_RDWR)
        for fd in (0, 1, 2):
            posix.dup2(null, fd)
        if listener == 3:
            posix.set_inheritable(3, True)
        else:
            posix.dup2(listener, 3)
        for name in posix.listdir("/proc/self/fd"):
            if int(name) > 3:
                try:
                    posix.close(int(name))
                except OSError:
                    pass  # the listing's own descriptor
        _default_signal(SIGPIPE)
        _default_signal(SIGXFSZ)
        # With `site` (no -S), so that a virtual environment finds its packages; -P keeps `/`
        # off the module path. -c, as -m would first import what looks for modules (7 ms).
        code = "from burst_wrapper.daemon.main import start; start()"
        command: list[str | bytes] = [sys.executable, "-P", "-c", code]
        posix.execve(sys.executable, [*command, "--fd", "3", "--rustc", rustc], environ)
    finally:
        posix._exit(127)
