"""`cargo burst completion bash|zsh|fish`: prints the file for that shell.

The file asks us at every Tab (`cargo-burst completion --query WORDS…`, some 30 ms), so it knows
aliases, packages and targets, and never gets old.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

SHELLS: Final = ("bash", "zsh", "fish")

_BASH: Final = r"""# bash completion for cargo-burst; made by `cargo burst completion bash`
_cargo_burst() {
  local first=1 current="${COMP_WORDS[COMP_CWORD]}" line word
  [[ "${COMP_WORDS[0]##*/}" == cargo ]] && first=2
  [[ "${COMP_WORDS[1]}" == burst ]] && first=2
  COMPREPLY=()
  while IFS= read -r line; do
    word="${line%%$'\t'*}"
    if [[ "$word" == :files ]]; then
      while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$current")
    else
      COMPREPLY+=("$word")
    fi
  done < <(
    cargo-burst completion --query -- "${COMP_WORDS[@]:first:COMP_CWORD-first+1}" 2>/dev/null
  )
}
complete -o filenames -F _cargo_burst cargo-burst burst
# Behind `cargo` it is ours only for `cargo burst`; all else is whoever's it was.
_cargo_burst_before="$(complete -p cargo 2>/dev/null | sed -n 's/.* -F \([^ ]*\).*/\1/p')"
[[ "$_cargo_burst_before" == _cargo_or_burst ]] && _cargo_burst_before=
_cargo_or_burst() {
  if [[ "${COMP_WORDS[1]}" == burst && "$COMP_CWORD" -gt 1 ]]; then
    _cargo_burst "$@"
  elif [[ -n "$_cargo_burst_before" ]]; then
    "$_cargo_burst_before" "$@"
  else
    COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
  fi
}
complete -o filenames -F _cargo_or_burst cargo
"""
_ZSH: Final = r"""#compdef cargo-burst burst
# made by `cargo burst completion zsh`; put it into a folder of $fpath as `_cargo-burst`
_cargo-burst() {
  local -a found=() words_of=("${(@)words[2,CURRENT]}")
  local line word help files=
  [[ "${words_of[1]}" == burst ]] && words_of=("${(@)words_of[2,-1]}")
  while IFS= read -r line; do
    word="${line%%$'\t'*}" help="${line#*$'\t'}"
    if [[ "$word" == :files ]]; then
      files=1
    else
      found+=("${word//:/\\:}:$help")
    fi
  done < <(cargo-burst completion --query -- "${words_of[@]}" 2>/dev/null)
  (( $#found )) && _describe -o 'cargo burst' found
  [[ -n "$files" ]] && _files
}
if [[ "$funcstack[1]" == _cargo-burst ]]; then
  _cargo-burst "$@"
else
  compdef _cargo-burst cargo-burst
fi
"""
_FISH: Final = r"""# made by `cargo burst completion fish`
function __cargo_burst_complete
    set -l tokens (commandline -opc) (commandline -ct)
    set -e tokens[1]
    test "$tokens[1]" = burst; and set -e tokens[1]
    for line in (cargo-burst completion --query -- $tokens 2>/dev/null)
        if string match -q ':files*' -- $line
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c cargo-burst -f -a '(__cargo_burst_complete)'
complete -c cargo -n '__fish_seen_subcommand_from burst' -f -a '(__cargo_burst_complete)'
"""
_TEXTS: Final = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def run(args: Sequence[str]) -> int:
    """0."""
    if args[:1] == ["--query"]:
        return _query(args[2:])
    parser = argparse.ArgumentParser(
        prog="cargo burst completion",
        description="Print completions of `cargo burst` and `cargo-burst` for a shell, like\n"
        "  cargo burst completion bash >~/.local/share/bash-completion/completions/cargo-burst",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS)
    print(_TEXTS[parser.parse_args(list(args)).shell], end="")
    return 0


def _query(words: Sequence[str]) -> int:
    """One candidate per line, with what it means behind a tab."""
    from burst_wrapper.cli.cargo_burst import OF_ADMIN, VERBS  # noqa: PLC0415 - it imports us
    from burst_wrapper.verbs.candidates import candidates  # noqa: PLC0415 - not for the files

    for word, meaning in candidates(words, VERBS, OF_ADMIN):
        if "\n" not in word:
            print(f"{word}\t{meaning}")
    return 0
