#!/bin/sh
# Makes this machine what images are made of. As root, on Ubuntu 24.04 or Debian 13, over ssh.
#
#   run.sh RECIPE MIRROR      RECIPE: the hash that home knows this folder by
#                             MIRROR: empty; a URL; or `sent`, which is in $BURST_BAKE/mirror then
#
# May be run again after any interruption: phases that are done are not repeated. The last line is
# `burst-bake ok RECIPE`; the marker, /etc/burst/image.json, is what home believes.
set -eu
recipe=$(dirname "$(readlink -f "$0")")
work=${BURST_BAKE:-/var/tmp/burst-bake}
hash=$1 source=$2
mirror=
[ -z "$source" ] || mirror=$work/mirror
export recipe work mirror hash source
. "$recipe/lib.sh"

mkdir -p "$work/done"
# One at a time: home may have been cut off while an earlier one goes on.
exec 9>>"$work/lock"
flock -w 1800 9 || die 'another bake runs on this server'
rm -f "$root/etc/burst/image.json"

sh "$recipe/beat.sh" $$ 9>&- </dev/null >/dev/null 2>&1 &
beating=$!
trap 'kill $beating 2>/dev/null || :' EXIT
trap 'exit 143' HUP INT TERM

for phase in "$recipe"/phases/*.sh; do
    name=$(basename "$phase" .sh)
    if [ "$(cat "$work/done/$name" 2>/dev/null)" = "$hash" ]; then
        say "== $name: done before"
        continue
    fi
    say "== $name"
    sh "$phase" 9>&- || die "$name failed"
    printf '%s\n' "$hash" >"$work/done/$name"
done
say "burst-bake ok $hash"
