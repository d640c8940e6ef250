"""Backup without keys, and restore: docs/archive-format.md has the archive's bytes."""
