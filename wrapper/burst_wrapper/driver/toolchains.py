"""Which cargo to start on another machine: what it has, and which of it was asked for.

Asked for are, the strongest first: `+toolchain`, RUSTUP_TOOLCHAIN, the nearest `rust-toolchain` or
`rust-toolchain.toml`, the machine's own default (https://rust-lang.github.io/rustup/overrides.html).
A toolchain is taken by its folder, not through rustup's proxies, which would want to write.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from burst_wrapper.driver.errors import CannotProbe, NoToolchainThere

RUSTUP_HOMES: Final = ("/opt/rust/rustup", "/usr/local/rustup", "/root/.rustup")
"""Besides our own and the account's: the baked image's, that of container images, root's."""
PLAIN: Final = ("/opt/rust/toolchain", "/usr/local", "/usr")
_CARGO_HOMES: Final = ("/opt/rust/cargo", "/usr/local/cargo", "/root/.cargo")

PROBE: Final = r"""
say() { printf '%s %s\n' "$1" "$2"; }
say machine "$(uname -m)"
say home "$HOME"
for home in "$1" "$HOME/.rustup" /opt/rust/rustup /usr/local/rustup /root/.rustup; do
    [ -d "$home/toolchains" ] || continue
    for each in "$home"/toolchains/*/bin/cargo; do
        [ -x "$each" ] && say toolchain "${each%/bin/cargo}"
    done
    default=$(sed -n 's/^default_toolchain *= *"\(.*\)"$/\1/p' "$home/settings.toml" 2>/dev/null)
    [ -n "$default" ] && say default "$default"
done
for each in /opt/rust/toolchain /usr/local /usr; do
    [ -x "$each/bin/cargo" ] && [ ! -L "$each/bin/cargo" ] && say plain "$each"
done
PATH=$HOME/.cargo/bin:/opt/rust/cargo/bin:/usr/local/cargo/bin:/root/.cargo/bin:$PATH
for name in rustup sccache; do
    found=$(command -v "$name") && say "$name" "$found"
done
exit 0
"""
"""For `sh -c`, with our own rustup home as its first argument. Constant: nothing is put into it."""

_LEGACY: Final = re.compile(r"[A-Za-z0-9._+-]+")
_DATED: Final = re.compile(r"(stable|beta|nightly|\d+\.\d+(?:\.\d+)?)(-\d{4}-\d{2}-\d{2})?")


@attrs.frozen
class Machine:
    """What that machine said."""

    machine: str = ""
    """As `uname -m`."""
    home: str = ""
    toolchains: tuple[str, ...] = ()
    """rustup's, by folder."""
    plain: tuple[str, ...] = ()
    """Prefixes with a cargo that is not rustup's."""
    default: str = ""
    rustup: str = ""
    sccache: str = ""

    @classmethod
    def parse(cls, said: bytes, host: str) -> Machine:
        """CannotProbe for what is no answer."""
        found: dict[str, list[str]] = {}
        for line in said.decode("utf-8", "surrogateescape").splitlines():
            word, _, value = line.partition(" ")
            found.setdefault(word, []).append(value)
        if not found.get("machine"):
            raise CannotProbe("no answer", host=host)

        def first(word: str) -> str:
            return (found.get(word) or [""])[0]

        return cls(
            machine=first("machine"),
            home=first("home"),
            toolchains=tuple(dict.fromkeys(found.get("toolchain", ()))),
            plain=tuple(found.get("plain", ())),
            default=first("default"),
            rustup=first("rustup"),
            sccache=first("sccache"),
        )


@attrs.frozen
class Wanted:
    """A toolchain that somebody asked for; an empty channel: nobody did."""

    channel: str = ""
    by: str = ""
    """Who, for messages."""
    components: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    profile: str = ""


def wanted(option: str, environ: Mapping[bytes, bytes], files: Sequence[bytes]) -> Wanted:
    """`option`: `+x` without its `+`. `files`: those of `manifests.toolchain_files`."""
    if option:
        return Wanted(option, f"+{option}")
    variable = os.fsdecode(environ.get(b"RUSTUP_TOOLCHAIN", b""))
    if variable:
        return Wanted(variable, "RUSTUP_TOOLCHAIN")
    for path in files:
        return of_file(path)
    return Wanted()


def of_file(path: bytes) -> Wanted:
    """What a toolchain file asks for; nothing if it cannot be understood. Blocking."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError):
        return Wanted()
    by = os.fsdecode(path)
    if not path.endswith(b".toml") and _LEGACY.fullmatch(text.strip()):
        return Wanted(text.strip(), by)
    try:
        table: Any = tomllib.loads(text).get("toolchain", {})
    except tomllib.TOMLDecodeError:
        return Wanted()
    if not isinstance(table, dict) or not isinstance(table.get("channel"), str):
        return Wanted()

    def words(key: str) -> tuple[str, ...]:
        value = table.get(key)
        listed = value if isinstance(value, list) else []
        return tuple(word for word in listed if isinstance(word, str))

    profile = table.get("profile")
    return Wanted(
        channel=table["channel"],
        by=by,
        components=words("components"),
        targets=words("targets"),
        profile=profile if isinstance(profile, str) else "",
    )


def find(machine: Machine, asked: Wanted) -> str | None:
    """The toolchain's folder there; None: it is not there, and could be installed.

    NoToolchainThere if nothing was asked for and there is none.
    """
    if asked.channel:
        return _by_name(machine, asked.channel)
    if machine.default:
        found = _by_name(machine, machine.default)
        if found is not None:
            return found
    for folder in (*machine.plain, *machine.toolchains):
        return folder
    if machine.rustup:
        return None
    raise NoToolchainThere("there is no Rust on that machine")


def _by_name(machine: Machine, channel: str) -> str | None:
    """`1.80`, `stable`, `nightly-2026-01-01`, or the same with the machine's triple behind."""
    for folder in machine.toolchains:
        name = os.path.basename(folder)
        if name == channel or (
            name.startswith(channel + "-")
            and _DATED.fullmatch(channel)
            and name[len(channel) + 1 :].startswith(f"{machine.machine}-")
        ):
            return folder
    return None


def cargo_homes(machine: Machine) -> tuple[str, ...]:
    """Folders there whose `bin` may hold cargo's subcommands."""
    return (f"{machine.home}/.cargo", *_CARGO_HOMES)
