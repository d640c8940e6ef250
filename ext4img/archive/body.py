"""Bodies in chunks: the size in which all readers give them, and a small body as one piece."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

CHUNK_BYTES: Final = 1 << 20  # the most that one chunk has


def join_chunks(size: int, chunks: Iterable[tuple[int, memoryview]]) -> bytes:
    """A whole body of `size` bytes from its (offset, data) chunks, holes as zeros."""
    body = bytearray(size)
    for offset, part in chunks:
        body[offset : offset + len(part)] = part
    return bytes(body)


def digest_of(chunks: Iterable[tuple[int, memoryview]]) -> str:
    """SHA-256 of the data of a body's chunks, holes left out, in hex."""
    digest = hashlib.sha256()
    for _, part in chunks:
        digest.update(part)
    return digest.hexdigest()
