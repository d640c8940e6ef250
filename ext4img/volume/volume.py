"""`Volume`: one open file system, its names and contents as stored.

It is opened in this order, because the journal can change the structures that lead to it:
superblock → block reader → journal → block reader with overlay → superblock again → descriptors and
inodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from ext4img.errors import CorruptionError, NotFoundError, Place, SourceError
from ext4img.sources.base import Source
from ext4img.structs.directory import EXT4_DIR_ENTRY, EXT4_FT_DIR
from ext4img.structs.inode import EXT4_EA_INODE_FL
from ext4img.volume import checksum
from ext4img.volume.blocks import BlockReader
from ext4img.volume.contents import Contents
from ext4img.volume.dir_entry import DirEntry, DirListing
from ext4img.volume.directory import Directories
from ext4img.volume.features import Features, Incompat
from ext4img.volume.groups import Groups
from ext4img.volume.inode import StoredInode
from ext4img.volume.inode_table import InodeTable
from ext4img.volume.mapping import Mapper
from ext4img.volume.problems import Checks, Problems
from ext4img.volume.recovery.recover import Recovery, recover
from ext4img.volume.runs import HOLE, LOST, UNWRITTEN, WRITTEN, Mapping, Run, Runs
from ext4img.volume.salvage.superblock import read_superblock
from ext4img.volume.watch import SourceWatch
from ext4img.volume.xattr import (
    ENCRYPTION_CONTEXT,
    INLINE_DATA,
    RawXattrs,
    XattrKey,
    is_lustre_value,
    parse_inline,
    parse_xattr_block,
    visible,
)

if TYPE_CHECKING:
    from ext4img.volume.htree import HashTree
    from ext4img.volume.salvage.directories import LostDirectories
    from ext4img.volume.salvage.nameless import NamelessInodes

Journal = Literal["replay", "ignore"]
MAX_SYMLINK_SIZE = 1 << 16
MAX_FILE_SIZE = (1 << 63) - 1


class Volume:
    """One open file system, made from a Source, which it does not close.

    `superblock` is the block number of the superblock copy to use, in blocks of `block_size` bytes.
    `live`: see `watch.SourceWatch`.
    """

    def __init__(
        self,
        source: Source,
        *,
        journal: Journal = "replay",
        checks: Checks = "strict",
        journal_device: Source | None = None,
        superblock: int | None = None,
        block_size: int | None = None,
        live: bool = False,
    ) -> None:
        if journal not in get_args(Journal):
            raise ValueError(f"journal is one of {', '.join(get_args(Journal))}, not {journal!r}")
        self.source = source
        self.problems = Problems(checks)
        self.watch = SourceWatch(source, journal_device, self.problems, live)
        try:
            self._open(journal, journal_device, superblock, block_size)
        except CorruptionError as error:
            if self.watch.writers:
                error.add_note(
                    f"in use, so that it may be sound and only read in the middle of a change: "
                    f"{'; '.join(self.watch.in_words)}"
                )
            raise

    def _open(
        self, journal: Journal, journal_device: Source | None, superblock: int | None, block_size: int | None
    ) -> None:
        source = self.source
        self.superblock = read_superblock(source, self.problems, superblock, block_size)
        if source.size < self.superblock.size:
            reason = f"the image is cut short: {source.size} bytes of the file system's {self.superblock.size}"
            if self.problems.checks == "strict":  # as the kernel, which refuses to mount it
                raise CorruptionError(reason)
            self.problems.remark(reason)  # perhaps nothing is there; unreadable blocks are reported one by one
        self._last_xattrs: tuple[StoredInode, RawXattrs] | None = None
        self.recovery: Recovery | None = None
        overlay = None
        if journal == "replay":
            self.recovery = recover(source, self.superblock, self.problems, journal_device)
            self.superblock, overlay = self.recovery.superblock, self.recovery.overlay or None
        self.checksum_seed = checksum.filesystem_seed(self.superblock.uuid, self.superblock.checksum_seed)
        self.blocks = BlockReader(source, self.superblock.block_size, self.superblock.block_count, overlay)
        self._set_up()
        self.watch.opened(self.superblock, self.recovery.journal if self.recovery is not None else None)

    def _set_up(self) -> None:
        superblock = self.superblock
        self.groups = Groups(superblock, self.blocks, self.checksum_seed, self.problems)
        self.inodes = InodeTable(superblock, self.groups, self.blocks, self.checksum_seed, self.problems)
        self._mapper = Mapper(superblock, self.blocks, self.checksum_seed, self.problems)
        self._checksums = superblock.has_metadata_checksums and self.problems.verify
        self.directories = Directories(
            superblock, self.blocks, self._mapper, self.checksum_seed, self.problems, self._inline_parts
        )
        self._lost_directories: LostDirectories | None = None
        self._nameless: NamelessInodes | None = None
        if self.problems.checks == "report":
            from ext4img.volume.salvage.directories import LostDirectories
            from ext4img.volume.salvage.nameless import NamelessInodes
            from ext4img.volume.salvage.root import replace_lost_root

            replace_lost_root(superblock, self.blocks, self.inodes, self._mapper, self.checksum_seed, self.problems)
            self._lost_directories = LostDirectories(
                superblock, self.blocks, self.groups, self.inodes, self.checksum_seed, self.problems
            )
            self._nameless = NamelessInodes(
                superblock, self.blocks, self.inodes, self.checksum_seed, self.problems, self._stored_listing
            )

    @property
    def features(self) -> Features:
        """The superblock's features."""
        return self.superblock.features

    @property
    def block_size(self) -> int:
        """Bytes of a block."""
        return self.superblock.block_size

    # Inodes, their blocks and contents

    def inode(self, number: int) -> StoredInode:
        """The inode of this number; NotFoundError outside 1 to the inode count."""
        return self.inodes[number]

    def named_inode(self, number: int, name: str, directory: int) -> StoredInode | None:
        """The inode that `name`, an entry of inode `directory`, leads to.

        None if it cannot be read or no name may lead to it, which is reported; raises when strict.
        """
        try:
            inode = self.inodes[number]
        except (CorruptionError, SourceError) as error:
            self.problems.unreadable(error, Place(inode=number))
            return None
        except NotFoundError as error:
            why = f"does not exist: {error.strerror}"
        else:
            reason = self.inodes.why_not_named(inode)
            if reason is None:
                return inode
            why = reason
        place = Place(inode=directory, record=EXT4_DIR_ENTRY.name, field="inode")
        self.problems.found(CorruptionError(f"{name!r} names inode {number}, which {why}", place))
        return None

    def is_replaced(self, number: int) -> bool:
        """Whether the inode is lost, and one made of what was found stands for it."""
        return number in self.inodes.overrides and number <= self.superblock.inode_count

    def runs(self, inode: StoredInode) -> Runs:
        """Which blocks of the disk hold the inode's blocks."""
        return self._mapper.runs(inode)

    def mapping(self, inode: StoredInode) -> Mapping:
        """The runs, and the blocks of the extent tree or block map."""
        return self._mapper.mapping(inode)

    def contents(self, inode: StoredInode, size: int | None = None) -> Contents:
        """The stored bytes (ciphertext where encrypted) up to `size`, by default i_size."""
        limit = inode.size if size is None else size
        if limit > MAX_FILE_SIZE:  # negative to the kernel, which refuses the inode
            place = Place(inode=inode.number, record="ext4_inode", field="i_size_high")
            self.problems.found(CorruptionError(f"i_size is {inode.size}", place))
            limit = MAX_FILE_SIZE
        inline = self._inline_data(inode) if inode.has_inline_data else None
        return Contents(self.blocks, self.problems, inode.number, self.runs(inode), limit, inline)

    def symlink_target_stored(self, inode: StoredInode) -> bytes:
        """The target as stored; if it is encrypted, a 16-bit length and ciphertext."""
        if inode.has_inline_data:
            return self._inline_data(inode)[: inode.size]
        place = Place(inode=inode.number, record="ext4_inode", field="i_size_lo")
        if self._mapper.is_fast_symlink(inode):
            target = inode.block_area[: inode.size]
            # Kernel: "invalid fast symlink length" (__ext4_iget). Ciphertext may hold NULs.
            end = -1 if inode.is_encrypted else inode.block_area.find(b"\0")
            if not 0 < inode.size < len(inode.block_area) or end not in (-1, inode.size):
                self.problems.found(CorruptionError(f"symlink of {inode.size} bytes in the inode", place))
            return target
        if inode.size > min(self.block_size, MAX_SYMLINK_SIZE):
            self.problems.found(CorruptionError(f"symlink target of {inode.size} bytes", place))
        return self.contents(inode).read(0, min(inode.size, self.block_size))

    # Extended attributes

    def raw_xattrs(self, inode: StoredInode) -> RawXattrs:
        """All attributes by (name index, name), values as stored; the inode's own come first."""
        last = self._last_xattrs
        if last is not None and last[0] is inode:  # callers ask for the context, then for all
            return last[1]
        found: RawXattrs = {}
        if inode.inline_xattrs:
            found = parse_inline(inode.inline_xattrs, inode.number, partial(self._xattr_value, inode), self.problems)
        if inode.xattr_block:
            for key, value in self._xattr_block(inode).items():
                found.setdefault(key, value)
        self._last_xattrs = inode, found
        return found

    def xattrs(self, inode: StoredInode) -> dict[str, bytes]:
        """Attributes as getxattr(2) shows them, names decoded by utf-8 with surrogateescape."""
        raw = self.raw_xattrs(inode)
        return visible(raw, inode.number, self.problems) if raw else {}

    def encryption_context(self, inode: StoredInode) -> bytes | None:
        """The fscrypt context as stored, or None. The encrypt flag is not required."""
        return self.raw_xattrs(inode).get(ENCRYPTION_CONTEXT)

    def _xattr_block(self, inode: StoredInode) -> RawXattrs:
        block = inode.xattr_block
        place = Place(inode=inode.number, block=block, record="ext4_xattr_header")
        try:
            data = self.blocks.read(block)
        except (CorruptionError, SourceError) as error:
            self.problems.unreadable(error, place)
            return {}
        if self._checksums:
            computed = checksum.xattr_block(self.checksum_seed, block, data)
            stored = checksum.stored_xattr_block(data)
            if stored != computed:
                self.problems.checksum("extended attribute block", stored, computed, place)
        return parse_xattr_block(data, place, partial(self._xattr_value, inode), self.problems)

    def _xattr_value(self, owner: StoredInode, number: int, size: int, key: XattrKey) -> bytes:
        """A value that has an inode of its own (ea_inode)."""
        place = Place(inode=number, record="ext4_xattr_entry", field="e_value_inum")
        if Incompat.EA_INODE not in self.features:
            raise CorruptionError("an attribute's value is in an inode, without the ea_inode feature", place)
        if not 1 <= number <= self.superblock.inode_count:
            raise CorruptionError(f"an attribute's value is in inode {number}, which does not exist", place)
        inode = self.inodes[number]
        if not inode.flags & EXT4_EA_INODE_FL or not inode.is_file or inode.size != size or inode.has_inline_data:
            reason = (
                f"an attribute's value of {size} bytes is in inode {number}, which cannot hold it ({inode.size} bytes)"
            )
            raise CorruptionError(reason, place)
        contents = self.contents(inode)
        if sum(length for _, length in contents.segments()) != size:
            raise CorruptionError(f"an attribute's value of {size} bytes has a hole", place)
        value = contents.read(0, size)
        if self.problems.verify and not is_lustre_value(inode, owner):
            stored = inode.atime_ns // 1_000_000_000 & 0xFFFFFFFF  # ext4_xattr_inode_get_hash
            computed = checksum.ea_inode_value(self.checksum_seed, value)
            if stored != computed:
                self.problems.checksum("attribute value", stored, computed, place)
        return value

    def _inline_data(self, inode: StoredInode) -> bytes:
        return b"".join(self._inline_parts(inode))

    def _inline_parts(self, inode: StoredInode) -> tuple[bytes, bytes]:
        """i_block, and the attribute system.data, which holds the rest of the contents."""
        rest = self.raw_xattrs(inode).get(INLINE_DATA)
        if rest is None:  # to the kernel i_block is then a map of blocks (ext4_has_inline_data)
            place = Place(inode=inode.number, record="ext4_inode", field="i_flags")
            self.problems.found(CorruptionError("inline data without the attribute system.data", place))
            rest = b""
        return inode.block_area, rest

    # Directories

    def directory(self, inode: StoredInode) -> list[DirEntry]:
        """All entries as stored, in the order of the disk, without "." and "..".

        NotDirectoryError for anything but a directory.
        """
        return self._stored_listing(inode).entries()

    def listing(self, inode: StoredInode) -> DirListing:
        """The same entries as columns; with checks="report", lost+found also lists inodes that have no name."""
        listing = self._stored_listing(inode)
        if self._nameless is not None:
            for entry in self._nameless.added_to(inode.number):
                listing.add(*entry)
        return listing

    def _stored_listing(self, inode: StoredInode) -> DirListing:
        listing = self.directories.listing(inode)
        if self._lost_directories is not None:
            self._lost_directories.replace_lost_subdirectories(inode.number, listing)
        return listing

    def lookup(self, inode: StoredInode, name: bytes, hash_: tuple[int, int] | None = None) -> DirEntry | None:
        """The entry of this stored name, or None; see `Directories.lookup`."""
        entry = self.directories.lookup(inode, name, hash_)
        if entry is None and self._nameless is not None:
            entry = next((added for added in self._nameless.added_to(inode.number) if added.name == name), None)
        if self._lost_directories is not None and entry is not None and entry.file_type == EXT4_FT_DIR:
            self._lost_directories.replace_if_lost(inode.number, entry.inode)
        return entry

    def index(self, inode: StoredInode) -> HashTree | None:
        """The directory's index, or None."""
        return self.directories.index(inode)

    def entries_of_hash(self, inode: StoredInode, major: int) -> Iterator[DirEntry]:
        """The entries that may have this major hash."""
        return self.directories.entries_of_hash(inode, major)


__all__ = ["HOLE", "LOST", "UNWRITTEN", "WRITTEN", "Journal", "Run", "Volume"]
