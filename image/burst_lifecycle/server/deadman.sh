#!/bin/sh
# The dead man: powers this server off when nobody came, when it is idle at the edge of its paid
# hour, or when its hard end has passed. It needs no agent, no Python and no network, and is armed by
# cloud-init's bootcmd in the first seconds of the first boot.
#
#   deadman.sh arm     at every boot: remembers when this server started
#   deadman.sh check   by a timer: looks once, says on stdout what it decided, and does it
#
# Files: see agent/burst_agent/lease.py, whose lock is taken here, too. All times are seconds of
# /proc/uptime. Power-off goes through the same drain as everything else: under the lock, never while
# something runs, and after it no agent takes work. Only the hard end asks nobody.
#
# $BURST_ROOT is put before every path: tests run the real thing in a folder.

set -u
root=${BURST_ROOT:-}
run=$root/run/burst
conf=$root/etc/burst/deadman.conf

FIRST_CLIENT_S=900     # nobody came: off
KEEP_ALIVE_S=900       # silent for so long is idle; `lease extend --keep-alive` changes it
EDGE_S=3000            # of every hour since creation: from here to its end idle servers go
AGE_AT_BOOT_S=60       # how old a server is when it first boots, about
HARD_END_S=43200       # since boot, whatever runs; `lease extend --hard-end-in` moves it
LOCK_S=10              # patience with the lease's lock
STOP_S=60              # patience with the agent, with every unmounting, and with the power-off
# No expansion, no commands: names and numbers only.
if [ -r "$conf" ]; then
    while IFS='=' read -r name value; do
        case $value in '' | *[!0-9]*) continue ;; esac
        case $name in
            FIRST_CLIENT_S | KEEP_ALIVE_S | EDGE_S | AGE_AT_BOOT_S | HARD_END_S | LOCK_S | STOP_S)
                eval "$name=$value" ;;
        esac
    done <"$conf"
fi

# A whole number from a file, negative ones too; empty if there is none.
number() {
    value=
    [ -r "$1" ] && read -r value <"$1"
    case ${value#-} in '' | *[!0-9]*) value= ;; esac
    printf '%s' "$value"
}

uptime_s() {
    read -r seconds _ <"$root/proc/uptime" || return 1
    printf '%s' "${seconds%%.*}"
}

# Never through what lies there already: others may write into that folder.
put() {
    new=$(mktemp "$run/.deadman.XXXXXX") || return 1
    printf '%s\n' "$2" >"$new" && chmod 644 "$new" && mv -fT "$new" "$run/$1"
}

arm() {
    mkdir -p "$run" || return 1
    chmod 775 "$run"
    chgrp burst "$run" 2>/dev/null
    now=$(uptime_s) || return 1
    [ -e "$run/armed" ] || put armed "$now"
    [ -e "$run/hard-end" ] || put hard-end $((now + HARD_END_S))
    # A server that was off and is on again is older than its boot: its paid hours began at its
    # first one. An image's own note does not count, it belongs to another instance.
    id=$(cat "$root/var/lib/cloud/data/instance-id" 2>/dev/null)
    note=$root/var/lib/burst/created
    wall=$(date +%s)
    created='' of=''
    [ -r "$note" ] && read -r created of <"$note"
    case $created in '' | *[!0-9]*) created='' ;; esac
    if [ -z "$created" ] || [ "$of" != "$id" ] || [ "$created" -gt "$wall" ]; then
        created=$((wall - AGE_AT_BOOT_S))
        mkdir -p "$root/var/lib/burst" && printf '%s %s\n' "$created" "$id" >"$note"
    fi
    [ -e "$run/created" ] || put created $((now - (wall - created)))
}

# Whether a run is in progress, by the lease; agents that are dead do not count. An unreadable file
# counts as one without agents, as for the agents themselves.
running() {
    [ -r "$run/lease.json" ] || return 1
    sed -n 's/^{"pid":\([0-9]*\),"start":\([0-9]*\),"running":\([0-9]*\),"detached":\([0-9]*\),.*/\1 \2 \3 \4/p' \
        "$run/lease.json" | while read -r pid start runs detached; do
        [ "$runs" -eq 0 ] && [ "$detached" -eq 0 ] && continue
        stat=$(cat "$root/proc/$pid/stat" 2>/dev/null) || continue
        # shellcheck disable=SC2086 # fields 3 and following, after the name, which may hold anything
        set -- ${stat##*) }
        [ "${20:-}" = "$start" ] && exit 7
    done
    [ $? -eq 7 ]
}

# Under the lock: granted only if nothing runs and the reason still holds.
drain() {
    [ -e "$run/draining" ] && return 0
    if running; then
        echo "stay: $1, but something runs"
        return 1
    fi
    put draining "dead man: $1" && put ending "$1"
}

idle_s() {
    beat=$(number "$run/heartbeat")
    if [ -n "$beat" ] && [ "$beat" -le "$now" ]; then
        printf '%s' $((now - beat))
    else # only touched
        printf '%s' $(($(date +%s) - $(stat -c %Y "$run/heartbeat")))
    fi
}

# Why this server should go now; empty: it should not.
reason() {
    hard_end=$(number "$run/hard-end")
    [ -n "$hard_end" ] || hard_end=$((armed + HARD_END_S))
    if [ "$now" -ge "$hard_end" ]; then
        printf 'the hard end has passed'
        return
    fi
    if [ ! -e "$run/heartbeat" ]; then
        [ $((now - armed)) -ge "$FIRST_CLIENT_S" ] && printf 'no client since boot'
        return
    fi
    keep_alive=$(number "$run/keep-alive")
    [ -n "$keep_alive" ] || keep_alive=$KEEP_ALIVE_S
    created=$(number "$run/created")
    [ -n "$created" ] || created=$((armed - AGE_AT_BOOT_S))
    idle=$(idle_s)
    if [ "$idle" -ge "$keep_alive" ] && [ $(((now - created) % 3600)) -ge "$EDGE_S" ]; then
        printf 'idle for %s s at the edge of the paid hour' "$idle"
    fi
}

power_off() {
    put ending "$1"
    echo "off: $1"
    # An agent that does not stop must not keep the server: systemd kills it in the end.
    timeout "$STOP_S" systemctl stop 'burst-agent*' 2>/dev/null
    for mount in "$root"/mnt/burst/*; do
        [ -d "$mount" ] || continue
        timeout "$STOP_S" umount "$mount" 2>/dev/null || timeout "$STOP_S" umount -l "$mount" 2>/dev/null
    done
    timeout "$STOP_S" sync
    # Opt-in, brought over ssh into memory: curl's own configuration, so that no secret stands in a
    # command line. Deleted is better than off; off comes next in any case.
    if [ -r "$root/run/burst-private/self-delete" ]; then
        timeout "$STOP_S" curl -sS -K "$root/run/burst-private/self-delete" >/dev/null
    fi
    systemctl --no-block poweroff
}

check() {
    now=$(uptime_s) || return 1
    armed=$(number "$run/armed")
    if [ -z "$armed" ]; then
        arm || return 1
        armed=$now
    fi
    if [ -e "$run/off-since" ]; then # asked for before, and still here
        since=$(number "$run/off-since")
        if [ $((now - ${since:-0})) -ge "$STOP_S" ]; then
            echo 'off: by force'
            sync &
            systemctl --force --force poweroff
        fi
        return 0
    fi
    why=$(reason)
    if [ -z "$why" ]; then
        echo stay
        return 0
    fi
    case $why in
        'the hard end has passed')
            put draining "dead man: $why" # who holds the lock now must not live for ever
            ;;
        *)
            # For reading if it is there: others may write into that folder, links too.
            if [ -e "$run/lease.lock" ]; then
                exec 9<"$run/lease.lock" || return 1
            else
                exec 9>>"$run/lease.lock" || return 1
            fi
            if ! flock -w "$LOCK_S" 9; then
                echo "stay: $why, but the lease is locked"
                return 0
            fi
            # Looked at again, now that nobody can change it.
            now=$(uptime_s)
            why=$(reason)
            if [ -z "$why" ]; then
                echo stay
                return 0
            fi
            drain "$why" || return 0
            flock -u 9
            ;;
    esac
    put off-since "$now"
    power_off "$why"
}

case ${1:-} in
    arm) arm ;;
    check) check ;;
    *)
        echo "usage: $0 arm|check" >&2
        exit 2
        ;;
esac
