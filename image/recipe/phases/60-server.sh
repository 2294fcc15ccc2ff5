#!/bin/sh
# What every server of ours has besides the agent; the agent itself was brought by home before.
. "$recipe/lib.sh"

setup=/usr/local/lib/burst/setup
sh "$setup/setup.sh" "$setup"
[ -e /opt/burst/agent/current/COMMAND ] || die 'no agent was brought'
/usr/local/bin/burst-agent lease status >/dev/null || die 'the agent does not answer'

# Its agent starts with the server, before anybody comes.
systemctl enable --quiet burst-agent.service burst-metadata.service

# One way of starting sshd. Ubuntu's socket listens before cloud-init has written the host key.
if systemctl cat ssh.socket >/dev/null 2>&1; then
    systemctl disable --quiet ssh.socket 2>/dev/null || :
    rm -rf /etc/systemd/system/ssh.service.requires
    rm -f /etc/systemd/system/ssh.service.d/00-socket.conf
fi
systemctl enable --quiet ssh.service
