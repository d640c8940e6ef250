"""XTS (IEEE 1619), for contents: AES-256 and SM4.

A few units go through the library, one context each. Many units of up to 4 KiB are done together:
one ECB call gives the first tweak of each, NumPy the tweaks of their other blocks, and one ECB call
the data between two XORs. On the way stands the cost of a context, 2 µs, not that of AES.

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
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from ext4img.crypto.units import Buffer, Bytes, UnitCipher, scratch

_BLOCK: Final = 16
# Above 4 KiB, and for fewer units, one context a unit is quicker (measured: 2.6 µs + 0.07 µs/KiB
# against 60 µs + 0.45 µs/KiB).
_BATCH_UNIT_SIZE: Final = 4096
_BATCH_UNITS: Final = 64

Words = NDArray[numpy.uint64]
_SHIFTS = numpy.arange(8, dtype=numpy.uint64).reshape(1, 8, 1)
_ONE, _TWO, _FIVE, _SIX, _SEVEN = (numpy.uint64(n) for n in (1, 2, 5, 6, 7))
_57, _62, _63 = (numpy.uint64(n) for n in (57, 62, 63))


class Xts(UnitCipher):
    """XTS under one key, whose second half encrypts the tweaks."""

    __slots__ = ("_algorithm", "_data_key", "_tweak_key", "_whole")

    def __init__(self, algorithm: type[algorithms.AES | algorithms.SM4], key: bytes) -> None:
        half = len(key) // 2
        self._algorithm = algorithm
        self._data_key, self._tweak_key = key[:half], key[half:]
        # OpenSSL refuses equal halves, as kernels do now; what older ones wrote is still read.
        # It has no XTS of SM4 but one that GB/T 17964 defines in another way.
        whole = algorithm is algorithms.AES and self._data_key != self._tweak_key
        self._whole = algorithms.AES(key) if whole else None

    def _run(self, data: Buffer, unit_size: int, ivs: bytes, encrypting: bool) -> bytes:
        if self._in_batches(len(data) // unit_size, unit_size):
            return super()._run(data, unit_size, ivs, encrypting)
        pieces = self._one_by_one(data, unit_size, ivs, encrypting)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _run_into(self, data: Buffer, unit_size: int, ivs: bytes, encrypting: bool, out: Bytes) -> None:
        if self._in_batches(len(data) // unit_size, unit_size):
            super()._run_into(data, unit_size, ivs, encrypting, out)
            return
        target = out.data
        for at, piece in enumerate(self._one_by_one(data, unit_size, ivs, encrypting)):
            target[at * unit_size : (at + 1) * unit_size] = piece

    def _in_batches(self, units: int, unit_size: int) -> bool:
        return self._whole is None or (units >= _BATCH_UNITS and unit_size <= _BATCH_UNIT_SIZE)

    def _one_by_one(self, data: Buffer, unit_size: int, ivs: bytes, encrypting: bool) -> list[bytes]:
        assert self._whole is not None
        if not data:
            return []
        cipher: Cipher[modes.XTS] = Cipher(self._whole, modes.XTS(ivs[:_BLOCK]))
        view = memoryview(data)
        pieces = []
        for at in range(len(data) // unit_size):
            if at:
                cipher.mode = modes.XTS(ivs[at * _BLOCK : (at + 1) * _BLOCK])
            context = cipher.encryptor() if encrypting else cipher.decryptor()
            pieces.append(context.update(view[at * unit_size : (at + 1) * unit_size]))
        return pieces

    def _batch(self, data: Bytes, unit_size: int, ivs: bytes, encrypting: bool, out: Bytes) -> None:
        first = Cipher(self._algorithm(self._tweak_key), modes.ECB()).encryptor().update(ivs)
        tweaks = scratch("tweaks", len(data)).view(numpy.uint64)
        expand_tweaks(numpy.frombuffer(first, numpy.uint64).reshape(-1, 2), unit_size // _BLOCK, tweaks)
        masked = scratch("masked", len(data))
        numpy.bitwise_xor(_words(data), tweaks, out=masked.view(numpy.uint64))
        # The library wants room for almost one more block than it writes.
        mixed = scratch("mixed", len(data) + _BLOCK)
        cipher = Cipher(self._algorithm(self._data_key), modes.ECB())
        context = cipher.encryptor() if encrypting else cipher.decryptor()
        context.update_into(masked.data, mixed.data)
        target = out if out.ctypes.data % 8 == 0 else masked
        numpy.bitwise_xor(mixed[: len(data)].view(numpy.uint64), tweaks, out=target.view(numpy.uint64))
        if target is not out:
            out[:] = target


def _words(data: Bytes) -> Words:
    """The bytes as 64-bit words, copied only where they are not aligned."""
    return (data if data.ctypes.data % 8 == 0 else data.copy()).view(numpy.uint64)


def expand_tweaks(first: Words, blocks: int, out: Words) -> None:
    """The tweaks of `blocks` blocks (a multiple of 8) of each unit, from its first, units in a row.

    `first` has a row of two words a unit. See the module's text for the way.
    """
    units = len(first)
    windows = -(-blocks // 128) + 1
    bits = numpy.empty((units, 1, 2 * windows), numpy.uint64)
    low, high = first[:, 0], first[:, 1]
    for at in range(windows - 1, -1, -1):  # later bits stand lower
        top = high >> _57
        bits[:, 0, 2 * at] = low ^ top ^ (top >> _FIVE) ^ (top >> _SIX)
        bits[:, 0, 2 * at + 1] = high
        if at:
            low, high = _times_x128(low, high)
    shifted = numpy.empty((units, 8, 2 * windows), numpy.uint64)
    numpy.left_shift(bits, _SHIFTS, out=shifted)
    shifted[:, :, 1:] |= (bits[:, :, :-1] >> _ONE) >> (_63 - _SHIFTS)
    # Every byte that can be the highest of a window, as what it changes in that window's lowest.
    octets = shifted.view(numpy.uint8)
    carries = (octets >> 1) ^ (octets >> 6) ^ (octets >> 7)

    row = _BLOCK * windows
    shape, strides = (units, blocks // 8, 8), (8 * row, -1, row)
    sliding: NDArray[numpy.void] = numpy.ndarray(shape, "V16", shifted.data, row - _BLOCK, strides)
    out.view("V16").reshape(shape)[...] = sliding
    lowest = out.view(numpy.uint8).reshape(*shape, _BLOCK)[..., 0]
    lowest ^= numpy.ndarray(shape, numpy.uint8, carries.data, row - 1, strides)


def _times_x128(low: Words, high: Words) -> tuple[Words, Words]:
    """T·x^128 = T·r, with what r carries beyond bit 127 reduced once more."""
    carried = (high >> _63) ^ (high >> _62) ^ (high >> _57)
    new_low = low ^ (low << _ONE) ^ (low << _TWO) ^ (low << _SEVEN)
    new_low ^= carried ^ (carried << _ONE) ^ (carried << _TWO) ^ (carried << _SEVEN)
    new_high = high ^ (high << _ONE) ^ (high << _TWO) ^ (high << _SEVEN)
    new_high ^= (low >> _63) ^ (low >> _62) ^ (low >> _57)
    return new_low, new_high
