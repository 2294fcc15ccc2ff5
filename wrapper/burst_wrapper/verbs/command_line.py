"""One command line of `cargo burst`, taken apart: what is ours, what is cargo's. Pure.

    cargo burst [+toolchain] [options] VERB [options] [-- …]

Options of ours may stand before the verb and behind it, among cargo's. They end at a `--`; at the
first word that is no option where cargo's verb ends its own there (`run`); and where cargo does not
know the verb itself (`llvm-cov`, an xtask), all behind it is that program's. What is left goes to
cargo as it is.

The `--` directly behind the verb keeps cargo's meaning (`clippy -- -D warnings`). Only two
spellings can mean nothing to cargo, and there it is dropped: a second `--` follows, or the next
word is an option of that verb which what stands behind its `--` does not have (`test -- --test
integration`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import attrs

from burst_protocol.errors import UsageError
from burst_wrapper.verbs import cargo_options, own_options
from burst_wrapper.verbs.cargo_options import name_of, takes_next
from burst_wrapper.verbs.own_options import Collector, OwnOptions

Alias = Callable[[str], Sequence[str] | None]
"""The words that stand for a name in cargo's configuration; None: it is no alias."""
_MOST_ALIASES = 16
_SELECTS_BY_NAME = frozenset({"--test", "--bench"})


class AliasCycle(UsageError):
    """the alias `{name}` stands for itself"""

    hint = "see `[alias]` in cargo's configuration"


class NeedsVerb(UsageError):
    """there is no verb on this line"""

    hint = "see `cargo burst --help`"


@attrs.frozen(kw_only=True)
class CommandLine:
    toolchain: str = ""
    """`+nightly`; empty: none was named."""
    before: tuple[str, ...] = ()
    """Options of cargo before the verb."""
    verb: str = ""
    """As cargo knows it: `build` for `b`; empty: cargo itself is asked (`--list`)."""
    spelled: str = ""
    """As it was typed."""
    arguments: tuple[str, ...] = ()
    """For cargo, before its `--`."""
    behind: tuple[str, ...] | None = None
    """For what stands behind cargo's `--`; None: there is none."""
    own: OwnOptions = OwnOptions()
    wants_help: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """Verb and all behind it, for cargo."""
        tail = () if self.behind is None else ("--", *self.behind)
        return (*self.verb.split(), *self.arguments, *tail)

    def given(self, *wanted: str) -> bool:
        """Whether cargo's options hold one of these names, before or behind the verb."""
        return any(name in wanted for name, _ in self.options())

    def options(self) -> list[tuple[str, str | None]]:
        """Cargo's options in order, each with its value, if it has one; `""` names a word that is
        no option."""
        found: list[tuple[str, str | None]] = []
        for words, forms in (
            (self.before, cargo_options.BEFORE_THE_VERB),
            (self.arguments, cargo_options.of(self.verb)),
        ):
            found += split_options(words, forms, self.verb)
        return found

    def before_options(self) -> list[tuple[str, str | None]]:
        """Those of `options` that stand before the verb."""
        return split_options(self.before, cargo_options.BEFORE_THE_VERB)

    def own_words(self, left_out: Collection[str] = ()) -> list[str]:
        """Cargo's words between the verb and its `--`, without some options; written anew."""
        words: list[str] = []
        for name, value in self.options()[len(self.before_options()) :]:
            if not name:
                words.append(value or "")
            elif name in left_out:
                continue
            elif value is None:
                words.append(name)
            elif cargo_options.of(self.verb).get(name):
                words += [name, value]
            else:
                words.append(f"{name}={value}")
        return words

    def values(self, *wanted: str) -> list[str]:
        """Of these options, in order."""
        return [value for name, value in self.options() if name in wanted and value is not None]


def split_options(
    words: Sequence[str], forms: cargo_options.Forms, verb: str = ""
) -> list[tuple[str, str | None]]:
    """Options with their values. A bundle of switches (`-vv`) is as many."""
    found: list[tuple[str, str | None]] = []
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        name = name_of(word)
        if not name:
            found.append(("", word))
            if cargo_options.ends_at_first_word(verb):
                found += [("", rest) for rest in words[at:]]
                break
            continue
        form = forms.get(name)
        if takes_next(form, word, words[at] if at < len(words) else None):
            found.append((name, words[at]))
            at += 1
        elif name.startswith("--"):
            found.append((name, word.partition("=")[2] if "=" in word else None))
        elif form:
            found.append((name, word[2:].removeprefix("=") if len(word) > 2 else None))
        else:
            found += [(f"-{letter}", None) for letter in word[1:]]
    return found


def parse(words: Sequence[str], alias: Alias = lambda _: None) -> CommandLine:
    """UsageError for what is wrong about our part; cargo judges the rest."""
    collector = Collector()
    toolchain = ""
    rest = list(words)
    before: list[str] = []
    wants_help = False
    while rest and (rest[0].startswith("-") or (not before and rest[0].startswith("+"))):
        word = rest.pop(0)
        if word == "--":
            raise NeedsVerb
        if word.startswith("+"):
            toolchain = word
            continue
        if option := own_options.find(word):
            del rest[: collector.take(option, word, rest)]
            continue
        if word in ("-h", "--help"):
            wants_help = True
            continue
        before.append(word)
        form = cargo_options.BEFORE_THE_VERB.get(name_of(word))
        if takes_next(form, word, rest[0] if rest else None):
            before.append(rest.pop(0))
    if not rest:
        own = collector.options("")
        if not (before or wants_help):
            raise NeedsVerb
        return CommandLine(
            toolchain=toolchain, before=tuple(before), own=own, wants_help=wants_help
        )
    spelled = rest.pop(0)
    verb, first = _resolved(spelled, alias)
    if verb == "nextest" and not first:
        verb, rest = _nextest(verb, rest)
    arguments, behind, helped = _behind_verb(verb, rest, collector, _closed(verb, first))
    if first:
        arguments, behind = _joined(first, arguments, behind)
    return CommandLine(
        toolchain=toolchain,
        before=tuple(before),
        verb=verb,
        spelled=spelled,
        arguments=tuple(arguments),
        behind=None if behind is None else tuple(behind),
        own=collector.options(verb),
        wants_help=wants_help or helped,
    )


def _resolved(spelled: str, alias: Alias) -> tuple[str, list[str]]:
    """The verb that an alias stands for, and the words that it puts before all others."""
    verb = spelled
    first: list[str] = []
    seen: set[str] = set()
    while not cargo_options.is_known(verb):
        if verb in cargo_options.SHORT_FORMS:
            verb = cargo_options.SHORT_FORMS[verb]
            continue
        stands_for = alias(verb)
        if stands_for is None:
            break
        if verb in seen or len(seen) > _MOST_ALIASES:
            raise AliasCycle(name=spelled)
        seen.add(verb)
        # As cargo: its own options may stand before the verb of an alias (`-Z x build`).
        words = list(stands_for)
        leading: list[str] = []
        while words and words[0].startswith("-"):
            leading.append(words.pop(0))
            form = cargo_options.BEFORE_THE_VERB.get(name_of(leading[-1]))
            if takes_next(form, leading[-1], words[0] if words else None):
                leading.append(words.pop(0))
        if not words:
            break
        verb, first = words[0], [*leading, *words[1:], *first]
    if verb == "nextest":
        verb, first = _nextest(verb, first)
    return verb, first


def _nextest(verb: str, words: list[str]) -> tuple[str, list[str]]:
    """`nextest` with its own verb: `nextest run`, `nextest self update`."""
    rest = list(words)
    short = {"r": "run", "b": "bench", "ntr": "run"}
    while rest:
        longer = f"{verb} {short.get(rest[0], rest[0]) if verb == 'nextest' else rest[0]}"
        if not any(f"{known} ".startswith(f"{longer} ") for known in cargo_options.verbs()):
            break
        verb = longer
        del rest[0]
    return verb, rest


def _behind_verb(
    verb: str, words: Sequence[str], collector: Collector, closed: str
) -> tuple[list[str], list[str] | None, bool]:
    """Cargo's words before and behind its `--`, and whether help was asked for."""
    rest = list(words)
    if closed == "--":
        return [], rest, False
    if closed or not _ours_may_follow(verb):
        # Some other program's words. What it makes of a `--` is its own affair.
        return rest, None, False
    forms = cargo_options.of(verb)
    arguments: list[str] = []
    helped = False
    while rest:
        word = rest.pop(0)
        if word == "--":
            if not arguments and _means_nothing(verb, rest):
                # All behind it is cargo's, with the `--` of its own.
                before, behind = _at_dashes(rest)
                return [*arguments, *before], behind, helped
            return arguments, rest, helped
        name = name_of(word)
        if not name and cargo_options.ends_at_first_word(verb):
            # With its own `--`, if it has one: cargo hands on what it sees from here.
            return [*arguments, word, *rest], None, helped
        option = None if name in forms else own_options.find(word)
        if option is not None:
            del rest[: collector.take(option, word, rest)]
            continue
        helped = helped or word in ("-h", "--help")
        arguments.append(word)
        if takes_next(forms.get(name), word, rest[0] if rest else None):
            arguments.append(rest.pop(0))
    return arguments, None, helped


def _closed(verb: str, first: Sequence[str]) -> str:
    """What in an alias's words ends cargo's options before those of the line begin."""
    if "--" in first:
        return "--"
    words = split_options(first, cargo_options.of(verb), verb)
    return (
        next((word or "" for name, word in words if not name), "")
        if (cargo_options.ends_at_first_word(verb))
        else ""
    )


def _ours_may_follow(verb: str) -> bool:
    return cargo_options.is_known(verb) or verb in OWN_CARGO_VERBS


OWN_CARGO_VERBS = frozenset({"run-local", "run-remote"})
"""Ours, with the options of cargo's `run`."""


def _means_nothing(verb: str, rest: Sequence[str]) -> bool:
    """Whether the `--` before these words is not cargo's."""
    if "--" in rest:
        return True
    if verb in {"run", *OWN_CARGO_VERBS} or not rest:
        return False
    name = name_of(rest[0])
    if name not in cargo_options.of(verb):
        return False
    if name in _SELECTS_BY_NAME and "=" not in rest[0]:
        # A switch there, which takes no value: `bench -- --test` tries criterion's benches out.
        follows = rest[1:2] != [] and not rest[1].startswith("-")
        return follows and name not in cargo_options.behind(verb)
    return name not in cargo_options.behind(verb)


def _at_dashes(words: Sequence[str]) -> tuple[list[str], list[str] | None]:
    if "--" not in words:
        return list(words), None
    at = list(words).index("--")
    return list(words[:at]), list(words[at + 1 :])


def _joined(
    first: Sequence[str], arguments: Sequence[str], behind: Sequence[str] | None
) -> tuple[list[str], list[str] | None]:
    """An alias's words before those of the line."""
    before, after = _at_dashes(first)
    if after is None:
        return [*before, *arguments], None if behind is None else list(behind)
    return [*before, *arguments], [*after, *(behind or ())]
