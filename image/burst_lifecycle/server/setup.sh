#!/bin/sh
# Makes a Debian 13 or Ubuntu 24.04 machine a burst server: user, folders, units, the rule about the
# metadata service. Run as root, by a bake or at first boot; run again it changes nothing. Its
# neighbours (units, deadman.sh, burst.nft, burst-agent.sh) lie in the folder given, or beside it.
#
#   setup.sh [FOLDER]
#
# Prints one line for everything it did; the last one is `burst-setup ok`.
set -eu
root=${BURST_ROOT:-}
from=${1:-$(dirname "$0")}
lib=$root/usr/local/lib/burst
units=$root/etc/systemd/system

put() { # MODE FILE TARGET, unless it is that already
    if ! cmp -s "$2" "$3" || [ "$(stat -c %a "$3")" != "$1" ]; then
        install -D -m "$1" "$2" "$3"
        echo "installed $3"
        changed=1
    fi
}
changed=0

if ! getent passwd burst >/dev/null; then
    # No password ever fits `*`, but unlike `!` it does not lock the account for sshd.
    useradd --system --create-home --home-dir /home/burst --shell /bin/sh --user-group burst
    usermod -p '*' burst
    echo 'user burst'
fi

# Whoever may log in as root may as `burst`: agents are reached that way.
keys=$root/root/.ssh/authorized_keys
theirs=$root/home/burst/.ssh
if [ -s "$keys" ] && ! cmp -s "$keys" "$theirs/authorized_keys"; then
    # As that user: whatever may lie there by now leads nowhere else.
    runuser -u burst -- sh -c 'umask 077 && mkdir -p "$1" && cat >"$1/authorized_keys"' \
        keys "$theirs" <"$keys"
    echo 'keys of burst'
fi

install -d -m 755 "$root/opt/burst" "$root/opt/burst/agent" "$root/mnt/burst" "$root/etc/burst"
install -d -m 755 "$root/var/lib/burst"
install -d -m 700 -o burst -g burst "$root/var/lib/burst/store"
install -d -m 775 -o root -g burst "$root/run/burst"
install -d -m 700 "$root/run/burst-private"
printf '%s\n' 'd /run/burst 0775 root burst -' 'd /run/burst-private 0700 root root -' \
    >"$root/etc/tmpfiles.d/burst.conf"

put 755 "$from/deadman.sh" "$lib/deadman.sh"
put 644 "$from/burst.nft" "$lib/burst.nft"
put 755 "$from/burst-agent.sh" "$root/usr/local/bin/burst-agent"
for unit in burst-deadman.service burst-deadman.timer burst-metadata.service \
    burst-agent.service burst-agent@.service; do
    put 644 "$from/$unit" "$units/$unit"
done

# Ubuntu 24.04 lets only programs with a profile make user namespaces; the sandbox needs them.
knob=$root/proc/sys/kernel/apparmor_restrict_unprivileged_userns
if [ -e "$knob" ]; then
    echo 'kernel.apparmor_restrict_unprivileged_userns = 0' >"$root/etc/sysctl.d/60-burst.conf"
    sysctl -q -p "$root/etc/sysctl.d/60-burst.conf" || echo 'warning: that sysctl cannot be set here'
fi

if [ -d "$root/run/systemd/system" ]; then
    [ "$changed" -eq 0 ] || systemctl daemon-reload
    systemctl enable --quiet burst-deadman.timer burst-metadata.service
    "$lib/deadman.sh" arm
    systemctl start --no-block burst-deadman.timer
    systemctl start burst-metadata.service
    # Started when there is an agent to start: see /opt/burst/agent/current.
    systemctl enable --quiet burst-agent.service
    if [ -e "$root/opt/burst/agent/current/COMMAND" ]; then
        # As root, who may write its compiled modules down: seconds less for every later start.
        "$root/usr/local/bin/burst-agent" serve --help >/dev/null || :
        systemctl start burst-agent.service
    fi
fi
echo 'burst-setup ok'
