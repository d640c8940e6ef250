"""Every checksum recipe: which bytes it covers, which of them count as zero, and its seed.

metadata_csum is crc32c without the usual final inversion (kernel: ext4_chksum). google_crc32c
inverts before and after, so seeds are kept here in its form (inverted), and only the stored words
are inverted. Without metadata_csum, uninit_bg has a crc16 over group descriptors.

Recipes: kernel fs/ext4/{super,inode,extents,namei,xattr,mmp,orphan}.c.
"""

from __future__ import annotations

from array import array
from itertools import chain, repeat
from struct import Struct
from typing import TYPE_CHECKING

from google_crc32c import extend, value

from ext4img.structs.crc16 import crc16
from ext4img.structs.directory import EXT4_DIR_ENTRY_TAIL
from ext4img.structs.group import EXT4_GROUP_DESC
from ext4img.structs.inode import EXT4_INODE, EXT4_INODE_EXTRA
from ext4img.structs.superblock import EXT4_SUPER_BLOCK
from ext4img.structs.xattr import EXT4_XATTR_HEADER

if TYPE_CHECKING:
    from uuid import UUID

_WORD = Struct("<I").pack
_TWO_WORDS = Struct("<II").pack
_LONG = Struct("<Q").pack
INVERT = 0xFFFFFFFF

_SB_CHECKSUM = EXT4_SUPER_BLOCK.offset_of("s_checksum")
_BG_CHECKSUM = EXT4_GROUP_DESC.offset_of("bg_checksum")
_INODE_LO = EXT4_INODE.offset_of("l_i_checksum_lo")
_GENERATION = EXT4_INODE.offset_of("i_generation")
_INODE_HI = EXT4_INODE.size + EXT4_INODE_EXTRA.offset_of("i_checksum_hi")
_INODE_HI_END = EXT4_INODE_EXTRA.offset_of("i_checksum_hi") + 2
_XATTR_CHECKSUM = EXT4_XATTR_HEADER.offset_of("h_checksum")
_ZERO2 = bytes(2)
_ZERO4 = bytes(4)
_EIGHT_BYTES = Struct("8s")
_INVERTED = bytes(range(255, -1, -1))


def filesystem_seed(uuid: UUID, checksum_seed: int | None) -> int:
    """Seed of all structures: s_checksum_seed with metadata_csum_seed, else the crc of the UUID."""
    return value(uuid.bytes) if checksum_seed is None else checksum_seed ^ INVERT


def inode_seed(seed: int, number: int, generation: int) -> int:
    """Seed of an inode and of its extent and directory blocks."""
    return int(extend(seed, _TWO_WORDS(number, generation)))


def superblock(raw: bytes) -> int:
    """s_checksum: over everything before it, with the seed ~0 instead of the UUID."""
    return int(value(raw[:_SB_CHECKSUM])) ^ INVERT


def group_descriptor(seed: int, group: int, raw: bytes) -> int:
    """bg_checksum with metadata_csum: the low 16 bits of the crc over number and descriptor."""
    crc = extend(seed, _WORD(group) + raw[:_BG_CHECKSUM] + _ZERO2 + raw[_BG_CHECKSUM + 2 :])
    return (int(crc) ^ INVERT) & 0xFFFF


def group_descriptor_crc16(uuid: UUID, group: int, raw: bytes) -> int:
    """bg_checksum with uninit_bg only: crc16 over UUID, number, and the descriptor without it."""
    return crc16(uuid.bytes + _WORD(group) + raw[:_BG_CHECKSUM] + raw[_BG_CHECKSUM + 2 :])


def inode(seed_of_inode: int, raw: bytes) -> int:
    """An inode's checksum: 32 bits if its extra part holds i_checksum_hi, else the low 16 of them."""
    if len(raw) > EXT4_INODE.size:
        extra_size = raw[128] | raw[129] << 8
        if extra_size >= _INODE_HI_END:
            plain = (raw[:_INODE_LO], _ZERO2, raw[_INODE_LO + 2 : _INODE_HI], _ZERO2, raw[_INODE_HI + 2 :])
            return int(extend(seed_of_inode, b"".join(plain))) ^ INVERT
    return (int(extend(seed_of_inode, raw[:_INODE_LO] + _ZERO2 + raw[_INODE_LO + 2 :])) ^ INVERT) & 0xFFFF


def wrong_inodes(seed: int, first: int, table: bytes, inode_size: int) -> list[int]:
    """The positions of the inodes with a wrong checksum in a piece of inode table, all computed at once.

    Only for inodes whose extra part holds i_checksum_hi; the result for others means nothing.
    """
    plain = memoryview(bytearray(table))
    words, halves = plain.cast("I"), plain.cast("H")
    each = inode_size // 4
    count = len(words) // each
    # Column by column, so that no step of Python is spent on a single inode.
    low, high = halves[_INODE_LO // 2 :: 2 * each], halves[_INODE_HI // 2 :: 2 * each]
    stored = memoryview(bytearray(4 * count)).cast("H")
    stored[0::2], stored[1::2] = low, high
    low[:] = high[:] = memoryview(bytes(2 * count)).cast("H")
    identities = memoryview(bytearray(8 * count)).cast("I")
    identities[0::2] = memoryview(array("I", range(first, first + count)))
    identities[1::2] = words[_GENERATION // 4 :: each]
    seeds = map(extend, repeat(seed), chain.from_iterable(_EIGHT_BYTES.iter_unpack(identities)))
    computed = list(map(extend, seeds, chain.from_iterable(Struct(f"{inode_size}s").iter_unpack(plain))))
    expected = memoryview(stored.tobytes().translate(_INVERTED)).cast("I").tolist()
    if computed == expected:
        return []
    return [at for at, (one, other) in enumerate(zip(computed, expected, strict=True)) if one != other]


def stored_inode(raw: bytes) -> int:
    """The checksum that an inode carries, 16 or 32 bits as in `inode`."""
    low = raw[_INODE_LO] | raw[_INODE_LO + 1] << 8
    if len(raw) > EXT4_INODE.size and raw[128] | raw[129] << 8 >= _INODE_HI_END:
        return low | raw[_INODE_HI] << 16 | raw[_INODE_HI + 1] << 24
    return low


def store_inode(raw: bytearray, computed: int) -> None:
    """Put an inode's checksum, as `inode` computed it, into its fields."""
    raw[_INODE_LO : _INODE_LO + 2] = (computed & 0xFFFF).to_bytes(2, "little")
    if len(raw) > EXT4_INODE.size and raw[128] | raw[129] << 8 >= _INODE_HI_END:
        raw[_INODE_HI : _INODE_HI + 2] = (computed >> 16 & 0xFFFF).to_bytes(2, "little")


def extent_block(seed_of_inode: int, covered: bytes) -> int:
    """et_checksum: over the header and eh_max entries."""
    return int(extend(seed_of_inode, covered)) ^ INVERT


def directory_block(seed_of_inode: int, block: bytes) -> int:
    """det_checksum: over the block without its tail."""
    return int(extend(seed_of_inode, block[: len(block) - EXT4_DIR_ENTRY_TAIL.size])) ^ INVERT


def htree_block(seed_of_inode: int, covered: bytes, tail: bytes) -> int:
    """dt_checksum: over the block up to `count` entries, then the tail with a zero checksum.

    `covered` runs from the block's start to the end of the last used dx_entry; `tail` is dx_tail.
    """
    return int(extend(extend(seed_of_inode, covered), tail[:4] + _ZERO4)) ^ INVERT


def xattr_block(seed: int, block_number: int, block: bytes) -> int:
    """h_checksum: over the block's number as 64 bits and the block with a zero checksum."""
    crc = extend(seed, _LONG(block_number) + block[:_XATTR_CHECKSUM] + _ZERO4 + block[_XATTR_CHECKSUM + 4 :])
    return int(crc) ^ INVERT


def stored_xattr_block(block: bytes) -> int:
    """The h_checksum that an xattr block carries."""
    return int.from_bytes(block[_XATTR_CHECKSUM : _XATTR_CHECKSUM + 4], "little")


def bitmap(seed: int, raw: bytes) -> int:
    """bg_*_bitmap_csum: over the bytes of the bitmap that the group uses."""
    return int(extend(seed, raw)) ^ INVERT


def mmp(seed: int, raw: bytes) -> int:
    """mmp_checksum: over everything before it."""
    return int(extend(seed, raw[:-4])) ^ INVERT


def orphan_block(seed_of_inode: int, block_number: int, entries: bytes) -> int:
    """ob_checksum: over the block's number as 64 bits and its inode numbers."""
    return int(extend(seed_of_inode, _LONG(block_number) + entries)) ^ INVERT


def ea_inode_value(seed: int, contents: bytes) -> int:
    """Hash of an ea_inode's contents, which its i_atime holds (kernel: ext4_xattr_inode_hash)."""
    return int(extend(seed, contents)) ^ INVERT
