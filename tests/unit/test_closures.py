"""burst_wrapper.closures: which files stand behind the `--extern`s of a call."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from burst_protocol.digest import Digest
from burst_protocol.packing import pack
from burst_wrapper.argv import RustcCall, parse
from burst_wrapper.closures import Closure, Closures, Externs
from burst_wrapper.index import Index
from burst_wrapper.statcache import StatCache


@attrs.define
class Deps:
    """A target/debug/deps folder and what is remembered of its artifacts."""

    folder: Path
    index: Index
    closures: Closures

    def artifact(
        self,
        stem: str,
        *extensions: str,
        crates: tuple[str, ...] = (),
        macros: tuple[str, ...] = (),
        seen: bool = True,
    ) -> None:
        """Files of one crate, each with bytes of its own; remembered if we saw its compile."""
        for extension in extensions:
            content = f"{stem}{extension}".encode()
            (self.folder / f"{stem}{extension}").write_bytes(content)
            if seen:
                closure = Closure(
                    frozenset(name.encode() for name in crates),
                    frozenset(name.encode() for name in macros),
                )
                self.closures.remember(Digest.of(content), closure)

    def macro(self, stem: str, *, seen: bool = True) -> None:
        self.artifact(stem, ".so", macros=(stem,), seen=seen)

    def resolve(self, *externs: str, links: bool = False, more: tuple[str, ...] = ()) -> Externs:
        call = call_of("-L", f"dependency={self.folder}", *more, *self.arguments(externs))
        return self.closures.resolve(call, b"/cwd", links=links)

    def arguments(self, externs: tuple[str, ...]) -> list[str]:
        arguments = []
        for extern in externs:
            name = extern.split("-")[0].removeprefix("lib")
            arguments += ["--extern", f"{name}={self.folder / extern}"]
        return arguments


def call_of(*arguments: str) -> RustcCall:
    argv = [b"rustc", *(os.fsencode(word) for word in arguments), b"lib.rs"]
    return parse(tuple(argv), lambda _: b"")


def names(files: Externs) -> tuple[list[str], list[str]]:
    """Names of files and of macros; every digest is that of the file."""
    for file in (*files.files, *files.macros):
        assert file.digest == Digest.of_file(file.path)
    return (
        [os.fsdecode(os.path.basename(file.path)) for file in files.files],
        [os.fsdecode(os.path.basename(file.path)) for file in files.macros],
    )


@pytest.fixture
def deps(tmp_path: Path) -> Iterator[Deps]:
    folder = tmp_path / "deps"
    folder.mkdir()
    index = Index(bytes(tmp_path / "cache" / "home.db"))
    yield Deps(folder, index, Closures(index, StatCache(index)))
    index.close()


def test_nothing_is_asked_for(deps: Deps) -> None:
    """A crate without dependencies, whatever lies around."""
    deps.artifact("libother-1", ".rmeta", ".rlib")
    externs = deps.resolve()
    assert names(externs) == ([], [])
    assert externs.known
    assert externs.closure == Closure(frozenset(), frozenset())


def test_metadata_of_the_whole_closure(deps: Deps) -> None:
    """Of each crate the file that carries its metadata, and nothing of others."""
    deps.artifact("libleaf-1", ".rmeta", ".rlib")
    deps.artifact("libmid-1", ".rmeta", ".rlib", crates=("libleaf-1",))
    deps.artifact("libother-1", ".rmeta", ".rlib")
    externs = deps.resolve("libmid-1.rmeta")
    assert names(externs) == (["libleaf-1.rmeta", "libmid-1.rmeta"], [])
    assert externs.closure.crates == {b"libleaf-1", b"libmid-1"}
    assert externs.known


def test_a_unit_that_links_gets_the_libraries_too(deps: Deps) -> None:
    """rlibs only then: without them the bytes are the same."""
    deps.artifact("libleaf-1", ".rmeta", ".rlib")
    deps.artifact("libmid-1", ".rmeta", ".rlib", crates=("libleaf-1",))
    assert names(deps.resolve("libmid-1.rlib", links=True))[0] == [
        "libleaf-1.rlib",
        "libleaf-1.rmeta",
        "libmid-1.rlib",
        "libmid-1.rmeta",
    ]


def test_crates_without_metadata_files(deps: Deps) -> None:
    """A dylib, and a lib made together with a cdylib, carry theirs in the library itself."""
    deps.artifact("libshared-1", ".so")
    deps.artifact("libboth-1", ".rlib", ".so", crates=("libshared-1",))
    assert names(deps.resolve("libboth-1.rlib")) == (["libboth-1.rlib", "libshared-1.so"], [])


def test_macros_are_kept_apart_and_end_a_closure(deps: Deps) -> None:
    """A macro of a dependency is loaded too; what the macro was built from is not needed."""
    deps.artifact("libsyn-1", ".rmeta", ".rlib")
    deps.macro("libderive-1")
    deps.artifact("libserde-1", ".rmeta", ".rlib", macros=("libderive-1",))
    externs = deps.resolve("libserde-1.rmeta")
    assert names(externs) == (["libserde-1.rmeta"], ["libderive-1.so"])
    direct = deps.resolve("libderive-1.so")
    assert names(direct) == ([], ["libderive-1.so"])
    assert direct.closure == Closure(frozenset(), frozenset({b"libderive-1"}))


def test_files_that_begin_like_a_macro_of_a_dependency(deps: Deps) -> None:
    """rustc opens them while it looks for that macro, and of each the name counts; for one that is
    named it looks nowhere."""
    for stem in ("libmark_support-1", "libmark_support-2", "libmarker-3", "libmarker-4", "libo-1"):
        deps.artifact(stem, ".rmeta", ".rlib")
    for stem in ("libmark-1", "libmark-2", "libmark_inner-1", "libdirect-1", "libdirectly-1"):
        deps.macro(stem)
    (deps.folder / "libmark_note-1.txt").write_text("")
    deps.artifact("libmiddle-1", ".rmeta", macros=("libmark-1",))
    externs = deps.resolve("libmiddle-1.rmeta", "libdirect-1.so")
    near = ["libmark_inner-1.so", "libmark_support-1.rmeta", "libmarker-3.rmeta"]
    assert names(externs) == ([*near, "libmiddle-1.rmeta"], ["libdirect-1.so", "libmark-1.so"])
    assert externs.closure.crates == {b"libmiddle-1"}
    assert externs.closure.macros == {b"libdirect-1", b"libmark-1"}


def test_of_what_begins_like_a_macro_its_own_dependencies_come_first(deps: Deps) -> None:
    """They are there whenever the macro is; what others have made of the same crate may be late."""
    below = Closure(
        frozenset({b"libmark_support-2", b"libmark-0", b"libsyn-1"}),
        frozenset({b"libmark_inner-1", b"libother-1"}),
    )
    closure = below.of_macro(b"libmark-1")
    assert closure.crates == {b"libmark_support-2"}
    assert closure.macros == {b"libmark_inner-1", b"libmark-1"}
    for stem in ("libmark_support-1", "libmark_support-2"):
        deps.artifact(stem, ".rmeta", ".rlib")
    deps.macro("libmark_inner-1")
    deps.macro("libmark-1")
    deps.artifact("libmiddle-1", ".rmeta", crates=("libmark_support-2",), macros=("libmark-1",))
    externs = deps.resolve("libmiddle-1.rmeta")
    assert names(externs)[0] == [
        "libmark_inner-1.so",
        "libmark_support-2.rmeta",
        "libmiddle-1.rmeta",
    ]


def test_an_artifact_that_somebody_else_made_takes_everything_along(deps: Deps) -> None:
    """Built before burst was enabled: all candidates are shown, and the call is not shareable."""
    deps.artifact("libold-1", ".rmeta", ".rlib", seen=False)
    deps.artifact("libleaf-1", ".rmeta", ".rlib")
    deps.artifact("libonly-1", ".rlib", seen=False)
    deps.macro("libderive-1", seen=False)
    (deps.folder / "leaf-1.d").write_text("")
    (deps.folder / "build-script").write_text("")
    externs = deps.resolve("libold-1.rmeta")
    assert not externs.known
    assert names(externs) == (
        ["libleaf-1.rmeta", "libold-1.rmeta", "libonly-1.rlib"],
        ["libderive-1.so"],
    )
    linked = names(deps.resolve("libold-1.rlib", links=True))[0]
    assert {"libleaf-1.rlib", "libold-1.rlib", "libold-1.rmeta"} <= set(linked)


@pytest.mark.parametrize("seen", [True, False])
def test_what_the_unit_wrote_before_is_no_input(deps: Deps, seen: bool) -> None:
    """Nobody may write inputs: rustc would call its own earlier output "not writeable"."""
    deps.artifact("libold-1", ".rmeta", ".rlib", crates=("libmine-1",), seen=seen)
    deps.artifact("libmine-1", ".rmeta", ".rlib")
    own = ("--crate-name", "mine", "-C", "extra-filename=-1", "--out-dir", str(deps.folder))
    externs = deps.resolve("libold-1.rmeta", more=own)
    assert names(externs) == (["libold-1.rmeta"], [])
    assert externs.closure.crates == {b"libold-1"}


EXTRA = "-0123456789abcde"


def compiled(deps: Deps, name: str, text: str, *arguments: str, kind: str = "lib") -> str:
    """What plain cargo would leave: `arguments` are `--extern`s. Returns the stem."""
    extra = f"{EXTRA}{len(list(deps.folder.iterdir())) % 10}"
    source = deps.folder.parent / f"{name}.rs"
    source.write_text(text)
    emit = "link" if kind in ("proc-macro", "dylib") else "metadata,link"
    command = ["rustc", "--edition=2021", f"--crate-name={name}", f"--crate-type={kind}"]
    command += [f"--emit={emit}", f"-Cextra-filename={extra}", f"--out-dir={deps.folder}"]
    command += [f"-Ldependency={deps.folder}", *arguments, str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return f"lib{name}{extra}"


def test_what_somebody_else_made_says_itself_what_it_needs(deps: Deps) -> None:
    """A warm target/ of plain cargo's: not everything that lies there, of which there may be
    gigabytes, but what rustc wrote into the metadata; remembered like what we saw."""
    leaf = compiled(deps, "leaf", "pub fn f() {}")
    macro = compiled(
        deps,
        "mark",
        "use proc_macro::TokenStream;\n#[proc_macro]\n"
        "pub fn mark(item: TokenStream) -> TokenStream { leaf::f(); item }",
        *("--extern", "proc_macro", *deps.arguments((f"{leaf}.rlib",))),
        kind="proc-macro",
    )
    below = compiled(deps, "below", "pub fn f() {}")
    middle = compiled(
        deps,
        "middle",
        "pub use mark::mark; pub use below::f;",
        *deps.arguments((f"{macro}.so", f"{below}.rmeta")),
    )
    deps.artifact(f"libother{EXTRA}9", ".rmeta", ".rlib", seen=False)
    for closures in (deps.closures, Closures(deps.index, StatCache(deps.index))):
        deps.closures = closures
        externs = deps.resolve(f"{middle}.rmeta")
        assert externs.known
        assert names(externs) == ([f"{below}.rmeta", f"{middle}.rmeta"], [f"{macro}.so"])
    linked = deps.resolve(f"{middle}.rlib", links=True)
    assert linked.closure == deps.resolve(f"{middle}.rmeta").closure
    assert set(names(linked)[0]) == {f"{n}.{e}" for n in (below, middle) for e in ("rmeta", "rlib")}
    direct = deps.resolve(f"{macro}.so")
    assert (direct.known, names(direct)) == (True, ([], [f"{macro}.so"]))


def test_what_metadata_cannot_tell(deps: Deps) -> None:
    """A name that is not cargo's could stand there unseen: it is taken along. A shared library's
    metadata is packed: everything is."""
    below = compiled(deps, "below", "pub fn f() {}")
    deps.artifact(f"libother{EXTRA}7", ".rmeta", seen=False)
    deps.artifact("libodd-1", ".rmeta", seen=False)
    deps.artifact("libc_library", ".so", seen=False)
    externs = deps.resolve(f"{below}.rmeta")
    assert externs.known
    assert names(externs) == ([f"{below}.rmeta", "libc_library.so", "libodd-1.rmeta"], [])
    deps.artifact(f"libdynamic{EXTRA}8", ".so", seen=False)
    assert not deps.resolve(f"libdynamic{EXTRA}8.so").known
    assert not deps.resolve("libodd-1.rmeta").known


def test_a_missing_file_is_named(deps: Deps) -> None:
    """rustc says so in its own words, at home."""
    externs = deps.resolve("libgone-1.rmeta")
    assert externs.missing == (bytes(deps.folder / "libgone-1.rmeta"),)
    assert names(externs) == ([], [])


def test_what_is_remembered_belongs_to_the_bytes(deps: Deps) -> None:
    """A rebuilt crate may have another closure; until it is known, nothing is assumed."""
    deps.artifact("libleaf-1", ".rmeta")
    deps.artifact("libmid-1", ".rmeta", crates=("libleaf-1",))
    (deps.folder / "libmid-1.rmeta").write_bytes(b"rebuilt by somebody")
    assert not deps.resolve("libmid-1.rmeta").known


def test_the_next_daemon_knows_closures_too(deps: Deps) -> None:
    """From the index; a damaged fact is one that is not known."""
    deps.artifact("libleaf-1", ".rmeta")
    deps.artifact("libmid-1", ".rmeta", crates=("libleaf-1",))
    deps.index.flush(1)
    again = attrs.evolve(deps, closures=Closures(deps.index, StatCache(deps.index)))
    externs = again.resolve("libmid-1.rmeta")
    assert externs.known
    assert names(externs)[0] == ["libleaf-1.rmeta", "libmid-1.rmeta"]
    digest = Digest.of(b"libmid-1.rmeta")
    for junk in (b"", b"\xff", pack(5), pack([1, 2]), pack([[[]], []]), pack([["x"], []])):
        deps.index.put_fact("closure", digest.hash, junk)
        damaged = attrs.evolve(deps, closures=Closures(deps.index, StatCache(deps.index)))
        assert not damaged.resolve("libmid-1.rmeta").known


def test_folders_are_searched_in_order(deps: Deps, tmp_path: Path) -> None:
    """As rustc does: the first that has the crate; the extern's own folder counts as well."""
    deps.artifact("libleaf-1", ".rmeta")
    second = tmp_path / "second"
    second.mkdir()
    (second / "libleaf-1.rmeta").write_bytes(b"another one")
    (second / "libelse-1.rmeta").write_bytes(b"else")
    deps.closures.remember(Digest.of(b"else"), Closure(frozenset({b"libleaf-1"}), frozenset()))
    arguments = ("--extern", f"else={second / 'libelse-1.rmeta'}")
    externs = deps.resolve(more=arguments)
    assert [file.path for file in externs.files] == [
        bytes(deps.folder / "libleaf-1.rmeta"),
        bytes(second / "libelse-1.rmeta"),
    ]


def test_native_folders_are_not_searched(deps: Deps, tmp_path: Path) -> None:
    """`-L native` is the linker's business."""
    native = tmp_path / "native"
    native.mkdir()
    (native / "libleaf-1.rmeta").write_bytes(b"no crate")
    deps.artifact("libmid-1", ".rmeta", crates=("libleaf-1",))
    call = call_of("-L", f"native={native}", *deps.arguments(("libmid-1.rmeta",)))
    externs = deps.closures.resolve(call, b"/cwd", links=False)
    assert names(externs)[0] == ["libmid-1.rmeta"]


def test_paths_are_relative_to_the_callers_folder(deps: Deps, tmp_path: Path) -> None:
    """And an extern without a path is one of the sysroot's."""
    deps.artifact("libleaf-1", ".rmeta")
    call = call_of(
        "-L", "dependency=deps", "--extern", "leaf=deps/libleaf-1.rmeta", "--extern", "proc_macro"
    )
    externs = deps.closures.resolve(call, bytes(tmp_path), links=False)
    assert [file.path for file in externs.files] == [bytes(deps.folder / "libleaf-1.rmeta")]


def test_an_extern_of_any_name_is_shown(deps: Deps) -> None:
    """Tools other than cargo call their files as they like."""
    (deps.folder / "strange.rlib").write_bytes(b"strange")
    deps.closures.remember(Digest.of(b"strange"), Closure(frozenset(), frozenset()))
    assert names(deps.resolve("strange.rlib"))[0] == ["strange.rlib"]


def test_sources_behind_a_closure(deps: Deps) -> None:
    """Packages that cannot change are remembered by crate, for this daemon and the next."""
    deps.closures.remember_package(b"libleaf-1", b"/registry/leaf")
    deps.closures.remember_package(b"libmid-1", b"/registry/mid")
    deps.closures.remember_package(b"libmid-1", b"/registry/mid-2")
    closure = Closure(frozenset({b"libleaf-1", b"libmid-1", b"libown-1"}), frozenset({b"libm-1"}))
    expected = [b"/registry/leaf", b"/registry/mid-2"]
    assert deps.closures.packages(closure) == expected
    deps.index.flush(1)
    again = Closures(deps.index, StatCache(deps.index))
    assert again.packages(closure) == expected
