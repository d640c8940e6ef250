"""The hash inside Adiantum: NH over 1,024 bytes at a time, then Poly1305 over what NH gives.

From "Adiantum: length-preserving encryption for entry-level processors" (Crowley, Biggers 2018) and
the kernel's `crypto/nhpoly1305.c`. NH runs vectorised over many messages; Poly1305 here is the bare
polynomial, without the final addition of a pad, and in Python's integers: it gets 32 bytes for
each 1,024 of the message.
"""

from __future__ import annotations

from typing import Final

import numpy
from numpy.typing import NDArray

from ext4img.crypto.batches import Bytes, scratch

NH_KEY_SIZE: Final = 1072
MAX_RAGGED: Final = 1024
"""Bytes of the longest message that can be hashed together with shorter ones: one chunk."""
_CHUNK: Final = 1024
_UNIT: Final = 16
_UNITS: Final = _CHUNK // _UNIT
_PASSES: Final = 4
_AT_ONCE: Final = 1 << 18  # bytes that should stay in the cache between the passes
_PRIME: Final = (1 << 130) - 5
_CLAMP: Final = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
_HIGH_BIT: Final = 1 << 128
_MASK_128: Final = _HIGH_BIT - 1

Words = NDArray[numpy.uint32]
Sums = NDArray[numpy.uint64]


class Poly1305:
    """The polynomial with a key of 16 bytes: messages of whole 16-byte blocks, modulo 2^128."""

    __slots__ = ("_powers",)

    def __init__(self, key: bytes) -> None:
        self._powers = [1, int.from_bytes(key, "little") & _CLAMP]

    def hash(self, blocks: list[int]) -> int:
        """The hash of a message given as its blocks."""
        powers = self._powers
        while len(powers) <= len(blocks):
            powers.append(powers[-1] * powers[1] % _PRIME)
        total = 0
        power = len(blocks)
        for block in blocks:
            total += (block + _HIGH_BIT) * powers[power]
            power -= 1
        return total % _PRIME & _MASK_128


class NhPoly1305:
    """NH and Poly1305 under their keys: 16 bytes for the polynomial, then 1,072 for NH."""

    __slots__ = ("_blank", "_key", "_poly")

    def __init__(self, key: bytes) -> None:
        self._poly = Poly1305(key[:16])
        words = numpy.frombuffer(key[16:], "<u4").reshape(-1, 4)
        # One array for each word of a unit, so that the operands of sums and products are contiguous.
        self._key: Words = numpy.ascontiguousarray(words.T, numpy.uint32)[:, None]
        # The contribution of units of zeros to each sum, cumulated from the first unit.
        a, b, c, d = words.T.astype(numpy.uint64)
        blank = numpy.cumsum(a * c + b * d, dtype=numpy.uint64)
        self._blank: Sums = numpy.concatenate((numpy.zeros(1, numpy.uint64), blank))

    def hash(self, messages: Bytes, lengths: list[int] | None = None) -> list[int]:
        """The hash of each row.

        Rows have a multiple of 16 bytes. Where messages are shorter, `lengths` has their lengths in
        bytes, and the rest of each row is zeros; messages must then end in the row's last chunk.
        """
        count, size = messages.shape
        sizes = [size] * count if lengths is None else lengths
        units = numpy.array([-(-length // _UNIT) for length in sizes])
        words = messages.view("<u4").reshape(count, size // _UNIT, 4)
        chunks = -(-size // _CHUNK)
        digests = numpy.empty((count, chunks, _PASSES), numpy.uint64)
        step = max(_AT_ONCE // max(size, 1), 1)
        for first in range(0, count, step):
            part = slice(first, first + step)
            self._nh(words[part], units[part], digests[part])
        raw = digests.tobytes()
        from_bytes = int.from_bytes
        blocks = [from_bytes(raw[at : at + 16], "little") for at in range(0, len(raw), 16)]
        per_row = 2 * chunks
        # NH has no digest for a message without a byte.
        return [
            self._poly.hash(blocks[at * per_row : (at + 1) * per_row] if length else [])
            for at, length in enumerate(sizes)
        ]

    def _nh(self, words: Words, units: NDArray[numpy.int_], out: Sums) -> None:
        """The four sums of each chunk.

        `words` goes by message, unit and word; only the first `units` of each message count, and
        all of them but in the last chunk.
        """
        count, width = words.shape[:2]
        chunks = out.shape[1]
        if not chunks:
            return
        per_chunk = min(width, _UNITS)
        total = count * chunks * per_chunk
        apart = scratch("nh words", 16 * total).view(numpy.uint32).reshape(4, count, -1)
        apart[:, :, :width] = words.transpose(2, 0, 1)
        apart[:, :, width:] = 0
        apart = apart.reshape(4, count * chunks, per_chunk)
        mixed = scratch("nh mixed", 16 * total).view(numpy.uint32).reshape(apart.shape)
        products = scratch("nh products", 16 * total).view(numpy.uint64).reshape(2, count * chunks, per_chunk)
        last = units - (chunks - 1) * per_chunk
        for i in range(_PASSES):
            numpy.add(apart, self._key[:, :, i : i + per_chunk], out=mixed)
            numpy.multiply(mixed[:2], mixed[2:], out=products, dtype=numpy.uint64)
            products[0] += products[1]
            out[..., i] = products[0].sum(axis=1, dtype=numpy.uint64).reshape(count, chunks)
            out[:, -1, i] -= self._blank[per_chunk + i] - self._blank[last + i]
