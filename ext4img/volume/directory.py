"""Listing the directories of a volume, and looking names up in them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from ext4img.errors import CorruptionError, NotDirectoryError, Place, SourceError
from ext4img.structs.directory import EXT4_INLINE_DOTDOT_SIZE
from ext4img.structs.inode import EXT4_CASEFOLD_FL, EXT4_ENCRYPT_FL, EXT4_INDEX_FL
from ext4img.volume import checksum
from ext4img.volume.blocks import BlockReader
from ext4img.volume.dir_block import DirectoryFormat, find_entry, parse_block, parse_entries, verify_block
from ext4img.volume.dir_entry import DirEntry, DirEntryFields, DirListing
from ext4img.volume.features import Compat, Incompat
from ext4img.volume.inode import StoredInode
from ext4img.volume.mapping import Mapper
from ext4img.volume.problems import Problems
from ext4img.volume.runs import LOST, WRITTEN, Run
from ext4img.volume.superblock import Superblock

if TYPE_CHECKING:
    from ext4img.volume.htree import HashTree

WINDOW_BLOCKS = 64
_CACHED_DIRECTORIES = 4096
_CACHED_NAMES = 200_000  # some 40 MiB
_SINGLE_LOOKUPS = 2  # block by block; after so many, all names of the directory are cached
_MAX_CACHED_DIRECTORY_BYTES = 1 << 20
_BOTH = EXT4_ENCRYPT_FL | EXT4_CASEFOLD_FL


class _CachedDirectory:
    """A directory between look-ups in it."""

    __slots__ = ("form", "inode", "is_sound", "lookups", "names", "runs", "tree")

    def __init__(self, inode: StoredInode, form: DirectoryFormat, runs: list[Run]) -> None:
        self.inode = inode
        self.form = form
        self.runs = runs
        self.tree: HashTree | None = None
        self.lookups = 0
        self.is_sound = True  # until reading all of it has shown otherwise
        self.names: dict[bytes, DirEntryFields] | None = None


class Directories:
    """The directories of one volume, names as stored.

    `inline_parts` gives the two parts of inline contents: i_block and the attribute system.data.
    """

    def __init__(
        self,
        superblock: Superblock,
        blocks: BlockReader,
        mapper: Mapper,
        seed: int,
        problems: Problems,
        inline_parts: Callable[[StoredInode], tuple[bytes, bytes]],
    ) -> None:
        self._superblock = superblock
        self._block_size = superblock.block_size
        self._blocks = blocks
        self._mapper = mapper
        self._seed = seed
        self._problems = problems
        self._inline_parts = inline_parts
        self._checksums = superblock.has_metadata_checksums and problems.verify
        self._has_filetype = Incompat.FILETYPE in superblock.features
        self._has_index = Compat.DIR_INDEX in superblock.features
        self._has_large_dir = Incompat.LARGEDIR in superblock.features
        # Then a name that the index does not lead to is searched without it.
        self.doubts_indexes = problems.checks != "strict" or not superblock.knows_hash
        self._known: OrderedDict[int, _CachedDirectory] = OrderedDict()
        self._names_held = 0

    def entries(self, inode: StoredInode) -> list[DirEntry]:
        """All entries in the order of the disk, without "." and "..". NotDirectoryError."""
        return self.listing(inode).entries()

    def listing(self, inode: StoredInode) -> DirListing:
        """The same as columns."""
        if not inode.is_dir:
            raise NotDirectoryError.at(f"inode {inode.number}")
        form = self._format(inode)
        damage = self._problems.damage
        if inode.has_inline_data:
            found = DirListing(self._inline_entries(inode, form))
        else:
            found = DirListing()
            self._read(self._runs(inode), form, self._problems, found)
        if self._problems.damage != damage:
            found.damage = self._problems.last
        return found

    def _read(self, runs: Iterable[Run], form: DirectoryFormat, problems: Problems, found: DirListing) -> None:
        """Add the entries of all blocks of these runs."""
        for run in runs:
            for start in range(0, run.length, WINDOW_BLOCKS):
                self._window(run.pblk + start, min(WINDOW_BLOCKS, run.length - start), form, problems, found)

    def lookup(self, inode: StoredInode, name: bytes, hash_: tuple[int, int] | None = None) -> DirEntry | None:
        """The entry of this stored name, or None. Uses the index if there is one.

        `hash_` is the (major, minor) hash, for directories where it cannot be computed from the stored
        name: those that are encrypted and case-insensitive.
        """
        if inode.has_inline_data:
            return next((entry for entry in self.entries(inode) if entry.name == name), None)
        known = self._know(inode)
        if known.names is not None:
            return _entry(known.names.get(name))
        tree = known.tree
        if tree is not None and not (tree.uses_siphash and hash_ is None):
            major = hash_[0] if hash_ else tree.major_hash(name, self._superblock.hash_seed)
            try:
                for block in self._leaves(known, tree, major):
                    entry = find_entry(block, name, known.form, self._problems)
                    if entry is not None:
                        return entry
                if not self.doubts_indexes:
                    return None
            except (CorruptionError, SourceError) as error:
                # the kernel then searches without the index, too
                self._problems.unreadable(error, Place(inode=inode.number))
        if known.lookups >= _SINGLE_LOOKUPS and known.is_sound and inode.size <= _MAX_CACHED_DIRECTORY_BYTES:
            names = self._named(known)
            if names is not None:
                return _entry(names.get(name))
        known.lookups += 1
        for run in known.runs:
            for pblk in range(run.pblk, run.pblk + run.length):
                data = self._verified(known.form, pblk)
                entry = find_entry(data, name, known.form, self._problems) if data else None
                if entry is not None:
                    return entry
        return None

    def _named(self, known: _CachedDirectory) -> dict[bytes, DirEntryFields] | None:
        """All names of a directory with many look-ups, cached; the oldest of other directories are dropped.

        None if anything in the directory is damaged: then names are still searched block by block, so
        that damage behind the name that is found never matters.
        """
        listing = DirListing()
        try:
            self._read(known.runs, known.form, Problems("strict"), listing)
        except (CorruptionError, SourceError):
            known.is_sound = False
            return None
        # Backwards, so that the first of two equal names stays.
        names = dict(zip(reversed(listing.names), reversed(list(listing.rows())), strict=True))
        known.names = names
        self._names_held += len(names)
        # A copy: other threads may add directories meanwhile.
        for other in list(self._known.values()) if self._names_held > _CACHED_NAMES else ():
            if self._names_held <= _CACHED_NAMES:
                break
            if other.names is not None and other is not known:
                self._names_held -= len(other.names)
                other.names = None
                other.lookups = 0
        return names

    def index(self, inode: StoredInode) -> HashTree | None:
        """The directory's index; None if it has none or a damaged one, which is reported."""
        return None if inode.has_inline_data else self._know(inode).tree

    def entries_of_hash(self, inode: StoredInode, major: int) -> Iterator[DirEntry]:
        """All entries of the leaves that may hold a major hash; without an index, of all blocks.

        Those of all blocks follow, too, if the index may be wrong.
        """
        known = self._know(inode)
        if known.tree is None:
            yield from self.entries(inode)
            return
        try:
            leaves = list(self._leaves(known, known.tree, major))
        except (CorruptionError, SourceError) as error:
            self._problems.unreadable(error, Place(inode=inode.number))
            yield from self.entries(inode)
            return
        for block in leaves:
            yield from parse_entries(block, 0, known.form, self._problems, None)
        if self.doubts_indexes:
            yield from self.entries(inode)

    def _leaves(self, known: _CachedDirectory, tree: HashTree, major: int) -> Iterator[bytes]:
        for lblk in tree.blocks(major):
            yield self._logical_block(known, lblk)

    def _know(self, inode: StoredInode) -> _CachedDirectory:
        known = self._known.get(inode.number)
        # The inode may have changed: by recovery, or in the hands of the caller.
        if known is not None and (known.inode is inode or known.inode == inode):
            return known
        known = _CachedDirectory(inode, self._format(inode), list(self._runs(inode)))
        if self._has_index and inode.flags & EXT4_INDEX_FL:
            from ext4img.volume.htree import HashTree  # not needed for listing

            try:
                known.tree = HashTree(
                    inode.number,
                    lambda lblk: self._logical_block(known, lblk),
                    self._superblock.hash_unsigned,
                    self._has_large_dir,
                )
            except (CorruptionError, SourceError) as error:
                # a name can still be found by reading all blocks
                self._problems.unreadable(error, Place(inode=inode.number))
        self._known[inode.number] = known
        if len(self._known) > _CACHED_DIRECTORIES:
            old = self._known.popitem(last=False)[1]
            self._names_held -= len(old.names or ())
        return known

    def _logical_block(self, known: _CachedDirectory, lblk: int) -> bytes:
        for run in known.runs:
            if run.lblk <= lblk < run.end:
                pblk = run.pblk + lblk - run.lblk
                data = self._blocks.read(pblk)
                if known.form.seed is not None:
                    verify_block(data, known.form, pblk)
                return data
        raise CorruptionError(f"directory index names logical block {lblk}, a hole", Place(inode=known.form.inode))

    def _verified(self, form: DirectoryFormat, pblk: int) -> bytes | None:
        try:
            data = self._blocks.read(pblk)
        except (SourceError, CorruptionError) as error:
            self._problems.unreadable(error, Place(inode=form.inode, block=pblk))
            return None
        self._verify(data, form, pblk, self._problems)
        return data

    def _verify(self, data: bytes, form: DirectoryFormat, pblk: int, problems: Problems) -> None:
        if form.seed is not None:
            try:
                verify_block(data, form, pblk)
            except CorruptionError as error:
                problems.found(error)

    def _format(self, inode: StoredInode) -> DirectoryFormat:
        return DirectoryFormat(
            inode.number,
            checksum.inode_seed(self._seed, inode.number, inode.generation) if self._checksums else None,
            self._has_filetype,
            inode.flags & _BOTH == _BOTH,
            self._superblock.inode_count,
            self._has_index and bool(inode.flags & EXT4_INDEX_FL),
        )

    def _runs(self, inode: StoredInode) -> Iterator[Run]:
        """Its written runs up to i_size. Holes and lost blocks are reported."""
        end = -(-inode.size // self._block_size)
        reached = 0
        for run in self._mapper.runs(inode):
            if run.lblk >= end:
                break
            if run.lblk > reached:
                self._hole(inode, reached, run.lblk)
            reached = min(run.end, end)
            if run.state == WRITTEN:
                yield Run(run.lblk, run.pblk, reached - run.lblk, WRITTEN)
            elif run.state != LOST:  # the mapping has reported lost blocks
                self._hole(inode, run.lblk, reached)
        if reached < end:
            self._hole(inode, reached, end)

    def _hole(self, inode: StoredInode, first: int, end: int) -> None:
        reason = f"directory has a hole from logical block {first} to {end}"
        self._problems.found(CorruptionError(reason, Place(inode=inode.number)))

    def _window(self, pblk: int, count: int, form: DirectoryFormat, problems: Problems, found: DirListing) -> None:
        """Add the entries of adjacent blocks, which are read together."""
        try:
            data = self._blocks.read_data(pblk, count)
        except (SourceError, CorruptionError) as error:
            if count == 1:
                problems.unreadable(error, Place(inode=form.inode, block=pblk))
                return
            for block in range(pblk, pblk + count):  # one bad sector costs one block
                self._window(block, 1, form, problems, found)
            return
        size = self._block_size
        for number in range(count):
            block_data = data[number * size : (number + 1) * size] if count > 1 else data
            self._verify(block_data, form, pblk + number, problems)
            parse_block(block_data, form, problems, pblk + number, found)

    def _inline_entries(self, inode: StoredInode, form: DirectoryFormat) -> Iterator[DirEntry]:
        in_block_area, in_xattr = self._inline_parts(inode)
        yield from parse_entries(in_block_area, EXT4_INLINE_DOTDOT_SIZE, form, self._problems, None)
        if in_xattr:
            yield from parse_entries(in_xattr, 0, form, self._problems, None)


def _entry(row: DirEntryFields | None) -> DirEntry | None:
    return None if row is None else DirEntry._make(row)
