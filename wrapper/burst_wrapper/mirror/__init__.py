"""The workspace on the agent: which of home's files go there, and what comes back."""
