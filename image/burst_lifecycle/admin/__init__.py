"""`burst-admin`: one module per verb, views as pure functions, and what they are shown as."""
