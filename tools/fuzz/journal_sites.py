"""Where the structures of a journal stand: its superblock, the log with what is logged, fast commits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

from google_crc32c import extend

from ext4img.structs.fast_commit import (
    EXT4_FC_ADD_RANGE,
    EXT4_FC_DEL_RANGE,
    EXT4_FC_DENTRY_INFO,
    EXT4_FC_HEAD,
    EXT4_FC_INODE,
    EXT4_FC_TAG_ADD_RANGE,
    EXT4_FC_TAG_CREAT,
    EXT4_FC_TAG_DEL_RANGE,
    EXT4_FC_TAG_HEAD,
    EXT4_FC_TAG_INODE,
    EXT4_FC_TAG_LINK,
    EXT4_FC_TAG_TAIL,
    EXT4_FC_TAG_UNLINK,
    EXT4_FC_TAIL,
    EXT4_FC_TL,
)
from ext4img.structs.inode import EXT4_INODE
from ext4img.structs.journal import (
    COMMIT_HEADER,
    JBD2_COMMIT_BLOCK,
    JBD2_DEFAULT_FAST_COMMIT_BLOCKS,
    JBD2_DESCRIPTOR_BLOCK,
    JBD2_FLAG_ESCAPE,
    JBD2_FLAG_LAST_TAG,
    JBD2_FLAG_SAME_UUID,
    JBD2_JOURNAL_BLOCK_TAIL,
    JBD2_JOURNAL_REVOKE_HEADER,
    JBD2_MAGIC_BYTES,
    JBD2_REVOKE_BLOCK,
    JBD2_SUPERBLOCK_V2,
    JBD2_UUID_SIZE,
    JOURNAL_BLOCK_TAG,
    JOURNAL_BLOCK_TAG3,
    JOURNAL_BLOCK_TAG_CSUM_V2_PADDING,
    JOURNAL_BLOCK_TAG_HIGH,
    JOURNAL_HEADER,
    JOURNAL_SUPERBLOCK,
)
from ext4img.volume.recovery import journal_checksum
from ext4img.volume.recovery.journal import JournalIncompat
from tools.fuzz.site import Field, Ranges, Seal, Site, fields_of, shifted

_FAST_COMMIT_RECORDS = {
    EXT4_FC_TAG_ADD_RANGE: EXT4_FC_ADD_RANGE,
    EXT4_FC_TAG_DEL_RANGE: EXT4_FC_DEL_RANGE,
    EXT4_FC_TAG_CREAT: EXT4_FC_DENTRY_INFO,
    EXT4_FC_TAG_LINK: EXT4_FC_DENTRY_INFO,
    EXT4_FC_TAG_UNLINK: EXT4_FC_DENTRY_INFO,
    EXT4_FC_TAG_INODE: EXT4_FC_INODE,
    EXT4_FC_TAG_TAIL: EXT4_FC_TAIL,
    EXT4_FC_TAG_HEAD: EXT4_FC_HEAD,
}
MAX_LOGGED = 2000  # sites of logged blocks


class _Tag(NamedTuple):
    at: int  # byte offset of the tag
    pblk: int
    flags: int


class JournalSites:
    """The sites of one journal, whose blocks begin at the byte offsets `starts` of `image`.

    `homes` are the sites of the volume by the block they begin in: what is logged has their fields.
    """

    def __init__(
        self,
        image: bytearray,
        starts: Sequence[int],
        size: int,
        homes: dict[int, list[Site]],
        superblock_index: int = 0,
    ) -> None:
        self.image = image
        self.starts = starts
        self.size = size
        self.homes = homes
        first = starts[superblock_index]
        self.superblock_at = first
        version = self.image[first + 7]
        superblock = JOURNAL_SUPERBLOCK.unpack(bytes(image[first : first + JOURNAL_SUPERBLOCK.size]))
        self.incompat = JournalIncompat(superblock.s_feature_incompat if version == JBD2_SUPERBLOCK_V2 else 0)
        self.version3 = JournalIncompat.CSUM_V3 in self.incompat
        self.version2 = JournalIncompat.CSUM_V2 in self.incompat
        self.summed = self.version2 or self.version3
        self.wide = JournalIncompat.BIT64 in self.incompat
        self.seed = journal_checksum.seed_of(UUID(bytes=superblock.s_uuid))
        self.end = min(superblock.s_maxlen, len(starts))
        self.first = superblock.s_first
        self.fast_commit_blocks = 0
        if JournalIncompat.FAST_COMMIT in self.incompat:
            self.fast_commit_blocks = superblock.s_num_fc_blks or JBD2_DEFAULT_FAST_COMMIT_BLOCKS
            self.end -= self.fast_commit_blocks

    def sites(self) -> Iterator[Site]:
        yield self.superblock(self.superblock_at)
        logged = 0
        for index in range(self.first, self.end):
            offset = self.starts[index]
            magic, kind, sequence = JOURNAL_HEADER.unpack_tuple(self.image, offset)
            if magic.to_bytes(4, "big") != JBD2_MAGIC_BYTES:
                continue
            if kind == JBD2_COMMIT_BLOCK:
                yield self.commit(offset)
            elif kind == JBD2_REVOKE_BLOCK:
                yield self.revoke(offset)
            elif kind == JBD2_DESCRIPTOR_BLOCK:
                tags = list(self.tags(offset))
                yield self.descriptor(offset, tags)
                for number, tag in enumerate(tags):
                    if logged < MAX_LOGGED:
                        logged += 1
                        yield self.logged(self._ring(index + 1 + number), offset, tag, sequence)
        if self.fast_commit_blocks:
            yield from self.fast_commits(self.starts[self.end + 1 : self.end + self.fast_commit_blocks])

    def _ring(self, index: int) -> int:
        """Byte offset of a block of the log."""
        return self.starts[index if index < self.end else self.first + (index - self.end) % (self.end - self.first)]

    def superblock(self, offset: int) -> Site:
        at = offset + JOURNAL_SUPERBLOCK.offset_of("s_checksum")

        def seal(image: bytearray) -> None:
            image[at : at + 4] = journal_checksum.superblock(bytes(image[offset : offset + 1024])).to_bytes(4, "big")

        return self._site("journal superblock", offset, 1024, fields_of(JOURNAL_SUPERBLOCK, offset), seal)

    def commit(self, offset: int) -> Site:
        at, end = offset + COMMIT_HEADER.offset_of("h_chksum_0"), offset + self.size

        def seal(image: bytearray) -> None:
            image[at : at + 4] = journal_checksum.commit(self.seed, bytes(image[offset:end])).to_bytes(4, "big")

        return self._site("journal commit", offset, self.size, fields_of(COMMIT_HEADER, offset), seal)

    def revoke(self, offset: int) -> Site:
        header, width = JBD2_JOURNAL_REVOKE_HEADER, 8 if self.wide else 4
        fields = list(fields_of(header, offset))
        start = offset + header.size
        fields += [Field("blocknr", start + width * index, width, True) for index in range(16)]
        return self._site("journal revoke", offset, self.size, fields, self._tail_seal(offset))

    def descriptor(self, offset: int, tags: Sequence[_Tag]) -> Site:
        fields = list(fields_of(JOURNAL_HEADER, offset))
        for tag in tags[:64]:
            if self.version3:
                fields += fields_of(JOURNAL_BLOCK_TAG3, tag.at)
            else:
                fields += fields_of(JOURNAL_BLOCK_TAG, tag.at)
                if self.wide:
                    fields += fields_of(JOURNAL_BLOCK_TAG_HIGH, tag.at + JOURNAL_BLOCK_TAG.size)
        return self._site("journal descriptor", offset, self.size, fields, self._tail_seal(offset))

    def tags(self, offset: int) -> Iterator[_Tag]:
        """Of the descriptor block at a byte offset."""
        size = JOURNAL_BLOCK_TAG3.size
        if not self.version3:
            padding = JOURNAL_BLOCK_TAG_CSUM_V2_PADDING if self.version2 else 0
            size = JOURNAL_BLOCK_TAG.size + padding + (JOURNAL_BLOCK_TAG_HIGH.size if self.wide else 0)
        at, end = offset + JOURNAL_HEADER.size, offset + self.size - 4
        while at + size <= end:
            if self.version3:
                low, flags, high, _ = JOURNAL_BLOCK_TAG3.unpack_tuple(self.image, at)
            else:
                low, _, flags = JOURNAL_BLOCK_TAG.unpack_tuple(self.image, at)
                high = (
                    JOURNAL_BLOCK_TAG_HIGH.unpack_tuple(self.image, at + JOURNAL_BLOCK_TAG.size)[0] if self.wide else 0
                )
            yield _Tag(at, low | high << 32, flags)
            at += size if flags & JBD2_FLAG_SAME_UUID else size + JBD2_UUID_SIZE
            if flags & JBD2_FLAG_LAST_TAG:
                return

    def logged(self, offset: int, descriptor: int, tag: _Tag, sequence: int) -> Site:
        """A block in the log. Its seal also makes the checksums inside it fit, as they would at home."""
        end = offset + self.size
        place = tag.pblk * self.size
        homes = self.homes.get(tag.pblk, []) if not tag.flags & JBD2_FLAG_ESCAPE else []
        fields = [shifted(field, offset - place) for home in homes for field in home.fields]
        tail = self._tail_seal(descriptor)

        def as_if_at_home(image: bytearray, inner: Seal) -> None:
            kept = bytes(image[place : place + self.size])
            image[place : place + self.size] = image[offset:end]
            inner(image)
            image[offset:end] = image[place : place + self.size]
            image[place : place + self.size] = kept

        def fits(inner: Seal) -> bool:
            """Whether the same structure stands in the log as at home, and not an unused or older one."""
            before = self.image[offset:end]
            as_if_at_home(self.image, inner)
            same = self.image[offset:end] == before
            self.image[offset:end] = before
            return same

        seals = [home.seal for home in homes if home.seal is not None and fits(home.seal)]

        def seal(image: bytearray) -> None:
            for inner in seals:
                as_if_at_home(image, inner)
            if self.summed:
                computed = journal_checksum.logged_block(self.seed, sequence, bytes(image[offset:end]))
                if self.version3:
                    image[tag.at + 12 : tag.at + 16] = computed.to_bytes(4, "big")
                else:
                    image[tag.at + 4 : tag.at + 6] = (computed & 0xFFFF).to_bytes(2, "big")
                tail(image)

        covered = ((offset, end),) if self.summed else ()
        also = ((descriptor, descriptor + self.size),) if self.summed else ()
        return Site("logged block", offset, self.size, tuple(fields), covered, seal, also_sealed=also)

    def _tail_seal(self, offset: int) -> Seal:
        end = offset + self.size
        tail = end - JBD2_JOURNAL_BLOCK_TAIL.size

        def seal(image: bytearray) -> None:
            computed = journal_checksum.descriptor_or_revoke(self.seed, bytes(image[offset:end]))
            image[tail:end] = computed.to_bytes(4, "big")

        return seal

    def _site(self, kind: str, offset: int, size: int, fields: Iterator[Field] | list[Field], seal: Seal) -> Site:
        covered: Ranges = ((offset, offset + size),) if self.summed else ()
        return Site(kind, offset, size, tuple(fields), covered, seal if self.summed else None)

    # Fast commits

    def fast_commits(self, starts: Sequence[int]) -> Iterator[Site]:
        """Every tag up to the last TAIL; each is sealed by the checksum of the commit it stands in."""
        commit: list[tuple[int, int]] = []  # its tags: (byte offset, size)
        for start in starts:
            at = start
            while at + EXT4_FC_TL.size <= start + self.size:
                kind, length = EXT4_FC_TL.unpack_tuple(self.image, at)
                size = EXT4_FC_TL.size + length
                if (
                    not kind
                    or at + size > start + self.size
                    or (not commit and kind != EXT4_FC_TAG_HEAD and at == starts[0])
                ):
                    return
                commit.append((at, size))
                if kind == EXT4_FC_TAG_TAIL:
                    yield from self._fast_commit(commit)
                    commit = []
                at += size

    def _fast_commit(self, tags: list[tuple[int, int]]) -> Iterator[Site]:
        last = tags[-1][0]
        checksum_at = last + EXT4_FC_TL.size + EXT4_FC_TAIL.offset_of("fc_crc")
        pieces = [*((at, at + size) for at, size in tags[:-1]), (last, checksum_at)]

        def seal(image: bytearray) -> None:
            crc = int(extend(0xFFFFFFFF, b"".join(bytes(image[start:end]) for start, end in pieces))) ^ 0xFFFFFFFF
            image[checksum_at : checksum_at + 4] = crc.to_bytes(4, "little")

        for at, size in tags:
            covered = ((at, at + size),) if at != last else ((last, checksum_at + 4),)
            also = ((last, checksum_at + 4),)
            fields = tuple(self._tag_fields(at, size))
            yield Site("fast commit tag", at, size, fields, covered, seal, also_sealed=also)

    def _tag_fields(self, at: int, size: int) -> Iterator[Field]:
        kind, _ = EXT4_FC_TL.unpack_tuple(self.image, at)
        yield from fields_of(EXT4_FC_TL, at)
        record = _FAST_COMMIT_RECORDS.get(kind)
        value = at + EXT4_FC_TL.size
        if record is None or value + record.size > at + size:
            return
        yield from fields_of(record, value)
        rest = at + size - value - record.size
        if kind == EXT4_FC_TAG_INODE and rest >= EXT4_INODE.size:
            yield from fields_of(EXT4_INODE, value + record.size)
        elif rest:
            yield Field("name", value + record.size, rest)
