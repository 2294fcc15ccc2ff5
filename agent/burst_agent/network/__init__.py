"""The network that the programs of one mirror run in: its own loopback, services and way out."""
