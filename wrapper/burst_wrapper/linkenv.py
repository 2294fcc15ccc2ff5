"""What one link uses of the system: driver, linker, start files, libraries.

rustc is asked for its own command line (`--print link-args`), and that command is run again with
options that make the driver and the linker tell every program and file they use. Works the same
for gcc and clang as drivers, and for ld.bfd, gold, lld (rust-lld, too) and mold as linkers:

* `-v` prints the programs a driver starts, `-print-search-dirs` where it looks;
* `-Wl,--dependency-file=F` (binutils 2.35, lld 12, mold 1.0; gold has it too) lists every file
  that the linker read.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Final, Literal

import attrs

from burst_protocol.elf import is_elf
from burst_protocol.errors import PlatformProblem
from burst_wrapper.processes import find_program, run_program

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from burst_wrapper.processes import Completed, Run
    from burst_wrapper.toolchain import Toolchain

DECIDING_VARIABLES: Final = (
    b"PATH",
    b"LIBRARY_PATH",
    b"COMPILER_PATH",
    b"GCC_EXEC_PREFIX",
    b"LD_RUN_PATH",
    b"RUSTC_BOOTSTRAP",
)
"""Environment that changes which tools and libraries a link uses. Not LD_LIBRARY_PATH: cargo's
names folders of every project, and it only counts for what is not found without it."""

_CODEGEN_PREFIXES: Final = (
    b"linker=",
    b"linker-flavor=",
    b"link-self-contained=",
    b"linker-features=",
    b"linker-plugin-lto",
    b"relocation-model=",
    b"default-linker-libraries",
)
_ARGUMENT_PREFIXES: Final = (
    b"-fuse-ld=",
    b"--ld-path=",
    b"-B",
    b"--sysroot",
    b"-specs=",
    b"--specs=",
    b"-target",
    b"--target=",
    b"-m",
    b"-static",
    b"-shared-lib",
    b"-no-pie",
    b"-nostartfiles",
    b"-nostdlib",
    b"--gcc-",
    b"--rtlib=",
    b"-rtlib=",
    b"--unwindlib=",
    b"-stdlib=",
    b"-pthread",
    b"-flto",
    b"-fno-lto",
    b"-fsanitize",
    b"--coverage",
    b"-pg",
)
"""Driver arguments that choose tools or start files; others only say what is linked."""
_ARGUMENTS_WITH_VALUE: Final = (b"-B", b"--sysroot", b"-target")
_ARGUMENTS_WITH_PATH: Final = (b"--sysroot=", b"-specs=", b"--specs=", b"--ld-path=")

_WRAPPERS: Final = frozenset(
    (b"ccache", b"sccache", b"distcc", b"icecc", b"buildcache", b"colorgcc", b"firebuild")
)
_START_FILES: Final = tuple(
    name + b".o"
    for name in b"crt1 Scrt1 rcrt1 crti crtn crtbegin crtbeginS crtbeginT crtend crtendS".split()
)
_LIBRARIES: Final = (b"gcc", b"gcc_s", b"gcc_eh", b"util", b"rt", b"pthread", b"m", b"dl", b"c")
"""What the standard libraries of Linux targets ask for, in any of their link modes."""
_BIG_ARCHIVES: Final = frozenset((b"c", b"m", b"stdc++"))
"""Their `.a` is left out unless linking is static: 12 MB that a dynamic link never reads."""
_PLAIN_WORD: Final = re.compile(rb"""(?:[^\s"'\\]|"[^"\\]*")+""")
_PLAIN_WORDS: Final = re.compile(rb"\s*(?:%b(?:\s+|\Z))*" % _PLAIN_WORD.pattern)
"""Words in double quotes or none, without anything that a shell reads in another way."""
_DRIVERS: Final = (b"cc", b"gcc", b"clang")
_LINKERS: Final = (b"ld", b"ld.bfd", b"ld.lld", b"ld.gold", b"ld.mold", b"collect-ld", b"real-ld")
_SYSTEM_FILES_OF_CLANG: Final = (
    b"/etc/os-release",
    b"/etc/lsb-release",
    b"/etc/redhat-release",
    b"/etc/debian_version",
    b"/etc/SuSE-release",
    b"/etc/gentoo-release",
)
"""clang asks which distribution it is on and chooses linker options by it (`Distro.cpp`)."""


_NO_STD: Final = (
    b"#![no_std] #![no_main] #[panic_handler] "
    b"fn panic(_: &core::panic::PanicInfo) -> ! { loop {} } "
)
_SOURCES: Final = (
    b'fn main() { println!("{}", std::f64::consts::PI.sin()); }\n',
    _NO_STD + b'#[no_mangle] pub extern "C" fn main() -> i32 { 0 }\n',
)
"""Small programs; the second for targets without std. What else a shared library's link uses is
among the standard files: with gcc and clang, and ld.bfd, gold, lld and mold behind them, a probe of
a cdylib as well found nothing more, and took 0.15 s of CPU."""


@attrs.frozen
class LinkRequest:
    """The part of a rustc call that chooses link tools; equal requests use equal environments."""

    linker: bytes | None = None
    """`-C linker`, if given."""
    rustc_args: tuple[bytes, ...] = ()
    """`--target`, `-C …` and `-Z …` options, to be given to a probing rustc; no link-arg."""
    link_args: tuple[bytes, ...] = ()
    """Those values of `-C link-arg(s)` that choose tools."""

    @property
    def static(self) -> bool:
        return any(b"+crt-static" in arg for arg in self.rustc_args) or any(
            arg.startswith(b"-static") for arg in self.link_args
        )

    @property
    def relative(self) -> bool:
        """The same request means something else in another working directory."""
        paths = [self.linker] if self.linker is not None and b"/" in self.linker else []
        paths += [arg for arg in self.rustc_args if arg.endswith(b".json")]
        words = iter(self.link_args)
        for word in words:
            if word in _ARGUMENTS_WITH_VALUE:
                paths.append(next(words, b""))
            elif word.startswith(b"-B"):
                paths.append(word[2:])
            elif word.startswith(_ARGUMENTS_WITH_PATH):
                paths.append(word.partition(b"=")[2])
        return any(not os.path.isabs(path) for path in paths)

    @classmethod
    def of_argv(cls, argv: Iterable[bytes]) -> LinkRequest:
        """From rustc's arguments, without argv[0] and with argument files expanded."""
        linker = None
        rustc_args: list[bytes] = []
        link_args: list[bytes] = []
        for letter, value in _options(argv):
            if letter == b"--target":
                rustc_args += [b"--target", value]
            elif letter == b"-Z":
                if value.startswith((b"sanitizer", b"unstable-options", b"link-self")):
                    rustc_args += [b"-Z", value]
            elif value.startswith((b"link-arg=", b"link-args=")):
                words = value.partition(b"=")[2]
                link_args += [words] if value.startswith(b"link-arg=") else words.split()
            elif value.startswith(b"target-feature="):
                if b"crt-static" in value:
                    rustc_args += [b"-C", value]
            elif value.startswith(_CODEGEN_PREFIXES):
                rustc_args += [b"-C", value]
                if value.startswith(b"linker="):
                    linker = value.partition(b"=")[2]
        return cls(linker, tuple(rustc_args), tuple(_tool_choosing(link_args)))


def _options(argv: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """(`-C`, value), (`-Z`, value) and (`--target`, value) in all their spellings."""
    words = iter(argv)
    for word in words:
        if word in (b"-C", b"--codegen"):
            yield b"-C", next(words, b"")
        elif word == b"-Z":
            yield b"-Z", next(words, b"")
        elif word == b"--target":
            yield b"--target", next(words, b"")
        elif word.startswith(b"--target="):
            yield b"--target", word[9:]
        elif word.startswith(b"--codegen="):
            yield b"-C", word[10:]
        elif word.startswith((b"-C", b"-Z")):
            yield word[:2], word[2:]


def _tool_choosing(link_args: Sequence[bytes]) -> Iterator[bytes]:
    words = iter(link_args)
    for word in words:
        if word in _ARGUMENTS_WITH_VALUE:
            yield word
            yield next(words, b"")
        elif word.startswith(_ARGUMENT_PREFIXES):
            yield word


@attrs.frozen
class LinkTools:
    """Raw result of a probe: paths as the tools spell them, not resolved, not closed."""

    linker: bytes
    """The driver (or linker) rustc starts, absolute."""
    linker_name: bytes
    """How rustc asks for it; looked up again before a stored result is used."""
    search_first: tuple[bytes, ...]
    """Folders in front of PATH, in the sysroot."""
    flavour: Literal["gcc", "clang", "ld"]
    programs: tuple[bytes, ...]
    plugins: tuple[bytes, ...]
    files: tuple[bytes, ...]
    library_folders: tuple[bytes, ...]
    """Where the linker looks for `-l`, in order."""
    absent: tuple[bytes, ...]
    """Places looked at before a program was found; if one appears, the answer changes."""


def locate_linker(
    name: bytes, toolchain: Toolchain, cwd: bytes, env: Mapping[bytes, bytes]
) -> tuple[bytes, tuple[bytes, ...]]:
    """The linker `name` for this caller, and the folders rustc puts in front of PATH for it.

    PlatformProblem for scripts, compiler caches and what cannot be found: such links stay at home.
    """
    first = _tool_folders(toolchain)
    path = find_program(name, cwd, env, first)
    if path is None:
        raise PlatformProblem(f"linker {os.fsdecode(name)} is not found")
    check_program(path)
    return path, first


def _tool_folders(toolchain: Toolchain) -> tuple[bytes, ...]:
    """`get_tools_search_paths` of rustc_session: the host's, whatever the target."""
    tools = os.path.join(toolchain.sysroot, b"lib/rustlib", toolchain.host, b"bin")
    return tools, os.path.join(tools, b"self-contained")


def check_program(path: bytes) -> None:
    """PlatformProblem unless it is a compiled program whose inputs can be known."""
    real = os.path.realpath(path)
    shown = os.fsdecode(path)
    for name in (os.path.basename(path), os.path.basename(real)):
        if name in _WRAPPERS:
            raise PlatformProblem(f"linker {shown} is {os.fsdecode(name)}")
    try:
        with open(real, "rb") as file:
            head = file.read(4)
    except OSError as error:
        raise PlatformProblem(f"linker {shown} cannot be read: {error.strerror}") from error
    if not is_elf(head):
        raise PlatformProblem(f"linker {shown} is a script")


@attrs.define
class _Probe:
    toolchain: Toolchain
    request: LinkRequest
    cwd: bytes
    env: Mapping[bytes, bytes]
    run: Run
    said: str = ""
    """First line of what rustc said against the first crate that failed."""

    def link_command(self, folder: bytes) -> tuple[bytes, ...] | None:
        """rustc's own command for a small program whose objects stay in `folder`."""
        for text in _SOURCES:
            command = self._link_command(folder, text, self._without_drivers(folder))
            command = command or self._link_command(folder, text, self.env)
            if command is not None:
                return command
        return None

    def _without_drivers(self, folder: bytes) -> Mapping[bytes, bytes]:
        """An environment in which the usual drivers do nothing: their command is all that is
        wanted, and it is run anyway, with more options."""
        nothing = find_program(b"true", self.cwd, self.env)
        if nothing is None:
            return self.env
        drivers = os.path.join(folder, b"drivers")
        os.makedirs(drivers, exist_ok=True)
        for name in _DRIVERS:
            with contextlib.suppress(FileExistsError):
                os.symlink(nothing, os.path.join(drivers, name))
        path = self.env.get(b"PATH", b"/bin:/usr/bin")
        return {**self.env, b"PATH": drivers + b":" + path}

    def _link_command(
        self, folder: bytes, text: bytes, env: Mapping[bytes, bytes]
    ) -> tuple[bytes, ...] | None:
        source = os.path.join(folder, b"burst_probe.rs")
        with open(source, "wb") as file:
            file.write(text)
        args = [self.toolchain.rustc, source, b"-Awarnings"]
        args += [b"--out-dir", folder, b"-C", b"save-temps", b"--print", b"link-args"]
        args += self.request.rustc_args
        for arg in self.request.link_args:
            args += [b"-C", b"link-arg=" + arg]
        # Some versions put what `save-temps` saves into a temporary folder of a random name, and
        # name it in the command: it is no part of the system, and has to go with the rest.
        done = self.run(args, self.cwd, {**env, b"TMPDIR": folder})
        if done.status != 0:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            if env is self.env:
                self.said = self.said or (lines[0] if lines else f"rustc ended with {done.status}")
            return None
        words = _words(done.stdout.split(b"\n")[0])
        while words and re.match(rb"\A[A-Z_]+=", words[0]):
            words.pop(0)
        return tuple(words) or None


def _words(line: bytes) -> list[bytes]:
    """As a shell splits them; ValueError if it could not. `shlex` is for the odd ones: it takes
    10 ms for the command of a link."""
    if _PLAIN_WORDS.fullmatch(line):
        return [word.replace(b'"', b"") for word in _PLAIN_WORD.findall(line)]
    import shlex  # noqa: PLC0415 - see above

    return [os.fsencode(word) for word in shlex.split(os.fsdecode(line))]


def probe(
    toolchain: Toolchain,
    request: LinkRequest,
    cwd: bytes,
    env: Mapping[bytes, bytes],
    run: Run = run_program,
) -> LinkTools:
    """Link a small program at home as rustc does and note what was used (about 0.3 s).

    PlatformProblem where that is not possible.
    """
    if request.linker is not None:  # before anything is started
        locate_linker(request.linker, toolchain, cwd, env)
    prober = _Probe(toolchain, request, cwd, env, run)
    found = _Found()
    import tempfile  # noqa: PLC0415 - loads much; a daemon's start can do without

    with tempfile.TemporaryDirectory(prefix="burst-probe-") as scratch:
        folder = os.fsencode(os.path.realpath(scratch))
        command = prober.link_command(folder)
        if command is None:
            raise PlatformProblem(f"a small program cannot be linked: {prober.said}")
        name = command[0]
        linker, first = locate_linker(name, toolchain, cwd, env)
        found.observe(prober, folder, (linker, first), command[1:])
    if not found.linked:
        raise PlatformProblem(f"linker {os.fsdecode(linker)} does not say which files it uses")
    found.complete(request)
    found.add_standard_files(static=request.static)
    return LinkTools(
        linker,
        name,
        first,
        found.flavour,
        tuple(found.programs),
        tuple(found.plugins),
        tuple(found.files),
        tuple(found.library_folders),
        tuple(found.absent),
    )


@attrs.define
class _Found:
    """What the runs of a probe told; dictionaries as ordered sets."""

    flavour: Literal["gcc", "clang", "ld"] = "ld"
    linked: bool = False
    programs: dict[bytes, None] = attrs.field(factory=dict)
    plugins: dict[bytes, None] = attrs.field(factory=dict)
    files: dict[bytes, None] = attrs.field(factory=dict)
    program_folders: dict[bytes, None] = attrs.field(factory=dict)
    library_folders: dict[bytes, None] = attrs.field(factory=dict)
    absent: dict[bytes, None] = attrs.field(factory=dict)

    def observe(
        self,
        prober: _Probe,
        folder: bytes,
        where: tuple[bytes, tuple[bytes, ...]],
        args: Sequence[bytes],
    ) -> None:
        linker, first = where
        self.programs[linker] = None
        if prober.toolchain.holds(linker):
            # rust-lld started directly: all it uses is in the toolchain or named by arguments.
            self.linked = True
            return
        path = b":".join([*first, prober.env.get(b"PATH", b"/bin:/usr/bin")])
        env = {**prober.env, b"PATH": path, b"LC_ALL": b"C"}
        listing = os.path.join(folder, b"burst-files.d")
        version = prober.run([linker, *prober.request.link_args, b"-v"], prober.cwd, env)
        said = version.stdout + version.stderr
        if b"gcc version" in said:
            self.flavour = "gcc"
        elif b"clang version" in said:
            self.flavour = "clang"
        if self.flavour == "ld":
            done = prober.run([linker, *args, b"--dependency-file=" + listing], prober.cwd, env)
        else:
            noting = (b"-v", b"-Wl,-v", b"-Wl,--dependency-file=" + listing)
            done = prober.run([linker, *args, *noting], prober.cwd, env)
            self._read_messages(done, env, prober.cwd)
            self._read_search_folders(
                prober.run([linker, *_mode_args(args), b"-print-search-dirs"], prober.cwd, env), env
            )
            self._read_builtin_folders(prober, env)
        own = folder + b"/"
        toolchain = prober.toolchain
        for path in [*self.library_folders]:
            if path.startswith(own) or toolchain.holds(path):
                del self.library_folders[path]
        if done.status != 0 or not os.path.exists(listing):
            return
        self.linked = True
        with open(listing, "rb") as file:
            for used in parse_dependencies(file.read()):
                used_path = os.path.join(prober.cwd, used)
                if not (used_path.startswith(own) or toolchain.holds(used_path)):
                    self.files[used_path] = None

    def _read_messages(self, done: Completed, env: Mapping[bytes, bytes], cwd: bytes) -> None:
        """`-v` of gcc, clang and collect2: one started program per line."""
        for line in done.stderr.split(b"\n"):
            name, equals, value = line.partition(b"=")
            if equals and name == b"COLLECT_LTO_WRAPPER":
                self.programs[value] = None
            elif equals and name in (b"COMPILER_PATH", b"LIBRARY_PATH"):
                folders = [part for part in value.split(b":") if part]
                kept = self.program_folders if name[:1] == b"C" else self.library_folders
                kept.update(dict.fromkeys(folders))
            elif line.startswith(b"Reading specs from "):
                self.files[line[19:]] = None
            elif b" -o " in line or b' "-o" ' in line:
                self._read_command(line, env, cwd)

    def _read_command(self, line: bytes, env: Mapping[bytes, bytes], cwd: bytes) -> None:
        try:
            words = _words(line)
        except ValueError:
            return
        program = find_program(words[0], cwd, env) if words else None
        if program is None or b"=" in words[0]:
            return
        self.programs[program] = None
        for index, word in enumerate(words):
            if word in (b"-plugin", b"--plugin") and index + 1 < len(words):
                self.plugins[words[index + 1]] = None
            elif word.startswith((b"-plugin=", b"--plugin=")):
                self.plugins[word.partition(b"=")[2]] = None
            elif self.flavour == "clang" and word.startswith(b"-L") and len(word) > 2:
                self.library_folders[os.path.join(cwd, word[2:])] = None

    def _read_search_folders(self, done: Completed, env: Mapping[bytes, bytes]) -> None:
        for line in done.stdout.split(b"\n"):
            name, _, value = line.partition(b": =")
            folders = dict.fromkeys(part for part in value.split(b":") if part)
            if name == b"programs":
                self.program_folders.update(folders)
            elif name == b"libraries":
                self.library_folders.update(folders)
        self.program_folders.update(
            dict.fromkeys(part for part in env[b"PATH"].split(b":") if part[:1] == b"/")
        )

    def _read_builtin_folders(self, prober: _Probe, env: Mapping[bytes, bytes]) -> None:
        """GNU ld has folders of its own behind those that the driver names (`/usr/local/lib`)."""
        for program in self.programs:
            if os.path.basename(program) in (b"ld", b"ld.bfd"):
                script = prober.run([program, b"--verbose"], prober.cwd, env).stdout
                for name in re.findall(rb'SEARCH_DIR\("=?([^"]+)"\)', script):
                    self.library_folders[name] = None

    def complete(self, request: LinkRequest) -> None:
        """Where a linker could appear in front of the one found, and helpers collect2 looks for."""
        names = {os.path.basename(program) for program in self.programs}
        for program in _LINKERS if self.flavour != "ld" else ():
            if program not in names and program not in (b"collect-ld", b"real-ld"):
                continue
            for folder in self.program_folders:
                path = os.path.join(folder, program)
                if path in self.programs:
                    break
                if not os.path.exists(path):
                    self.absent[path] = None
        for helper in (b"nm", b"strip") if self.flavour == "gcc" else ():
            for folder in self.program_folders:
                path = os.path.join(folder, helper)
                if os.path.isfile(path):
                    self.programs[path] = None
                    break
        if self.flavour == "clang":
            self.files.update(dict.fromkeys(filter(os.path.exists, _SYSTEM_FILES_OF_CLANG)))
        for arg in request.link_args:
            if arg.startswith((b"-specs=", b"--specs=")) and os.path.isabs(arg.partition(b"=")[2]):
                self.files[arg.partition(b"=")[2]] = None

    def add_standard_files(self, *, static: bool) -> None:
        """Start files and libraries of the other link modes, so that one capture serves them all.

        A mode whose files are not installed at home does not work at home either.
        """
        for name in _START_FILES:
            self._add_first(name)
        for library in _LIBRARIES:
            for file in library_files(library, tuple(self.library_folders), static=static):
                self.files[file] = None
        for file in library_files(b"stdc++", tuple(self.library_folders), static=static):
            self.files[file] = None

    def _add_first(self, name: bytes) -> None:
        for folder in self.library_folders:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                self.files[path] = None
                return


def _mode_args(args: Sequence[bytes]) -> list[bytes]:
    """Those arguments of the real command that move the search folders (`-m32`, `--sysroot=…`)."""
    return [arg for arg in _tool_choosing(args) if not arg.startswith(b"-static")]


def library_files(name: bytes, folders: Sequence[bytes], *, static: bool) -> tuple[bytes, ...]:
    """What `-l name` may mean: the first `.so` and the first `.a`, as ld(1) looks them up.

    `:file` is the exact name. Both are given, because `-Bstatic` changes from word to word; but not
    the big archives of libc, libm and libstdc++ unless `static`.
    """
    if name.startswith(b":"):
        wanted = [name[1:]]
    else:
        wanted = [b"lib" + name + b".so", b"lib" + name + b".a"]
    found: list[bytes] = []
    for file in wanted:
        for folder in folders:
            path = os.path.join(folder, file)
            if not os.path.isfile(path):
                continue
            if file.endswith(b".so") or static or name not in _BIG_ARCHIVES:
                found.append(path)
            break
    return tuple(found)


def parse_dependencies(text: bytes) -> tuple[bytes, ...]:
    """The prerequisites of the first rule of a Makefile-style list, in order."""
    rule = text.replace(b"\\\n", b" ").split(b"\n", 1)[0]
    words = re.split(rb"(?<!\\)\s+", rule.partition(b": ")[2])
    unescaped = (word.replace(b"\\ ", b" ").replace(b"\\#", b"#") for word in words)
    return tuple(dict.fromkeys(word.replace(b"$$", b"$") for word in unescaped if word))


def parse_linker_script(text: bytes) -> tuple[bytes, ...]:
    """Files named by GROUP, INPUT and AS_NEEDED of a text library (`libc.so`): paths or `-lx`."""
    plain = re.sub(rb"/\*.*?\*/", b" ", text, flags=re.DOTALL)
    found: dict[bytes, None] = {}
    for match in re.finditer(rb"\b(?:GROUP|INPUT)\s*\(((?:[^()]|\([^()]*\))*)\)", plain):
        for word in re.split(rb"[\s,()]+", match.group(1)):
            if word and word != b"AS_NEEDED":
                found[word.strip(b'"')] = None
    return tuple(found)
