"""Names on disk: hashes, case folding and the names the kernel shows without a key."""
