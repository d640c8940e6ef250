"""SipHash-2-4 (Aumasson, Bernstein 2012), with 64 bits out.

The kernel uses it keyed by HKDF for two things: the hash of case-folded names in encrypted
directories, and the hashed inode number of IV_INO_LBLK_32 policies.
"""

from __future__ import annotations

from struct import unpack_from
from typing import Final

_MASK: Final = 0xFFFFFFFFFFFFFFFF


def siphash24(key: bytes, data: bytes) -> int:
    """The 64-bit hash of `data` under a key of 16 bytes, as an integer."""
    k0, k1 = unpack_from("<QQ", key)
    v0, v1 = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D
    v2, v3 = k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573
    size = len(data)
    # The last word holds the rest of the data, and the length in its top byte.
    padded = data + bytes(7 - size % 8) + bytes((size & 0xFF,))
    for word in unpack_from(f"<{len(padded) // 8}Q", padded):
        v0, v1, v2, v3 = _rounds(v0, v1, v2, v3 ^ word, 2)
        v0 ^= word
    v0, v1, v2, v3 = _rounds(v0, v1, v2 ^ 0xFF, v3, 4)
    return v0 ^ v1 ^ v2 ^ v3


def _rounds(v0: int, v1: int, v2: int, v3: int, count: int) -> tuple[int, int, int, int]:
    for _ in range(count):
        v0 = (v0 + v1) & _MASK
        v1 = (v1 << 13 & _MASK | v1 >> 51) ^ v0
        v0 = v0 << 32 & _MASK | v0 >> 32
        v2 = (v2 + v3) & _MASK
        v3 = (v3 << 16 & _MASK | v3 >> 48) ^ v2
        v0 = (v0 + v3) & _MASK
        v3 = (v3 << 21 & _MASK | v3 >> 43) ^ v0
        v2 = (v2 + v1) & _MASK
        v1 = (v1 << 17 & _MASK | v1 >> 47) ^ v2
        v2 = v2 << 32 & _MASK | v2 >> 32
    return v0, v1, v2, v3
