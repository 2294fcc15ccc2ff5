#!/bin/sh
# sccache and cargo-nextest.
. "$recipe/lib.sh"

for name in sccache cargo-nextest; do
    if [ -n "$mirror" ] && [ -f "$mirror/tools/$name" ]; then
        install -m 755 "$mirror/tools/$name" "/usr/local/bin/$name"
    else
        fetch "$name" "$work/$name.tar.gz"
        rm -rf "$work/unpacked"
        mkdir "$work/unpacked"
        tar -xzf "$work/$name.tar.gz" -C "$work/unpacked"
        found=$(find "$work/unpacked" -type f -name "$name")
        [ -n "$found" ] || die "there is no $name in its archive"
        install -m 755 "$found" "/usr/local/bin/$name"
    fi
done
sccache --version
cargo-nextest nextest --version | head -n 1
