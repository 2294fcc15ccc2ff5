"""burst_wrapper.environ: what a unit may see, and whether it did."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burst_wrapper import environ
from burst_wrapper.environ import EnvVerdict

CARGO = {
    b"PATH": b"/usr/bin",
    b"HOME": b"/home/u",
    b"USER_FLAG": b"1",
    b"RUSTUP_TOOLCHAIN": b"stable",
    b"RUST_BACKTRACE": b"1",
    b"GITHUB_TOKEN": b"ghp",
    b"CARGO_PKG_NAME": b"outer",
    b"LIBRARY_PATH": b"/l",
    b"BURST_HOST": b"h",
    b"MAKEFLAGS": b"-j",
}
UNIT = {
    **CARGO,
    b"CARGO": b"/t/bin/cargo",
    b"CARGO_PKG_NAME": b"outer",
    b"CARGO_MANIFEST_DIR": b"/w",
    b"CARGO_MAKEFLAGS": b"-j --jobserver-auth=6,7",
    b"LD_LIBRARY_PATH": b"/t/lib",
    b"FROM_BUILD": b"x",
    b"SECRET_FROM_BUILD": b"s",
}


def names(pairs: tuple[tuple[bytes, bytes], ...]) -> set[bytes]:
    assert list(pairs) == sorted(pairs)
    return {name for name, _ in pairs}


LISTED = {b"CARGO_PKG_NAME", b"CARGO_MANIFEST_DIR", b"LD_LIBRARY_PATH", b"RUST_BACKTRACE"}


def test_environ_is_read_as_getenv_reads_it() -> None:
    """The first of a name wins; entries that are no variables are left out."""
    raw = b"A=1\0B=\0A=2\0=x\0noequals\0\0C=a=b\0\xff=\xfe\0"
    assert environ.parse_environ(raw) == {b"A": b"1", b"B": b"", b"C": b"a=b", b"\xff": b"\xfe"}


def test_without_the_callers_environment_only_the_list_is_sent() -> None:
    """Cargo's own names and those rustc looks up, also where a nested cargo inherited them."""
    assert names(environ.select(UNIT, None, links=False)) == LISTED


def test_what_cargo_added_for_the_unit_is_sent() -> None:
    """`rustc-env` of build scripts and `[env]`; a name with the same value in both stays hidden."""
    chosen = names(environ.select(UNIT, CARGO, links=False))
    assert chosen == LISTED | {b"CARGO", b"FROM_BUILD"}
    changed = {**CARGO, b"USER_FLAG": b"2"}
    assert b"USER_FLAG" in names(environ.select(UNIT, changed, links=False))


def test_links_see_the_linkers_variables() -> None:
    """PATH is sent as it is: the linker is looked up along it."""
    chosen = names(environ.select(UNIT, CARGO, links=True))
    assert chosen >= {b"PATH", b"LIBRARY_PATH"}
    assert b"HOME" not in chosen


def test_a_resized_terminal_does_not_change_clippys_variables() -> None:
    """CLIPPY_ARGS is sent, the width only where it was looked up."""
    env = {b"CLIPPY_ARGS": b"-D", b"CLIPPY_TERMINAL_WIDTH": b"80"}
    assert names(environ.select(env, None, links=False)) == {b"CLIPPY_ARGS"}
    assert names(environ.select(env, env, learned=frozenset(env), links=False)) == set(env)


def test_learned_and_forwarded_names() -> None:
    """Learning never sends a secret; only the configuration may, and never the impossible."""
    asked = frozenset({b"HOME", b"GITHUB_TOKEN", b"MAKEFLAGS", b"BURST_HOST", b"NOT_SET"})
    assert names(environ.select(UNIT, None, learned=asked, links=False)) == LISTED | {b"HOME"}
    assert names(environ.select(UNIT, None, forward=asked, links=False)) == (
        LISTED | {b"HOME", b"GITHUB_TOKEN"}
    )


@pytest.mark.parametrize(
    "name",
    [
        *(b"GITHUB_TOKEN", b"CARGO_REGISTRY_TOKEN", b"CARGO_REGISTRIES_MINE_INDEX", b"API_KEY"),
        *(b"AWS_REGION", b"my_password", b"DATABASE_URL", b"TEST_DATABASE_URL", b"SENTRY_DSN"),
        *(b"STRIPE_SECRET_KEY", b"SSL_PRIVATE_KEY_PATH", b"SECRET_FROM_BUILD"),
    ],
)
def test_secret_names(name: bytes) -> None:
    """Credentials by their usual names."""
    assert environ.is_secret_name(name)
    assert environ.is_never_sent(name)


@pytest.mark.parametrize(
    "name",
    [
        *(b"GITHUB_SHA", b"TOKENIZER_PATH", b"CARGO_PKG_NAME", b"CARGO_BIN_EXE_secret_token"),
        *(b"KEYBOARD", b"OUT_DIR", b"CARGO_PKG_AUTHORS", b"HOME", b"COMPASS", b"SQLX_OFFLINE"),
    ],
)
def test_names_that_are_no_secrets(name: bytes) -> None:
    """Words inside words, and cargo's own names whatever a program is called."""
    assert not environ.is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *(b"CARGO_MAKEFLAGS", b"MAKEFLAGS", b"MFLAGS", b"TMPDIR", b"LD_PRELOAD", b"RUSTC_WRAPPER"),
        *(b"RUSTC_WORKSPACE_WRAPPER", b"BURST_X", b"SSH_AUTH_SOCK", b"HCLOUD_TOKEN", b"RUSTC_LOG"),
    ],
)
def test_some_names_are_never_sent(name: bytes) -> None:
    """Not as cargo's, not learned, not forwarded, not for links."""
    only = frozenset({name})
    assert environ.is_never_sent(name)
    assert not environ.select({name: b"1"}, {}, learned=only, forward=only, links=True)


def test_an_equal_view_is_accepted() -> None:
    """Set, empty and unset are the same here and there."""
    home = {b"A": b"1", b"E": b""}
    deps = [(b"A", b"1"), (b"E", b""), (b"U", None)]
    verdict = environ.judge([b"A", b"E", b"U"], deps, home.items(), home)
    assert verdict == EnvVerdict()
    assert verdict.accepted


def test_option_env_of_a_variable_that_was_not_sent() -> None:
    """The silent `None`: learned, run again."""
    verdict = environ.judge([], [(b"GIT_HASH", None)], [], {b"GIT_HASH": b"abc"})
    assert verdict == EnvVerdict(missing=frozenset({b"GIT_HASH"}))
    assert not verdict.accepted


def test_empty_at_home_is_not_unset() -> None:
    """`option_env!` gives Some("") there."""
    assert environ.judge([], [(b"E", None)], [], {b"E": b""}).missing == {b"E"}
    assert environ.judge([b"E"], [], [], {b"E": b""}).missing == {b"E"}


def test_a_macro_looked_up_a_variable() -> None:
    """Set at home: learned. Unset at home: fine. A secret: the unit runs at home."""
    home = {b"HOME": b"/h", b"NPM_TOKEN": b"t", b"DATABASE_URL": b"postgres://"}
    assert environ.judge([b"HOME", b"NOPE"], [], [], home).missing == {b"HOME"}
    assert environ.judge([b"NPM_TOKEN", b"DATABASE_URL"], [], [], home) == EnvVerdict(
        refused=frozenset({b"NPM_TOKEN", b"DATABASE_URL"})
    )
    forwarded = frozenset({b"NPM_TOKEN"})
    assert environ.judge([b"NPM_TOKEN"], [], [], home, forward=forwarded).missing == forwarded


def test_rustcs_own_lookups_of_hidden_names_are_accepted() -> None:
    """The jobserver and the temporary directory have no influence on outputs."""
    home = dict.fromkeys((*environ.HIDDEN, *environ.LINKER_HIDDEN), b"set")
    assert environ.judge(environ.HIDDEN, [], [], home).accepted
    assert environ.judge([], [], [], home, linker_names=environ.LINKER_HIDDEN).accepted
    # a macro may ask for TERM; only the linker's question means nothing
    assert environ.judge([b"TERM"], [], [], home).missing == {b"TERM"}
    # gcc 13 and newer, its collect2 too: every new link ran twice
    assert environ.judge([], [], [], {b"LANG": b"C.UTF-8"}, linker_names=[b"LANG"]).accepted
    assert environ.judge([b"LANG"], [], [], {b"LANG": b"C.UTF-8"}).missing == {b"LANG"}


def test_a_hidden_name_in_dep_info_is_refused() -> None:
    """`env!("TMPDIR")` ends up in the program, whatever rustc does with it itself."""
    assert environ.judge([], [(b"TMPDIR", b"/tmp")], [], {}).refused == {b"TMPDIR"}
    assert environ.judge([], [(b"TMPDIR", None)], [], {b"TMPDIR": b"/x"}).refused == {b"TMPDIR"}


def test_a_value_that_is_not_utf8_looks_unset() -> None:
    """rustc reports an error of its own then; here nothing is missing."""
    home = {b"X": b"\xff"}
    assert environ.judge([], [(b"X", None)], home.items(), home).accepted
    assert environ.judge([], [(b"X", b"y")], home.items(), home).refused == {b"X"}


def test_an_environment_that_moved_is_refused() -> None:
    """Sent with a value that home does not have."""
    assert environ.judge([b"A"], [], [(b"A", b"1")], {b"A": b"2"}).refused == {b"A"}


ENTRIES = st.dictionaries(
    st.sampled_from([*UNIT, *environ.HIDDEN, b"X", b"Y_TOKEN", b"CARGO_PKG_VERSION", b"GCC_X"]),
    st.sampled_from([b"", b"1", b"\xff"]),
)


@given(ENTRIES, st.none() | ENTRIES, st.booleans(), st.frozensets(st.sampled_from([*UNIT])))
def test_sent_variables_are_homes_and_learning_ends(
    home: dict[bytes, bytes],
    cargo: dict[bytes, bytes] | None,
    links: bool,
    looked_up: frozenset[bytes],
) -> None:
    """What is sent is as at home, and what is reported missing is sent the next time."""
    sent = environ.select(home, cargo, links=links)
    assert set(sent) <= set(home.items())
    first = environ.judge(looked_up, [], sent, home)
    again = environ.select(home, cargo, learned=first.missing, links=links)
    assert set(sent) <= set(again)
    second = environ.judge(looked_up, [], again, home)
    assert not second.missing
    assert second.refused == first.refused


@given(
    st.dictionaries(
        st.binary(min_size=1).filter(lambda b: b"=" not in b and b"\0" not in b),
        st.binary().filter(lambda b: b"\0" not in b),
    )
)
def test_environ_round_trip(env: dict[bytes, bytes]) -> None:
    """Any names and values."""
    raw = b"".join(name + b"=" + value + b"\0" for name, value in env.items())
    assert environ.parse_environ(raw) == env
