"""The journal's checksum recipes (kernel: fs/jbd2/{journal,recovery,commit}.c).

CSUM_V2 and CSUM_V3 are crc32c with a seed of the journal's *own* UUID, which does not change with the
file system's. The older COMPAT_CHECKSUM is one crc32 per transaction, over its descriptor and data
blocks, in the unreflected form. zlib does not have that: it is zlib's crc32 over bytes with their bits
reversed. Seeds of crc32c are kept in google_crc32c's form, inverted.
"""

from __future__ import annotations

from struct import Struct
from uuid import UUID
from zlib import crc32

from google_crc32c import extend, value

from ext4img.structs.journal import COMMIT_HEADER, JBD2_JOURNAL_BLOCK_TAIL, JOURNAL_SUPERBLOCK

INVERT = 0xFFFFFFFF
_ZERO4 = bytes(4)
_SEQUENCE = Struct(">I").pack
_SB_CHECKSUM = JOURNAL_SUPERBLOCK.offset_of("s_checksum")
_COMMIT_CHECKSUM = COMMIT_HEADER.offset_of("h_chksum_0")
# sizeof(struct commit_header) in C, which rounds up to the alignment of its 64-bit time.
_COMMIT_HEADER_ALIGNED = -(-COMMIT_HEADER.size // 8) * 8

_MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def seed_of(uuid: UUID) -> int:
    """Seed of every block of the log: the journal's UUID."""
    return int(value(uuid.bytes))


def superblock(raw: bytes) -> int:
    """s_checksum: over the 1,024 bytes with a zero checksum, without a seed."""
    return int(value(raw[:_SB_CHECKSUM] + _ZERO4 + raw[_SB_CHECKSUM + 4 :])) ^ INVERT


def descriptor_or_revoke(seed: int, block: bytes) -> int:
    """t_checksum of the block's tail: over the block with a zero checksum."""
    return int(extend(seed, block[: -JBD2_JOURNAL_BLOCK_TAIL.size] + _ZERO4)) ^ INVERT


def commit(seed: int, block: bytes) -> int:
    """h_chksum[0]: over the commit block with a zero checksum."""
    return int(extend(seed, block[:_COMMIT_CHECKSUM] + _ZERO4 + block[_COMMIT_CHECKSUM + 4 :])) ^ INVERT


def commit_header_only(seed: int, block: bytes) -> int:
    """The same with zeros behind the header.

    The kernel accepts a commit block whose later sectors never reached the disk.
    """
    return commit(seed, block[:_COMMIT_HEADER_ALIGNED] + bytes(len(block) - _COMMIT_HEADER_ALIGNED))


def logged_block(seed: int, sequence: int, block: bytes) -> int:
    """t_checksum of a tag: over the transaction's number and the block as it is in the log.

    CSUM_V2 stores the low 16 bits of it.
    """
    return int(extend(extend(seed, _SEQUENCE(sequence)), block)) ^ INVERT


class TransactionCrc32:
    """COMPAT_CHECKSUM: crc32, most significant bit first, from ~0, of the blocks given to `add`."""

    def __init__(self) -> None:
        self._mirrored = 0

    def add(self, block: bytes) -> None:
        """Add one more block to the sum."""
        self._mirrored = crc32(block.translate(_MIRROR), self._mirrored)

    @property
    def value(self) -> int:
        """The sum so far."""
        return int(f"{self._mirrored ^ INVERT:032b}"[::-1], 2)
