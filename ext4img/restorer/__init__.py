"""From an archive to a directory of the host."""
