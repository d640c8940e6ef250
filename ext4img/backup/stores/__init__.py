"""Backups that are directories: the store that we write, and what stock tools extract from an archive."""
