"""Where the structures of a sound image stand: the places that mutations go to.

Found by ext4img itself on the unharmed image. Every site knows its fields by the kernel's names,
which of its bytes a checksum covers, and how to make that checksum fit again (`seal`), so that
damage gets past it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from struct import Struct
from uuid import UUID

from ext4img.errors import Ext4Error
from ext4img.sources import BytesSource
from ext4img.structs.directory import (
    DX_COUNTLIMIT,
    DX_ENTRY,
    DX_ROOT_INFO,
    DX_ROOT_INFO_OFFSET,
    DX_TAIL,
    EXT4_DIR_ENTRY,
    EXT4_DIR_ENTRY_TAIL,
    EXT4_ORPHAN_BLOCK_TAIL,
)
from ext4img.structs.extent import EXT4_EXTENT, EXT4_EXTENT_HEADER, EXT4_EXTENT_IDX, EXT4_EXTENT_TAIL
from ext4img.structs.fscrypt import FSCRYPT_CONTEXT_V1, FSCRYPT_CONTEXT_V2
from ext4img.structs.group import EXT4_GROUP_DESC, EXT4_GROUP_DESC_HI
from ext4img.structs.inode import (
    EXT4_EA_INODE_FL,
    EXT4_EXTENTS_FL,
    EXT4_INDEX_FL,
    EXT4_INODE,
    EXT4_INODE_EXTRA,
    EXT4_JOURNAL_INO,
)
from ext4img.structs.journal import (
    COMMIT_HEADER,
    JBD2_COMMIT_BLOCK,
    JBD2_DESCRIPTOR_BLOCK,
    JBD2_JOURNAL_BLOCK_TAIL,
    JBD2_JOURNAL_REVOKE_HEADER,
    JBD2_MAGIC_BYTES,
    JBD2_REVOKE_BLOCK,
    JBD2_SUPERBLOCK_V2,
    JOURNAL_BLOCK_TAG3,
    JOURNAL_HEADER,
    JOURNAL_SUPERBLOCK,
)
from ext4img.structs.record import Record
from ext4img.structs.superblock import EXT4_SUPER_BLOCK, MMP_STRUCT, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE
from ext4img.structs.xattr import EXT4_XATTR_ENTRY, EXT4_XATTR_HEADER, EXT4_XATTR_IBODY_HEADER, EXT4_XATTR_MAGIC
from ext4img.volume import checksum
from ext4img.volume.directory import index_entries_offset
from ext4img.volume.features import Compat, Incompat, RoCompat
from ext4img.volume.inode import Inode
from ext4img.volume.mapping import WRITTEN
from ext4img.volume.recovery import journal_checksum
from ext4img.volume.volume import Volume

Seal = Callable[[bytearray], None]
Ranges = tuple[tuple[int, int], ...]
_word = Struct("<I")
_half = Struct("<H")
MOST_ENTRIES = 400  # of one block that get fields of their own


@dataclass(frozen=True, slots=True)
class Field:
    """An integer or byte string inside a site, at `offset` bytes from the image's start."""

    name: str
    offset: int
    size: int
    big_endian: bool = False


@dataclass(frozen=True, slots=True)
class Site:
    """One structure. `covered` are the (start, end) bytes, from the image's start, under its checksum."""

    kind: str
    offset: int
    size: int
    fields: tuple[Field, ...]
    covered: Ranges = ()
    seal: Seal | None = None
    inode: int | None = None  # that it is or belongs to

    def field(self, name: str, index: int = 0) -> Field:
        """The `index`-th field of this name (the kernel's, without its record's)."""
        return [field for field in self.fields if field.name.rpartition(".")[2] == name][index]


def find_sites(image: bytearray) -> list[Site]:
    """All sites of a sound image, in no particular order."""
    return list(_Finder(image).sites())


def _fields_of(record: Record, offset: int) -> Iterator[Field]:
    big = record.byte_order == ">"
    for field in record.fields:
        yield Field(f"{record.name}.{field.name}", offset + field.offset, field.size, big)


class _Finder:
    def __init__(self, image: bytearray) -> None:
        self.image = image
        self.volume = Volume(BytesSource(image), journal="ignore", checks="off")
        self.superblock = self.volume.superblock
        self.size = self.superblock.block_size
        self.has_checksums = self.superblock.has_metadata_checksums
        self.seed = checksum.filesystem_seed(self.superblock.uuid, self.superblock.checksum_seed)

    def sites(self) -> Iterator[Site]:
        yield self.superblock_site("superblock", SUPERBLOCK_OFFSET)
        for group in range(1, self.superblock.group_count):
            if self.superblock.group_has_superblock(group):
                yield self.superblock_site("backup superblock", self.superblock.group_first_block(group) * self.size)
        for group in range(self.superblock.group_count):
            yield from self.group(group)
        for inode in self.volume.inodes.scan():
            yield from self.inode(inode)
        if Incompat.MMP in self.superblock.features:
            offset = self.superblock.mmp_block * self.size
            yield Site("mmp", offset, MMP_STRUCT.size, tuple(_fields_of(MMP_STRUCT, offset)))

    def superblock_site(self, kind: str, offset: int) -> Site:
        def seal(image: bytearray) -> None:
            raw = bytes(image[offset : offset + SUPERBLOCK_SIZE])
            _word.pack_into(image, offset + SUPERBLOCK_SIZE - 4, checksum.superblock(raw))

        whole = ((offset, offset + SUPERBLOCK_SIZE),) if self.has_checksums and kind == "superblock" else ()
        fields = tuple(_fields_of(EXT4_SUPER_BLOCK, offset))
        return Site(kind, offset, SUPERBLOCK_SIZE, fields, whole, seal if self.has_checksums else None)

    def group(self, number: int) -> Iterator[Site]:
        superblock, groups = self.superblock, self.volume.groups
        size = superblock.descriptor_size
        index, within = divmod(number, self.size // size)
        offset = groups.descriptor_block(index) * self.size + within * size
        stored = offset + EXT4_GROUP_DESC.offset_of("bg_checksum")

        def seal(image: bytearray) -> None:
            raw = bytes(image[offset : offset + size])
            if self.has_checksums:
                _half.pack_into(image, stored, checksum.group_descriptor(self.seed, number, raw))
            else:
                _half.pack_into(image, stored, checksum.group_descriptor_crc16(superblock.uuid, number, raw))

        fields = list(_fields_of(EXT4_GROUP_DESC, offset))
        if size >= EXT4_GROUP_DESC.size + EXT4_GROUP_DESC_HI.size:
            fields += _fields_of(EXT4_GROUP_DESC_HI, offset + EXT4_GROUP_DESC.size)
        summed = self.has_checksums or RoCompat.GDT_CSUM in superblock.features
        covered = ((offset, offset + size),) if summed else ()
        yield Site("descriptor", offset, size, tuple(fields), covered, seal if summed else None)
        group = groups[number]
        for kind, block in (("block bitmap", group.block_bitmap), ("inode bitmap", group.inode_bitmap)):
            if not (group.blocks_uninitialised if kind == "block bitmap" else group.inodes_uninitialised):
                yield Site(kind, block * self.size, self.size, ())

    def inode(self, inode: Inode) -> Iterator[Site]:
        offset = self.volume.inodes.place(inode.number).offset or 0
        size = self.superblock.inode_size
        seed = checksum.inode_seed(self.seed, inode.number, inode.generation)
        fields = list(_fields_of(EXT4_INODE, offset))
        block_area = offset + EXT4_INODE.offset_of("i_block")
        if inode.flags & EXT4_EXTENTS_FL:
            fields += self.extent_fields(block_area, len(inode.block_area))
        if size > EXT4_INODE.size:
            fields += _fields_of(EXT4_INODE_EXTRA, offset + EXT4_INODE.size)
            fields += self.xattr_fields(offset + size - len(inode.inline_xattrs), offset + size)
        fields += self.context_fields(inode, offset, size)

        def seal(image: bytearray) -> None:
            raw = bytes(image[offset : offset + size])
            generation = int.from_bytes(raw[100:104], "little")
            computed = checksum.inode(checksum.inode_seed(self.seed, inode.number, generation), raw)
            _half.pack_into(image, offset + 124, computed & 0xFFFF)
            if computed > 0xFFFF:
                _half.pack_into(image, offset + 130, computed >> 16)

        covered = ((offset, offset + size),) if self.has_checksums else ()
        kind = "journal inode" if inode.number == EXT4_JOURNAL_INO else f"{inode.type} inode"
        yield Site(kind, offset, size, tuple(fields), covered, seal if self.has_checksums else None, inode.number)
        try:
            for site in self.behind_inode(inode, seed):
                yield replace(site, inode=inode.number)
        except Ext4Error as error:
            raise RuntimeError(f"the unharmed image is not sound: {error}") from error

    def behind_inode(self, inode: Inode, seed: int) -> Iterator[Site]:
        mapping = self.volume.mapping(inode)
        for block in sorted(mapping.tree_blocks):
            yield self.tree_block(inode, block, seed)
        if inode.xattr_block:
            yield self.xattr_block(inode.xattr_block)
        blocks = [run.pblk + index for run in mapping.runs if run.state == WRITTEN for index in range(run.length)]
        features = self.superblock.features
        if inode.is_dir:
            for block in blocks:
                yield self.directory_block(inode, block, seed)
        elif inode.number == EXT4_JOURNAL_INO:
            yield from self.journal(blocks)
        elif inode.number == self.superblock.orphan_file_inode and Compat.ORPHAN_FILE in features:
            for block in blocks:
                yield self.orphan_block(block, seed)
        elif inode.flags & EXT4_EA_INODE_FL:
            for run in mapping.runs:
                start = run.pblk * self.size
                size = min(inode.size, run.length * self.size)
                yield Site("attribute value", start, size, (), ((start, start + size),))

    def extent_fields(self, offset: int, room: int) -> Iterator[Field]:
        yield from _fields_of(EXT4_EXTENT_HEADER, offset)
        _, entries, most, depth, _ = EXT4_EXTENT_HEADER.unpack_tuple(self.image, offset)
        record = EXT4_EXTENT_IDX if depth else EXT4_EXTENT
        for index in range(min(entries + 1, most, MOST_ENTRIES)):
            at = offset + EXT4_EXTENT_HEADER.size + index * record.size
            if at + record.size <= offset + room:
                yield from _fields_of(record, at)

    def tree_block(self, inode: Inode, block: int, seed: int) -> Site:
        offset = block * self.size
        if not inode.flags & EXT4_EXTENTS_FL:
            count = min(self.size // 4, MOST_ENTRIES)
            pointers = tuple(Field("i_block", offset + 4 * index, 4) for index in range(count))
            return Site("indirect block", offset, self.size, pointers)
        most = EXT4_EXTENT_HEADER.unpack_tuple(self.image, offset)[2]
        end = offset + EXT4_EXTENT_HEADER.size + most * EXT4_EXTENT.size
        fields = (*self.extent_fields(offset, self.size), *_fields_of(EXT4_EXTENT_TAIL, end))
        if not self.has_checksums:
            return Site("extent block", offset, self.size, fields)

        def seal(image: bytearray) -> None:
            _word.pack_into(image, end, checksum.extent_block(seed, bytes(image[offset:end])))

        return Site("extent block", offset, self.size, fields, ((offset, end + EXT4_EXTENT_TAIL.size),), seal)

    def directory_block(self, inode: Inode, block: int, seed: int) -> Site:
        offset, end = block * self.size, (block + 1) * self.size
        data = bytes(self.image[offset:end])
        # Without the flag, what looks like an index node is an empty block.
        index = index_entries_offset(data) if inode.flags & EXT4_INDEX_FL else None
        fields: list[Field] = []
        at = 0
        while at + EXT4_DIR_ENTRY.size <= self.size and len(fields) < 4 * MOST_ENTRIES:
            _, rec_len, name_len, _ = EXT4_DIR_ENTRY.unpack_tuple(data, at)
            fields += _fields_of(EXT4_DIR_ENTRY, offset + at)
            if name_len:
                fields.append(Field("ext4_dir_entry_2.name", offset + at + EXT4_DIR_ENTRY.size, name_len))
            if rec_len < 12 or rec_len & 3:
                break
            at += rec_len
        if index is None:
            kind, tail = "directory block", end - EXT4_DIR_ENTRY_TAIL.size
            fields += _fields_of(EXT4_DIR_ENTRY_TAIL, tail)

            def seal(image: bytearray) -> None:
                _word.pack_into(image, end - 4, checksum.directory_block(seed, bytes(image[offset:end])))

            covered: Ranges = ((offset, end),)
        else:
            kind = "directory index block"
            limit, count = DX_COUNTLIMIT.unpack_tuple(data, index)
            fields += _fields_of(DX_COUNTLIMIT, offset + index)
            if index > 8:
                fields += _fields_of(DX_ROOT_INFO, offset + DX_ROOT_INFO_OFFSET)
            room = (self.size - index) // DX_ENTRY.size  # an emptied leaf looks like a node, and is none
            for entry in range(min(count, room, MOST_ENTRIES)):
                fields += _fields_of(DX_ENTRY, offset + index + entry * DX_ENTRY.size)
            stop, tail = offset + index + count * DX_ENTRY.size, offset + index + limit * DX_ENTRY.size

            def seal(image: bytearray) -> None:
                covered, end_of_block = bytes(image[offset:stop]), bytes(image[tail : tail + DX_TAIL.size])
                _word.pack_into(image, tail + 4, checksum.htree_block(seed, covered, end_of_block))

            covered = ((offset, stop), (tail, tail + DX_TAIL.size))
        if not self.has_checksums:
            return Site(kind, offset, self.size, tuple(fields))
        return Site(kind, offset, self.size, tuple(fields), covered, seal)

    def xattr_block(self, block: int) -> Site:
        offset = block * self.size
        fields = (
            *_fields_of(EXT4_XATTR_HEADER, offset),
            *self.entry_fields(offset + EXT4_XATTR_HEADER.size, offset + self.size),
        )
        if not self.has_checksums:
            return Site("xattr block", offset, self.size, fields)

        def seal(image: bytearray) -> None:
            computed = checksum.xattr_block(self.seed, block, bytes(image[offset : offset + self.size]))
            _word.pack_into(image, offset + EXT4_XATTR_HEADER.offset_of("h_checksum"), computed)

        return Site("xattr block", offset, self.size, fields, ((offset, offset + self.size),), seal)

    def xattr_fields(self, start: int, end: int) -> Iterator[Field]:
        header = EXT4_XATTR_IBODY_HEADER
        if end - start > header.size + 4 and header.unpack_tuple(self.image, start)[0] == EXT4_XATTR_MAGIC:
            yield from _fields_of(header, start)
            yield from self.entry_fields(start + header.size, end)

    def entry_fields(self, at: int, end: int) -> Iterator[Field]:
        while at + EXT4_XATTR_ENTRY.size <= end and self.image[at : at + 4] != bytes(4):
            yield from _fields_of(EXT4_XATTR_ENTRY, at)
            name_len = EXT4_XATTR_ENTRY.unpack_tuple(self.image, at)[0]
            if name_len:
                yield Field("ext4_xattr_entry.e_name", at + EXT4_XATTR_ENTRY.size, name_len)
            at += EXT4_XATTR_ENTRY.size + (name_len + 3 & ~3)

    def context_fields(self, inode: Inode, offset: int, size: int) -> Iterator[Field]:
        context = self.volume.encryption_context(inode) if inode.is_encrypted else None
        if context is None:
            return
        at = self.image.find(context, offset, offset + size)
        if at < 0 and inode.xattr_block:
            start = inode.xattr_block * self.size
            at = self.image.find(context, start, start + self.size)
        if at >= 0:
            yield from _fields_of(FSCRYPT_CONTEXT_V1 if context[0] == 1 else FSCRYPT_CONTEXT_V2, at)

    def orphan_block(self, block: int, seed: int) -> Site:
        offset, end = block * self.size, (block + 1) * self.size
        tail = end - EXT4_ORPHAN_BLOCK_TAIL.size
        count = min((tail - offset) // 4, MOST_ENTRIES)
        fields = [Field("orphan", offset + 4 * index, 4) for index in range(count)]
        fields += _fields_of(EXT4_ORPHAN_BLOCK_TAIL, tail)

        def seal(image: bytearray) -> None:
            _word.pack_into(image, end - 4, checksum.orphan_block(seed, block, bytes(image[offset:tail])))

        covered = ((offset, end),) if self.has_checksums else ()
        return Site("orphan block", offset, self.size, tuple(fields), covered, seal if self.has_checksums else None)

    def journal(self, blocks: list[int]) -> Iterator[Site]:
        first = blocks[0] * self.size
        version = self.image[first + 7]
        incompat = int.from_bytes(self.image[first + 40 : first + 44], "big") if version == JBD2_SUPERBLOCK_V2 else 0
        summed = bool(incompat & 0x18)
        uuid_at = first + JOURNAL_SUPERBLOCK.offset_of("s_uuid")
        seed = journal_checksum.seed_of(UUID(bytes=bytes(self.image[uuid_at : uuid_at + 16])))
        for number, block in enumerate(blocks):
            offset, end = block * self.size, (block + 1) * self.size
            if self.image[offset : offset + 4] != JBD2_MAGIC_BYTES:
                continue
            kind = int.from_bytes(self.image[offset + 4 : offset + 8], "big")
            if number == 0:
                yield self.journal_superblock(offset, summed)
            elif kind == JBD2_COMMIT_BLOCK:
                yield self.journal_commit(offset, end, seed, summed)
            elif kind in (JBD2_DESCRIPTOR_BLOCK, JBD2_REVOKE_BLOCK):
                yield self.journal_list(kind, offset, end, seed, summed)

    def journal_superblock(self, offset: int, summed: bool) -> Site:
        at = offset + JOURNAL_SUPERBLOCK.offset_of("s_checksum")

        def seal(image: bytearray) -> None:
            image[at : at + 4] = journal_checksum.superblock(bytes(image[offset : offset + 1024])).to_bytes(4, "big")

        covered = ((offset, offset + 1024),) if summed else ()
        fields = tuple(_fields_of(JOURNAL_SUPERBLOCK, offset))
        return Site("journal superblock", offset, 1024, fields, covered, seal if summed else None)

    def journal_commit(self, offset: int, end: int, seed: int, summed: bool) -> Site:
        at = offset + COMMIT_HEADER.offset_of("h_chksum_0")

        def seal(image: bytearray) -> None:
            image[at : at + 4] = journal_checksum.commit(seed, bytes(image[offset:end])).to_bytes(4, "big")

        covered = ((offset, end),) if summed else ()
        fields = tuple(_fields_of(COMMIT_HEADER, offset))
        return Site("journal commit", offset, self.size, fields, covered, seal if summed else None)

    def journal_list(self, kind: int, offset: int, end: int, seed: int, summed: bool) -> Site:
        is_revoke = kind == JBD2_REVOKE_BLOCK
        header = JBD2_JOURNAL_REVOKE_HEADER if is_revoke else JOURNAL_HEADER
        fields = list(_fields_of(header, offset))
        if is_revoke:
            fields += [Field("blocknr", offset + 16 + 8 * index, 8, True) for index in range(16)]
        else:
            for index in range(16):
                fields += _fields_of(JOURNAL_BLOCK_TAG3, offset + 12 + index * JOURNAL_BLOCK_TAG3.size)
        tail = end - JBD2_JOURNAL_BLOCK_TAIL.size

        def seal(image: bytearray) -> None:
            computed = journal_checksum.descriptor_or_revoke(seed, bytes(image[offset:end]))
            image[tail:end] = computed.to_bytes(4, "big")

        covered = ((offset, end),) if summed else ()
        name = "journal revoke" if is_revoke else "journal descriptor"
        return Site(name, offset, self.size, tuple(fields), covered, seal if summed else None)
