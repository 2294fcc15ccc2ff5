#!/bin/sh
# `burst-agent` on a server: the agent under /opt/burst/agent, with the interpreter it came with.
# `--version-of IDENTITY` first: that one; otherwise the one that `current` names.
set -eu
root=${BURST_ROOT:-}
which=current
if [ "${1:-}" = --version-of ]; then
    which=$2
    shift 2
fi
dir=$(readlink -f "$root/opt/burst/agent/$which")
# The words of the command stand in COMMAND, one a line; ours come behind them.
words=$#
while IFS= read -r word; do
    case $word in *'{dir}'*) word=${word%%'{dir}'*}$dir${word#*'{dir}'} ;; esac
    set -- "$@" "$word"
done <"$dir/COMMAND"
while [ "$words" -gt 0 ]; do
    word=$1
    shift
    set -- "$@" "$word"
    words=$((words - 1))
done
unset LD_LIBRARY_PATH LD_PRELOAD LOCPATH GCONV_PATH
LC_ALL=C exec "$@"
