"""Bodies in chunks: the size in which all readers give them, and a small body as one piece."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final

CHUNK_BYTES: Final = 1 << 20  # the most that one chunk has
Buffer = bytes | bytearray | memoryview


class BodyStream:
    """A file's data as chunks: the bytes of its segments, in order and without gaps.

    A chunk's buffer must not change until the second chunk after it is requested, as it is digested
    in the meantime. While the chunks are produced, `unreadable` may get the (offset, length) ranges
    of the file that the source could not read; their bytes are zeros. A backup that compares files
    with those of an earlier one may iterate over the chunks twice.
    """

    __slots__ = ("chunks", "unreadable")

    def __init__(self, chunks: Iterable[Buffer] = ()) -> None:
        self.chunks = chunks
        self.unreadable: list[tuple[int, int]] = []


class Chunks:
    """The chunks of a body; every iteration reads them again."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[], Iterator[memoryview]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[memoryview]:
        return self._read()


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
