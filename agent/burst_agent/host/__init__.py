"""What root does on a server: volumes, host keys. Standard library only."""
