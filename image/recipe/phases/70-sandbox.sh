#!/bin/sh
# bubblewrap must work for the agent's user, here and now.
. "$recipe/lib.sh"

# Ubuntu 24.04 lets only programs with a profile make user namespaces. setup.sh lifts that for our own
# helper, which lies under a name that changes with the version; bubblewrap gets its profile as well,
# so that it works should somebody put the limit back.
if [ -d /sys/kernel/security/apparmor ] && command -v apparmor_parser >/dev/null; then
    profile=/etc/apparmor.d/burst-bwrap
    if ! grep -qs '/usr/bin/bwrap' /etc/apparmor.d/bwrap-userns-restrict /etc/apparmor.d/bwrap; then
        cat >"$profile" <<'END'
abi <abi/4.0>,
include <tunables/global>

profile burst-bwrap /usr/bin/bwrap flags=(unconfined) {
  userns,
  include if exists <local/burst-bwrap>
}
END
        apparmor_parser -r "$profile" || die "AppArmor refuses $profile"
    fi
fi
out=$(runuser -u burst -- bwrap --unshare-user --unshare-pid --unshare-net --ro-bind / / --dev /dev \
    sh -c 'id -u; echo inside') || die 'bubblewrap does not work for user burst'
case $out in *inside) say 'bubblewrap works' ;; *) die "bubblewrap says: $out" ;; esac
# Programs of projects reach out through it, from networks of their own.
command -v pasta >/dev/null || die 'pasta (package passt) is not installed'
