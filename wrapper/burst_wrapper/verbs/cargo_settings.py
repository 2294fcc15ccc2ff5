"""Cargo's configuration, as far as a command line depends on it: aliases, runners, build.target.

Read as cargo reads it: `--config`, the environment, `.cargo/config.toml` from the working directory
upwards, then cargo's home; files that a file includes are weaker than itself
(https://doc.rust-lang.org/cargo/reference/config.html). What cannot be read is passed over:
cargo says so itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from burst_wrapper.cargo_files import config_file, configurations, includes, load
from burst_wrapper.paths import cargo_home
from burst_wrapper.verbs import cfg_expression

_MOST_INCLUDES: Final = 32


@attrs.frozen
class CargoSettings:
    """`layers`: the strongest first."""

    layers: tuple[Mapping[str, Any], ...]
    environ: Mapping[bytes, bytes]

    @classmethod
    def read(
        cls, cwd: bytes, environ: Mapping[bytes, bytes], given: Sequence[str] = ()
    ) -> CargoSettings:
        """`given`: the values of `--config`, in order."""
        layers: list[Mapping[str, Any]] = []
        for text in reversed(given):
            layers += _given(text, cwd)
        seen: set[bytes] = set()
        for path in (*configurations(cwd), config_file(cargo_home(environ))):
            layers += _file(path, seen)
        return cls(tuple(layers), environ)

    def get(self, *path: str) -> Any:
        """What holds for `a.b.c`; None if nothing does."""
        variable = "CARGO_" + "_".join(path).upper().replace("-", "_").replace(".", "_")
        value = self.environ.get(variable.encode())
        if value is not None:
            return os.fsdecode(value)
        values = (_at(layer, path) for layer in self.layers)
        return next((value for value in values if value is not None), None)

    def alias(self, name: str) -> list[str] | None:
        """The words that stand for this name. An empty alias is none."""
        value = self.get("alias", name)
        if isinstance(value, str):
            return value.split() or None
        if isinstance(value, list):
            return [str(word) for word in value] or None
        return None

    def aliases(self) -> dict[str, str]:
        """All of them, for a list."""
        found: dict[str, str] = {}
        for layer in self.layers:
            table = layer.get("alias")
            if isinstance(table, dict):
                for name, value in table.items():
                    words = value if isinstance(value, str) else " ".join(map(str, value))
                    found.setdefault(str(name), words)
        return found

    def build_targets(self) -> list[str]:
        """`build.target`: what is built for unless `--target` says otherwise."""
        value = self.get("build", "target")
        if isinstance(value, list):
            return [str(one) for one in value]
        return [value] if isinstance(value, str) and value else []

    def has_runner(self, triple: str, facts: Sequence[str]) -> bool:
        """Whether programs for this target are started by one of the user's. `facts` are
        the lines of `rustc --print cfg` for it."""
        own = self.get("target", triple, "runner")
        if own is not None and not _is_ours(own):
            return True
        return any(
            expression.startswith("cfg(") and cfg_expression.holds(expression[4:-1], facts)
            for layer in self.layers
            for expression, table in _tables(layer.get("target"))
            if table.get("runner") is not None
        )

    @property
    def has_conditional_runner(self) -> bool:
        """Whether the facts of the target matter to `has_runner`."""
        return any(
            expression.startswith("cfg(") and table.get("runner") is not None
            for layer in self.layers
            for expression, table in _tables(layer.get("target"))
        )

    def rustdoc(self) -> str:
        """RUSTDOC or `build.rustdoc`; empty if it is the usual one."""
        own = self.environ.get(b"RUSTDOC")
        value = os.fsdecode(own) if own is not None else self.get("build", "rustdoc")
        return value if isinstance(value, str) else ""

    def wrapper(self) -> str:
        """`build.rustc-wrapper`, also by its variables; empty if there is none."""
        own = self.environ.get(b"RUSTC_WRAPPER")
        value = os.fsdecode(own) if own is not None else self.get("build", "rustc-wrapper")
        return value if isinstance(value, str) else ""


def runner_variable(triple: str) -> bytes:
    """`CARGO_TARGET_<TRIPLE>_RUNNER`."""
    return f"CARGO_TARGET_{triple.upper().replace('-', '_').replace('.', '_')}_RUNNER".encode()


def _is_ours(runner: Any) -> bool:
    """Inherited from a `cargo burst` that this one was started by."""
    words = runner if isinstance(runner, list) else str(runner).split()
    return [os.path.basename(str(word)) for word in words] == ["burst-runner"]


def _tables(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        for name, table in value.items():
            if isinstance(table, dict):
                yield str(name), table


def _at(layer: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = layer
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    return value


def _given(text: str, cwd: bytes) -> list[Mapping[str, Any]]:
    """One `--config`: TOML, or a file that exists."""
    path = os.path.join(cwd, os.fsencode(text))
    if "=" not in text or os.path.exists(path):
        return _file(path, set())
    import tomllib  # noqa: PLC0415 - few command lines have any

    try:
        return [tomllib.loads(text)]
    except tomllib.TOMLDecodeError:
        return []


def _file(path: bytes, seen: set[bytes]) -> list[Mapping[str, Any]]:
    real = os.path.realpath(path)
    if real in seen or len(seen) > _MOST_INCLUDES:
        return []
    seen.add(real)
    table = load(path)
    if table is None:
        return []
    layers: list[Mapping[str, Any]] = [table]
    for included in reversed(includes(table)):
        layers += _file(os.path.join(os.path.dirname(path), os.fsencode(included)), seen)
    return layers
