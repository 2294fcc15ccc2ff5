"""A project's folders as they lie at home, writable: where `cargo burst test|bench|run` run."""
