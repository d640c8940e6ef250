"""POLYVAL (RFC 8452), many messages at once: the hash inside HCTR2.

Numbers are polynomials over GF(2) modulo p = x^128 + x^127 + x^126 + x^121 + 1, bit i of a
little-endian integer being the coefficient of x^i. The hash of blocks X1, X2, … starts at zero and
goes S = (S ^ X)·H·x^-128 for each. The product by the fixed H is linear, so it is read out of
a table: one entry for every value of each of the 16 bytes of S.
"""

from __future__ import annotations

from typing import Final

import numpy
from numpy.typing import NDArray

_POLYNOMIAL: Final = (1 << 128) | (1 << 127) | (1 << 126) | (1 << 121) | 1
_MASK_64: Final = (1 << 64) - 1

Words = NDArray[numpy.uint64]
_ROWS = numpy.arange(16) * 256


class Polyval:
    """POLYVAL under one key of 16 bytes. States are rows of two 64-bit words."""

    __slots__ = ("_table",)

    def __init__(self, key: bytes) -> None:
        product = int.from_bytes(key, "little")
        # H·x^-128: dividing by x is a shift, once p has made the lowest bit zero.
        for _ in range(128):
            if product & 1:
                product ^= _POLYNOMIAL
            product >>= 1
        multiples = []
        for _ in range(128):
            multiples += [product & _MASK_64, product >> 64]
            product <<= 1
            if product >> 128:
                product ^= _POLYNOMIAL
        bits = numpy.array(multiples, numpy.uint64).reshape(16, 8, 2)
        table = numpy.zeros((16, 256, 2), numpy.uint64)
        for bit in range(8):
            half = 1 << bit
            table[:, half : 2 * half] = table[:, :half] ^ bits[:, bit : bit + 1]
        self._table: Words = table.reshape(4096, 2)

    def times_key(self, states: Words) -> Words:
        """Each state times H·x^-128."""
        octets = states.view(numpy.uint8).reshape(-1, 16)
        entries = self._table[octets + _ROWS]
        product: Words = numpy.bitwise_xor.reduce(entries, axis=1)
        return product

    def absorb(self, states: Words, blocks: Words) -> Words:
        """The states after one more block each; neither argument is changed."""
        return self.times_key(states ^ blocks)
