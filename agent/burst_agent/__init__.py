"""The agent: runs rustc actions in a sandbox, keeps the store. Imports nothing of the wrapper."""
