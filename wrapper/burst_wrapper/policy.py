"""Remote or local: a pure decision over one parsed call, with its reason.

The reasons are a closed list: `explain` and the counters show their codes, and a code once
published keeps its meaning. Whatever we do not know runs at home; only speed is lost there.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, TypeAlias

import attrs

from burst_wrapper.hot import is_compiler

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from burst_wrapper.argv import RustcCall


class Reason(enum.Enum):
    """Why a call runs at home: a stable code, a text for people."""

    # not compiles of cargo: exec'd at once and not counted
    QUERY = "query", "asks rustc for help, a version or facts"
    STDIN = "stdin", "the source comes from stdin"
    NO_ARTIFACT_LINES = "no-artifact-lines", "not called by cargo (no --json=artifacts)"
    # command lines rustc would refuse or that we do not understand
    COMPILER = "compiler", "neither rustc nor clippy-driver by its name"
    MALFORMED = "malformed", "rustc would refuse this command line"
    UNKNOWN_FLAG = "unknown-flag", "a flag this version does not know"
    NO_CRATE_NAME = "no-crate-name", "no --crate-name"
    NO_OUT_DIR = "no-out-dir", "no --out-dir"
    NO_CRATE_TYPE = "no-crate-type", "the crate type stands in the source only"
    NO_DEP_INFO = "no-dep-info", "no dep-info asked for, so the inputs cannot be known"
    INPUT_COUNT = "input-count", "not exactly one crate root"
    UNKNOWN_EMIT = "unknown-emit", "an output kind this version does not know"
    OUTPUT_ELSEWHERE = "output-elsewhere", "an output outside --out-dir"
    # results that depend on the machine or on what no key covers
    TARGET_CPU_NATIVE = "target-cpu-native", "target-cpu=native means this machine's processor"
    TUNE_CPU_NATIVE = "tune-cpu-native", "tune-cpu=native means this machine's processor"
    CLIPPY_CARGO = "clippy-cargo", "clippy's cargo lints run `cargo metadata`"
    PROFILE_GENERATE = "profile-generate", "profile-generate"
    RUSTC_LOG = "rustc-log", "RUSTC_LOG is set"
    SYSROOT = "sysroot", "a sysroot of its own"
    TARGET_UNSURE = "target-unsure", "RUST_TARGET_PATH may change the target's meaning"
    CODEGEN_BACKEND = "codegen-backend", "a code generator given by path"
    LTO_PLUGIN = "lto-plugin", "a linker plugin given by path"
    LLVM_ARGS = "llvm-args", "llvm-args or passes that name files or plugins"
    UNSTABLE_FLAG = "unstable-flag", "a -Z flag that may write or print elsewhere"
    PRELOADED_LINK = "preloaded-link", "LD_PRELOAD may replace the linker (mold -run)"
    LINKER_TRACE = "linker-trace", "the environment makes the linker write elsewhere"

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        self.text = text

    @property
    def counted(self) -> bool:
        """False for probes: they are no compiles, and no fallback either."""
        return self not in {Reason.QUERY, Reason.STDIN, Reason.NO_ARTIFACT_LINES}


@attrs.frozen
class Remote:
    """May run remotely; `input_files` are the files that argv names besides sources and externs."""

    input_files: tuple[bytes, ...] = ()


@attrs.frozen
class Local:
    """Runs at home."""

    reason: Reason
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason.text}: {self.detail}" if self.detail else self.reason.text


Decision: TypeAlias = Remote | Local

_EMITS = frozenset(
    {
        *(b"asm", b"dep-info", b"link", b"llvm-bc", b"llvm-ir", b"metadata", b"mir", b"obj"),
        b"thin-link-bitcode",
    }
)
# these print while compiling; every other kind prints and stops
_COMPILING_PRINTS = frozenset({b"native-static-libs", b"link-args"})

_CODEGEN = frozenset(
    {
        *(b"ar", b"code-model", b"codegen-units", b"collapse-macro-debuginfo"),
        *(b"control-flow-guard", b"debug-assertions", b"debuginfo", b"default-linker-libraries"),
        *(b"dlltool", b"dwarf-version", b"embed-bitcode", b"extra-filename"),
        *(b"force-frame-pointers", b"force-unwind-tables", b"incremental", b"inline-threshold"),
        *(b"instrument-coverage", b"jump-tables", b"link-arg", b"link-args", b"link-dead-code"),
        *(b"link-self-contained", b"linker", b"linker-features", b"linker-flavor"),
        *(b"linker-plugin-lto", b"llvm-args", b"lto", b"metadata", b"no-prepopulate-passes"),
        *(b"no-redzone", b"no-stack-check", b"no-vectorize-loops", b"no-vectorize-slp"),
        *(b"opt-level", b"overflow-checks", b"panic", b"passes", b"prefer-dynamic"),
        *(b"profile-generate", b"profile-use", b"relocation-model", b"relro-level", b"remark"),
        *(b"rpath", b"save-temps", b"soft-float", b"split-debuginfo", b"strip"),
        *(b"symbol-mangling-version", b"target-cpu", b"target-feature"),
        b"unsafe-allow-abi-mismatch",
    }
)

# -Z flags that change outputs or ordinary diagnostics only (`rustc -Z help`, 1.95 and 1.97)
_HARMLESS_UNSTABLE = frozenset(
    {
        *(b"allow-features", b"always-encode-mir", b"binary-dep-depinfo", b"box-noalias"),
        *(b"branch-protection", b"cf-protection", b"check-cfg-all-expected"),
        *(b"checksum-hash-algorithm", b"codegen-backend", b"codegen-source-order"),
        *(b"contract-checks", b"coverage-options", b"crate-attr", b"cross-crate-inline-threshold"),
        *(b"debug-info-for-profiling", b"debug-info-type-line-numbers", b"debuginfo-compression"),
        *(b"deduplicate-diagnostics", b"default-visibility", b"dep-info-omit-d-target"),
        *(b"direct-access-external-data", b"dual-proc-macros", b"dwarf-version", b"dylib-lto"),
        *(b"ehcont-guard", b"embed-metadata", b"embed-source", b"emit-stack-sizes"),
        *(b"export-executable-symbols", b"extra-const-ub-checks", b"fewer-names", b"fixed-x18"),
        *(b"flatten-format-args", b"fmt-debug", b"force-unstable-if-unmarked"),
        *(b"function-return", b"function-sections", b"has-thread-local", b"hint-mostly-unused"),
        *(b"human-readable-cgu-names", b"incremental-ignore-spans", b"inline-llvm", b"inline-mir"),
        *(b"inline-mir-forwarder-threshold", b"inline-mir-hint-threshold"),
        *(b"inline-mir-preserve-debug", b"inline-mir-threshold", b"instrument-mcount"),
        *(b"instrument-xray", b"large-data-threshold", b"layout-seed", b"link-directives"),
        *(b"link-native-libraries", b"lint-llvm-ir", b"lint-mir", b"location-detail"),
        *(b"macro-backtrace", b"merge-functions", b"min-function-alignment"),
        *(b"min-recursion-limit", b"mir-emit-retag", b"mir-enable-passes", b"mir-opt-level"),
        *(b"mir-preserve-ub", b"mir-strip-debuginfo", b"move-size-limit", b"mutable-noalias"),
        *(b"namespaced-crates", b"next-solver", b"no-generate-arange-section"),
        *(b"no-implied-bounds-compat", b"no-leak-check", b"no-parallel-backend"),
        *(b"no-profiler-runtime", b"no-trait-vptr", b"no-unique-section-names"),
        *(b"normalize-docs", b"osx-rpath-install-name", b"packed-bundled-libs", b"packed-stack"),
        *(b"panic-abort-tests", b"panic-in-drop", b"patchable-function-entry", b"plt", b"polonius"),
        *(b"pre-link-arg", b"pre-link-args", b"precise-enum-drop-elaboration"),
        *(b"proc-macro-backtrace", b"profile-sample-use", b"randomize-layout"),
        *(b"relax-elf-relocations", b"remap-cwd-prefix", b"retpoline"),
        *(b"retpoline-external-thunk", b"sanitizer", b"sanitizer-cfi-canonical-jump-tables"),
        *(b"sanitizer-cfi-generalize-pointers", b"sanitizer-cfi-normalize-integers"),
        *(b"sanitizer-kcfi-arity", b"sanitizer-memory-track-origins", b"sanitizer-recover"),
        *(b"saturating-float-casts", b"share-generics", b"small-data-threshold"),
        *(b"split-dwarf-inlining", b"split-dwarf-kind", b"split-lto-unit"),
        *(b"src-hash-algorithm", b"stack-protector", b"staticlib-allow-rdylib-deps"),
        *(b"staticlib-prefer-dynamic", b"strict-init-checks", b"teach", b"terminal-urls"),
        *(b"thinlto", b"threads", b"tiny-const-eval-limit", b"tls-model", b"track-diagnostics"),
        *(b"translate-remapped-path-to-local-path", b"trap-unreachable"),
        *(b"trim-diagnostic-paths", b"tune-cpu", b"ub-checks", b"uninit-const-chunk-threshold"),
        *(b"unsound-mir-opts", b"unstable-options", b"use-ctors-section", b"use-sync-unwind"),
        *(b"validate-mir", b"verbose-asm", b"verify-llvm-ir", b"virtual-function-elimination"),
        *(b"wasi-exec-model", b"wasm-c-abi"),
    }
)

# clippy's group `cargo`, 1.95: every one of them reads the whole workspace's metadata
_CARGO_LINTS = frozenset(
    {
        *(b"clippy::cargo", b"clippy::cargo_common_metadata", b"clippy::multiple_crate_versions"),
        *(b"clippy::negative_feature_names", b"clippy::redundant_feature_names"),
        b"clippy::wildcard_dependencies",
    }
)
_CLIPPY_SEPARATOR = b"__CLIPPY_HACKERY__"


def decide(call: RustcCall, env: Mapping[bytes, bytes]) -> Decision:
    """Where `call` runs, under the caller's environment `env`. Pure, never raises."""
    if not is_compiler(call.driver):
        return Local(Reason.COMPILER, _show(call.driver))
    if call.problem is not None:
        return Local(Reason.MALFORMED, call.problem)
    if call.is_query:
        return Local(Reason.QUERY)
    if call.is_stdin:
        return Local(Reason.STDIN)
    if call.prints and not _COMPILING_PRINTS.issuperset(call.prints):
        return Local(Reason.QUERY, "--print " + _show(call.prints[0]))
    if not call.announces_artifacts:
        return Local(Reason.NO_ARTIFACT_LINES)
    if call.unknown:
        return Local(Reason.UNKNOWN_FLAG, _show(call.unknown[0]))
    return (
        _shape(call)
        or _codegen(call)
        or _unstable(call)
        or _lints(call, env)
        or _environment(call, env)
        or Remote(tuple(argv_input_files(call)))
    )


def _shape(call: RustcCall) -> Local | None:
    if not call.crate_name:
        return Local(Reason.NO_CRATE_NAME)
    if not call.out_dir:
        return Local(Reason.NO_OUT_DIR)
    if call.input is None:
        return Local(Reason.INPUT_COUNT, f"{len(call.inputs)} inputs")
    # Tests and benches with `harness = false` come from cargo as `--cfg test` without a type: bins,
    # or what their source says; every such call is taken for one that links.
    if not call.crate_types and not call.is_test and b"test" not in call.cfgs:
        return Local(Reason.NO_CRATE_TYPE)
    if call.output is not None:
        return Local(Reason.OUTPUT_ELSEWHERE, "-o " + _show(call.output))
    if b"/" in call.crate_name or b"/" in call.extra_filename:
        return Local(Reason.OUTPUT_ELSEWHERE, _show(call.stem))
    has_dep_info = False
    for kind, path in call.emit:
        if kind not in _EMITS:
            return Local(Reason.UNKNOWN_EMIT, _show(kind))
        if path is not None and not _is_below(path, call.out_dir):
            return Local(Reason.OUTPUT_ELSEWHERE, _show(kind + b"=" + path))
        has_dep_info = has_dep_info or kind == b"dep-info"
    if not has_dep_info:
        return Local(Reason.NO_DEP_INFO)
    if call.sysroot is not None:
        return Local(Reason.SYSROOT, _show(call.sysroot))
    if call.links:
        for path in _linker_outputs(call):
            if not _is_below(path, call.out_dir):
                return Local(Reason.OUTPUT_ELSEWHERE, "linker: " + _show(path))
    return None


def _codegen(call: RustcCall) -> Local | None:
    for name, value in call.codegen:
        if name not in _CODEGEN:
            return Local(Reason.UNKNOWN_FLAG, "-C " + _show(name))
        if value == b"native" and name == b"target-cpu":
            return Local(Reason.TARGET_CPU_NATIVE)
        if name == b"passes" or (name == b"llvm-args" and _names_a_file(value or b"")):
            return Local(Reason.LLVM_ARGS, _show(value or b""))
    if call.profile_generate:
        return Local(Reason.PROFILE_GENERATE)
    if b"/" in (call.linker_plugin_lto or b""):
        return Local(Reason.LTO_PLUGIN, _show(call.linker_plugin_lto or b""))
    return None


def _unstable(call: RustcCall) -> Local | None:
    for name, value in call.unstable:
        if name not in _HARMLESS_UNSTABLE:
            return Local(Reason.UNSTABLE_FLAG, "-Z " + _show(name))
        if name == b"tune-cpu" and value == b"native":
            return Local(Reason.TUNE_CPU_NATIVE)
        # rustc: a backend with a dot in it is a path, else a name in the sysroot
        if name == b"codegen-backend" and (b"." in (value or b"") or b"/" in (value or b"")):
            return Local(Reason.CODEGEN_BACKEND, _show(value or b""))
    return None


def _lints(call: RustcCall, env: Mapping[bytes, bytes]) -> Local | None:
    if not call.is_clippy:
        return None
    for level, lint in call.lints:
        if level != b"A" and lint.replace(b"-", b"_") in _CARGO_LINTS:
            return Local(Reason.CLIPPY_CARGO, _show(lint))
    level = b""
    for word in env.get(b"CLIPPY_ARGS", b"").split(_CLIPPY_SEPARATOR):
        before, colons, after = word.replace(b"-", b"_").partition(b"clippy::")
        if not colons:
            level = word
        elif colons + after in _CARGO_LINTS and (before or level) not in _ALLOWING:
            return Local(Reason.CLIPPY_CARGO, _show(word))
    return None


_ALLOWING = frozenset({b"-A", b"_A", b"--allow", b"__allow", b"__allow="})


def _environment(call: RustcCall, env: Mapping[bytes, bytes]) -> Local | None:
    if any(name.startswith(b"RUSTC_LOG") for name in env):
        return Local(Reason.RUSTC_LOG)
    if call.is_clippy and env.get(b"SYSROOT"):
        return Local(Reason.SYSROOT, "SYSROOT")
    target = call.target
    if target is not None and not target.endswith(b".json") and env.get(b"RUST_TARGET_PATH"):
        return Local(Reason.TARGET_UNSURE)
    if call.links:
        if env.get(b"LD_PRELOAD") or env.get(b"LD_AUDIT"):
            return Local(Reason.PRELOADED_LINK)
        if env.get(b"LLD_REPRODUCE"):
            return Local(Reason.LINKER_TRACE, "LLD_REPRODUCE")
    return None


# linker options whose value is a file it reads: `--x=f`, `--x f`, `-Wl,--x,f`, one or two hyphens
_READING = frozenset(
    {
        *(b"default-script", b"dynamic-list", b"export-dynamic-symbol-list", b"just-symbols"),
        *(b"keep-unique-list", b"plugin", b"retain-symbols-file", b"script", b"specs"),
        *(b"section-ordering-file", b"symbol-ordering-file", b"version-script", b"ld-path"),
        *(b"exported_symbols_list", b"order_file", b"call-graph-ordering-file", b"T", b"dT"),
        *(b"fplugin", b"fuse-ld"),
    }
)
# ... and those whose value is a file it writes
_WRITING = frozenset(
    {
        *(b"Map", b"dependency-file", b"out-implib", b"reproduce", b"time-trace", b"MF"),
        *(b"print-archive-stats", b"print-symbol-order", b"thinlto-cache-dir", b"why-extract"),
        *(b"lto-obj-path", b"output-def", b"cmse-out-implib", b"dumpdir", b"o"),
    }
)


def argv_input_files(call: RustcCall) -> list[bytes]:
    """Files named by argv besides the crate root and the externs, as written, without repeats.

    Target JSON, profiles, and for links: linker given by path, objects, scripts and lists among
    the linker's arguments. A value that only may be a file is listed too: the caller looks.
    """
    found: dict[bytes, None] = {}
    if call.target is not None and call.target.endswith(b".json"):
        found[call.target] = None
    if call.profile_use is not None:
        found[call.profile_use or b"default.profdata"] = None
    sample = call.unstable_value(b"profile-sample-use")
    if sample:
        found[sample] = None
    if call.links:
        for tool in (call.linker, call.codegen_value(b"dlltool")):
            if tool and b"/" in tool:
                found[tool] = None
        for option, value in _linker_words(call):
            if option == b"" or option in _READING:
                name = value.removeprefix(b"@")
                # `-fuse-ld=lld` and `-specs=nano.specs` are names: looked up by the linker
                if name and (b"/" in name or option not in {b"fuse-ld", b"specs"}):
                    found[name] = None
    return list(found)


def _linker_outputs(call: RustcCall) -> Iterator[bytes]:
    for option, value in _linker_words(call):
        if option in _WRITING and value:
            yield value


def _linker_words(call: RustcCall) -> Iterator[tuple[bytes, bytes]]:
    """Linker arguments as (option without hyphens, value); ("", text) for free ones."""
    flat: list[bytes] = []
    for arg in call.link_args:
        if arg.startswith(b"-Wl,"):
            flat.extend(arg[4:].split(b","))
        elif arg != b"-Xlinker":
            flat.append(arg)
    words = iter(flat)
    for word in words:
        if word[:1] != b"-":
            yield b"", word
            continue
        option, equals, value = word.lstrip(b"-").partition(b"=")
        if word[:2] == b"-T" and len(word) > 2 and not option.startswith(_ADDRESSES):
            yield b"T", word[2:]
        elif equals:
            yield option, value
        elif option in _READING or option in _WRITING:
            yield option, next(words, b"")


_ADDRESSES = (b"Ttext", b"Tdata", b"Tbss", b"Trodata", b"Tldata")


def _names_a_file(llvm_args: bytes) -> bool:
    return b"/" in llvm_args or b"-load" in llvm_args


def _is_below(path: bytes, folder: bytes) -> bool:
    """By spelling only: links are not followed, and `..` is never trusted."""
    prefix = folder.rstrip(b"/") + b"/"
    return path.startswith(prefix) and b".." not in path[len(prefix) :].split(b"/")


def _show(text: bytes) -> str:
    return text[:200].decode(errors="backslashreplace")
