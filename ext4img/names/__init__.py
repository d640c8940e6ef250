"""Names on disk: directory hashes, case folding, and the names that the kernel shows without a key."""
