"""Where the structures of a sound image stand: the places that mutations go to.

Found by ext4img itself on the unharmed image. Every site knows its fields by the kernel's names,
which of its bytes a checksum covers, and how to make that checksum fit again (`seal`), so that
damage gets past it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from struct import Struct

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
from ext4img.structs.fscrypt import FSCRYPT_CONTEXT_V1, FSCRYPT_CONTEXT_V2, FSCRYPT_SYMLINK_DATA
from ext4img.structs.group import EXT4_GROUP_DESC, EXT4_GROUP_DESC_HI
from ext4img.structs.inode import (
    EXT4_EA_INODE_FL,
    EXT4_EXTENTS_FL,
    EXT4_INDEX_FL,
    EXT4_INLINE_DATA_FL,
    EXT4_INODE,
    EXT4_INODE_EXTRA,
    EXT4_JOURNAL_INO,
    EXT4_VERITY_FL,
)
from ext4img.structs.superblock import EXT4_SUPER_BLOCK, MMP_STRUCT, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE
from ext4img.structs.verity import (
    EXT4_VERITY_DESCRIPTOR_SIZE,
    EXT4_VERITY_METADATA_ALIGNMENT,
    FSVERITY_DESCRIPTOR,
)
from ext4img.structs.xattr import (
    EXT4_XATTR_ENTRY,
    EXT4_XATTR_HEADER,
    EXT4_XATTR_IBODY_HEADER,
    EXT4_XATTR_INDEX_SYSTEM,
    EXT4_XATTR_MAGIC,
)
from ext4img.volume import checksum
from ext4img.volume.dir_block import index_entries_offset
from ext4img.volume.features import Compat, Incompat, RoCompat
from ext4img.volume.inode import StoredInode
from ext4img.volume.runs import WRITTEN, Run
from ext4img.volume.volume import Volume
from tools.fuzz.journal_sites import JournalSites
from tools.fuzz.site import Field, Ranges, Site, fields_of

_word = Struct("<I")
_half = Struct("<H")
MOST_ENTRIES = 400  # of one block that get fields of their own


def find_sites(image: bytearray, journal_at: int | None = None) -> list[Site]:
    """All sites of a sound image, in no particular order. Its external journal stands `journal_at` bytes in."""
    finder = _Finder(image)
    sites = list(finder.sites())
    homes: dict[int, list[Site]] = defaultdict(list)
    for site in sites:
        homes[site.offset // finder.size].append(site)
    return [*sites, *finder.journal(homes, journal_at)]


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
            yield Site("mmp", offset, MMP_STRUCT.size, tuple(fields_of(MMP_STRUCT, offset)))

    def superblock_site(self, kind: str, offset: int) -> Site:
        def seal(image: bytearray) -> None:
            raw = bytes(image[offset : offset + SUPERBLOCK_SIZE])
            _word.pack_into(image, offset + SUPERBLOCK_SIZE - 4, checksum.superblock(raw))

        whole = ((offset, offset + SUPERBLOCK_SIZE),) if self.has_checksums and kind == "superblock" else ()
        fields = tuple(fields_of(EXT4_SUPER_BLOCK, offset))
        return Site(kind, offset, SUPERBLOCK_SIZE, fields, whole, seal if self.has_checksums else None)

    def group(self, number: int) -> Iterator[Site]:
        superblock, groups = self.superblock, self.volume.groups
        size = superblock.descriptor_size
        index, within = divmod(number, self.size // size)
        yield self.descriptor("descriptor", number, groups.descriptor_block(index) * self.size + within * size)
        for copy in range(1, superblock.group_count):
            if superblock.group_has_superblock(copy) and Incompat.META_BG not in superblock.features:
                block = superblock.group_first_block(copy) + 1 + index
                yield self.descriptor("backup descriptor", number, block * self.size + within * size)
                break
        group = groups[number]
        for kind, block in (("block bitmap", group.block_bitmap), ("inode bitmap", group.inode_bitmap)):
            if not (group.blocks_uninitialised if kind == "block bitmap" else group.inodes_uninitialised):
                yield Site(kind, block * self.size, self.size, ())

    def descriptor(self, kind: str, number: int, offset: int) -> Site:
        superblock, size = self.superblock, self.superblock.descriptor_size
        stored = offset + EXT4_GROUP_DESC.offset_of("bg_checksum")

        def seal(image: bytearray) -> None:
            raw = bytes(image[offset : offset + size])
            if self.has_checksums:
                _half.pack_into(image, stored, checksum.group_descriptor(self.seed, number, raw))
            else:
                _half.pack_into(image, stored, checksum.group_descriptor_crc16(superblock.uuid, number, raw))

        fields = list(fields_of(EXT4_GROUP_DESC, offset))
        if size >= EXT4_GROUP_DESC.size + EXT4_GROUP_DESC_HI.size:
            fields += fields_of(EXT4_GROUP_DESC_HI, offset + EXT4_GROUP_DESC.size)
        summed = self.has_checksums or RoCompat.GDT_CSUM in superblock.features
        covered = ((offset, offset + size),) if summed and kind == "descriptor" else ()
        return Site(kind, offset, size, tuple(fields), covered, seal if summed else None)

    def inode(self, inode: StoredInode) -> Iterator[Site]:
        offset = self.volume.inodes.place(inode.number).offset or 0
        size = self.superblock.inode_size
        seed = checksum.inode_seed(self.seed, inode.number, inode.generation)
        fields = list(fields_of(EXT4_INODE, offset))
        block_area = offset + EXT4_INODE.offset_of("i_block")
        if inode.flags & EXT4_EXTENTS_FL:
            fields += self.extent_fields(block_area, len(inode.block_area))
        if size > EXT4_INODE.size:
            fields += fields_of(EXT4_INODE_EXTRA, offset + EXT4_INODE.size)
            fields += self.xattr_fields(offset + size - len(inode.inline_xattrs), offset + size)
        fields += self.context_fields(inode, offset, size)
        if inode.is_dir and inode.flags & EXT4_INLINE_DATA_FL:
            fields.append(Field("inline_parent", block_area, 4))
            fields += self.dirent_fields(block_area + 4, block_area + len(inode.block_area))
            value = self.volume.raw_xattrs(inode).get((EXT4_XATTR_INDEX_SYSTEM, b"data"), b"")
            at = self.image.find(value, offset + EXT4_INODE.size, offset + size) if value else -1
            if at >= 0:
                fields += self.dirent_fields(at, at + len(value))

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

    def behind_inode(self, inode: StoredInode, seed: int) -> Iterator[Site]:
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
            return
        elif inode.number == self.superblock.orphan_file_inode and Compat.ORPHAN_FILE in features:
            for block in blocks:
                yield self.orphan_block(block, seed)
        elif inode.flags & EXT4_EA_INODE_FL:
            for run in mapping.runs:
                start = run.pblk * self.size
                size = min(inode.size, run.length * self.size)
                yield Site("attribute value", start, size, (), ((start, start + size),))
        elif inode.flags & EXT4_VERITY_FL and blocks:
            yield from self.verity(inode, mapping.runs)
        elif inode.is_symlink and blocks:
            offset = blocks[0] * self.size
            fields = tuple(fields_of(FSCRYPT_SYMLINK_DATA, offset)) if inode.is_encrypted else ()
            yield Site("symlink block", offset, min(inode.size + 1, self.size), fields)
        elif Incompat.ENCRYPT in features and blocks and not inode.is_encrypted and 0 < inode.size <= self.size:
            yield Site("small file", blocks[0] * self.size, inode.size, ())  # it may tell of keys

    def verity(self, inode: StoredInode, runs: Sequence[Run]) -> Iterator[Site]:
        """The descriptor, at the start of the last block but its size, and the tree before it."""
        first = -(-inode.size // EXT4_VERITY_METADATA_ALIGNMENT) * EXT4_VERITY_METADATA_ALIGNMENT // self.size
        behind = [run.pblk + index for run in runs for index in range(run.length) if run.lblk + index >= first]
        if not behind:
            return
        for block in behind[:-1]:
            yield Site("verity tree", block * self.size, self.size, ())
        offset, end = behind[-1] * self.size, (behind[-1] + 1) * self.size
        fields = (*fields_of(FSVERITY_DESCRIPTOR, offset), *fields_of(EXT4_VERITY_DESCRIPTOR_SIZE, end - 4))
        yield Site("verity descriptor", offset, self.size, fields)

    def extent_fields(self, offset: int, room: int) -> Iterator[Field]:
        yield from fields_of(EXT4_EXTENT_HEADER, offset)
        _, entries, most, depth, _ = EXT4_EXTENT_HEADER.unpack_tuple(self.image, offset)
        record = EXT4_EXTENT_IDX if depth else EXT4_EXTENT
        for index in range(min(entries + 1, most, MOST_ENTRIES)):
            at = offset + EXT4_EXTENT_HEADER.size + index * record.size
            if at + record.size <= offset + room:
                yield from fields_of(record, at)

    def tree_block(self, inode: StoredInode, block: int, seed: int) -> Site:
        offset = block * self.size
        if not inode.flags & EXT4_EXTENTS_FL:
            count = min(self.size // 4, MOST_ENTRIES)
            pointers = tuple(Field("i_block", offset + 4 * index, 4) for index in range(count))
            return Site("indirect block", offset, self.size, pointers)
        most = EXT4_EXTENT_HEADER.unpack_tuple(self.image, offset)[2]
        end = offset + EXT4_EXTENT_HEADER.size + most * EXT4_EXTENT.size
        fields = (*self.extent_fields(offset, self.size), *fields_of(EXT4_EXTENT_TAIL, end))
        if not self.has_checksums:
            return Site("extent block", offset, self.size, fields)

        def seal(image: bytearray) -> None:
            _word.pack_into(image, end, checksum.extent_block(seed, bytes(image[offset:end])))

        return Site("extent block", offset, self.size, fields, ((offset, end + EXT4_EXTENT_TAIL.size),), seal)

    def directory_block(self, inode: StoredInode, block: int, seed: int) -> Site:
        offset, end = block * self.size, (block + 1) * self.size
        data = bytes(self.image[offset:end])
        # Without the flag, what looks like an index node is an empty block.
        index = index_entries_offset(data) if inode.flags & EXT4_INDEX_FL else None
        fields = list(self.dirent_fields(offset, end))
        if index is None:
            kind, tail = "directory block", end - EXT4_DIR_ENTRY_TAIL.size
            fields += fields_of(EXT4_DIR_ENTRY_TAIL, tail)

            def seal(image: bytearray) -> None:
                _word.pack_into(image, end - 4, checksum.directory_block(seed, bytes(image[offset:end])))

            covered: Ranges = ((offset, end),)
        else:
            kind = "directory index block"
            limit, count = DX_COUNTLIMIT.unpack_tuple(data, index)
            fields += fields_of(DX_COUNTLIMIT, offset + index)
            if index > 8:
                fields += fields_of(DX_ROOT_INFO, offset + DX_ROOT_INFO_OFFSET)
            room = (self.size - index) // DX_ENTRY.size  # an emptied leaf looks like a node, and is none
            for entry in range(min(count, room, MOST_ENTRIES)):
                fields += fields_of(DX_ENTRY, offset + index + entry * DX_ENTRY.size)
            stop, tail = offset + index + count * DX_ENTRY.size, offset + index + limit * DX_ENTRY.size

            def seal(image: bytearray) -> None:
                covered, end_of_block = bytes(image[offset:stop]), bytes(image[tail : tail + DX_TAIL.size])
                _word.pack_into(image, tail + 4, checksum.htree_block(seed, covered, end_of_block))

            covered = ((offset, stop), (tail, tail + DX_TAIL.size))
        if not self.has_checksums:
            return Site(kind, offset, self.size, tuple(fields))
        return Site(kind, offset, self.size, tuple(fields), covered, seal)

    def dirent_fields(self, start: int, end: int) -> Iterator[Field]:
        """Of the directory entries from byte `start` to `end`."""
        for _ in range(MOST_ENTRIES):
            if start + EXT4_DIR_ENTRY.size > end:
                return
            _, rec_len, name_len, _ = EXT4_DIR_ENTRY.unpack_tuple(self.image, start)
            yield from fields_of(EXT4_DIR_ENTRY, start)
            if name_len:
                yield Field("ext4_dir_entry_2.name", start + EXT4_DIR_ENTRY.size, name_len)
            if rec_len < 12 or rec_len & 3:
                return
            start += rec_len

    def xattr_block(self, block: int) -> Site:
        offset = block * self.size
        fields = (
            *fields_of(EXT4_XATTR_HEADER, offset),
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
            yield from fields_of(header, start)
            yield from self.entry_fields(start + header.size, end)

    def entry_fields(self, at: int, end: int) -> Iterator[Field]:
        while at + EXT4_XATTR_ENTRY.size <= end and self.image[at : at + 4] != bytes(4):
            yield from fields_of(EXT4_XATTR_ENTRY, at)
            name_len = EXT4_XATTR_ENTRY.unpack_tuple(self.image, at)[0]
            if name_len:
                yield Field("ext4_xattr_entry.e_name", at + EXT4_XATTR_ENTRY.size, name_len)
            at += EXT4_XATTR_ENTRY.size + (name_len + 3 & ~3)

    def context_fields(self, inode: StoredInode, offset: int, size: int) -> Iterator[Field]:
        context = self.volume.encryption_context(inode) if inode.is_encrypted else None
        if context is None:
            return
        at = self.image.find(context, offset, offset + size)
        if at < 0 and inode.xattr_block:
            start = inode.xattr_block * self.size
            at = self.image.find(context, start, start + self.size)
        if at >= 0:
            yield from fields_of(FSCRYPT_CONTEXT_V1 if context[0] == 1 else FSCRYPT_CONTEXT_V2, at)

    def orphan_block(self, block: int, seed: int) -> Site:
        offset, end = block * self.size, (block + 1) * self.size
        tail = end - EXT4_ORPHAN_BLOCK_TAIL.size
        count = min((tail - offset) // 4, MOST_ENTRIES)
        fields = [Field("orphan", offset + 4 * index, 4) for index in range(count)]
        fields += fields_of(EXT4_ORPHAN_BLOCK_TAIL, tail)

        def seal(image: bytearray) -> None:
            _word.pack_into(image, end - 4, checksum.orphan_block(seed, block, bytes(image[offset:tail])))

        covered = ((offset, end),) if self.has_checksums else ()
        return Site("orphan block", offset, self.size, tuple(fields), covered, seal if self.has_checksums else None)

    def journal(self, homes: dict[int, list[Site]], device_at: int | None) -> Iterator[Site]:
        """Of the journal in the volume, or on the device that stands `device_at` bytes in."""
        if device_at is not None:
            yield Site(
                "journal device", device_at + SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE,
                tuple(fields_of(EXT4_SUPER_BLOCK, device_at + SUPERBLOCK_OFFSET)),
            )  # fmt: skip
            first = SUPERBLOCK_OFFSET // self.size + 1
            starts = list(range(device_at, len(self.image), self.size))
            # The log's blocks are counted from the device's beginning, its superblock's place is its own.
            yield from JournalSites(self.image, starts, self.size, homes, first).sites()
        elif Compat.HAS_JOURNAL in self.superblock.features and self.superblock.journal_inode:
            inode = self.volume.inode(self.superblock.journal_inode)
            runs = [run for run in self.volume.runs(inode) if run.state == WRITTEN]
            starts = [(run.pblk + index) * self.size for run in runs for index in range(run.length)]
            yield from JournalSites(self.image, starts, self.size, homes).sites()
