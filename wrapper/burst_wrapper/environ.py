"""Which variables a unit may see, and whether it saw the right ones.

The sandbox shows a closed list; everything else is unset there. What earlier runs were seen to
look up is learned and sent; a look-up whose answer differs from home's is never accepted.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# sent whenever set: cargo's own for a unit, and what rustc 1.95, LLVM and clippy look up by
# themselves with an influence on outputs or messages (seen with a preloaded getenv)
_ALWAYS = frozenset(
    {
        *(b"CARGO_BIN_NAME", b"CARGO_CRATE_NAME", b"CARGO_MANIFEST_DIR", b"CARGO_MANIFEST_LINKS"),
        *(b"CARGO_MANIFEST_PATH", b"CARGO_PRIMARY_PACKAGE", b"CARGO_TARGET_TMPDIR", b"OUT_DIR"),
        *(b"LD_LIBRARY_PATH", b"RUSTC_BOOTSTRAP", b"RUSTC_FORCE_RUSTC_VERSION"),
        *(b"RUST_MIN_STACK", b"RUST_BACKTRACE", b"RUST_LIB_BACKTRACE", b"SOURCE_DATE_EPOCH"),
        # each looked up in every run: learning them would cost a second run per unit
        *(b"CI", b"LLVM_OVERRIDE_PRODUCER", b"RUSTC_CTFE_BACKTRACE", b"QNX_TARGET"),
    }
)
_ALWAYS_PREFIXES = (b"CARGO_PKG_", b"CARGO_BIN_EXE_", b"CLIPPY_")

# sent to units that link: gcc, collect2, ld and lld look these up
_LINKS = frozenset(
    {
        *(b"PATH", b"LIBRARY_PATH", b"COMPILER_PATH", b"LD_RUN_PATH", b"LPATH", b"BINUTILS_ROOT"),
        *(b"LDEMULATION", b"VCINSTALLDIR", b"SDKROOT", b"FORCE_LLD_DIAGNOSTICS_CRASH"),
    }
)
_LINK_PREFIXES = (b"GCC_", b"LLD_", b"MOLD_")
_LINK_SUFFIXES = (b"_DEPLOYMENT_TARGET",)

# never sent, not even on the user's word: they speak of this machine's processes and files, and
# the sandbox has its own
_IMPOSSIBLE = frozenset(
    {
        *(b"CARGO_MAKEFLAGS", b"MAKEFLAGS", b"MFLAGS", b"MAKELEVEL"),
        *(b"TMPDIR", b"TEMP", b"TMP", b"LD_PRELOAD", b"LD_AUDIT"),
        *(b"RUSTC", b"RUSTC_WRAPPER", b"RUSTC_WORKSPACE_WRAPPER", b"RUSTDOC"),
        *(b"CARGO_BUILD_RUSTC_WRAPPER", b"CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER"),
        *(b"RUST_RECURSION_COUNT", b"RUSTC_ICE", b"DBUS_SESSION_BUS_ADDRESS"),
    }
)
_IMPOSSIBLE_PREFIXES = (b"BURST_", b"RUSTC_LOG", b"HCLOUD_", b"SSH_")

_SECRET_PREFIXES = (
    *(b"CARGO_REGISTRIES_", b"CARGO_REGISTRY_", b"AWS_", b"AZURE_", b"GOOGLE_", b"GPG_"),
    *(b"ACTIONS_RUNTIME_", b"ACTIONS_ID_TOKEN_", b"VAULT_", b"NPM_CONFIG_", b"TWINE_", b"DOCKER_"),
)
_SECRET_WORDS = frozenset(
    {
        *(b"TOKEN", b"TOKENS", b"SECRET", b"SECRETS", b"PASSWORD", b"PASSWD", b"PASSPHRASE"),
        *(b"PASS", b"CREDENTIAL", b"CREDENTIALS", b"APIKEY", b"PAT", b"COOKIE", b"AUTH"),
    }
)
_KEY_KINDS = frozenset(
    {b"API", b"PRIVATE", b"ACCESS", b"SIGNING", b"SECRET", b"ENCRYPTION", b"DEPLOY", b"MASTER"}
)
# URLs that carry a password (a macro with one of these wants a network anyhow)
_SECRET_SUFFIXES = (b"DATABASE_URL", b"_DSN")

# looked up by rustc itself in every run, unset in the sandbox or set to its own, and without
# influence on any output: a bin, an rlib and an rmeta were the same bytes with and without them
HIDDEN: Mapping[bytes, str] = {
    b"CARGO_MAKEFLAGS": "jobserver: the agent has its own; changes the speed only",
    b"MAKEFLAGS": "jobserver, as CARGO_MAKEFLAGS",
    b"MFLAGS": "jobserver, as CARGO_MAKEFLAGS",
    b"MALLOC_CONF": "tuning of jemalloc",
    b"LLVM_IGNORED_ENV_VAR": "LLVM asks for it to keep its option code alive",
    b"RUSTC_GRAPHVIZ_FONT": "only with -Z dump-mir-graphviz, which runs at home",
    b"RUSTC_ICE": "where a crash report goes; a crash is never accepted",
    b"TMPDIR": "where temporary files go: a private /tmp in the sandbox",
    b"TEMP": "as TMPDIR",
    b"TMP": "as TMPDIR",
    # the policy runs the unit at home where one of these is set
    b"RUSTC_LOG": "policy: local when set",
    b"RUSTC_LOG_BACKTRACE": "policy: local when set",
    b"RUSTC_LOG_COLOR": "policy: local when set",
    b"RUSTC_LOG_ENTRY_EXIT": "policy: local when set",
    b"RUSTC_LOG_FORMAT_JSON": "policy: local when set",
    b"RUSTC_LOG_LINES": "policy: local when set",
    b"RUSTC_LOG_OUTPUT_TARGET": "policy: local when set",
    b"RUSTC_LOG_THREAD_IDS": "policy: local when set",
    b"RUSTC_LOG_WRAPTREE": "policy: local when set",
}
# looked up by the programs of a link only
LINKER_HIDDEN: Mapping[bytes, str] = {
    b"COLLECT_GCC": "gcc sets it for its own child",
    b"COLLECT_GCC_OPTIONS": "gcc sets it for its own child",
    b"TERM": "colours; the linker's stderr is a pipe",
    b"DEB_BUILD_OPTIONS": "how Debian's gcc retries after its own crash",
    b"LANG": "gcc >= 13 draws diagrams by it; rustc sets LC_ALL, which decides about words",
}


@attrs.frozen
class EnvVerdict:
    """`missing`: send them and run again. `refused`: never sent, so the unit runs at home."""

    missing: frozenset[bytes] = frozenset()
    refused: frozenset[bytes] = frozenset()

    @property
    def accepted(self) -> bool:
        """The run saw what it would have seen at home."""
        return not self.missing and not self.refused


def parse_environ(raw: bytes) -> dict[bytes, bytes]:
    """`/proc/<pid>/environ` as getenv sees it: the first of a name wins, other entries are out."""
    env: dict[bytes, bytes] = {}
    for entry in raw.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if name and equals and name not in env:
            env[name] = value
    return env


def select(
    unit_env: Mapping[bytes, bytes],
    cargo_env: Mapping[bytes, bytes] | None,
    *,
    learned: frozenset[bytes] = frozenset(),
    forward: frozenset[bytes] = frozenset(),
    links: bool,
) -> tuple[tuple[bytes, bytes], ...]:
    """The variables of one unit, sorted by name: what it is sent and what its key holds.

    `unit_env` is the wrapper's environment, `cargo_env` that of the calling cargo (None where it
    cannot be read): what differs was added by cargo for this unit. `learned` are names that
    earlier runs looked up, `forward` those of the configuration's `forward_env`; only the latter
    may name what looks like a secret.
    """
    chosen = []
    for name, value in unit_env.items():
        if _is_always(name) or name in forward or (links and _is_for_links(name)):
            send = not _is_impossible(name)
        elif name in learned or (cargo_env is not None and cargo_env.get(name) != value):
            send = not is_never_sent(name)
        else:
            send = False
        if send:
            chosen.append((name, value))
    return tuple(sorted(chosen))


def judge(
    observed_names: Iterable[bytes],
    env_deps: Iterable[tuple[bytes, bytes | None]],
    sent: Iterable[tuple[bytes, bytes]],
    home_env: Mapping[bytes, bytes],
    *,
    linker_names: Iterable[bytes] = (),
    forward: frozenset[bytes] = frozenset(),
) -> EnvVerdict:
    """Compare what a remote run looked up with what home would have answered.

    `observed_names` are the names rustc (and its macros) asked for, `linker_names` those asked for
    by the programs of a link, `env_deps` the dep-info's lines. Unset and empty differ.
    """
    sent_env = dict(sent)
    missing: set[bytes] = set()
    refused: set[bytes] = set()

    def differs(name: bytes) -> bool:
        return sent_env.get(name) != home_env.get(name)

    def report(name: bytes) -> None:
        # a name sent with another value than home has now: the environment moved under us
        hopeless = _is_impossible(name) or (is_never_sent(name) and name not in forward)
        (refused if hopeless or name in sent_env else missing).add(name)

    for name in observed_names:
        if differs(name) and name not in HIDDEN:
            report(name)
    for name in linker_names:
        if differs(name) and name not in HIDDEN and name not in LINKER_HIDDEN:
            report(name)
    for name, seen in env_deps:
        if differs(name):
            report(name)
        elif seen != sent_env.get(name) and not (seen is None and not _is_utf8(sent_env[name])):
            # set inside the sandbox, or by --env-set or a macro: home alone can say
            refused.add(name)
    return EnvVerdict(frozenset(missing), frozenset(refused))


def is_declared(name: bytes, *, links: bool) -> bool:
    """Sent and keyed whenever it is set, whoever set it."""
    return (_is_always(name) or (links and _is_for_links(name))) and not _is_impossible(name)


def is_never_sent(name: bytes) -> bool:
    """Must not leave this machine unless the user forwards it by name."""
    return _is_impossible(name) or is_secret_name(name)


def is_secret_name(name: bytes) -> bool:
    """Looks like a credential. Cargo's own names for a unit never do, whatever a crate's name."""
    if _is_always(name):
        return False
    upper = name.upper()
    if upper.startswith(_SECRET_PREFIXES) or upper.endswith(_SECRET_SUFFIXES):
        return True
    words = upper.split(b"_")
    if not _SECRET_WORDS.isdisjoint(words):
        return True
    return any(
        second in {b"KEY", b"KEYS"} and first in _KEY_KINDS
        for first, second in itertools.pairwise(words)
    )


def _is_always(name: bytes) -> bool:
    if name == b"CLIPPY_TERMINAL_WIDTH":
        # columns in complaints about clippy.toml, else not looked up: a resize must not miss
        return False
    return name in _ALWAYS or name.startswith(_ALWAYS_PREFIXES)


def _is_for_links(name: bytes) -> bool:
    return (
        name in _LINKS or name.startswith(_LINK_PREFIXES) or name.endswith(_LINK_SUFFIXES)
    ) and not is_secret_name(name)


def _is_impossible(name: bytes) -> bool:
    return name in _IMPOSSIBLE or name.startswith(_IMPOSSIBLE_PREFIXES)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
