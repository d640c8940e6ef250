"""The hashes of extended attributes: e_hash and h_hash (kernel: ext4_xattr_hash_entry, ext4_xattr_rehash).

Bytes of names are unsigned, as in every kernel since 6.2, and before on all machines but x86. Kernel and
e2fsck accept both.
"""

from __future__ import annotations

from functools import lru_cache
from struct import unpack
from typing import Final

from ext4img.volume.xattr import xattr_padded

_MASK: Final = 0xFFFFFFFF


def name_hash(name: bytes, signed: bool = False) -> int:
    """The name's part of e_hash."""
    value = 0
    for byte in name:
        value = (value << 5 & _MASK) ^ value >> 27 ^ (byte | 0xFFFFFF00 if signed and byte > 127 else byte)
    return value


def hash_word(value: int, word: int) -> int:
    """The hash after one more word."""
    return (value << 16 & _MASK) ^ value >> 16 ^ word


@lru_cache(maxsize=1024)  # many files often have the same ACL
def xattr_entry_hash(name: bytes, value: bytes, signed: bool = False) -> int:
    """e_hash of an attribute whose value is not in an inode of its own."""
    result = name_hash(name, signed)
    padded = value.ljust(xattr_padded(len(value)), b"\0")
    for word in unpack(f"<{len(padded) // 4}I", padded):
        result = (result << 16 & _MASK) ^ result >> 16 ^ word
    return result
