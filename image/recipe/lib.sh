# Sourced by run.sh and by every phase. POSIX sh.
#
#   $recipe    this folder, as it came over ssh
#   $work      scratch; gone when the image is made
#   $mirror    a folder in place of all downloads, or empty (see phases/10-mirror.sh)
#   $system    ubuntu or debian
#   $machine   as `uname -m` says it
# shellcheck shell=sh
# shellcheck disable=SC2034 # phases use them
set -eu
umask 022
export LC_ALL=C DEBIAN_FRONTEND=noninteractive HOME=/root
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
: "${recipe:?}" "${work:?}" "${mirror=}"
root=${BURST_ROOT:-} # tests put a folder before what they let be written
machine=$(uname -m)
system=$(. /etc/os-release && printf '%s' "$ID")

say() { printf '%s\n' "$*"; }
die() {
    printf 'burst-bake: %s\n' "$*" >&2
    exit 1
}

# The words behind these words of a line of `versions`, one line each.
listed() {
    sed -n "s/^$* *//p" "$recipe/versions"
}

packages() {
    listed package any
    listed package "$system"
}

# NAME TARGET: the pinned file, from the mirror (`NAME-MACHINE` there) or from where it is published.
# Whatever it comes from, it is this very file or the bake ends.
fetch() {
    pin=$(listed file "$1" "$machine")
    [ -n "$pin" ] || die "versions has no $1 for $machine"
    read -r version sha256 url <<PIN
$pin
PIN
    rm -f "$2"
    if [ -n "$mirror" ] && [ -f "$mirror/$1-$machine" ]; then
        cp "$mirror/$1-$machine" "$2"
    elif [ -n "$mirror" ]; then
        die "the mirror has neither $1-$machine nor a tree that takes its place"
    else
        say "fetching $1 $version"
        curl --proto '=https' --tlsv1.2 -fsSL --retry 5 --retry-connrefused \
            --connect-timeout 20 --max-time 900 -o "$2" "$url"
    fi
    if ! printf '%s  %s\n' "$sha256" "$2" | sha256sum --check --strict --status; then
        rm -f "$2"
        die "$1 $version is not the file that versions names (SHA-256)"
    fi
}
