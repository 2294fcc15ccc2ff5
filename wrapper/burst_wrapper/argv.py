"""What one rustc command line says.

:func:`parse` reads an argv the way rustc 1.95 does (the `getopts` crate's rules, checked against
the real compiler): argfiles first, then long options with `=` or the next argument as value, short
options glued or not and in clusters, `--` ends the options. It never raises: what rustc itself
would refuse becomes :attr:`RustcCall.problem`, so that the policy lets rustc say it at home.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_FLAGS = frozenset({b"h", b"test", b"V", b"v", b"g", b"O"})

# long name -> the name its values are collected under (`rustc --help -v`, 1.95.0)
_LONG = {
    b"allow": b"A",
    b"cap-lints": b"cap-lints",
    b"cfg": b"cfg",
    b"check-cfg": b"check-cfg",
    b"codegen": b"C",
    b"color": b"color",
    b"crate-name": b"crate-name",
    b"crate-type": b"crate-type",
    b"deny": b"D",
    b"diagnostic-width": b"diagnostic-width",
    b"edition": b"edition",
    b"emit": b"emit",
    b"env-set": b"env-set",
    b"error-format": b"error-format",
    b"explain": b"explain",
    b"extern": b"extern",
    b"forbid": b"F",
    b"force-warn": b"force-warn",
    b"help": b"h",
    b"json": b"json",
    b"out-dir": b"out-dir",
    b"print": b"print",
    b"remap-path-prefix": b"remap-path-prefix",
    b"remap-path-scope": b"remap-path-scope",
    b"sysroot": b"sysroot",
    b"target": b"target",
    b"test": b"test",
    b"verbose": b"v",
    b"version": b"V",
    b"warn": b"W",
}
_SHORT = frozenset(b"hVvgOLloAWDFCZ")
# rustc takes the later of `-g` and `-C debuginfo`, so their order is kept
_SHORTHAND = {b"g": b"debuginfo=2", b"O": b"opt-level=3"}
_ONCE = frozenset(
    {
        *(b"color", b"crate-name", b"diagnostic-width", b"edition", b"error-format", b"explain"),
        *(b"out-dir", b"remap-path-scope", b"sysroot", b"target", b"o", b"test", b"V", b"v", b"h"),
    }
)
# these change only what is written to stderr: measured, field.md 3.6
_DIAGNOSTIC = frozenset({b"diagnostic-width", b"json", b"error-format", b"color"})
_SEARCH_KINDS = frozenset({b"dependency", b"crate", b"native", b"framework", b"all"})
_LINKED_TYPES = frozenset({b"bin", b"dylib", b"cdylib", b"proc-macro"})


@attrs.frozen
class Extern:
    """One `--extern [options:]name[=path]`; options are `priv`, `noprelude`, `nounused`, …"""

    name: bytes
    path: bytes | None
    options: tuple[bytes, ...] = ()


@attrs.frozen
class SearchPath:
    """One `-L [kind=]path`."""

    kind: bytes
    path: bytes


@attrs.frozen
class NativeLib:
    """One `-l [kind[:modifiers]=]name[:rename]`; kind is None where it was not given."""

    name: bytes
    kind: bytes | None = None
    modifiers: tuple[bytes, ...] = ()
    rename: bytes | None = None


@attrs.frozen
class RustcCall:
    """One compiler command line, taken apart. Paths are as written: relative ones to the cwd."""

    driver: bytes
    """argv[0]: rustc or clippy-driver."""
    rustc: bytes | None
    """The rustc path; for clippy-driver the argument after it, None where it has none."""
    is_clippy: bool
    args: tuple[bytes, ...]
    """Everything after the driver(s), argfiles expanded."""
    used_argfile: bool
    key_args: tuple[bytes, ...]
    """`args` without those that only change stderr."""
    stderr_args: tuple[bytes, ...]
    """Those left out: --diagnostic-width, --json, --error-format, --color with their values."""
    inputs: tuple[bytes, ...]
    """Free arguments; exactly one in a sound call."""
    crate_name: bytes | None
    crate_types: tuple[bytes, ...]
    """As given, in order, without repeats; empty if the source or `--test` decides."""
    is_test: bool
    emit: tuple[tuple[bytes, bytes | None], ...]
    """Kind and explicit path; `((b"link", None),)` where no --emit was given, as in rustc."""
    out_dir: bytes | None
    output: bytes | None
    """`-o`."""
    externs: tuple[Extern, ...]
    search_paths: tuple[SearchPath, ...]
    native_libs: tuple[NativeLib, ...]
    codegen: tuple[tuple[bytes, bytes | None], ...]
    """`-C` options in order, names with hyphens (rustc takes `opt_level` too)."""
    unstable: tuple[tuple[bytes, bytes | None], ...]
    """`-Z` options in order, names with hyphens."""
    lints: tuple[tuple[bytes, bytes], ...]
    """Level (`A`, `W`, `D`, `F`, `force-warn`) and lint, grouped by level."""
    cfgs: tuple[bytes, ...]
    prints: tuple[bytes, ...]
    json: frozenset[bytes]
    error_format: bytes | None
    diagnostic_width: bytes | None
    edition: bytes | None
    target: bytes | None
    sysroot: bytes | None
    cap_lints: bytes | None
    remap_path_prefixes: tuple[bytes, ...]
    env_sets: tuple[bytes, ...]
    is_query: bool
    """Asks for help, a version or an explanation: no compile."""
    unknown: tuple[bytes, ...]
    """Flags rustc 1.95 does not have. What follows one may be its value: trust nothing else."""
    problem: str | None
    """Why rustc would refuse this argv, None if we see no reason."""

    @property
    def input(self) -> bytes | None:
        """The crate root, `-` for stdin; None if there is none or more than one."""
        return self.inputs[0] if len(self.inputs) == 1 else None

    @property
    def is_stdin(self) -> bool:
        """The source comes from stdin."""
        return b"-" in self.inputs

    def emits(self, kind: bytes) -> bool:
        """Is `kind` (`link`, `metadata`, `dep-info`, …) among the wanted outputs."""
        return any(name == kind for name, _ in self.emit)

    def codegen_value(self, name: bytes) -> bytes | None:
        """Value of the last `-C name`; `b""` where it was given without one, None if not given."""
        for key, value in reversed(self.codegen):
            if key == name:
                return b"" if value is None else value
        return None

    def unstable_value(self, name: bytes) -> bytes | None:
        """Value of the last `-Z name`; `b""` where it was given without one, None if not given."""
        for key, value in reversed(self.unstable):
            if key == name:
                return b"" if value is None else value
        return None

    @property
    def extra_filename(self) -> bytes:
        """`-C extra-filename`: cargo's per-unit hash with its hyphen, or empty."""
        return self.codegen_value(b"extra-filename") or b""

    @property
    def metadata(self) -> bytes | None:
        """`-C metadata`: cargo's hash of the unit."""
        return self.codegen_value(b"metadata")

    @property
    def incremental(self) -> bytes | None:
        """Directory of `-C incremental`."""
        return self.codegen_value(b"incremental")

    @property
    def linker(self) -> bytes | None:
        """`-C linker`: a name to find along PATH, or a path."""
        return self.codegen_value(b"linker")

    @property
    def link_args(self) -> tuple[bytes, ...]:
        """All arguments given for the linker, in order of their kind."""
        found: list[bytes] = []
        for name, value in self.unstable + self.codegen:
            if value is not None:
                if name in {b"link-arg", b"pre-link-arg"}:
                    found.append(value)
                elif name in {b"link-args", b"pre-link-args"}:
                    found.extend(value.split())
        return tuple(found)

    @property
    def target_cpu(self) -> bytes | None:
        """`-C target-cpu`."""
        return self.codegen_value(b"target-cpu")

    @property
    def split_debuginfo(self) -> bytes | None:
        """`-C split-debuginfo`: off, packed or unpacked."""
        return self.codegen_value(b"split-debuginfo")

    @property
    def save_temps(self) -> bool:
        """`-C save-temps`: intermediate files stay in the out-dir."""
        return self._switch(b"save-temps")

    @property
    def profile_generate(self) -> bool:
        """`-C profile-generate`, with or without a directory."""
        return self.codegen_value(b"profile-generate") not in {None, b"no", b"n", b"off"}

    @property
    def instruments_coverage(self) -> bool:
        """`-C instrument-coverage`; without `--target` cargo gives it to macros as well."""
        return self._switch(b"instrument-coverage")

    @property
    def profile_use(self) -> bytes | None:
        """File of `-C profile-use`."""
        return self.codegen_value(b"profile-use")

    @property
    def linker_plugin_lto(self) -> bytes | None:
        """`-C linker-plugin-lto`: empty, a switch word or a path."""
        return self.codegen_value(b"linker-plugin-lto")

    @property
    def debuginfo(self) -> bytes:
        """`-C debuginfo`; `0` where nothing asks for any."""
        return self.codegen_value(b"debuginfo") or b"0"

    @property
    def links(self) -> bool:
        """Does this call run a linker. staticlib does not; no crate type at all may be a bin."""
        if not self.emits(b"link"):
            return False
        if self.is_test or not self.crate_types:
            return True
        return not _LINKED_TYPES.isdisjoint(self.crate_types)

    @property
    def needs_rlibs(self) -> bool:
        """Does it read the code of its dependencies, not only their metadata."""
        return self.links or (self.emits(b"link") and b"staticlib" in self.crate_types)

    @property
    def metadata_only(self) -> bool:
        """A check: no code is generated."""
        return all(kind in {b"metadata", b"dep-info"} for kind, _ in self.emit)

    @property
    def announces_artifacts(self) -> bool:
        """`--json=…artifacts`: every output is announced on stderr when it is ready."""
        return b"artifacts" in self.json

    @property
    def stem(self) -> bytes:
        """Name of the outputs without `lib` and suffix: crate name and extra-filename."""
        return (self.crate_name or b"") + self.extra_filename

    @property
    def lib_stem(self) -> bytes:
        """`libNAME-hash`, as rlib, rmeta and shared libraries are called."""
        return b"lib" + self.stem

    def writes(self, name: bytes) -> bool:
        """Whether a file of that name in the out-dir is an output: what lies there from an earlier
        run is written anew, and is no input."""
        return name == self.stem or name.startswith((self.stem + b".", self.lib_stem + b"."))

    @property
    def is_build_script(self) -> bool:
        """By cargo's naming: `build_script_build`, `build_script_<file>`."""
        return (
            self.crate_name is not None
            and self.crate_name.startswith(b"build_script_")
            and self.crate_types == (b"bin",)
        )

    @property
    def is_proc_macro(self) -> bool:
        """A proc-macro library (its unit tests are not)."""
        return b"proc-macro" in self.crate_types and not self.is_test

    def _switch(self, name: bytes) -> bool:
        return self.codegen_value(name) not in {None, b"no", b"n", b"off", b"false"}


def normalised_for_key(call: RustcCall) -> list[bytes]:
    """The arguments that can change an output file, in order, argfiles expanded."""
    return list(call.key_args)


def diagnostic_args(call: RustcCall) -> list[bytes]:
    """The arguments that can change stderr only, in order."""
    return list(call.stderr_args)


def parse(argv: Sequence[bytes], read_argfile: Callable[[bytes], bytes]) -> RustcCall:
    """Take `argv` apart: `[driver, args…]`, or `[clippy-driver, rustc, args…]`.

    `read_argfile` gets the path after `@` as written and gives the file's bytes; whatever it raises
    becomes the call's `problem`.
    """
    driver = argv[0] if argv else b""
    is_clippy = _file_stem(driver) == b"clippy-driver"
    rustc: bytes | None = driver
    first = 1
    if is_clippy:
        # clippy-driver drops its first argument by the same test
        if len(argv) > 1 and _file_stem(argv[1]) == b"rustc":
            rustc, first = argv[1], 2
        else:
            rustc = None
    args, used_argfile, problem = _expand(argv[first:], read_argfile)
    scan = _Scan()
    if problem is None:
        scan.run(args)
        problem = scan.problem or ("no command" if not argv else None)
    return _build(
        scan,
        driver=driver,
        rustc=rustc,
        is_clippy=is_clippy,
        args=args,
        used_argfile=used_argfile,
        problem=problem,
    )


@attrs.define
class _Scan:
    """One pass over the arguments, by the rules of getopts."""

    values: dict[bytes, list[bytes]] = attrs.Factory(dict)
    free: list[bytes] = attrs.Factory(list)
    unknown: list[bytes] = attrs.Factory(list)
    key_args: list[bytes] = attrs.Factory(list)
    stderr_args: list[bytes] = attrs.Factory(list)
    problem: str | None = None

    def run(self, args: Sequence[bytes]) -> None:
        values, key_args, stderr_args = self.values, self.key_args, self.stderr_args
        position, end = 0, len(args)
        while position < end:
            arg = args[position]
            start = position
            position += 1
            if arg[:1] != b"-" or arg == b"-":
                self.free.append(arg)
                key_args.append(arg)
                continue
            value: bytes | None
            if arg[:2] == b"--":
                written, equals, value = arg[2:].partition(b"=")
                name = _LONG.get(written)
                if name is None:
                    if arg == b"--":
                        self.free.extend(args[position:])
                        key_args.extend(args[start:])
                        break
                    self.unknown.append(arg)
                    key_args.append(arg)
                    continue
                if name in _FLAGS:
                    if equals:
                        self.problem = f"option takes no value: {_show(arg)}"
                elif not equals:
                    value = args[position] if position < end else None
                    position += 1
            else:
                name, value, taken = self._short(arg, args, position)
                position += taken
            if value is None:
                self.problem = f"option without its value: {_show(arg)}"
                key_args.append(arg)
                continue
            if name in values:
                values[name].append(value)
            else:
                values[name] = [value]
            (stderr_args if name in _DIAGNOSTIC else key_args).extend(args[start:position])
        for name in values.keys() & _ONCE:
            if len(values[name]) > 1:
                self.problem = f"option given more than once: {_show(name)}"

    def _short(
        self, arg: bytes, args: Sequence[bytes], following: int
    ) -> tuple[bytes, bytes | None, int]:
        """The last option of a cluster: its name, its value, and how many arguments it took."""
        at = 1
        while True:
            letter = arg[at]
            name = arg[at : at + 1]
            at += 1
            if letter not in _SHORT:
                self.unknown.append(arg)
                return name, b"", 0
            if name not in _FLAGS:
                break
            shorthand = _SHORTHAND.get(name)
            value = shorthand or b""
            if shorthand:
                name = b"C"
            if at == len(arg):
                return name, value, 0
            self.values.setdefault(name, []).append(value)
        if at < len(arg):
            return name, arg[at:], 0
        if following < len(args):
            return name, args[following], 1
        return name, None, 0


def _expand(
    given: Sequence[bytes], read_argfile: Callable[[bytes], bytes]
) -> tuple[tuple[bytes, ...], bool, str | None]:
    """Argfiles in place, one argument a line, an `@` inside is a plain argument; must be UTF-8."""
    used = False
    expanded: list[bytes] = []
    problem: str | None = None
    for arg in given:
        if arg[:1] != b"@":
            expanded.append(arg)
            continue
        used = True
        try:
            text = read_argfile(arg[1:])
        except Exception as error:
            problem = f"argfile {_show(arg[1:])}: {error}"
            expanded.append(arg)
            continue
        lines = text.split(b"\n")
        if not lines[-1]:
            lines.pop()
        expanded.extend([line[:-1] if line[-1:] == b"\r" else line for line in lines])
    try:
        b"\0".join(expanded).decode()
    except UnicodeDecodeError:
        problem = problem or "an argument is not UTF-8"
    if used and problem is None and any(b"shell-argfiles" in arg for arg in expanded):
        problem = "shell-style argfiles"
    return tuple(expanded), used, problem


def _build(
    scan: _Scan,
    *,
    driver: bytes,
    rustc: bytes | None,
    is_clippy: bool,
    args: tuple[bytes, ...],
    used_argfile: bool,
    problem: str | None,
) -> RustcCall:
    values = scan.values
    none: list[bytes] = []

    def last(name: bytes) -> bytes | None:
        found = values.get(name)
        return found[-1] if found else None

    codegen = [_option(value) for value in values.get(b"C", none)]
    unstable = [_option(value) for value in values.get(b"Z", none)]
    lints = [
        (level, lint)
        for level in (b"A", b"W", b"D", b"F", b"force-warn")
        for value in values.get(level, none)
        for lint in value.split(b",")
    ]
    is_query = (
        not values.keys().isdisjoint((b"h", b"V", b"explain"))
        or any(name == b"help" for name, _ in codegen)
        or any(name == b"help" for name, _ in unstable)
        or any(lint == b"help" for _, lint in lints)
    )
    return RustcCall(
        driver=driver,
        rustc=rustc,
        is_clippy=is_clippy,
        args=args,
        used_argfile=used_argfile,
        key_args=tuple(scan.key_args) if problem is None else args,
        stderr_args=tuple(scan.stderr_args) if problem is None else (),
        inputs=tuple(scan.free),
        crate_name=last(b"crate-name"),
        crate_types=_unique(_listed(values.get(b"crate-type", none))),
        is_test=b"test" in values,
        emit=_emit(values.get(b"emit", none)),
        out_dir=last(b"out-dir"),
        output=last(b"o"),
        externs=tuple([_extern(value) for value in values.get(b"extern", none)]),
        search_paths=tuple([_search_path(value) for value in values.get(b"L", none)]),
        native_libs=tuple([_native_lib(value) for value in values.get(b"l", none)]),
        codegen=tuple(codegen),
        unstable=tuple(unstable),
        lints=tuple(lints),
        cfgs=tuple(values.get(b"cfg", none)),
        prints=tuple(values.get(b"print", none)),
        json=frozenset(_listed(values.get(b"json", none))),
        error_format=last(b"error-format"),
        diagnostic_width=last(b"diagnostic-width"),
        edition=last(b"edition"),
        target=last(b"target"),
        sysroot=last(b"sysroot"),
        cap_lints=last(b"cap-lints"),
        remap_path_prefixes=tuple(values.get(b"remap-path-prefix", none)),
        env_sets=tuple(values.get(b"env-set", none)),
        is_query=is_query,
        unknown=tuple(scan.unknown),
        problem=problem,
    )


def _option(text: bytes) -> tuple[bytes, bytes | None]:
    name, equals, value = text.partition(b"=")
    if b"_" in name:
        name = name.replace(b"_", b"-")
    return name, value if equals else None


def _emit(given: Iterable[bytes]) -> tuple[tuple[bytes, bytes | None], ...]:
    found: dict[bytes, bytes | None] = {}
    for item in _listed(given):
        kind, equals, path = item.partition(b"=")
        found[kind] = path if equals else None
    return tuple(found.items()) or ((b"link", None),)


def _extern(text: bytes) -> Extern:
    name, equals, path = text.partition(b"=")
    options: tuple[bytes, ...] = ()
    colon = name.find(b":")
    if colon >= 0 and name[colon : colon + 2] != b"::":  # `a::b` is a namespaced crate
        options = tuple(name[:colon].split(b","))
        name = name[colon + 1 :]
    return Extern(name, path if equals else None, options)


def _search_path(text: bytes) -> SearchPath:
    kind, equals, path = text.partition(b"=")
    if equals and kind in _SEARCH_KINDS:
        return SearchPath(kind, path)
    return SearchPath(b"all", text)


def _native_lib(text: bytes) -> NativeLib:
    before, equals, name = text.partition(b"=")
    kind: bytes | None = None
    modifiers: tuple[bytes, ...] = ()
    if equals:
        kind, colon, listed = before.partition(b":")
        modifiers = tuple(listed.split(b",")) if colon else ()
    else:
        name = before
    name, colon, rename = name.partition(b":")
    return NativeLib(name, kind, modifiers, rename if colon else None)


def _listed(given: Iterable[bytes]) -> list[bytes]:
    return [item for value in given for item in value.split(b",")]


def _unique(items: list[bytes]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(items))


def _file_stem(path: bytes) -> bytes:
    """As Rust's `Path::file_stem`: the last component without its last extension."""
    name = path.rsplit(b"/", 1)[-1]
    stem, dot, _ = name.rpartition(b".")
    return stem if dot and stem else name


def _show(arg: bytes) -> str:
    return arg[:200].decode(errors="backslashreplace")
