"""What both ends of burst agree on: digests, trees, messages, framing, errors. No I/O here."""
