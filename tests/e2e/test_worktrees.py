"""Two checkouts share what is the same in both, and nothing else: packages with build scripts.

The package lies where cargo keeps a registry's sources, so it cannot change; each checkout has a
target directory and so an OUT_DIR of its own. What a build script leaves there differs between the
two (`MADE`), and so does the length of its path.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs
import pytest

import faults
from faults import Running, same
from space import Space

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BUILD: Final = """\
use std::{env, fs, path::Path};
fn main() {
    let out = env::var("OUT_DIR").unwrap();
    let made = format!("pub const MADE: &str = {:?};", env::var("MADE").unwrap());
    fs::write(Path::new(&out).join("made.rs"), made).unwrap();
    println!("cargo:rerun-if-env-changed=MADE");
    println!("cargo:rustc-env=PLACE={out}/made.rs");
}
"""
MACRO: Final = """\
use proc_macro::TokenStream;
#[proc_macro]
pub fn length(_: TokenStream) -> TokenStream {
    std::env::var("OUT_DIR").unwrap().len().to_string().parse().unwrap()
}
#[proc_macro]
pub fn made(_: TokenStream) -> TokenStream {
    let path = std::env::var("PLACE").unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    text.replace("pub const MADE: &str =", "").replace(";", "").parse().unwrap()
}
"""
LIBRARIES: Final = {
    "nothing of it": 'pub fn says() -> String { "the same".into() }\n',
    "include": 'include!(concat!(env!("OUT_DIR"), "/made.rs"));\n'
    "pub fn says() -> String { MADE.into() }\n",
    "the path": 'pub fn says() -> String { env!("OUT_DIR").into() }\n',
    "its length": 'const LENGTH: usize = env!("PLACE").len();\n'
    "pub fn says() -> String { LENGTH.to_string() }\n",
    "a macro's length": "pub fn says() -> String { mac::length!().to_string() }\n",
    "a macro's file": "pub fn says() -> String { mac::made!().into() }\n",
}
SHARED: Final = "nothing of it"


@pytest.fixture
def checkouts() -> Iterator[tuple[Space, Space]]:
    """Two projects of one user, with cargo home and daemon in common."""
    with Space.open(CARGO_INCREMENTAL="0") as space:
        space.env["CARGO_HOME"] = str(space.folder / "cargo")
        one = attrs.evolve(space, project=space.folder / "one", env={**space.env, "MADE": "first"})
        two = attrs.evolve(
            space, project=space.folder / "the-other", env={**space.env, "MADE": "second"}
        )
        yield one, two


def write(checkouts: tuple[Space, Space], library: str) -> None:
    sources = checkouts[0].folder / "cargo" / "registry" / "src" / "index-0123456789abcdef"
    manifest = faults.MANIFEST
    for path, text in {
        "gen-0.1.0/Cargo.toml": manifest.format(name="gen")
        + '[dependencies]\nmac = { path = "../mac-0.1.0" }\n',
        "gen-0.1.0/build.rs": BUILD,
        "gen-0.1.0/src/lib.rs": library,
        "mac-0.1.0/Cargo.toml": manifest.format(name="mac") + "[lib]\nproc-macro = true\n",
        "mac-0.1.0/src/lib.rs": MACRO,
    }.items():
        place = sources / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    for space in checkouts:
        space.project.mkdir()
        space.write(
            {
                "Cargo.toml": manifest.format(name="app")
                + f'[dependencies]\ngen = {{ path = "{sources}/gen-0.1.0" }}\n',
                "src/main.rs": 'fn main() { println!("{}", gen::says()); }\n',
            }
        )
        space.plain("generate-lockfile", "--offline").check()


def where(space: Space, build: int) -> dict[str, str]:
    return {u["crate"]: u["where"] for u in space.units(build) if u["kind"] != "build script"}


@pytest.mark.parametrize("uses", LIBRARIES)
def test_one_checkout_after_the_other(checkouts: tuple[Space, Space], uses: str) -> None:
    """What looks at its OUT_DIR is compiled for each, all else is found; both are plain cargo's,
    from kept results, too."""
    write(checkouts, LIBRARIES[uses])
    expected = [faults.plain(space) for space in checkouts]
    said = [
        space.run(plain.target / "debug/app").stdout
        for space, plain in zip(checkouts, expected, strict=True)
    ]
    assert (said[0] == said[1]) == (uses == SHARED)
    for _ in range(2):
        for space, plain, words in zip(checkouts, expected, said, strict=True):
            space.fresh_target()
            same(space, plain, space.cargo("build", BURST_REQUIRE_REMOTE="1"))
            assert space.run("target/debug/app").stdout == words
    # builds, the newest first: two, one (all hits), two, one
    assert set(where(checkouts[0], 1).values()) == {"hit"}
    assert set(where(checkouts[0], 2).values()) == {"hit"}
    assert where(checkouts[0], 3)["mac"] == "hit"
    assert where(checkouts[0], 3)["gen"] == ("hit" if uses == SHARED else "remote")


@pytest.mark.parametrize("uses", LIBRARIES)
def test_two_checkouts_at_once(checkouts: tuple[Space, Space], uses: str) -> None:
    """A run of the other checkout's is followed only as long as it is one's own."""
    write(checkouts, LIBRARIES[uses])
    one, two = checkouts
    expected = [faults.plain(space) for space in checkouts]
    with (
        Running.start(one, BURST_REQUIRE_REMOTE="1") as first,
        Running.start(two, BURST_REQUIRE_REMOTE="1") as second,
    ):
        done = [first.finish(), second.finish()]
    for space, plain, ended in zip(checkouts, expected, done, strict=True):
        same(space, plain, ended)
        said = space.run(plain.target / "debug/app").stdout
        assert space.run("target/debug/app").stdout == said
    runs = [u for n in (1, 2) for u in one.units(n) if u["crate"] == "gen"]
    assert len(runs) == 2
    executed = [u for u in runs if u["reason"] == "executed"]
    assert len(executed) == (1 if uses == SHARED else 2)
