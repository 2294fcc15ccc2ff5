"""The configuration: the user's file, a project's file, options of a command, in this order.

`$XDG_CONFIG_HOME/burst/config.toml` and `<workspace>/.config/burst.toml`; every key optional, all
of them in `setting_keys`. Unknown keys are errors with a suggestion: a misspelt `max_eur_per_hour`
must not silently mean nothing. The wrapper's `Config` is made from the same layers.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from burst_lifecycle.places import Places
from burst_lifecycle.setting_keys import BUILT_IN_EXCLUDES, KEYS, Scope, TokenSource, default
from burst_lifecycle.setting_values import convert, unknown, wrong
from burst_lifecycle.trust import Trust

if TYPE_CHECKING:
    from decimal import Decimal

PROJECT_FILE: Final = os.path.join(".config", "burst.toml")
_LIMIT_BYTES: Final = 1 << 20
_USER_FILE: Final = "`~/.config/burst/config.toml`"
_SECTIONS: Final = tuple({name.partition(".")[0] for name in KEYS if "." in name})


@attrs.frozen(kw_only=True)
class Hetzner:
    """`[hetzner]`. That the table is there at all makes servers possible; a token does not."""

    token: TokenSource = TokenSource()
    endpoint: str = default("hetzner.endpoint")
    owner: str = default("hetzner.owner")
    location: tuple[str, ...] = default("hetzner.location")
    server_type: tuple[str, ...] = default("hetzner.server_type")
    base_image: str = default("hetzner.base_image")
    max_eur_per_hour: Decimal | None = default("hetzner.max_eur_per_hour")
    """None: nothing was agreed to, so nothing is created."""
    budget_eur_per_month: Decimal | None = default("hetzner.budget_eur_per_month")
    boot_after_s: float = default("hetzner.boot_after_s")
    boot_for_check: bool = default("hetzner.boot_for_check")
    boot_deadline_s: float = default("hetzner.boot_deadline_s")
    wait: bool = default("hetzner.wait")
    on_location_full: str = default("hetzner.on_location_full")
    keep_alive_s: float = default("hetzner.keep_alive_s")
    reap: str = default("hetzner.reap")
    hard_end_s: float = default("hetzner.hard_end_s")
    orphan_s: float = default("hetzner.orphan_s")
    volume_gb: int = default("hetzner.volume_gb")
    volume_keep_alive_s: float = default("hetzner.volume_keep_alive_s")
    ssh_key_path: str = default("hetzner.ssh_key_path")
    """Empty: `Places.ssh_key`."""
    self_delete_token: TokenSource = TokenSource()


@attrs.frozen(kw_only=True)
class Settings:
    """What the lifecycle and the verbs that run on servers need. Equality is that of settings."""

    forward_env: tuple[bytes, ...] = default("forward_env")
    exclude: tuple[str, ...] = default("exclude")
    unexclude: tuple[str, ...] = default("unexclude")
    services: tuple[str, ...] = default("services")
    test_runner: str = default("test_runner")
    program_memory_gb: float = default("program_memory_gb")
    program_wall_s: float = default("program_wall_s")
    driver_tokens: tuple[bytes, ...] = default("driver_tokens")
    """Variables with secrets that a cargo on another machine is given."""
    driver_ssh_agent: bool = default("driver_ssh_agent")
    notify: tuple[str, ...] = default("notify")
    hetzner: Hetzner | None = None
    warnings: tuple[str, ...] = attrs.field(default=(), eq=False)
    """Sentences for people: what stands in a file and has no effect."""
    untrusted: tuple[str, ...] = attrs.field(default=(), eq=False)
    """Keys of the project's file that are left out until the user trusts it."""

    @property
    def excludes(self) -> tuple[str, ...]:
        """The patterns that hold: built in, less `unexclude`, and `exclude`."""
        kept = {entry.rstrip("/") for entry in self.unexclude}
        built_in = (entry for entry in BUILT_IN_EXCLUDES if entry.rstrip("/") not in kept)
        return tuple(dict.fromkeys((*built_in, *self.exclude)))


@attrs.frozen
class Layer:
    """One source's values, checked and converted. Keys as in `setting_keys`."""

    values: Mapping[str, Any] = attrs.field(factory=dict)
    sections: frozenset[str] = frozenset()
    """Tables that are there, even if empty."""
    warnings: tuple[str, ...] = ()
    untrusted: tuple[str, ...] = ()
    stamp: tuple[int, int] = (0, 0)
    """Modification time (ns) and size of the file; zeros if there is none."""
    content: bytes = attrs.field(default=b"", repr=False)


def load(
    places: Places,
    workspace_root: str | None = None,
    options: Mapping[str, object] | None = None,
) -> Settings:
    """All layers. `options` maps key names to values as TOML would have them.

    ConfigError names file and key. Keys of a project's file that nobody has trusted are left out
    and named in `untrusted`.
    """
    return build(Settings, layers(places, workspace_root, options))


def layers(
    places: Places,
    workspace_root: str | None = None,
    options: Mapping[str, object] | None = None,
) -> tuple[Layer, ...]:
    """User, project, options: the later ones are stronger."""
    found = [read_user(places.config_file)]
    if workspace_root is not None:
        found.append(read_project(workspace_root, Trust(places.state)))
    if options:
        found.append(from_options(options))
    return tuple(found)


def read_user(path: str) -> Layer:
    """The user's own file; a missing one is empty. ConfigError."""
    return _read(path, project=False)


def read_project(workspace_root: str, trust: Trust) -> Layer:
    """A project's file; a missing one is empty. ConfigError, too, for what is only the user's."""
    path = os.path.join(workspace_root, PROJECT_FILE)
    layer = _read(path, project=True)
    asked = tuple(name for name in layer.values if KEYS[name].scope is Scope.TRUSTED)
    if not asked or trust.holds(path, layer.content):
        return layer
    kept = {name: value for name, value in layer.values.items() if name not in asked}
    return attrs.evolve(layer, values=kept, untrusted=asked)


def from_options(options: Mapping[str, object]) -> Layer:
    """ConfigError, as for a file."""
    for name in options:
        if name not in KEYS:
            raise wrong("option", unknown(name, KEYS))
    values = {name: convert("option", KEYS[name], value) for name, value in options.items()}
    return Layer(values)


def merge(found: Iterable[Layer]) -> dict[str, Any]:
    """Later layers win; lists that add up do so, without repetition."""
    values: dict[str, Any] = {}
    for layer in found:
        for name, value in layer.values.items():
            if KEYS[name].adds and name in values:
                values[name] = tuple(dict.fromkeys((*values[name], *value)))
            else:
                values[name] = value
    return values


_S = TypeVar("_S", bound=Settings)


def build(cls: type[_S], found: tuple[Layer, ...], **more: Any) -> _S:
    """A class of settings from its layers. Its fields are named as keys (`crate`: `crates`)."""
    values = merge(found)
    warnings = [warning for layer in found for warning in layer.warnings]
    hetzner = None
    if found and "hetzner" in found[0].sections:
        prefix = "hetzner."
        own = {name: value for name, value in values.items() if name.startswith(prefix)}
        hetzner = Hetzner(**{name.removeprefix(prefix): value for name, value in own.items()})
    elif any("hetzner" in layer.sections for layer in found[1:]):
        warnings.append(
            "the project's [hetzner] has no effect: your own configuration has no such table"
        )
    names = {field.name for field in attrs.fields(cls)}
    kept = {name: value for name, value in values.items() if name in names}
    if "crates" in names and "crate" in values:
        kept["crates"] = values["crate"]
    return cls(
        **kept,
        hetzner=hetzner,
        warnings=tuple(warnings),
        untrusted=tuple(name for layer in found for name in layer.untrusted),
        **more,
    )


# -- one file --------------------------------------------------------------------------------------


def _read(path: str, *, project: bool) -> Layer:
    try:
        # A project is not ours: a pipe in place of its file must not hold up a build.
        with open(path, "rb", opener=_without_waiting) as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise wrong(path, "cannot be read: it is no file")
            data = file.read(_LIMIT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return Layer()
    except OSError as error:
        raise wrong(path, f"cannot be read: {error.strerror}") from error
    if len(data) > _LIMIT_BYTES:
        raise wrong(path, "is larger than any configuration")
    import tomllib  # noqa: PLC0415 - 3 ms, and most projects have no such file

    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise wrong(path, f"is not TOML: {error}") from error
    values: dict[str, Any] = {}
    for name, raw in _flat(path, table):
        key = KEYS[name]
        if project and key.scope is Scope.USER:
            raise wrong(path, f"`{name}` is not a project's to set, only yours: {_USER_FILE}")
        values[name] = convert(path, key, raw)
    return Layer(
        values,
        frozenset(name for name in table if name in _SECTIONS),
        tuple(
            _strange_unexcludes(
                values.get("unexclude", ()),
                path.removesuffix(PROJECT_FILE) if project else None,
            )
        ),
        stamp=(info.st_mtime_ns, info.st_size),
        content=data,
    )


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)


def _flat(path: str, table: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Names as in `setting_keys`, with what stands there."""
    top = [name for name in KEYS if "." not in name]
    for name, value in table.items():
        if name in _SECTIONS:
            if not isinstance(value, dict):
                raise wrong(path, f"`{name}` must be a table: `[{name}]`")
            for inner, raw in value.items():
                full = f"{name}.{inner}"
                if full not in KEYS:
                    raise wrong(path, unknown(full, _of_section(name), elsewhere=top))
                yield full, raw
        elif name in top:
            yield name, value
        else:
            raise wrong(path, unknown(name, (*top, *_SECTIONS), elsewhere=_all_inner()))


def _of_section(section: str) -> list[str]:
    return [name for name in KEYS if name.startswith(f"{section}.")]


def _all_inner() -> list[str]:
    return [name for name in KEYS if "." in name]


def _strange_unexcludes(entries: Iterable[str], root: str | None) -> Iterable[str]:
    """What takes nothing out, as far as can be told here: not built in, of no built-in kind, and
    nothing that `.gitignore` could ignore, because the project has none such. The user's own file
    is for all projects (`root` is None): there what is not built in is strange."""
    import difflib  # noqa: PLC0415 - milliseconds that a first build need not wait for
    import fnmatch  # noqa: PLC0415

    known = {entry.rstrip("/"): entry for entry in BUILT_IN_EXCLUDES}
    for entry in entries:
        name = entry.rstrip("/")
        if any(fnmatch.fnmatchcase(os.path.basename(name), kind) for kind in known):
            continue
        if root is not None and _has(root, name):
            continue
        near = difflib.get_close_matches(name, known, 1, 0.8)
        more = f"; did you mean `{known[near[0]]}`?" if near else ", and nothing here is called so"
        if root is None and not near:
            more = ": in your own file it has an effect only where a `.gitignore` ignores it"
        yield f"`unexclude`: {entry!r} is not built in{more}"


def _has(root: str, pattern: str) -> bool:
    """At the project's top or one folder down: no walk through all of it at every command."""
    import glob  # noqa: PLC0415 - as above

    inside = pattern.lstrip("/")
    places = (glob.escape(root), os.path.join(glob.escape(root), "*"))
    return any(next(glob.iglob(os.path.join(place, inside)), None) is not None for place in places)
