"""The options that every verb has besides cargo's: names and words. Light, for `--help`."""

from __future__ import annotations

from typing import Final, NamedTuple

SWITCH: Final = ""
VALUE: Final = "="


class Option(NamedTuple):
    """One of ours. `field` names where its value goes in `OwnOptions`."""

    names: tuple[str, ...]
    form: str
    field: str
    help: str
    metavar: str = ""
    verbs: tuple[str, ...] = ()
    """Only these have it; empty: all."""


OPTIONS: Final = (
    Option(("--host",), VALUE, "host", "the machine to use, over SSH", "USER@HOST[:PORT]"),
    Option(
        ("--env", "-e"),
        VALUE,
        "env",
        "a variable that programs see there; without a value, yours",
        "NAME[=VALUE]",
    ),
    Option(
        ("--forward", "-L"),
        VALUE,
        "forwards",
        "a port of a program there, on 127.0.0.1 here",
        "[LOCAL:]REMOTE",
    ),
    Option(("--fetch",), VALUE, "fetch", "what else comes back of what programs wrote", "PATTERN"),
    Option(("--no-fetch",), SWITCH, "no_fetch", "nothing comes back"),
    Option(
        ("--fetch-all",), SWITCH, "fetch_all", "with --driver remote: all of target/ comes back"
    ),
    Option(("--keep-alive",), VALUE, "keep_alive_s", "how long an idle server stays", "SECONDS"),
    Option(("--no-reap",), SWITCH, "no_reap", "this command deletes no idle server"),
    Option(("--detach",), SWITCH, "detach", "what was started goes on when we leave"),
    Option(("--driver",), VALUE, "driver", "where cargo itself runs: local or remote", "WHERE"),
    Option(("--yes",), SWITCH, "yes", "agree to what would be asked"),
    Option(("--sync-dry-run",), SWITCH, "sync_dry_run", "only list what would be copied there"),
    Option(("--no-doctests",), SWITCH, "no_doctests", "leave doctests out", verbs=("test",)),
    Option(
        ("--cargo-test",), SWITCH, "cargo_test", "by `cargo test`, not by nextest", verbs=("test",)
    ),
)
