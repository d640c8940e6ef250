"""From a checksum back to the seed that it was made with, and to the generation in that seed.

For given bytes, crc32c maps seeds to sums one to one and linearly over GF(2), so it can be inverted.
The seed says which inode a block belongs to, and its generation which use of that inode number,
though the inode itself is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from google_crc32c import extend

from ext4img.structs.directory import DX_COUNTLIMIT, DX_ENTRY, DX_TAIL, EXT4_DIR_ENTRY_TAIL
from ext4img.volume.checksum import INVERT
from ext4img.volume.dir_block import index_entries_offset, stored_leaf_checksum

_BITS = 32


class _Inverse:
    """The inverse of a function of 32 bits that is affine over GF(2) and one to one."""

    def __init__(self, function: Callable[[int], int]) -> None:
        self._constant = function(0)
        pairs = [(function(1 << bit) ^ self._constant, 1 << bit) for bit in range(_BITS)]
        for bit in range(_BITS):  # Gauss-Jordan elimination
            pivot = next(at for at in range(bit, _BITS) if pairs[at][0] >> bit & 1)
            pairs[bit], pairs[pivot] = pairs[pivot], pairs[bit]
            value, origin = pairs[bit]
            for at in range(_BITS):
                if at != bit and pairs[at][0] >> bit & 1:
                    pairs[at] = pairs[at][0] ^ value, pairs[at][1] ^ origin
        self._origins = [origin for _, origin in pairs]

    def __call__(self, value: int) -> int:
        value ^= self._constant
        found = 0
        for bit in range(_BITS):
            if value >> bit & 1:
                found ^= self._origins[bit]
        return found


@lru_cache(maxsize=16)
def _inverse(length: int) -> _Inverse:
    """The inverse of a crc32c over `length` zeros, as a function of its seed."""
    zeros = bytes(length)
    return _Inverse(lambda seed: int(extend(seed, zeros)))


def seed_of_directory_block(data: bytes) -> int | None:
    """The inode's seed (see checksum.inode_seed) with which a directory block's checksum is right.

    None for a block without a checksum. Every sum has a seed, so other blocks can have one, too.
    """
    index = index_entries_offset(data)
    if index is None:
        leaf_checksum = stored_leaf_checksum(data)
        if leaf_checksum is None:
            return None
        covered, stored = data[: -EXT4_DIR_ENTRY_TAIL.size], leaf_checksum
    else:
        limit, count = DX_COUNTLIMIT.unpack_tuple(data, index)
        tail = index + limit * DX_ENTRY.size
        if not 0 < count <= limit or tail + DX_TAIL.size > len(data):
            return None
        covered = data[: index + count * DX_ENTRY.size] + data[tail : tail + 4] + bytes(4)
        stored = DX_TAIL.unpack_tuple(data, tail)[1]
    zeros_differ = int(extend(0, covered)) ^ int(extend(0, bytes(len(covered))))
    return _inverse(len(covered))(stored ^ INVERT ^ zeros_differ)


def generation_of(seed: int, number: int, seed_of_inode: int) -> int:
    """The i_generation with which inode `number` has `seed_of_inode`; `seed` is the file system's."""
    start = int(extend(seed, number.to_bytes(4, "little")))
    return _Inverse(lambda generation: int(extend(start, generation.to_bytes(4, "little"))))(seed_of_inode)
