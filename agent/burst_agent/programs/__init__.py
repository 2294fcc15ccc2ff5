"""Programs that clients start in a mirror: tests, benches, whatever `cargo burst run` runs."""
