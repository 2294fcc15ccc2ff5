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
    folders: tuple[bytes, ...] = ()
    """Of each layer: what paths in it are relative to."""
    given: int = 0
    """So many of the layers are of `--config`, and stronger than the environment."""

    @classmethod
    def read(
        cls, cwd: bytes, environ: Mapping[bytes, bytes], given: Sequence[str] = ()
    ) -> CargoSettings:
        """`given`: the values of `--config`, in order."""
        layers: list[_Layer] = []
        for text in reversed(given):
            layers += _given(text, cwd)
        of_options = len(layers)
        seen: set[bytes] = set()
        for path in (*configurations(cwd), config_file(cargo_home(environ))):
            layers += _file(path, seen)
        tables, folders = [layer[0] for layer in layers], [layer[1] for layer in layers]
        return cls(tuple(tables), environ, tuple(folders), of_options)

    def get(self, *path: str) -> Any:
        """What holds for `a.b.c`; None if nothing does."""
        return self._found(path)[0]

    def target_dir(self, cwd: bytes) -> bytes | None:
        """`build.target-dir`, absolute: cargo takes it relative to the folder that `.cargo` is in,
        from options and the environment relative to `cwd`. CARGO_TARGET_DIR is stronger."""
        value, layer = self._found(("build", "target-dir"))
        if not isinstance(value, str):
            return None
        folder = self.folders[layer] if 0 <= layer < len(self.folders) else cwd
        return os.path.join(folder, os.fsencode(value))

    def _found(self, path: Sequence[str]) -> tuple[Any, int]:
        """What holds, and in which layer it stands; -1: in the environment, or nowhere."""
        values = [_at(layer, path) for layer in self.layers]
        found = [(value, at) for at, value in enumerate(values) if value is not None]
        if found and found[0][1] < self.given:
            return found[0]
        variable = "CARGO_" + "_".join(path).upper().replace("-", "_").replace(".", "_")
        value = self.environ.get(variable.encode())
        if value is not None:
            return os.fsdecode(value), -1
        return found[0] if found else (None, -1)

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


_Layer = tuple[Mapping[str, Any], bytes]


def _given(text: str, cwd: bytes) -> list[_Layer]:
    """One `--config`: TOML, or a file that exists."""
    path = os.path.join(cwd, os.fsencode(text))
    if "=" not in text or os.path.exists(path):
        return _file(path, set())
    import tomllib  # noqa: PLC0415 - few command lines have any

    try:
        return [(tomllib.loads(text), cwd)]
    except tomllib.TOMLDecodeError:
        return []


def _file(path: bytes, seen: set[bytes]) -> list[_Layer]:
    real = os.path.realpath(path)
    if real in seen or len(seen) > _MOST_INCLUDES:
        return []
    seen.add(real)
    table = load(path)
    if table is None:
        return []
    layers: list[_Layer] = [(table, os.path.dirname(os.path.dirname(path)))]
    for included in reversed(includes(table)):
        layers += _file(os.path.join(os.path.dirname(path), os.fsencode(included)), seen)
    return layers
