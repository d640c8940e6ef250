"""`Volume`: one open file system, its names and contents as they are stored.

Opening in order, as the thing that finds everything is found through itself: superblock → block
reader → journal → block reader with overlay → superblock again → descriptors and inodes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Literal

from ext4img.crypto.dirhash import dirhash
from ext4img.errors import CorruptionError, NotDirectoryError, NotExt4Error, Place, SourceError
from ext4img.sources.base import Source
from ext4img.structs.inode import (
    EXT4_CASEFOLD_FL,
    EXT4_EA_INODE_FL,
    EXT4_ENCRYPT_FL,
    EXT4_INDEX_FL,
)
from ext4img.structs.superblock import SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE
from ext4img.volume import checksum
from ext4img.volume.blocks import BlockReader
from ext4img.volume.contents import Contents
from ext4img.volume.directory import DirectoryFormat, DirEntry, parse_block, parse_entries, verify_block
from ext4img.volume.features import Compat, Features, Incompat
from ext4img.volume.groups import Groups
from ext4img.volume.htree import HashTree
from ext4img.volume.inode import Inode
from ext4img.volume.inode_table import InodeTable
from ext4img.volume.mapping import HOLE, LOST, UNWRITTEN, WRITTEN, Mapper, Run, Runs
from ext4img.volume.problems import Checks, Problems
from ext4img.volume.recovery import Recovery, recover
from ext4img.volume.superblock import Superblock, parse_superblock
from ext4img.volume.xattr import (
    ENCRYPTION_CONTEXT,
    INLINE_DATA,
    RawXattrs,
    XattrKey,
    parse_inline,
    parse_xattr_block,
    visible,
)

Journal = Literal["replay", "ignore"]
INLINE_PARENT_SIZE = 4
SYMLINK_SIZE_MOST = 1 << 16
DIRECTORY_WINDOW_BLOCKS = 64
_CACHED_NAMES = 100_000


class Volume:
    """See the module's text. Made from a Source, which it does not close."""

    def __init__(
        self,
        source: Source,
        *,
        journal: Journal = "replay",
        checks: Checks = "strict",
        journal_device: Source | None = None,
    ) -> None:
        self.source = source
        self.problems = Problems(checks)
        self.superblock = _read_superblock(source, self.problems)
        if source.size < self.superblock.size:
            reason = f"the image is cut short: {source.size} bytes of the file system's {self.superblock.size}"
            self.problems.found(CorruptionError(reason))
        self.recovery: Recovery | None = None
        overlay = None
        if journal == "replay":
            self.recovery = recover(source, self.superblock, self.problems, journal_device)
            self.superblock, overlay = self.recovery.superblock, self.recovery.overlay
        self._seed = checksum.filesystem_seed(self.superblock.uuid, self.superblock.checksum_seed)
        self.blocks = BlockReader(source, self.superblock.block_size, self.superblock.block_count, overlay)
        self._set_up()

    def _set_up(self) -> None:
        superblock = self.superblock
        self.groups = Groups(superblock, self.blocks, self._seed, self.problems)
        self.inodes = InodeTable(superblock, self.groups, self.blocks, self._seed, self.problems)
        self._mapper = Mapper(superblock, self.blocks, self._seed, self.problems)
        self._checksums = superblock.has_metadata_checksums and self.problems.verify
        self._names: OrderedDict[int, dict[bytes, DirEntry]] = OrderedDict()
        self._names_held = 0
        self._trees: dict[int, HashTree | None] = {}

    @property
    def features(self) -> Features:
        """The superblock's features."""
        return self.superblock.features

    @property
    def block_size(self) -> int:
        """Bytes of a block."""
        return self.superblock.block_size

    # Inodes and what hangs on them

    def inode(self, number: int) -> Inode:
        """The inode of this number; NotFoundError outside 1 to the inode count."""
        return self.inodes[number]

    def runs(self, inode: Inode) -> Runs:
        """Where the inode's blocks stand."""
        return self._mapper.runs(inode)

    def contents(self, inode: Inode, size: int | None = None) -> Contents:
        """The stored bytes (ciphertext where encrypted) up to `size`, by default i_size."""
        limit = inode.size if size is None else size
        inline = self._inline_data(inode) if inode.has_inline_data else None
        return Contents(self.blocks, self.problems, inode.number, self.runs(inode), limit, inline)

    def symlink_target_stored(self, inode: Inode) -> bytes:
        """The target as stored: where it is encrypted, a 16-bit length and ciphertext."""
        if inode.has_inline_data:
            return self._inline_data(inode)[: inode.size]
        place = Place(inode=inode.number, record="ext4_inode", field="i_size_lo")
        if self._mapper.is_fast_symlink(inode):
            if inode.size >= len(inode.block_area):
                self.problems.found(CorruptionError(f"symlink of {inode.size} bytes in the inode", place))
            return inode.block_area[: inode.size]
        if inode.size > min(self.block_size, SYMLINK_SIZE_MOST):
            self.problems.found(CorruptionError(f"symlink target of {inode.size} bytes", place))
        return self.contents(inode).read(0, min(inode.size, self.block_size))

    # Extended attributes

    def raw_xattrs(self, inode: Inode) -> RawXattrs:
        """All attributes by (name index, name), values as stored; the inode's own come first."""
        found: RawXattrs = {}
        if inode.inline_xattrs:
            found = parse_inline(inode.inline_xattrs, inode.number, self._xattr_value, self.problems)
        if inode.xattr_block:
            for key, value in self._xattr_block(inode).items():
                found.setdefault(key, value)
        return found

    def xattrs(self, inode: Inode) -> dict[str, bytes]:
        """Attributes as getxattr(2) shows them, names decoded by utf-8 with surrogateescape."""
        raw = self.raw_xattrs(inode)
        return visible(raw, inode.number, self.problems) if raw else {}

    def encryption_context(self, inode: Inode) -> bytes | None:
        """The fscrypt context as stored, or None. Also where the encrypt flag is missing."""
        return self.raw_xattrs(inode).get(ENCRYPTION_CONTEXT)

    def _xattr_block(self, inode: Inode) -> RawXattrs:
        block = inode.xattr_block
        place = Place(inode=inode.number, block=block, record="ext4_xattr_header")
        try:
            data = self.blocks.read(block)
        except (CorruptionError, SourceError) as error:
            self._found(error, place)
            return {}
        if self._checksums:
            computed = checksum.xattr_block(self._seed, block, data)
            stored = checksum.stored_xattr_block(data)
            if stored != computed:
                self.problems.checksum("extended attribute block", stored, computed, place)
        return parse_xattr_block(data, place, self._xattr_value, self.problems)

    def _xattr_value(self, number: int, size: int, key: XattrKey) -> bytes:
        """A value that has an inode of its own (ea_inode)."""
        place = Place(inode=number, record="ext4_xattr_entry", field="e_value_inum")
        if Incompat.EA_INODE not in self.features:
            raise CorruptionError("an attribute's value is in an inode, without the ea_inode feature", place)
        if not 1 <= number <= self.superblock.inode_count:
            raise CorruptionError(f"an attribute's value is in inode {number}, which does not exist", place)
        inode = self.inodes[number]
        if not inode.flags & EXT4_EA_INODE_FL or not inode.is_file or inode.size != size or inode.has_inline_data:
            reason = f"an attribute's value of {size} bytes is in inode {number}, which is none ({inode.size} bytes)"
            raise CorruptionError(reason, place)
        value = self.contents(inode).read(0, size)
        if self.problems.verify:
            stored = inode.atime_ns // 1_000_000_000 & 0xFFFFFFFF  # ext4_xattr_inode_get_hash
            computed = checksum.ea_inode_value(self._seed, value)
            if stored != computed:
                self.problems.checksum("attribute value", stored, computed, place)
        return value

    def _inline_data(self, inode: Inode) -> bytes:
        rest = self.raw_xattrs(inode).get(INLINE_DATA, b"")
        return inode.block_area + rest

    # Directories

    def directory(self, inode: Inode) -> list[DirEntry]:
        """All entries as stored, in the order of the disk, "." and ".." left out.

        NotDirectoryError for anything but a directory.
        """
        if not inode.is_dir:
            raise NotDirectoryError.at(f"inode {inode.number}")
        form = self._directory_format(inode)
        if inode.has_inline_data:
            return list(self._inline_entries(inode, form))
        entries: list[DirEntry] = []
        for run in self._directory_runs(inode):
            for start in range(0, run.length, DIRECTORY_WINDOW_BLOCKS):
                count = min(DIRECTORY_WINDOW_BLOCKS, run.length - start)
                self._window_entries(run.pblk + start, count, form, entries)
        return entries

    def lookup(self, inode: Inode, name: bytes, hash_: tuple[int, int] | None = None) -> DirEntry | None:
        """The entry of this stored name, or None; through the index where there is one.

        `hash_` gives the (major, minor) hash where it cannot be computed from the stored name:
        encrypted and case-insensitive directories.
        """
        names = self._names.get(inode.number)
        if names is not None:
            return names.get(name)
        tree = self._tree(inode)
        if tree is not None and not (tree.uses_siphash and hash_ is None):
            major = hash_[0] if hash_ else dirhash(name, tree.hash_version, self.superblock.hash_seed)[0]
            for entry in self.entries_of_hash(inode, tree, major):
                if entry.name == name:
                    return entry
            return None
        return self._listed(inode).get(name)

    def entries_of_hash(self, inode: Inode, tree: HashTree, major: int) -> Iterator[DirEntry]:
        """All entries of the leaves that may hold a major hash."""
        form = self._directory_format(inode)
        read = self._directory_block_reader(inode)
        for lblk in tree.blocks(major):
            yield from parse_entries(read(lblk), 0, form, self.problems, None)

    def index(self, inode: Inode) -> HashTree | None:
        """The directory's index, or None where it has none or a damaged one (noted)."""
        return self._tree(inode)

    def _tree(self, inode: Inode) -> HashTree | None:
        if inode.number in self._trees:
            return self._trees[inode.number]
        tree = None
        if inode.flags & EXT4_INDEX_FL and Compat.DIR_INDEX in self.features and not inode.has_inline_data:
            try:
                large = Incompat.LARGEDIR in self.features
                read = self._directory_block_reader(inode)
                tree = HashTree(inode.number, read, self.superblock.hash_unsigned, large)
            except CorruptionError as error:
                # As the kernel: a name can still be found by reading all of the directory.
                self.problems.found(error)
        if len(self._trees) >= 1024:
            self._trees.clear()
        self._trees[inode.number] = tree
        return tree

    def _listed(self, inode: Inode) -> dict[bytes, DirEntry]:
        names: dict[bytes, DirEntry] = {}
        for entry in self.directory(inode):
            names.setdefault(entry.name, entry)
        self._names[inode.number] = names
        self._names_held += len(names)
        while self._names_held > _CACHED_NAMES and len(self._names) > 1:
            self._names_held -= len(self._names.popitem(last=False)[1])
        return names

    def _directory_format(self, inode: Inode) -> DirectoryFormat:
        both = EXT4_ENCRYPT_FL | EXT4_CASEFOLD_FL
        return DirectoryFormat(
            inode.number,
            checksum.inode_seed(self._seed, inode.number, inode.generation) if self._checksums else None,
            Incompat.FILETYPE in self.features,
            inode.flags & both == both,
            self.superblock.inode_count,
        )

    def _directory_runs(self, inode: Inode) -> Iterator[Run]:
        """Its written runs up to i_size; holes and lost blocks are problems, not entries."""
        end = -(-inode.size // self.block_size)
        reached = 0
        for run in self.runs(inode):
            if run.lblk >= end:
                break
            if run.lblk > reached:
                self._hole(inode, reached, run.lblk)
            reached = min(run.end, end)
            if run.state == WRITTEN:
                yield Run(run.lblk, run.pblk, reached - run.lblk, run.state)
            elif run.state != LOST:  # what is lost has been reported by the mapping
                self._hole(inode, run.lblk, reached)
        if reached < end:
            self._hole(inode, reached, end)

    def _hole(self, inode: Inode, first: int, end: int) -> None:
        reason = f"directory has a hole from logical block {first} to {end}"
        self.problems.found(CorruptionError(reason, Place(inode=inode.number)))

    def _window_entries(self, pblk: int, count: int, form: DirectoryFormat, entries: list[DirEntry]) -> None:
        try:
            data = self.blocks.read_data(pblk, count)
        except (SourceError, CorruptionError) as error:
            if count == 1:
                self._found(error, Place(inode=form.inode, block=pblk))
                return
            for block in range(pblk, pblk + count):  # one bad sector costs one block
                self._window_entries(block, 1, form, entries)
            return
        size = self.block_size
        for number in range(count):
            block_data = data[number * size : (number + 1) * size] if count > 1 else data
            if form.seed is not None:
                try:
                    verify_block(block_data, form, pblk + number)
                except CorruptionError as error:
                    self.problems.found(error)
            entries += parse_block(block_data, form, self.problems, pblk + number)

    def _inline_entries(self, inode: Inode, form: DirectoryFormat) -> Iterator[DirEntry]:
        yield from parse_entries(inode.block_area, INLINE_PARENT_SIZE, form, self.problems, None)
        rest = self.raw_xattrs(inode).get(INLINE_DATA, b"")
        if rest:
            yield from parse_entries(rest, 0, form, self.problems, None)

    def _directory_block_reader(self, inode: Inode) -> _DirectoryBlocks:
        return _DirectoryBlocks(self, inode, self._directory_format(inode))

    def _found(self, error: CorruptionError | SourceError, place: Place) -> None:
        """A block that cannot be read: raised as it is when strict, else noted with its place."""
        if isinstance(error, CorruptionError):
            self.problems.found(error)
        elif self.problems.checks == "strict":
            raise error
        else:
            self.problems.found(CorruptionError(str(error), place))


class _DirectoryBlocks:
    """Verified logical blocks of one directory."""

    def __init__(self, volume: Volume, inode: Inode, form: DirectoryFormat) -> None:
        self._volume = volume
        self._runs = [run for run in volume.runs(inode) if run.state == WRITTEN]
        self._form = form

    def __call__(self, lblk: int) -> bytes:
        for run in self._runs:
            if run.lblk <= lblk < run.end:
                pblk = run.pblk + lblk - run.lblk
                data = self._volume.blocks.read(pblk)
                verify_block(data, self._form, pblk)
                return data
        raise CorruptionError(f"directory index names logical block {lblk}, a hole", Place(inode=self._form.inode))


def _read_superblock(source: Source, problems: Problems) -> Superblock:
    if source.size < SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE:
        raise NotExt4Error(f"{source.name}: too short for a file system ({source.size} bytes)")
    raw = source.read_at(SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE)
    try:
        return parse_superblock(raw, SUPERBLOCK_OFFSET, problems)
    except NotExt4Error as error:
        raise NotExt4Error(f"{source.name}: {error}") from None


__all__ = ["HOLE", "LOST", "UNWRITTEN", "WRITTEN", "Journal", "Run", "Volume"]
