"""Which folders a cargo elsewhere needs, read from manifests; compared with cargo's own answer."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from burst_lifecycle.folders import within
from burst_wrapper.driver import manifests

PACKAGE = '[package]\nname = "{}"\nversion = "0.1.0"\nedition = "2021"\n'


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def crate(name: str, rest: str = "") -> dict[str, str]:
    return {
        f"{name}/Cargo.toml": PACKAGE.format(Path(name).name.strip(".")) + rest,
        f"{name}/src/lib.rs": "",
    }


def read(folder: Path, manifest_path: Path | None = None) -> manifests.Workspace:
    return manifests.read(
        os.fsencode(folder), None if manifest_path is None else os.fsencode(manifest_path)
    )


def relative(paths: tuple[bytes, ...], folder: Path) -> set[str]:
    return {os.path.relpath(os.fsdecode(path), folder) for path in paths}


def cargo_packages(folder: Path) -> set[str]:
    """Manifests of all packages with a path, by cargo itself."""
    done = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--offline"],
        cwd=folder,
        capture_output=True,
        check=True,
        env={**os.environ, "CARGO_HOME": str(folder / "no-cargo-home")},
    )
    packages = json.loads(done.stdout)["packages"]
    return {package["manifest_path"] for package in packages if package["source"] is None}


def test_members_by_patterns_and_what_lies_outside(tmp_path: Path) -> None:
    """Everything that cargo's metadata names is in the set, and nothing beside it is."""
    write(
        tmp_path,
        {
            "ws/Cargo.toml": '[workspace]\nresolver = "2"\nmembers = ["crates/*", "../sibling"]\n'
            'exclude = ["crates/not"]\n'
            '[workspace.dependencies]\ninherited.path = "../inherited"\n',
            **crate("ws/crates/one", '[dependencies]\nfar.path = "../../../far"\n'),
            **crate("ws/crates/.hidden", "[dependencies]\ninherited.workspace = true\n"),
            **crate("ws/crates/not", '[dependencies]\nunused.path = "../../../unused"\n'),
            "sibling/Cargo.toml": PACKAGE.format("sibling") + 'workspace = "../ws"\n',
            "sibling/src/lib.rs": "",
            **crate("inherited"),
            **crate("far", "[target.'cfg(unix)'.dev-dependencies]\n"),
            **crate("unused"),
            **crate("nobody"),
        },
    )
    found = read(tmp_path / "ws" / "crates" / "one")
    assert found.root == os.fsencode(tmp_path / "ws")
    assert found.roots[0] == found.root
    assert relative(found.roots, tmp_path) == {"ws", "sibling", "inherited", "far"}
    for manifest in cargo_packages(tmp_path / "ws"):
        assert any(within(os.fsencode(manifest), root) for root in found.roots)


def test_an_outside_package_of_another_workspace(tmp_path: Path) -> None:
    """It inherits from that workspace's manifest, which alone is sent of it, and what it names."""
    write(
        tmp_path,
        {
            **crate("app", '[dependencies]\nmember.path = "../other/member"\n'),
            "other/Cargo.toml": '[workspace]\nmembers = ["member", "huge"]\n'
            '[workspace.package]\nversion = "0.3.0"\n'
            '[workspace.dependencies]\nthird.path = "../third"\n',
            **crate("other/huge"),
            "other/member/Cargo.toml": '[package]\nname = "member"\nversion.workspace = true\n'
            "[dependencies]\nthird.workspace = true\n",
            "other/member/src/lib.rs": "",
            **crate("third"),
        },
    )
    found = read(tmp_path / "app")
    assert relative(found.roots, tmp_path) == {"app", "other/member", "third"}
    assert relative(found.files, tmp_path) == {"other/Cargo.toml"}
    assert len(cargo_packages(tmp_path / "app")) == 3


def test_patches_replacements_and_targets_elsewhere(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            **crate(
                "app",
                '[lib]\npath = "../sources/app.rs"\n[patch.crates-io]\nserde.path = "../patched"\n'
                '[patch."https://example.invalid/x"]\ny.path = "../patched-too"\n'
                '[build-dependencies]\ngone.path = "../gone"\n',
            ),
            "sources/app.rs": "",
            **crate("patched"),
            **crate("patched-too"),
        },
    )
    found = read(tmp_path / "app")
    assert relative(found.roots, tmp_path) == {"app", "sources", "patched", "patched-too"}


def test_configuration_up_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it includes and names; the user's own cargo home stays here."""
    monkeypatch.setenv("CARGO_HOME", str(tmp_path / ".cargo"))
    write(
        tmp_path,
        {
            ".cargo/config.toml": '[registries.x]\ntoken = "secret"\n',
            "a/.cargo/config.toml": 'include = ["more.toml", { path = "none.toml" }]\n'
            '[source.crates-io]\nreplace-with = "v"\n[source.v]\ndirectory = "vendor"\n',
            "a/.cargo/more.toml": 'paths = ["overridden"]\n',
            "a/b/.cargo/config": "",
            "a/b/.cargo/config.toml": "",
            "a/rust-toolchain.toml": '[toolchain]\nchannel = "stable"\n',
            "a/vendor/x/Cargo.toml": PACKAGE.format("x"),
            **crate("a/overridden"),
            **crate("a/b/app"),
        },
    )
    found = read(tmp_path / "a" / "b" / "app")
    assert relative(found.roots, tmp_path) == {"a/b/app", "a/vendor", "a/overridden"}
    assert relative(found.files, tmp_path) == {
        "a/.cargo/config.toml",
        "a/.cargo/more.toml",
        "a/b/.cargo/config",
        "a/rust-toolchain.toml",
    }


def test_which_manifest(tmp_path: Path) -> None:
    """The nearest; a folder that the workspace above excludes is on its own; a named one."""
    write(
        tmp_path,
        {
            "Cargo.toml": '[workspace]\nmembers = ["in"]\nexclude = ["out"]\n',
            **crate("in"),
            **crate("out"),
        },
    )
    inner = read(tmp_path / "in" / "src")
    assert (inner.manifest, inner.root) == (
        os.fsencode(tmp_path / "in" / "Cargo.toml"),
        os.fsencode(tmp_path),
    )
    assert read(tmp_path / "out").root == os.fsencode(tmp_path / "out")
    assert read(tmp_path, tmp_path / "in" / "Cargo.toml").manifest == inner.manifest
    assert read(tmp_path, Path("in/Cargo.toml")).manifest == inner.manifest


def test_what_cannot_be_read_is_left_to_cargo(tmp_path: Path) -> None:
    write(tmp_path, {"Cargo.toml": "[workspace\n", "src/lib.rs": ""})
    (tmp_path / "x").mkdir()
    assert read(tmp_path / "x").roots == (os.fsencode(tmp_path),)
    write(tmp_path, {"Cargo.toml": 'dependencies = 3\nworkspace = { members = "x" }\n[target]\n'})
    assert read(tmp_path).roots == (os.fsencode(tmp_path),)


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff\nodd"
    os.makedirs(odd + b"/src")
    with open(odd + b"/Cargo.toml", "w") as file:
        file.write(PACKAGE.format("odd"))
    assert manifests.read(odd + b"/src").roots == (odd,)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(manifests.NoManifest) as caught:
        read(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.exit_code == 101
    with pytest.raises(manifests.NotAManifest, match=r"`none/Cargo\.toml` does not exist"):
        read(tmp_path, Path("none/Cargo.toml"))
