"""The cloud as the rest of burst sees it: values and one port. Only `hetzner` imports hcloud."""
