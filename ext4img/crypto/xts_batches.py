"""XTS of many data units at once: tweaks in NumPy, and one ECB call for the data.

One ECB call gives the first tweak of each unit, NumPy those of the other blocks, and the data is
masked with them before and after its own ECB call.

The tweak of block j is T·x^j modulo p = x^128 + r, r = x^7 + x^2 + x + 1: a bit shift and a
reduction at each step. Let top(T) be the seven highest bits of T, and V = T ^ (top(T)·r >> 7): then
the V of consecutive blocks are windows, one bit apart, of one long string of bits. (T·x^j without
reduction is such a window, with zeros coming in below. What the reduction adds, r times the bits
that left at the top, is a window on T·r but for its seven lowest bits: there a window also shows
what the bits still in T will add once they leave. That is top(T)·r >> 7.) So every 128th tweak is
computed, their V are laid end to end and shifted by 0 to 7 bits, and all other tweaks are read out
of that at byte offsets: 1 µs for the 256 tweaks of a unit.
"""

from __future__ import annotations

from typing import Final

import numpy
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher, modes
from numpy.typing import NDArray

from ext4img.crypto.batches import BatchCipher, Bytes, scratch

_BLOCK: Final = 16

Words = NDArray[numpy.uint64]
_SHIFTS = numpy.arange(8, dtype=numpy.uint64).reshape(1, 8, 1)
_ONE, _TWO, _FIVE, _SIX, _SEVEN = (numpy.uint64(n) for n in (1, 2, 5, 6, 7))
_57, _62, _63 = (numpy.uint64(n) for n in (57, 62, 63))


class XtsBatches(BatchCipher):
    """XTS with one block cipher for the data and one for the tweaks."""

    __slots__ = ("_data", "_tweaks")

    def __init__(self, data: BlockCipherAlgorithm, tweaks: BlockCipherAlgorithm) -> None:
        self._data = Cipher(data, modes.ECB())
        self._tweaks = Cipher(tweaks, modes.ECB())

    def _batch(self, data: Bytes, unit_size: int, ivs: bytes, encrypting: bool, out: Bytes) -> None:
        first = self._tweaks.encryptor().update(ivs)
        tweaks = scratch("tweaks", len(data)).view(numpy.uint64)
        expand_tweaks(numpy.frombuffer(first, numpy.uint64).reshape(-1, 2), unit_size // _BLOCK, tweaks)
        # The masked data goes into the result's memory, too, so that more of it stays in the cache.
        target = out if _is_aligned(out) else scratch("aligned", len(data))
        words = target.view(numpy.uint64)
        numpy.bitwise_xor(_words(data), tweaks, out=words)
        # The library requires room for almost one more block than it writes.
        mixed = scratch("mixed", len(data) + _BLOCK)
        context = self._data.encryptor() if encrypting else self._data.decryptor()
        context.update_into(target.data, mixed.data)
        numpy.bitwise_xor(mixed[: len(data)].view(numpy.uint64), tweaks, out=words)
        if target is not out:
            out[:] = target


def _is_aligned(data: Bytes) -> bool:
    return bool(data.ctypes.data % 8 == 0)


def _words(data: Bytes) -> Words:
    """The bytes as 64-bit words, copied only where they are not aligned."""
    return (data if _is_aligned(data) else data.copy()).view(numpy.uint64)


def expand_tweaks(first: Words, blocks: int, out: Words) -> None:
    """The tweaks of `blocks` blocks (a multiple of 8) of each unit, from its first, units in a row.

    `first` has a row of two words for each unit. The module's docstring explains the method.
    """
    units = len(first)
    windows = -(-blocks // 128) + 1
    bits = numpy.empty((units, 1, 2 * windows), numpy.uint64)
    low, high = first[:, 0], first[:, 1]
    for at in range(windows - 1, -1, -1):  # later bits come lower
        top = high >> _57
        bits[:, 0, 2 * at] = low ^ top ^ (top >> _FIVE) ^ (top >> _SIX)
        bits[:, 0, 2 * at + 1] = high
        if at:
            low, high = _times_x128(low, high)
    shifted = numpy.empty((units, 8, 2 * windows), numpy.uint64)
    numpy.left_shift(bits, _SHIFTS, out=shifted)
    shifted[:, :, 1:] |= (bits[:, :, :-1] >> _ONE) >> (_63 - _SHIFTS)
    # For every byte that can be the highest of a window: the change that it makes in the lowest byte.
    octets = shifted.view(numpy.uint8)
    carries = (octets >> 1) ^ (octets >> 6) ^ (octets >> 7)

    row = _BLOCK * windows
    shape, strides = (units, blocks // 8, 8), (8 * row, -1, row)
    sliding: NDArray[numpy.void] = numpy.ndarray(shape, "V16", shifted.data, row - _BLOCK, strides)
    out.view("V16").reshape(shape)[...] = sliding
    lowest = out.view(numpy.uint8).reshape(*shape, _BLOCK)[..., 0]
    lowest ^= numpy.ndarray(shape, numpy.uint8, carries.data, row - 1, strides)


def _times_x128(low: Words, high: Words) -> tuple[Words, Words]:
    """T·x^128 = T·r, reduced once more where r carries beyond bit 127."""
    carried = (high >> _63) ^ (high >> _62) ^ (high >> _57)
    new_low = low ^ (low << _ONE) ^ (low << _TWO) ^ (low << _SEVEN)
    new_low ^= carried ^ (carried << _ONE) ^ (carried << _TWO) ^ (carried << _SEVEN)
    new_high = high ^ (high << _ONE) ^ (high << _TWO) ^ (high << _SEVEN)
    new_high ^= (low >> _63) ^ (low >> _62) ^ (low >> _57)
    return new_low, new_high
