#!/bin/sh
# Debian packages. Nothing that is installed is started.
. "$recipe/lib.sh"

# Ubuntu's own upgrades would hold the lock, and change what the image holds.
for unit in apt-daily.timer apt-daily-upgrade.timer unattended-upgrades.service; do
    systemctl stop "$unit" 2>/dev/null || :
    systemctl disable "$unit" 2>/dev/null || :
done

policy=/usr/sbin/policy-rc.d
trap 'rm -f "$policy"' EXIT
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

apt() {
    apt-get -y -o DPkg::Lock::Timeout=900 -o Acquire::Retries=5 -o Dpkg::Use-Pty=0 \
        -o Dpkg::Options::=--force-unsafe-io -o Dpkg::Options::=--force-confold \
        -o Dpkg::Options::=--path-exclude=/usr/share/doc/\* \
        -o Dpkg::Options::=--path-exclude=/usr/share/man/\* "$@"
}

# What an interrupted run left behind.
dpkg --configure -a
set -- --no-install-recommends install
for package in $(packages); do
    set -- "$@" "$package"
done
if [ -n "$mirror" ] && [ -f "$mirror/apt/Packages" ]; then
    # Its files were checked against SHA256SUMS, and apt checks them against Packages.
    printf 'deb [trusted=yes] file:%s/apt ./\n' "$mirror" >"$work/mirror.list"
    set -- -o "Dir::Etc::sourcelist=$work/mirror.list" -o Dir::Etc::sourceparts=- \
        -o APT::Sandbox::User=root "$@"
    apt -o "Dir::Etc::sourcelist=$work/mirror.list" -o Dir::Etc::sourceparts=- \
        -o APT::Sandbox::User=root -qq update
else
    apt -qq update
fi
apt -q "$@"
apt-get -qq clean
