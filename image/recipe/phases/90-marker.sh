#!/bin/sh
# Everything is there: what home reads over ssh before it believes in an image. Written last, at once.
. "$recipe/lib.sh"

need() { command -v "$1" >/dev/null || die "$1 is not there"; }
for program in cc clang ld.lld mold git pkg-config bwrap python3 nft psql redis-server rustc cargo \
    sccache cargo-nextest burst-agent; do
    need "$program"
done
word() { printf '"%s"' "$(printf '%s' "$1" | tr -cd 'A-Za-z0-9 ._()+:~-')"; }
target=$root/etc/burst/image.json
{
    printf '{"recipe": %s, "system": %s' "$(word "$hash")" "$(word "$(. /etc/os-release && printf '%s' "$PRETTY_NAME")")"
    printf ', "rustc": %s' "$(word "$(rustc --version)")"
    printf ', "agent": %s}\n' "$(word "$(readlink /opt/burst/agent/current)")"
} >"$target.new"
sync
mv "$target.new" "$target"
cat "$target"
