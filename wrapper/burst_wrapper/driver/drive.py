"""`cargo burst --driver remote VERB`: cargo itself runs on another machine, in the mirror.

At the same absolute paths as here, so its words are what they would be here. What it builds lies in
a folder which that machine keeps; what a person wants of it comes back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import attrs

from burst_lifecycle.folders import within
from burst_lifecycle.places import Places
from burst_lifecycle.settings import Settings, load
from burst_protocol.errors import BurstError
from burst_wrapper import paths
from burst_wrapper.driver import (
    artifacts,
    cleaning,
    command,
    foreign,
    manifests,
    surroundings,
    toolchains,
)
from burst_wrapper.driver.cleaning import CACHE_TAG
from burst_wrapper.driver.command import Command, Fetch
from burst_wrapper.driver.errors import CannotRunHere, NotElsewhere, WhichProgram
from burst_wrapper.driver.kept_names import pattern
from burst_wrapper.driver.manifests import NoManifest, Workspace
from burst_wrapper.driver.missing import named_folders
from burst_wrapper.driver.there import SYSTEM_PATH, There
from burst_wrapper.session_client import KeptRequest, SessionRequest, open_session
from burst_wrapper.verbs import child, kinds
from burst_wrapper.verbs.cargo_settings import CargoSettings
from burst_wrapper.verbs.child import Ended
from burst_wrapper.verbs.command_line import CommandLine
from burst_wrapper.verbs.environment import forwarded
from burst_wrapper.verbs.summary import Voice, size

_WITHOUT_PROJECT: Final = frozenset({"", "install", "search", "help", "version", "info", "login"})
_HERE_ONLY: Final = {
    "new": "it makes a folder here",
    "init": "it makes a folder here",
    "uninstall": "what it removes is here",
    "login": "tokens stay here",
    "logout": "tokens stay here",
}
_WRITES_SOURCES: Final = frozenset(
    {"add", "remove", "rm", "update", "fix", "fmt", "vendor", "generate-lockfile"}
)
"""All that they write comes back."""
_REPORTS: Final = ("/criterion/**", "/nextest/*/junit.xml")
_INSTALL: Final = "burst-install"
_FAILED: Final = 101


@attrs.define
class Drive:
    """One command line."""

    line: CommandLine
    command: Command
    voice: Voice
    environ: dict[bytes, bytes] = attrs.field(repr=False)
    cwd: bytes
    workspace: Workspace | None
    root: bytes
    target_dir: bytes
    settings: Settings
    here: tuple[str, ...] | None = None
    """Arguments of a program that is to be run here; None: none is."""
    programs: tuple[bytes, ...] = ()
    """What cargo there has built that could be meant."""
    more: tuple[bytes, ...] = ()
    """Folders that cargo there has named besides."""

    @property
    def roots(self) -> tuple[bytes, ...]:
        found = () if self.workspace is None else self.workspace.roots
        return tuple(dict.fromkeys(path for path in (*found, *self.more) if path != self.root))


def run(line: CommandLine) -> int:
    """The exit code; -N to die of signal N. BurstError."""
    drive = _prepare(line)
    code, more = _round(drive)
    while more:  # each round brings folders that were not there before
        drive.more += more
        shown = ", ".join(os.fsdecode(path) for path in more)
        drive.voice.note(f"cargo there needs {shown}, too: once more with it")
        code, more = _round(drive)
    return code if code or drive.here is None else _run_here(drive, drive.here)


def _run_here(drive: Drive, arguments: Sequence[str]) -> int:
    """`run-local`: what was built there, on this machine. WhichProgram, CannotRunHere."""
    if len(drive.programs) != 1:
        names = ", ".join(os.fsdecode(os.path.basename(path)) for path in drive.programs)
        raise WhichProgram(f"available: {names}" if names else "there is none")
    (program,) = drive.programs
    reason = foreign.why_not(program)
    if reason is not None:
        raise CannotRunHere(reason, path=os.fsdecode(program))
    shown = os.path.relpath(os.fsdecode(program), os.fsdecode(drive.cwd))
    drive.voice.status("Running", "`" + " ".join((shown, *arguments)) + "`")
    ended = child.run([program, *map(os.fsencode, arguments)], drive.environ)
    return -ended.signal_number or ended.code


def _as_build(line: CommandLine) -> tuple[CommandLine, tuple[str, ...]]:
    """The build that `run-local` begins with, and its program's arguments."""
    words = [value or "" for name, value in line.options() if not name]
    own = line.own_words()
    own = own[: len(own) - len(words)]
    if not line.given("--bin", "--example"):
        own.append("--bins")
    build = attrs.evolve(line, verb="build", arguments=tuple(own), behind=None)
    return build, (*words, *(line.behind or ()))


def _prepare(line: CommandLine) -> Drive:
    environ, cwd = dict(os.environb), os.getcwdb()
    if line.verb in _HERE_ONLY:
        raise NotElsewhere(_HERE_ONLY[line.verb], verb=line.verb)
    here = None
    if line.verb == "run-local":
        if line.own.no_fetch:
            raise NotElsewhere("with --no-fetch its program is not here", verb="run-local")
        line, here = _as_build(line)
    line = attrs.evolve(line, verb=kinds.cargos_verb(line))
    words = [line.toolchain] if line.toolchain else []
    asked = command.plan([*words, *line.before, *(line.words if line.verb else line.arguments)])
    workspace: Workspace | None = None
    try:
        named = asked.manifest_path
        workspace = manifests.read(cwd, None if named is None else os.fsencode(named))
        root = workspace.root
    except NoManifest:
        if line.verb not in _WITHOUT_PROJECT and not line.wants_help:
            raise
        root = cwd = nowhere(environ)
        os.chdir(root)
    return Drive(
        line=line,
        command=asked,
        voice=Voice(
            environ, color=(line.values("--color") or [""])[-1], quiet=kinds.is_quiet(line)
        ),
        environ=environ,
        cwd=cwd,
        workspace=workspace,
        root=root,
        target_dir=_target_dir(line, cwd, root, environ),
        settings=load(Places.of(environ), None if workspace is None else os.fsdecode(root)),
        here=here,
    )


def nowhere(environ: dict[bytes, bytes]) -> bytes:
    """An empty folder, for what needs no project: it is mirrored."""
    folder = os.path.join(paths.cache_dir(environ), b"driver", b"nowhere")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return folder


def _target_dir(line: CommandLine, cwd: bytes, root: bytes, environ: dict[bytes, bytes]) -> bytes:
    """As cargo finds it: option, environment, configuration."""
    given = [os.fsencode(value) for value in line.values("--target-dir")]
    given += [value for value in (environ.get(b"CARGO_TARGET_DIR"),) if value]
    configured = CargoSettings.read(cwd, environ, line.values("--config")).target_dir(cwd)
    if not given and configured is not None:
        given = [configured]
    found = os.path.join(cwd, given[-1 if line.values("--target-dir") else 0]) if given else b""
    return os.path.normpath(found or os.path.join(root, b"target"))


def _request(drive: Drive) -> SessionRequest:
    own, settings = drive.line.own, drive.settings
    fetch = ("**",) if drive.line.verb in _WRITES_SOURCES or drive.line.given("--fix") else ()
    executes = drive.line.verb in kinds.EXECUTES
    return SessionRequest(
        verb=drive.line.verb or "cargo",
        cwd=drive.cwd,
        workspace_root=drive.root,
        target_dir=drive.target_dir,
        roots=drive.roots,
        host=own.host,
        keep_alive_s=own.keep_alive_s,
        reap=not own.no_reap,
        fetch=(*own.fetch, *fetch),
        no_fetch=own.no_fetch and not fetch,
        forwards=own.forwards if executes else (),
        services=settings.services if executes else (),
        alone=drive.line.verb == "bench",
        detach=own.detach,
        yes=own.yes,
        environ=tuple(drive.environ.items()),
        drives=True,
        files=() if drive.workspace is None else drive.workspace.files,
    )


def _round(drive: Drive) -> tuple[int, tuple[bytes, ...]]:
    """One session. Exit code, and folders without which cargo there cannot go on."""
    voice = drive.voice
    with open_session(_request(drive), voice.progress) as session:
        for note in session.info.notes:
            voice.note(note)
        there = There(session, drive.environ, voice)
        files = manifests.toolchain_files(drive.cwd)
        asked = toolchains.wanted(drive.command.toolchain, drive.environ, files)
        toolchain = there.toolchain(asked)
        variables = _variables(drive, there, toolchain)
        program = os.fsencode(f"{toolchain}/bin/cargo")
        with _agent(drive, there, variables):
            ended, found = _cargo(drive, there, program, variables)
        more: tuple[bytes, ...] = ()
        if ended.good:
            _fetch(drive, there, found)
        elif ended.code == _FAILED and drive.workspace is not None:
            more = _missing(drive, there, program, variables)
        if not more:
            _close(drive, there)
        return -ended.signal_number or ended.code, more


def _variables(drive: Drive, there: There, toolchain: str) -> dict[bytes, bytes]:
    settings = drive.settings
    names = (*settings.forward_env, *settings.driver_tokens)
    given = forwarded(names, drive.line.own.env, drive.environ)
    for warning in given.warnings:
        drive.voice.warning(warning)
    return surroundings.of_cargo(
        environ=drive.environ,
        named=given.variables,
        machine=there.machine,
        toolchain=toolchain,
        store_root=there.store_root,
        target_dir=drive.target_dir,
        session=there.session.info.id,
    )


@contextlib.contextmanager
def _agent(drive: Drive, there: There, variables: dict[bytes, bytes]) -> Iterator[None]:
    """Lends the user's ssh agent, if they want that and have one."""
    auth_sock = drive.environ.get(b"SSH_AUTH_SOCK")
    if not drive.settings.driver_ssh_agent or not auth_sock:
        yield
        return
    from burst_wrapper.driver.ssh_agent import lent  # noqa: PLC0415 - for who asks for it

    path = f"/tmp/agent-{there.session.info.id}.sock".encode()  # noqa: S108 - the project's own
    with lent(auth_sock, path, there.for_runner({b"PATH": SYSTEM_PATH}), there.name):
        variables[b"SSH_AUTH_SOCK"] = path
        yield


def _cargo(
    drive: Drive, there: There, program: bytes, variables: dict[bytes, bytes]
) -> tuple[Ended, tuple[bytes, ...]]:
    """How it ended, and what it has made that is wanted."""
    if drive.line.verb == "clean" and not drive.line.given(*cleaning.PARTS):
        return cleaning.clean(there, drive.target_dir, drive.voice), ()
    asked, own = drive.command, drive.line.own
    fetches = not own.no_fetch
    argv = [program, *(os.fsencode(word) for word in _words(drive, fetches=fetches))]
    if asked.fetch is Fetch.MESSAGES and fetches:
        found = artifacts.Artifacts()
        sieve = artifacts.Sieve(found, _write_out, ours=asked.ours)
        ended = there.start(argv, variables, sieve.feed, online=True)
        sieve.close()
        drive.programs = tuple(found.executables)
        return ended, found.paths
    executes = drive.line.verb in kinds.EXECUTES
    if executes:
        _bring_packages(drive, there, program, variables)
    ended = there.start(argv, variables, online=not executes)
    if asked.fetch is Fetch.ASK_AGAIN and fetches and ended.good:
        again = [program, *(os.fsencode(word) for word in asked.again)]
        return ended, artifacts.of_output(there.ask(again, variables)).paths
    return ended, ()


def _bring_packages(
    drive: Drive, there: There, program: bytes, variables: dict[bytes, bytes]
) -> None:
    """Programs run in their project's own network, which may lead nowhere: packages come first.
    What goes wrong is told by the command itself."""
    lock = os.path.join(drive.root, b"Cargo.lock")
    try:
        with open(lock, "rb") as file:
            if b"\nsource = " not in file.read():
                return
    except OSError:
        pass
    line = drive.line
    argv = [program, *map(os.fsencode, line.before), b"fetch", b"--quiet"]
    for name in ("--manifest-path", "--config"):
        argv += [os.fsencode(f"{name}={value}") for value in line.values(name)[-1:]]
    argv += [
        os.fsencode(name) for name in ("--locked", "--offline", "--frozen") if line.given(name)
    ]
    there.complaint(argv, variables, patience_s=None)


def _words(drive: Drive, *, fetches: bool) -> Sequence[str]:
    """Cargo's, without messages that nobody would read, and with a place to install to."""
    asked, line = drive.command, drive.line
    if asked.fetch is Fetch.INSTALLED:
        root = os.path.join(os.fsdecode(drive.target_dir), _INSTALL)
        tail = () if line.behind is None else ("--", *line.behind)
        return (*line.before, "install", "--root", root, *line.own_words({"--root"}), *tail)
    if asked.ours and not fetches:
        return (*line.before, *line.words)
    return asked.arguments


def _write_out(data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(1, view) :]
        except BrokenPipeError:
            return


def _fetch(drive: Drive, there: There, found: Iterable[bytes]) -> None:
    """What a person wants of the target directory."""
    own, asked = drive.line.own, drive.command
    if own.no_fetch:
        return
    request = KeptRequest(tuple(_patterns(drive, found)), drive.target_dir)
    if asked.fetch is Fetch.INSTALLED:
        into = os.path.join(_install_root(drive), b"bin")
        top = f"/{_INSTALL}/bin"
        request = KeptRequest((f"{top}/*",), into, os.fsencode(top))
    if not request.patterns:
        return
    came = there.session.fetch_kept(request)
    written = [path for path in came if os.path.basename(path) != CACHE_TAG.encode()]
    where = os.path.dirname(request.into)
    if written:
        total = sum(os.path.getsize(path) for path in written)
        drive.voice.files("Fetched", written[:1] if len(written) > 20 else written, where)
        if len(written) > 20:
            drive.voice.status("Fetched", f"and {len(written) - 1} more files, {size(total)}")
    for path in written:
        if os.access(path, os.X_OK):
            reason = foreign.why_not(path)
            if reason is not None:
                drive.voice.warning(f"{os.fsdecode(path)} cannot run here: {reason}")


def _patterns(drive: Drive, found: Iterable[bytes]) -> list[str]:
    asked, own = drive.command, drive.line.own
    if own.fetch_all:
        kept = [f"/{profile}/**" for profile in asked.profiles]
        return [*kept, *(f"!/{profile}/incremental/**" for profile in asked.profiles)]
    patterns = [pattern(path) for path in artifacts.below(found, drive.target_dir)]
    if patterns:
        patterns.append(f"/{CACHE_TAG}")  # as in every target directory: no back-ups of it
    if asked.fetch is Fetch.DOCUMENTS:
        triples = drive.line.values("--target")
        patterns += [f"/{triple}/doc/**" for triple in triples] or ["/doc/**"]
    if drive.line.verb in kinds.EXECUTES:
        patterns += _REPORTS
    return patterns


def _install_root(drive: Drive) -> bytes:
    given = drive.line.values("--root")
    root = os.fsencode(given[-1]) if given else drive.environ.get(b"CARGO_INSTALL_ROOT", b"")
    return os.path.join(drive.cwd, root) if root else paths.cargo_home(drive.environ)


def _missing(
    drive: Drive, there: There, program: bytes, variables: dict[bytes, bytes]
) -> tuple[bytes, ...]:
    """Folders of this machine that cargo there looked for in vain."""
    named = drive.command.manifest_path
    argv = [program, b"metadata", b"--format-version", b"1"]
    argv += [b"--manifest-path", os.fsencode(named)] if named else []
    argv += [os.fsencode(f"--config={value}") for value in drive.line.values("--config")]
    said = there.complaint(argv, variables)
    known = (drive.root, *drive.roots)
    return tuple(
        folder for folder in named_folders(said) if not any(within(folder, root) for root in known)
    )


def _close(drive: Drive, there: There) -> None:
    voice = drive.voice
    try:
        summary = there.session.close(voice.progress)
    except KeyboardInterrupt:
        voice.warning("interrupted: what cargo wrote may not have come back")
        return
    except BurstError as error:
        voice.warning(str(error))
        if error.hint:
            voice.hint(error.hint)
        return
    voice.files("Fetched", summary.fetched, drive.root)
    for path in summary.conflicts:
        voice.warning(f"{os.fsdecode(path)} was changed here meanwhile: left as it is")
    for note in summary.notes:
        voice.note(note)
    moved = summary.progress
    parts = [f"cargo ran on {there.name}"]
    parts.append(f"{size(moved.bytes_up)} sent, {size(moved.bytes_down)} received")
    if summary.cost_eur:
        parts.append(f"€{summary.cost_eur}")
    voice.status("Burst", "; ".join(parts))
