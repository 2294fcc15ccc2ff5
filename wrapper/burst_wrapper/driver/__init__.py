"""`--driver remote`: cargo itself runs on the agent, in the mirror, at home's own paths."""
