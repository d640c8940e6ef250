"""What a backup's archive is made of: tar framing, members, manifest; written, read, and joined to a chain."""
