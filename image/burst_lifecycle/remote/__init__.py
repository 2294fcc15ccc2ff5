"""Another machine over SSH: the connection, and how an agent gets there."""
