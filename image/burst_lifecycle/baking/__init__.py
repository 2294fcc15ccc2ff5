"""What a bake is made of; `burst_lifecycle.bake` puts it together."""
