"""The CRC-16 of Linux (lib/crc16.c): group descriptors without metadata_csum, and records of a backup."""

from __future__ import annotations

import sys
from array import array
from functools import cache
from typing import Final

_SHORT_BYTES: Final = 64
"""Up to this length, which covers group descriptors, the large table does not repay the 18 ms to make it."""


@cache
def _byte_table() -> tuple[int, ...]:
    """For each value of the register's low byte: what eight shifts turn it into."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)  # noqa: PLW2901 - it is the register
        table.append(value)
    return tuple(table)


@cache
def _word_table() -> array[int]:
    """The same for sixteen shifts, so that one look-up takes two bytes of data."""
    table = _byte_table()
    half = [table[word & 0xFF] ^ word >> 8 for word in range(0x10000)]
    return array("H", [table[word & 0xFF] ^ word >> 8 for word in half])


def crc16(data: bytes, crc: int = 0xFFFF) -> int:
    """The CRC of `data`, continued from `crc`: reflected polynomial 0x8005, no final inversion."""
    if len(data) <= _SHORT_BYTES:
        short = _byte_table()
        for byte in data:
            crc = short[(crc ^ byte) & 0xFF] ^ crc >> 8
        return crc
    table = _word_table()
    even = len(data) & ~1
    words = array("H", data[:even])
    if sys.byteorder == "big":
        words.byteswap()
    for word in words:
        crc = table[crc ^ word]
    if even != len(data):
        crc = _byte_table()[(crc ^ data[-1]) & 0xFF] ^ crc >> 8
    return crc
