#!/bin/sh
# The toolchain for what runs on the server itself (`cargo burst test|run|…`); compiled units bring
# their own. In /opt/rust, readable by all; its programs are on PATH.
. "$recipe/lib.sh"

read -r version components <<END
$(listed toolchain)
END
if [ -n "$mirror" ] && [ -x "$mirror/rust/bin/rustc" ]; then
    rm -rf /opt/rust
    mkdir -p /opt/rust
    cp -a "$mirror/rust" /opt/rust/toolchain
    chown -R 0:0 /opt/rust
    bin=/opt/rust/toolchain/bin
else
    export RUSTUP_HOME=/opt/rust/rustup CARGO_HOME=/opt/rust/cargo
    if [ -n "$mirror" ]; then
        [ -d "$mirror/dist" ] || die 'the mirror has neither rust/ nor dist/'
        export RUSTUP_DIST_SERVER="file://$mirror"
    fi
    fetch rustup-init "$work/rustup-init"
    chmod 755 "$work/rustup-init"
    set --
    for component in $components; do
        set -- "$@" --component "$component"
    done
    "$work/rustup-init" -y --quiet --no-modify-path --profile minimal \
        --default-toolchain "$version" "$@"
    bin=$(/opt/rust/cargo/bin/rustup which rustc)
    bin=${bin%/rustc}
    ln -sf /opt/rust/cargo/bin/rustup /usr/local/bin/rustup
    grep -qs '^RUSTUP_HOME=' /etc/environment || echo 'RUSTUP_HOME=/opt/rust/rustup' >>/etc/environment
fi
for program in "$bin"/*; do
    [ ! -x "$program" ] || ln -sf "$program" "/usr/local/bin/$(basename "$program")"
done
rustc --version
cargo --version
