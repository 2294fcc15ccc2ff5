"""SSH: the only package that imports asyncssh.

Behaves as `ssh -o BatchMode=yes -o StrictHostKeyChecking=yes`: same configuration files, keys,
agent and known_hosts; never asks, never learns a host key. Differences, on purpose: fixed good
algorithms, no forwarding of anything, no password or Kerberos login, no environment sent.
Importing its modules takes about 0.2 s (asyncssh), so their users import them when they first
connect.
"""
