"""What `--help` prints, for cargo's verbs what is different about them. Nothing slow is imported
here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from burst_wrapper.verbs.own_option_table import OPTIONS, Option

CARGOS: Final[Mapping[str, str]] = {
    "build": "compile",
    "check": "look for errors, without programs at the end",
    "clippy": "look for what clippy finds",
    "doc": "build documentation",
    "test": "run tests: nextest if it is there, then doctests",
    "bench": "run benchmarks, alone on the machine",
    "run": "run a program where the compiling happens",
    "run-local": "compile there, run it here",
    "run-remote": "as `run`, and an error if there is no other machine",
    "install": "a program into cargo's bin directory",
    "clean": "remove what was built",
}
_MORE: Final[Mapping[str, str]] = {
    "test": "nextest runs the tests if it is installed and knows the arguments; doctests follow\n"
    "(not if the arguments select targets). Targets with `harness = false`, and everything where\n"
    "nextest has no such argument, go through `cargo test`. The exit code is `cargo test`'s.",
    "bench": "Nothing else of burst runs on that machine meanwhile. For a baseline\n"
    "(`-- --save-baseline NAME`) the processor is written down; comparing with another one's is\n"
    "warned of.",
    "run": "On another machine stdin, stdout and stderr are terminals there if they are here.",
    "clean": "Also what verbs that run elsewhere have built (`<target>/burst`).",
}


def overview(own: Mapping[str, str], admin: Mapping[str, str]) -> str:
    """`cargo burst --help`."""
    lines = ["Compile Rust on another machine, with the same cargo command and result.", ""]
    lines += ["usage: cargo burst [+toolchain] [options] <verb> [arguments]", "", "cargo's:"]
    lines += _rows(CARGOS.items())
    lines += [
        "  ...         every other one, with its own options: nextest, rustc, hack, xtask",
        "",
    ]
    lines += ["about burst:", *_rows(own.items()), "", "as in burst-admin:", *_rows(admin.items())]
    lines += ["", "options of every verb of cargo's, besides its own:", *_options(None)]
    lines += [
        "",
        "`cargo burst <verb> --help` says more. Without `enable`, plain cargo uses burst by",
        "    RUSTC_WRAPPER=burst-rustc cargo build",
        "",
    ]
    return "\n".join(lines)


def has(verb: str) -> bool:
    """Whether there is a help of ours; that of all other verbs is cargo's."""
    return verb in CARGOS or not verb


def of(verb: str) -> str:
    """`cargo burst VERB --help`; of no verb, where to look."""
    if not verb:
        return "see `cargo burst --help`\n"
    cargos = "run" if verb.startswith("run-") else verb
    lines = [f"{CARGOS[verb][0].upper()}{CARGOS[verb][1:]}.", ""]
    lines += [f"usage: cargo burst {verb} [options] [arguments of `cargo {cargos}`]", ""]
    if cargos in _MORE:
        lines += [_MORE[cargos], ""]
    lines += ["options:", *_options(verb), ""]
    lines += [f"All of cargo's own: `cargo {cargos} --help`.", ""]
    return "\n".join(lines)


def _rows(entries: Iterable[tuple[str, str]]) -> list[str]:
    return [f"  {name:<11} {words}" for name, words in entries]


def _options(verb: str | None) -> list[str]:
    """`verb` None: those that all have."""
    chosen = [one for one in OPTIONS if not one.verbs or (verb is not None and verb in one.verbs)]
    return [f"  {_spelled(one):<30} {one.help}" for one in chosen]


def _spelled(option: Option) -> str:
    names = ", ".join(sorted(option.names, key=len))
    return f"{names} {option.metavar}".rstrip()
