"""Paths: bytes on disk, text in messages and JSON."""

from __future__ import annotations


def decode_path(path: bytes) -> str:
    """A path or name as str; bytes that are not UTF-8 become surrogates, as in Python's own paths."""
    return path.decode("utf-8", "surrogateescape")
