"""Inode tables: inodes by number, read in windows and verified."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from struct import Struct
from typing import TYPE_CHECKING

from ext4img.errors import CorruptionError, NotFoundError, Place, SourceError
from ext4img.structs.group import EXT4_GROUP_DESC
from ext4img.structs.inode import EXT4_EA_INODE_FL, EXT4_INODE, EXT4_ROOT_INO
from ext4img.volume import checksum
from ext4img.volume.blocks import BlockReader
from ext4img.volume.groups import Groups
from ext4img.volume.inode import KNOWN_TYPES, InodeFormat, StoredInode, from_raw
from ext4img.volume.inode_batch import NOT_IN_USE, InodeFields, any_flags, decode_batch
from ext4img.volume.inode_rules import InodeRules
from ext4img.volume.inode_words import InodeWords
from ext4img.volume.problems import Problems
from ext4img.volume.superblock import Superblock

if TYPE_CHECKING:
    from ext4img.volume.inode_arrays import InodeArrays

WINDOW_BYTES = 64 << 10
CACHE_BYTES = 4 << 20
_SINGLES = 3  # after so many inodes of a window in a row, all of it is decoded
_PART_WORTH_ALL = 8  # decoding a window takes as long as reading an eighth of its inodes one by one
_DECODED_WINDOWS = 4  # more would not fit into a processor's cache
_WINDOWS_A_PIECE = 16  # of arrays: NumPy pays from some thousand inodes on
_LITTLE_ENDIAN = sys.byteorder == "little"  # decoding whole windows requires it
_MODE = EXT4_INODE.offset_of("i_mode")
_LINKS = EXT4_INODE.offset_of("i_links_count")
_GENERATION = EXT4_INODE.offset_of("i_generation")
_ROW_MODE, _ROW_LINKS, _ROW_FLAGS, _ROW_DTIME = (
    StoredInode._fields.index(name) for name in ("mode", "links", "flags", "dtime")
)
_generation = Struct("<I").unpack_from


class InodeTable:
    """All inodes of a volume."""

    def __init__(
        self, superblock: Superblock, groups: Groups, blocks: BlockReader, seed: int, problems: Problems
    ) -> None:
        self._superblock = superblock
        self._groups = groups
        self._blocks = blocks
        self._seed = seed
        self._problems = problems
        self._form = InodeFormat.of(superblock)
        self._rules = InodeRules.of(superblock)
        self._verify = superblock.has_metadata_checksums and problems.verify
        self._per_group = superblock.inodes_per_group
        self._size = superblock.inode_size
        self._count = superblock.inode_count
        # The kernel's is_special_ino, besides the numbers below the first that is not reserved.
        self._reserved = frozenset((*superblock.quota_inodes, superblock.orphan_file_inode)) - {0}
        self._window_blocks = max(WINDOW_BYTES // superblock.block_size, 1)
        self._per_window = self._window_blocks * superblock.block_size // self._size
        self._worth_all = max(self._per_window // _PART_WORTH_ALL, 2)
        self._max_windows = max(CACHE_BYTES // (self._window_blocks * superblock.block_size), 4)
        self._windows: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._max_single_blocks = max(CACHE_BYTES // superblock.block_size, 4)
        self._single_blocks: dict[int, bytes] = {}
        self._overrides: dict[int, bytes] = {}
        self._decoded: OrderedDict[tuple[int, int], list[InodeFields | None]] = OrderedDict()
        self._singles_key = (-1, -1)
        self._singles = 0
        # The window that was used last, decoded: it answers most calls. One attribute holds both values,
        # so that no thread sees those of two windows mixed.
        self._current: tuple[list[InodeFields | None], int] = ([], 0)
        # Inodes of 128 bytes have checksums of 16 bits. They are rare and are verified one by one.
        self._in_bulk = _LITTLE_ENDIAN and (self._size > EXT4_INODE.size or not self._verify)

    @property
    def overrides(self) -> dict[int, bytes]:
        """Raw inodes, by number, that replace those on disk: salvage sets them."""
        return self._overrides

    @overrides.setter
    def overrides(self, overrides: dict[int, bytes]) -> None:
        self._overrides = overrides
        self._decoded.clear()
        self._current = ([], 0)

    def raw(self, number: int) -> bytes:
        """The inode's bytes. Numbers start at 1; NotFoundError for others."""
        if number in self._overrides:
            return self._overrides[number]
        if not 1 <= number <= self._count:
            raise NotFoundError.at(f"inode {number}", f"the file system has inodes 1 to {self._count}")
        group, index = divmod(number - 1, self._per_group)
        window = self._windows.get((group, index // self._per_window))
        if window:
            start = index % self._per_window * self._size
            return window[start : start + self._size]
        # Not a whole window: random look-ups would read sixteen times as much as they need.
        block, start = divmod(index * self._size, self._superblock.block_size)
        pblk = self._groups[group].inode_table + block
        data = self._single_blocks.get(pblk)
        if data is None:
            data = self._blocks.read_data(pblk, 1)
            if len(self._single_blocks) >= self._max_single_blocks:
                self._single_blocks.clear()
            self._single_blocks[pblk] = data
        return data[start : start + self._size]

    def __getitem__(self, number: int) -> StoredInode:
        row = self._row(number)
        return self._alone(number) if row is None else tuple.__new__(StoredInode, row)

    def batch(self, numbers: Sequence[int]) -> list[InodeFields | None]:
        """The fields of many inodes that names lead to; a window of which several are wanted is decoded at once.

        None for each inode that needs `named`, which reads it alone, or raises.
        """
        ascending = sorted(numbers)
        links_at, mode_at, flags_at, known, ea_inode = _ROW_LINKS, _ROW_MODE, _ROW_FLAGS, KNOWN_TYPES, EXT4_EA_INODE_FL
        rows = [
            row
            if row is not None and row[links_at] and row[mode_at] >> 12 in known and not row[flags_at] & ea_inode
            else None
            for row in self._batch(ascending)
        ]
        for at in range(bisect_left(ascending, self._superblock.first_inode)):
            rows[at] = None
        if not self._reserved.isdisjoint(ascending):
            rows = [None if number in self._reserved else row for number, row in zip(ascending, rows, strict=True)]
        if ascending == numbers:
            return rows
        # Names of indexed directories are in the order of their hashes.
        by_number = dict(zip(ascending, rows, strict=True))
        return [by_number[number] for number in numbers]

    def why_not_named(self, inode: StoredInode) -> str | None:
        """Why no name may lead to an inode; None if one may.

        The kernel's rule for a look-up (__ext4_iget with EXT4_IGET_NORMAL): it has links and a type, and is not
        reserved for the file system itself or for the value of an attribute.
        """
        number = inode.number
        if number in self._reserved or (number < self._superblock.first_inode and number != EXT4_ROOT_INO):
            return "is reserved for the file system, and not in use by a file"
        if not inode.links or inode.mode >> 12 not in KNOWN_TYPES:
            return f"is not in use (mode {inode.mode:#o}, {inode.links} links)"
        if inode.flags & EXT4_EA_INODE_FL:
            return "holds an attribute's value"
        return None

    def _batch(self, numbers: list[int]) -> list[InodeFields | None]:
        """The same for numbers in ascending order."""
        found: list[InodeFields | None] = []
        add = found.append
        window, first = self._current
        end = first + len(window)
        for number in numbers:
            if first <= number < end:
                add(window[number - first])
            else:
                at = len(found)
                window_first = number - (number - 1) % self._per_group % self._per_window
                several = bisect_left(numbers, window_first + self._per_window, at) - at
                # If the previous window is followed by the next, the rest of that is likely to be wanted.
                worth = _SINGLES if window_first == end else self._worth_all
                add(self._row(number, several > worth))
                window, first = self._current
                end = first + len(window)
        return found

    def _row(self, number: int, decode_window: bool | None = None) -> InodeFields | None:
        """The inode's fields, if its window is decoded; None for an inode that has to be read alone.

        `decode_window` says whether to decode it; None leaves that to the previous calls.
        """
        rows, first = self._current
        index = number - first
        if 0 <= index < len(rows):
            return rows[index]
        if not self._in_bulk or not 1 <= number <= self._count:
            return None
        group, index = divmod(number - 1, self._per_group)
        key = (group, index // self._per_window)
        decoded = self._decoded.get(key)
        if not decoded:
            if not (self._asked_again(key) if decode_window is None else decode_window):
                return None
            decoded = self._decode_and_keep(key)
            if not decoded:
                return None
        self._current = decoded, number - index % self._per_window
        return decoded[index % self._per_window]

    def _asked_again(self, key: tuple[int, int]) -> bool:
        """Whether several inodes of a window have been wanted in a row."""
        if key != self._singles_key:
            self._singles_key, self._singles = key, 0
        self._singles += 1
        return self._singles > _SINGLES

    def _decode_and_keep(self, key: tuple[int, int]) -> list[InodeFields | None]:
        window = self._load(key)
        decoded = self._decode(key, window) if window else []
        if decoded:
            self._decoded[key] = decoded
            if len(self._decoded) > _DECODED_WINDOWS:
                self._decoded.popitem(last=False)
        return decoded

    def _decode(self, key: tuple[int, int], window: bytes, flags: int = 0) -> list[InodeFields | None]:
        """All inodes of a window; with `flags` all of them as unused, if none has one of these.

        None for each inode that needs a closer look: `_alone` finds out what is wrong, if anything.
        """
        group, index = key
        first = group * self._per_group + index * self._per_window + 1
        # The last block may have room for more inodes than the group has.
        window = window[: (self._per_group - index * self._per_window) * self._size]
        if flags and not any_flags(window, self._form, flags):
            decoded: list[InodeFields | None] = [NOT_IN_USE] * (len(window) // self._size)
        else:
            words = InodeWords(window, self._size)
            decoded = decode_batch(first, window, self._form, words)
            for position in self._rules.doubtful(words):
                if not self._follows_rules(decoded[position]):
                    decoded[position] = None
        if self._verify:
            for position in checksum.wrong_inodes(self._seed, first, window, self._size):
                decoded[position] = None
        for number in self._overrides:
            if 0 <= number - first < len(decoded):
                decoded[number - first] = None
        return decoded

    def _alone(self, number: int) -> StoredInode:
        raw = self.raw(number)
        if self._verify:
            self._check(number, raw)
        try:
            inode = from_raw(number, raw, self._form)
        except CorruptionError as error:
            self._problems.found(error)
            # Without its extra part: the first 128 bytes can still be shown.
            inode = from_raw(number, raw, self._form._replace(inode_size=EXT4_INODE.size))
        try:
            self._rules.check(inode)
        except CorruptionError as error:
            self._problems.found(error)
        return inode

    def _follows_rules(self, row: InodeFields | None) -> bool:
        if row is not None:
            try:
                self._rules.check(tuple.__new__(StoredInode, row))
            except CorruptionError:
                return False  # `_alone` raises or reports it
        return True

    def place(self, number: int) -> Place:
        """Where the inode is on disk."""
        group, index = divmod(number - 1, self._per_group)
        offset = self._groups[group].inode_table * self._superblock.block_size + index * self._size
        return Place(inode=number, block=offset // self._superblock.block_size, offset=offset, record=EXT4_INODE.name)

    def scan(self, flags: int = 0, on_unused: Callable[[int], None] | None = None) -> Iterator[StoredInode]:
        """All inodes in use, that is with links and a mode, by number; with `flags` those that have one of them.

        Only the initialised part of each table is read. `on_unused` is called with the numbers of others
        that are not empty, or whose checksum is wrong.
        """
        for group, used in self._initialised():
            for start in range(0, used, self._per_window):
                count = min(self._per_window, used - start)
                yield from self._scan_window((group, start // self._per_window), count, flags, on_unused)

    def arrays(self) -> Iterator[InodeArrays]:
        """The same inodes as NumPy arrays, some thousands at a time: ten times as fast, without objects.

        Damage is reported as by `scan`.
        """
        per_piece = self._per_window * _WINDOWS_A_PIECE
        for group, used in self._initialised():
            for start in range(0, used, per_piece):
                yield self._arrays(group, start, min(per_piece, used - start))

    def _arrays(self, group: int, start: int, count: int) -> InodeArrays:
        from ext4img.volume.inode_arrays import arrays_from, decode_arrays

        first = group * self._per_group + start + 1
        size = self._superblock.block_size
        blocks = -(-count * self._size // size)
        try:
            table = self._blocks.read_data(self._groups[group].inode_table + start * self._size // size, blocks)
        except SourceError:  # window by window: one bad sector must not cost other inodes
            windows = range(start, start + count, self._per_window)
            keys = (((group, at // self._per_window), min(self._per_window, start + count - at)) for at in windows)
            return arrays_from(inode for key, part in keys for inode in self._scan_window(key, part, 0))
        table = table[: count * self._size]
        columns, doubtful = decode_arrays(first, table, self._form)
        doubtful += self._rules.doubtful(InodeWords(table, self._size)) if _LITTLE_ENDIAN else range(count)
        if self._verify and _LITTLE_ENDIAN and self._size > EXT4_INODE.size:
            doubtful += checksum.wrong_inodes(self._seed, first, table, self._size)
        elif self._verify:
            doubtful += range(count)
        doubtful += (number - first for number in self._overrides if 0 <= number - first < count)
        for row in doubtful:
            columns.put(row, self._in_use(first + row))
        return columns.where(columns.in_use)

    def _initialised(self) -> Iterator[tuple[int, int]]:
        """(group, inodes that may have been used) for every group whose table can be read."""
        for number in self._groups.readable():
            try:
                group = self._groups[number]
                self._blocks.check_there(group.inode_table)
            except (CorruptionError, SourceError) as error:
                self._problems.unreadable(error, Place(record=EXT4_GROUP_DESC.name))
                continue
            if not group.inodes_uninitialised:
                yield number, self._per_group - group.unused_inodes

    def _scan_window(
        self, key: tuple[int, int], count: int, flags: int, on_unused: Callable[[int], None] | None = None
    ) -> Iterator[StoredInode]:
        """The inodes in use among the first `count` of a window."""
        group, index = key
        first = group * self._per_group + index * self._per_window + 1
        window = self._load(key) if self._in_bulk else b""
        decoded = self._decode(key, window, flags) if window else [None] * count
        new = tuple.__new__
        links_at, mode_at, flags_at, dtime_at = _ROW_LINKS, _ROW_MODE, _ROW_FLAGS, _ROW_DTIME
        for number, row in zip(range(first, first + count), decoded, strict=False):
            if row is not None:
                if row[links_at] and row[mode_at] and (not flags or row[flags_at] & flags):
                    yield new(StoredInode, row)
                elif on_unused is not None and (row[mode_at] or row[dtime_at]):
                    on_unused(number)
                continue
            inode = self._in_use(number)
            if inode is None and on_unused is not None:
                on_unused(number)
            if inode is not None and (not flags or inode.flags & flags):
                yield inode

    def _in_use(self, number: int) -> StoredInode | None:
        """The inode, read alone; None if it is not in use, or unreadable, which is reported."""
        try:
            raw = self.raw(number)
        except (CorruptionError, SourceError) as error:
            self._problems.unreadable(error, Place(block=self.place(number).block))
            return None
        if raw[_LINKS : _LINKS + 2] == b"\0\0" or raw[_MODE : _MODE + 2] == b"\0\0":
            return None
        inode = self._alone(number)
        return inode if inode.links and inode.mode else None

    def verify(self, number: int) -> None:
        """Raise or report a wrong checksum, be the inode in use or not."""
        if self._verify:
            self._check(number, self.raw(number))

    def _check(self, number: int, raw: bytes) -> None:
        (generation,) = _generation(raw, _GENERATION)
        computed = checksum.inode(checksum.inode_seed(self._seed, number, generation), raw)
        stored = checksum.stored_inode(raw)
        # An inode that was never used is all zeros and has no checksum (libext2fs: ext2fs_inode_csum_verify).
        if stored != computed and any(raw[: EXT4_INODE.size]):
            self._problems.checksum("inode", stored, computed, self.place(number))

    def _load(self, key: tuple[int, int]) -> bytes:
        window = self._windows.get(key)
        if window is not None:
            with suppress(KeyError):  # another thread may have dropped it; we still have the bytes
                self._windows.move_to_end(key)
            return window
        group, index = key
        first = index * self._window_blocks
        count = min(self._window_blocks, self._groups.table_blocks - first)
        try:
            window = self._blocks.read_data(self._groups[group].inode_table + first, count)
        except (CorruptionError, SourceError):
            window = b""  # `raw` then reads block by block, and raises for the bad one or a lost group
        self._windows[key] = window
        if len(self._windows) > self._max_windows:
            self._windows.popitem(last=False)
        return window
