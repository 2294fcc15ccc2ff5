"""`cargo burst enable hetzner` and `disable hetzner`: the consent to servers that cost money.

Shown are live prices and the worst case of a forgotten weekend; written down are types, places and
the limit. Nothing is created here.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Final

import attrs

from burst_lifecycle import consent
from burst_lifecycle.admin import doctor, status
from burst_lifecycle.admin.desk import Desk
from burst_lifecycle.admin.parser import Parser
from burst_lifecycle.admin.reaper_unit import installed
from burst_lifecycle.assembly import home_architecture
from burst_lifecycle.books import billing_words
from burst_lifecycle.errors import TokenProblem
from burst_lifecycle.setting_keys import TokenSource
from burst_lifecycle.settings import Hetzner, from_options
from burst_lifecycle.token import obtain
from burst_protocol.errors import BurstError, UsageError
from burst_wrapper.cli.consent_file import ConsentFile
from burst_wrapper.toml_edit import quoted

_BESIDE: Final = "hetzner.token"


class NeedsConsent(UsageError):
    """nothing was changed: there is nobody to ask"""

    hint = "add --yes if you agree to what stands above"


class NoToken(TokenProblem):
    """no usable API token: {detail}"""

    hint = (
        "make one with `Read & Write` in the console (Security, API tokens), then "
        "`install -m 600 /dev/stdin ~/.config/burst/hetzner.token` and paste it; or name another "
        "--token-file, or a --token-command"
    )


def run(args: Sequence[str], desk: Desk | None = None) -> int:
    """0 if servers may be made now, 1 if the answer was no."""
    options = _parser().parse_args(list(args))
    return enable(options, Desk() if desk is None else desk)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="cargo burst enable hetzner",
        description="Allow burst to make servers: shows what they cost, now and at the worst, and "
        "asks.\nWhat you agree to is written into your configuration; nothing dearer is ever made.",
    )
    token = parser.add_mutually_exclusive_group()
    token.add_argument(
        "--token-file",
        metavar="FILE",
        help="holds the API token, and only you can read it (default: "
        f"{_BESIDE} beside the configuration)",
    )
    token.add_argument(
        "--token-command",
        nargs="+",
        metavar="WORD",
        help="a command that prints it, like `pass show hetzner`; last on the line",
    )
    token.add_argument(
        "--token-env",
        action="store_true",
        help="HCLOUD_TOKEN, for the daemon too: whatever project that variable is for",
    )
    parser.add_argument(
        "--server-type", action="append", metavar="TYPE", help="in this order; may be repeated"
    )
    parser.add_argument(
        "--location", action="append", metavar="PLACE", help="in this order; may be repeated"
    )
    parser.add_argument(
        "--max-eur-per-hour",
        type=_euros,
        metavar="EUR",
        help="leave out what is dearer (default: the dearest of the types is the limit)",
    )
    parser.add_argument("--yes", action="store_true", help="agree without being asked")
    return parser


def _euros(word: str) -> Decimal:
    try:
        value = Decimal(word)
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or value <= 0:
        raise argparse.ArgumentTypeError(f"`{word}` is no amount above 0")
    return value


def enable(options: argparse.Namespace, desk: Desk) -> int:
    """BurstError; then nothing was changed."""
    file = ConsentFile(desk.places)
    current = desk.settings.hetzner
    source, literal = _token(options, desk, current)
    wished = _wished(options, current or Hetzner())
    terms = asyncio.run(_ask_cloud(desk, wished, source, options.max_eur_per_hour))
    desk.out(*consent.text(terms))
    if not options.yes:
        if not desk.can_ask:
            raise NeedsConsent
        desk.out("")
        if not desk.ask(consent.QUESTION):
            desk.say("nothing was changed")
            return 1
    entries = consent.entries(terms)
    if literal:
        entries = {"token": literal, **entries}
    changed = file.set(entries, current)
    desk.forget()
    desk.out(
        "",
        f"servers are allowed {'now' if changed else 'already'} ({file.path})",
        "`cargo burst disable hetzner` takes that back.",
    )
    if source.env:
        desk.out("`burst-admin reap --install` needs a token in a file or from a command.")
    elif not installed(desk.places):
        desk.out("Next: `burst-admin reap --install`, so that none is ever forgotten.")
    return 0


def _token(
    options: argparse.Namespace, desk: Desk, current: Hetzner | None
) -> tuple[TokenSource, str]:
    """Where it comes from, and what is to be written down (nothing: it is configured)."""
    if options.token_file:
        path = os.path.join(desk.cwd, os.path.expanduser(options.token_file))
        return TokenSource(file=path), f"{{ file = {quoted(path)} }}"
    if options.token_command:
        words = ", ".join(quoted(word) for word in options.token_command)
        return TokenSource(command=tuple(options.token_command)), f"{{ command = [{words}] }}"
    if options.token_env:
        return TokenSource(env=True), "{ env = true }"
    if current is not None and current.token.configured:
        return current.token, ""
    path = os.path.join(desk.places.config, _BESIDE)
    if not os.path.exists(path):
        raise NoToken(f"there is no {path}")
    return TokenSource(file=path), f"{{ file = {quoted(path)} }}"


def _wished(options: argparse.Namespace, current: Hetzner) -> Hetzner:
    """ConfigError for what is no name."""
    given = {
        f"hetzner.{name}": value
        for name in ("server_type", "location")
        if (value := getattr(options, name))
    }
    values = from_options(given).values
    changes = {name.removeprefix("hetzner."): value for name, value in values.items()}
    return attrs.evolve(current, **changes)


async def _ask_cloud(
    desk: Desk, wished: Hetzner, source: TokenSource, limit: Decimal | None
) -> consent.Terms:
    token = await obtain(source, endpoint=wished.endpoint, environ=desk.environ, daemon=False)
    from burst_lifecycle.cloud.hetzner import HetznerCloud  # noqa: PLC0415 - 0.2 s

    async with HetznerCloud(token) as cloud:
        types, prices = await asyncio.gather(cloud.server_types(), cloud.prices())
        may_write = await doctor.can_write(cloud)
    if not may_write.ok:
        raise NoToken(f"{token.source}: {may_write.result}")
    return consent.terms(wished, types, prices, architecture=home_architecture(), limit=limit)


# -- the other way ---------------------------------------------------------------------------------


def run_disable(args: Sequence[str], desk: Desk | None = None) -> int:
    """0 if no server can be made any more; what still exists is said."""
    parser = Parser(
        prog="cargo burst disable hetzner",
        description="Take back `cargo burst enable hetzner`: no server is made any more. As long "
        "as something\nof burst exists in the cloud, only the consent goes, and the token's place "
        "stays written\ndown: `burst-admin` needs it to delete what there is.",
    )
    parser.parse_args(list(args))
    return disable(Desk() if desk is None else desk)


def disable(desk: Desk) -> int:
    file = ConsentFile(desk.places)
    if not file.configured:
        desk.out(f"servers were not allowed ({file.path})")
        _say_remembered(desk)
        return 0
    allowed = file.allowed
    # First what cannot fail: whatever the cloud says, nothing is made from here on.
    file.withdraw()
    desk.forget()
    there, unsure = asyncio.run(_what_exists(desk))
    desk.out(f"no server is made any more ({file.path})" if allowed else "nothing was allowed")
    if not there and unsure is None:
        file.take_back()
        desk.forget()
        desk.out("nothing of burst that costs money exists in the cloud")
        return 0
    if unsure is not None:
        desk.say(f"note: the cloud could not be asked: {unsure}")
        _say_remembered(desk)
    if there:
        desk.out("still there:", *there)
    desk.say(
        "hint: `burst-admin down --everything` deletes it; after that `cargo burst disable "
        "hetzner` takes the token out of the configuration, too"
    )
    return 0


async def _what_exists(desk: Desk) -> tuple[list[str], BurstError | None]:
    """What bills, as lines; or why that is not known."""
    try:
        async with desk.control() as control:
            report = await status.gather(desk, control)
    except BurstError as error:
        return [], error
    lines = [line for line in report.mine if line.bills]
    return (status.resource_table(lines, report.at_s) if lines else []), None


def _say_remembered(desk: Desk) -> None:
    """By this machine's ledger."""
    for thing in desk.books().billing():
        desk.say(
            f"note: as far as this machine knows there is {billing_words(thing, desk.clock())}"
        )
