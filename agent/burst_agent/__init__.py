"""The agent: runs rustc actions in a sandbox and keeps the store. Imports nothing of the wrapper."""
