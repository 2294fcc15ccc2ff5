#!/bin/sh
# Takes away what makes this machine this one, and the way in. As root, after the marker was read and
# right before shutdown. The last line is `burst-clean ok`; nobody can log in any more then.
set -u
root=${BURST_ROOT:-}

main() {
    rm -rf "$root/var/tmp/burst-bake"
    systemctl stop 'burst-agent*' 2>/dev/null
    rm -rf "$root/var/lib/burst/store" "$root/var/lib/burst/created"
    install -d -m 700 "$root/var/lib/burst/store"
    chown burst:burst "$root/var/lib/burst/store" 2>/dev/null
    # User data arms the dead man of each server, with that server's own times.
    systemctl disable --quiet burst-deadman.timer 2>/dev/null
    rm -f "$root/etc/burst/deadman.conf"

    # cloud-init takes the next boot for the first one.
    cloud-init clean --logs 2>/dev/null
    rm -rf "$root/var/lib/cloud/instance" "$root/var/lib/cloud/instances" "$root/var/lib/cloud/sem"
    rm -f "$root/etc/netplan/50-cloud-init.yaml" "$root/etc/network/interfaces.d/50-cloud-init" \
        "$root/etc/sudoers.d/90-cloud-init-users"

    apt-get -qq clean 2>/dev/null
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/lib/dhcp/*

    rm -f "$root"/root/.*_history "$root"/home/*/.*_history "$root"/root/.lesshst
    rm -rf "$root"/root/.cache "$root"/home/*/.cache "$root"/root/.ssh/known_hosts*
    find "$root/tmp" "$root/var/tmp" -mindepth 1 -maxdepth 1 ! -name 'systemd-private-*' \
        -exec rm -rf {} + 2>/dev/null
    journalctl --quiet --rotate 2>/dev/null
    rm -rf "$root"/var/log/journal/*
    find "$root/var/log" -type f -exec truncate -s 0 {} + 2>/dev/null

    # Numbers that no two machines may share.
    rm -f "$root/var/lib/systemd/random-seed" "$root/boot/efi/loader/random-seed" \
        "$root/var/lib/systemd/credential.secret" "$root/var/lib/dbus/machine-id"
    : >"$root/etc/machine-id" # empty, not absent: no first-boot questions
    rm -f "$root"/etc/ssl/private/ssl-cert-snakeoil.key "$root"/etc/ssl/certs/ssl-cert-snakeoil.pem

    # What free blocks hold would be copied, too. Not everywhere possible.
    sync
    fstrim -a 2>/dev/null

    rm -f "$root"/etc/ssh/ssh_host_*_key "$root"/etc/ssh/ssh_host_*_key.pub
    rm -f "$root"/root/.ssh/authorized_keys* "$root"/home/*/.ssh/authorized_keys*
    for left in "$root"/etc/ssh/ssh_host_* "$root"/root/.ssh/authorized_keys* \
        "$root"/home/*/.ssh/authorized_keys* "$root/etc/burst/deadman.conf"; do
        if [ -e "$left" ]; then
            echo "burst-clean: $left is still there" >&2
            exit 1
        fi
    done
    [ ! -s "$root/etc/machine-id" ] || exit 1
    sync
    echo 'burst-clean ok'
}

# It comes on stdin: all of it is read before the first command runs.
main </dev/null
exit
