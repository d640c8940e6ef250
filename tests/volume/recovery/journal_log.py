"""Journals for tests, written block by block in memory: whatever a log can hold, sound or not."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from uuid import UUID

from google_crc32c import extend, value

from ext4img.errors import CorruptionError, SourceError
from ext4img.structs.journal import (
    COMMIT_HEADER,
    JBD2_COMMIT_BLOCK,
    JBD2_DESCRIPTOR_BLOCK,
    JBD2_FLAG_ESCAPE,
    JBD2_FLAG_LAST_TAG,
    JBD2_FLAG_SAME_UUID,
    JBD2_JOURNAL_REVOKE_HEADER,
    JBD2_MAGIC_BYTES,
    JBD2_MAGIC_NUMBER,
    JBD2_REVOKE_BLOCK,
    JBD2_SUPERBLOCK_V1,
    JBD2_SUPERBLOCK_V2,
    JOURNAL_HEADER,
    JOURNAL_SUPERBLOCK,
)
from ext4img.volume.recovery.journal import JournalCompat, JournalIncompat, JournalSource

OWN_UUID = UUID("00112233-4455-6677-8899-aabbccddeeff")
MASK = 0xFFFFFFFF
MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def crc32_be(crc: int, data: bytes) -> int:
    """Linux' crc32_be, bit by bit over zlib's reflected one: an own reckoning for the tests."""
    start = int(f"{crc:032b}"[::-1], 2) ^ MASK
    return int(f"{zlib.crc32(data.translate(MIRROR), start) ^ MASK:032b}"[::-1], 2)


class MemoryJournal(JournalSource):
    """The blocks of a `Log`, some of which may be holes or unreadable."""

    def __init__(self, blocks: list[bytearray], own: Iterable[int] = ()) -> None:
        self.block_size = len(blocks[0])
        self.block_count = len(blocks)
        self.blocks = blocks
        self.holes: set[int] = set()
        self.unreadable: set[int] = set()
        self.reads = 0
        self._own = set(own)

    def read(self, index: int, count: int = 1) -> bytes:
        self._check(index, count)
        wanted = range(index, index + count)
        if self.holes.intersection(wanted):
            raise CorruptionError("a hole")
        if self.unreadable.intersection(wanted):
            raise SourceError(5, "Input/output error")
        self.reads += 1
        return b"".join(bytes(self.blocks[number]) for number in wanted)

    def physical(self, index: int) -> int | None:
        return 1000 + index

    def holds(self, pblk: int) -> bool:
        return pblk in self._own


class Log:
    """Writes transactions one after another from `start` on, as `incompat` and `compat` say."""

    def __init__(
        self,
        *,
        blocks: int = 64,
        block_size: int = 1024,
        version: int = 2,
        compat: int = 0,
        incompat: int = 0,
        first: int = 1,
        start: int = 1,
        sequence: int = 10,
        fast_commit_blocks: int = 0,
    ) -> None:
        self.block_size = block_size
        self.compat = compat
        self.incompat = incompat
        self.first = first
        self.end = blocks - fast_commit_blocks
        self.sequence = sequence
        self.time = 1000
        self.seed = value(OWN_UUID.bytes)
        self.crc32 = MASK
        self.blocks = [bytearray(block_size) for _ in range(blocks)]
        self.at = start
        fields: dict[str, object] = {
            "h_magic": JBD2_MAGIC_NUMBER,
            "h_blocktype": JBD2_SUPERBLOCK_V2 if version == 2 else JBD2_SUPERBLOCK_V1,
            "s_blocksize": block_size,
            "s_maxlen": blocks,
            "s_first": first,
            "s_sequence": sequence,
            "s_start": start,
        }
        if version == 2:
            fields |= {
                "s_feature_compat": compat,
                "s_feature_incompat": incompat,
                "s_uuid": OWN_UUID.bytes,
                "s_nr_users": 1,
                "s_checksum_type": 4 if self.has_crc32c else 0,
                "s_num_fc_blks": fast_commit_blocks,
            }
        self.set_superblock(fields)

    @property
    def has_crc32c(self) -> bool:
        return bool(self.incompat & (JournalIncompat.CSUM_V2 | JournalIncompat.CSUM_V3))

    def set_superblock(self, fields: Mapping[str, object]) -> None:
        """Build the journal superblock anew, checksum included."""
        raw = bytearray(JOURNAL_SUPERBLOCK.build(fields))
        if self.has_crc32c:
            at = JOURNAL_SUPERBLOCK.offset_of("s_checksum")
            raw[at : at + 4] = (value(bytes(raw)) ^ MASK).to_bytes(4, "big")
        self.blocks[0][: len(raw)] = raw

    def change_superblock(self, **fields: object) -> None:
        """Other values in the journal superblock."""
        now = JOURNAL_SUPERBLOCK.unpack(bytes(self.blocks[0]))._asdict()
        self.set_superblock(now | {"s_checksum": 0} | fields)

    def journal(self, own: Iterable[int] = ()) -> MemoryJournal:
        return MemoryJournal(self.blocks, own)

    def put(self, block: bytes) -> int:
        """Write one block of the log; its index."""
        index = self.at
        self.blocks[index][:] = block.ljust(self.block_size, b"\0")
        self.at = index + 1 if index + 1 < self.end else self.first
        return index

    def transaction(
        self,
        logged: Mapping[int, bytes] | Iterable[tuple[int, bytes]] = (),
        revoked: Iterable[int] = (),
        *,
        committed: bool = True,
        per_descriptor: int = 1000,
        flags: int = 0,
        uuid_each: bool = False,
    ) -> dict[int, int]:
        """One whole transaction; the journal index of each logged block (its last) by its number."""
        items = list(logged.items() if isinstance(logged, Mapping) else logged)
        where: dict[int, int] = {}
        for start in range(0, len(items), per_descriptor):
            self._descriptor(items[start : start + per_descriptor], flags, uuid_each, where)
        if revoked:
            self.revoke(revoked)
        if committed:
            self.commit()
        return where

    def _descriptor(self, items: list[tuple[int, bytes]], flags: int, uuid_each: bool, where: dict[int, int]) -> None:
        tags = bytearray()
        contents = []
        for number, (pblk, data) in enumerate(items):
            block = data.ljust(self.block_size, b"\0")
            tag_flags = flags
            if block[:4] == JBD2_MAGIC_BYTES:
                block = bytes(4) + block[4:]
                tag_flags |= JBD2_FLAG_ESCAPE
            if number and not uuid_each:
                tag_flags |= JBD2_FLAG_SAME_UUID
            if number == len(items) - 1:
                tag_flags |= JBD2_FLAG_LAST_TAG
            tags += self.tag(pblk, tag_flags, block)
            if not tag_flags & JBD2_FLAG_SAME_UUID:
                tags += OWN_UUID.bytes
            contents.append((pblk, block))
        descriptor = self.with_tail(self.header(JBD2_DESCRIPTOR_BLOCK) + bytes(tags))
        self.sum(descriptor)
        self.put(descriptor)
        for pblk, block in contents:
            self.sum(block)
            where[pblk] = self.put(block)

    def tag(self, pblk: int, flags: int, block: bytes) -> bytes:
        checksum = 0
        if self.has_crc32c:
            checksum = extend(extend(self.seed, self.sequence.to_bytes(4, "big")), block) ^ MASK
        low, high = (pblk & MASK).to_bytes(4, "big"), (pblk >> 32).to_bytes(4, "big")
        wide = self.incompat & JournalIncompat.BIT64
        if self.incompat & JournalIncompat.CSUM_V3:
            return low + flags.to_bytes(4, "big") + (high if wide else bytes(4)) + checksum.to_bytes(4, "big")
        tag = low + (checksum & 0xFFFF).to_bytes(2, "big") + flags.to_bytes(2, "big")
        if wide:
            tag += high
        return tag + bytes(2) if self.incompat & JournalIncompat.CSUM_V2 else tag

    def revoke(self, numbers: Iterable[int]) -> int:
        size = 8 if self.incompat & JournalIncompat.BIT64 else 4
        records = b"".join(number.to_bytes(size, "big") for number in numbers)
        count = JBD2_JOURNAL_REVOKE_HEADER.size + len(records)
        return self.put(self.with_tail(self.header(JBD2_REVOKE_BLOCK) + count.to_bytes(4, "big") + records))

    def commit(self, **fields: object) -> int:
        """The commit block, by default with the checksum it should have; on to the next number."""
        values: dict[str, object] = {
            "h_magic": JBD2_MAGIC_NUMBER,
            "h_blocktype": JBD2_COMMIT_BLOCK,
            "h_sequence": self.sequence,
            "h_commit_sec": self.time,
        }
        if self.compat & JournalCompat.CHECKSUM:
            values |= {"h_chksum_type": 1, "h_chksum_size": 4, "h_chksum_0": self.crc32}
        block = bytearray(COMMIT_HEADER.build(values | fields).ljust(self.block_size, b"\0"))
        if self.has_crc32c and "h_chksum_0" not in fields:
            at = COMMIT_HEADER.offset_of("h_chksum_0")
            block[at : at + 4] = (extend(self.seed, bytes(block)) ^ MASK).to_bytes(4, "big")
        self.crc32 = MASK
        self.time += 5
        self.sequence = self.sequence + 1 & MASK
        return self.put(bytes(block))

    def header(self, kind: int) -> bytes:
        return JOURNAL_HEADER.pack((JBD2_MAGIC_NUMBER, kind, self.sequence))

    def with_tail(self, block: bytes) -> bytes:
        whole = block.ljust(self.block_size, b"\0")
        if not self.has_crc32c:
            return whole
        return whole[:-4] + (extend(self.seed, whole[:-4] + bytes(4)) ^ MASK).to_bytes(4, "big")

    def sum(self, block: bytes) -> None:
        self.crc32 = crc32_be(self.crc32, block)
