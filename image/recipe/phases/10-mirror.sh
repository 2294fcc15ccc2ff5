#!/bin/sh
# A mirror takes the place of all downloads:
#
#   SHA256SUMS            of every file in it, as `sha256sum` writes it
#   apt/Packages, *.deb   a flat archive, in place of the system's sources
#   NAME-MACHINE          a file that `versions` pins, checked against that, too
#   rust/                 a plain toolchain tree (bin/rustc, bin/cargo, lib/…), in place of rustup
#   dist/                 rustup's own archive, in place of static.rust-lang.org
#   tools/                plain programs: sccache, cargo-nextest
#
# Sent by home, or fetched from a URL file by file. What SHA256SUMS does not list is refused.
. "$recipe/lib.sh"
[ -n "$source" ] || exit 0

if [ "$source" != sent ]; then
    mkdir -p "$mirror"
    get() { curl -fsSL --retry 5 --connect-timeout 20 "$@"; }
    case $source in
        https://* | http://127.* | http://localhost*) ;;
        *) die 'a mirror is a folder, or a URL that begins with https://' ;;
    esac
    get -o "$mirror/SHA256SUMS" "$source/SHA256SUMS"
    # curl's own configuration on stdin: names never meet a shell or a command line.
    sed -n 's/^[0-9a-f]\{64\} [ *]\(\.\/\)\{0,1\}//p' "$mirror/SHA256SUMS" | while IFS= read -r name; do
        case /$name/ in */../* | *'"'* | *'\'*) die "the mirror lists $name" ;; esac
        path=$(printf '%s' "$name" | sed 's/%/%25/g; s/ /%20/g; s/#/%23/g; s/?/%3F/g')
        printf 'url = "%s/%s"\noutput = "%s/%s"\n' "$source" "$path" "$mirror" "$name"
    done >"$work/mirror.curl"
    get --globoff --create-dirs --config "$work/mirror.curl"
    # HTTP has no modes.
    for folder in "$mirror/rust/bin" "$mirror/rust/libexec" "$mirror/tools"; do
        [ ! -d "$folder" ] || find "$folder" -type f -exec chmod 755 {} +
    done
fi

[ -f "$mirror/SHA256SUMS" ] || die 'the mirror has no SHA256SUMS'
cd "$mirror"
sha256sum --check --strict --quiet SHA256SUMS || die 'the mirror is not what its SHA256SUMS says'
sed -n 's/^[0-9a-f]\{64\} [ *]\(\.\/\)\{0,1\}//p' SHA256SUMS | sort >"$work/mirror.listed"
find . -type f ! -path ./SHA256SUMS | sed 's/^\.\///' | sort >"$work/mirror.there"
unlisted=$(comm -13 "$work/mirror.listed" "$work/mirror.there" | head -n 3)
[ -z "$unlisted" ] || die "the mirror's SHA256SUMS does not list $unlisted"
say "the mirror has $(wc -l <"$work/mirror.listed") files"
