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

from ext4img.crypto.units import Bytes

NH_KEY_SIZE: Final = 1072
_CHUNK: Final = 1024
_UNIT: Final = 16
_PASSES: Final = 4
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

    __slots__ = ("_key", "_poly")

    def __init__(self, key: bytes) -> None:
        self._poly = Poly1305(key[:16])
        self._key: Words = numpy.frombuffer(key[16:], "<u4").astype(numpy.uint32)

    def hash(self, messages: Bytes, lengths: list[int] | None = None) -> list[int]:
        """The hash of each row.

        Rows have a multiple of 16 bytes. Where messages differ in length, `lengths` has them in
        bytes, and the rest of each row is zeros; then rows have 1,024 bytes at most.
        """
        count, size = messages.shape
        chunks = -(-size // _CHUNK)
        digests = numpy.empty((count, chunks, _PASSES), numpy.uint64)
        words = messages.view("<u4").reshape(count, size // _UNIT, 4)
        whole = size // _CHUNK
        if whole:
            per_chunk = words[:, : whole * 64].reshape(count, whole, 64, 4)
            self._nh(per_chunk, None, digests[:, :whole])
        if whole < chunks:
            used = None
            if lengths is not None:
                units = -(-numpy.array(lengths) // _UNIT)
                used = (numpy.arange(size // _UNIT) < units[:, None]).reshape(count, 1, -1, 1)
            self._nh(words[:, None, whole * 64 :], used, digests[:, whole:])
        raw = digests.tobytes()
        from_bytes = int.from_bytes
        blocks = [from_bytes(raw[at : at + 16], "little") for at in range(0, len(raw), 16)]
        per_row = 2 * chunks
        # NH has no digest for a message without a byte.
        sizes = [size] * count if lengths is None else lengths
        return [
            self._poly.hash(blocks[at * per_row : (at + 1) * per_row] if length else [])
            for at, length in enumerate(sizes)
        ]

    def _nh(self, words: Words, used: NDArray[numpy.bool_] | None, out: Sums) -> None:
        """Four sums for each chunk of `words` (message, chunk, unit, word), `used` telling which units count."""
        units = words.shape[2]
        for i in range(_PASSES):
            mixed = words + self._key[4 * i : 4 * i + 4 * units].reshape(units, 4)
            products = mixed[..., :2].astype(numpy.uint64)
            products *= mixed[..., 2:]
            if used is not None:
                products *= used
            out[..., i] = products.sum(axis=(2, 3), dtype=numpy.uint64)
