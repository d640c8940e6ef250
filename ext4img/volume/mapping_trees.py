"""Mappings with blocks of their own: extent trees, and the block maps of ext2 and ext3.

Kernel: fs/ext4/extents.c, fs/ext4/indirect.c.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from operator import itemgetter
from struct import unpack

from ext4img.errors import ChecksumError, CorruptionError, Place, SourceError
from ext4img.structs.extent import (
    EXT4_EXT_MAGIC,
    EXT4_EXTENT,
    EXT4_EXTENT_HEADER,
    EXT4_EXTENT_IDX,
    EXT4_EXTENT_TAIL,
    EXT4_MAX_EXTENT_DEPTH,
    EXT_INIT_MAX_LEN,
)
from ext4img.structs.inode import EXT4_EXTENTS_FL, EXT4_INODE, EXT4_NDIR_BLOCKS
from ext4img.volume import checksum
from ext4img.volume.blocks import BlockReader
from ext4img.volume.inode import StoredInode
from ext4img.volume.problems import Problems
from ext4img.volume.runs import LBLK_END, LOST, UNWRITTEN, WRITTEN, Run
from ext4img.volume.salvage.ascending import longest_ascending

_ENTRY_SIZE = EXT4_EXTENT.size
_HEADER_SIZE = EXT4_EXTENT_HEADER.size


def collect_runs(
    inode: StoredInode,
    blocks: BlockReader,
    problems: Problems,
    *,
    seed: int | None,
    first_block: int,
    max_mapped: int,
) -> tuple[list[Run], set[int]]:
    """The runs of an inode, sorted and disjoint, and the blocks of its extent tree or block map.

    `seed` is the file system's; None: checksums are not verified. No file uses blocks up to
    `first_block`, or more than `max_mapped` of them.
    """
    tree: _MappingTree
    if inode.flags & EXT4_EXTENTS_FL:
        seed_of_inode = None if seed is None else checksum.inode_seed(seed, inode.number, inode.generation)
        tree = _ExtentTree(inode, blocks, problems, first_block, max_mapped, seed_of_inode)
    else:
        tree = _BlockMap(inode, blocks, problems, first_block, max_mapped)
    tree.collect()
    return _disjoint(tree.found) if tree.damaged else tree.found, tree.visited


class _TooManyBlocks(Exception):
    """Ends the recursion; never leaves this module. `lblk` is the first logical block not mapped."""

    def __init__(self, lblk: int) -> None:
        self.lblk = lblk


class _MappingTree(ABC):
    """The common part of both kinds of mapping: the runs that are found, and those that are lost."""

    def __init__(
        self, inode: StoredInode, blocks: BlockReader, problems: Problems, first_block: int, max_mapped: int
    ) -> None:
        self._blocks = blocks
        self._problems = problems
        self._first_block = first_block
        self._inode = inode.number
        self._left = max_mapped
        self.visited: set[int] = set()
        self.found: list[Run] = []
        self.damaged = False

    def collect(self) -> None:
        """Fill `found` and `visited`."""
        try:
            self._collect()
        except _TooManyBlocks as error:
            reason = f"maps more blocks than the volume's {self._blocks.block_count}, so some of them twice"
            self._lost(CorruptionError(reason, Place(inode=self._inode)), error.lblk, LBLK_END)

    @abstractmethod
    def _collect(self) -> None:
        """Fill both, or raise _TooManyBlocks."""

    def _lost(self, error: CorruptionError, first: int, stop: int) -> None:
        """Add logical blocks as lost, and report why."""
        self._problems.found(error)
        self._add_lost(first, stop)

    def _add_lost(self, first: int, stop: int) -> None:
        """Add logical blocks as lost; the caller has reported why."""
        self.damaged = True
        if stop <= first:
            return
        if self.found and self.found[-1].state == LOST and self.found[-1].end == first:
            first = self.found.pop().lblk
        self.found.append(Run(first, 0, stop - first, LOST))


class _ExtentTree(_MappingTree):
    def __init__(
        self,
        inode: StoredInode,
        blocks: BlockReader,
        problems: Problems,
        first_block: int,
        max_mapped: int,
        seed_of_inode: int | None,
    ) -> None:
        super().__init__(inode, blocks, problems, first_block, max_mapped)
        self._seed = seed_of_inode
        self._root = inode.block_area

    def _collect(self) -> None:
        try:
            depth = self._header(self._root, None, None)[1]
        except CorruptionError as error:
            self._lost(error, 0, LBLK_END)
            return
        self._node(self._root, depth, 0, LBLK_END, None)

    def _place(self, block: int | None, field: str | None = None, record: str = EXT4_EXTENT_HEADER.name) -> Place:
        return Place(inode=self._inode, block=block, record=record, field=field)

    def _header(self, node: bytes, block: int | None, depth: int | None) -> tuple[int, int]:
        """(entries, depth) of a node. It must have `depth`, unless that is None, for the root."""
        magic, entries, capacity, node_depth, _ = EXT4_EXTENT_HEADER.unpack_tuple(node)
        if magic != EXT4_EXT_MAGIC:
            raise CorruptionError(f"extent node has magic {magic:#06x}, not 0xf30a", self._place(block, "eh_magic"))
        room = (len(node) - _HEADER_SIZE) // _ENTRY_SIZE
        if capacity == 0 or capacity > room:
            raise CorruptionError(
                f"extent node claims room for {capacity} entries, it has room for {room}", self._place(block, "eh_max")
            )
        if entries > capacity:
            raise CorruptionError(f"extent node has {entries} entries of {capacity}", self._place(block, "eh_entries"))
        if node_depth > EXT4_MAX_EXTENT_DEPTH or (depth is not None and node_depth != depth):
            wanted = f"{depth}" if depth is not None else f"at most {EXT4_MAX_EXTENT_DEPTH}"
            raise CorruptionError(
                f"extent node of depth {node_depth}, must be {wanted}", self._place(block, "eh_depth")
            )
        if entries == 0 and node_depth > 0:
            raise CorruptionError("extent index node without entries", self._place(block, "eh_entries"))
        return entries, node_depth

    def _node(self, node: bytes, depth: int, first: int, end: int, block: int | None) -> None:
        """Add the runs of a node that has been verified and covers logical blocks first to end."""
        entries = EXT4_EXTENT_HEADER.unpack_tuple(node)[1]
        if depth == 0:
            self._leaf(memoryview(node)[_HEADER_SIZE : _HEADER_SIZE + entries * _ENTRY_SIZE], first, end, block)
            return
        index = EXT4_EXTENT_IDX.unpack_many(node, entries, _HEADER_SIZE)
        starts = [entry.ei_block for entry in index]
        chosen: Sequence[int] = range(entries)
        bounds = [first - 1, *starts, end]
        if any(one >= next_ for one, next_ in pairwise(bounds)):
            chosen = self._believed_indexes(starts, first, end, block)
        for position, following in zip(chosen, (*chosen[1:], None), strict=True):
            start = starts[position]
            stop = starts[following] if following is not None else end
            child = index[position].ei_leaf_lo | index[position].ei_leaf_hi << 32
            try:
                data = self._child(child, depth - 1, start)
            except (CorruptionError, SourceError) as error:
                self._lost(_as_corruption(error, self._place(child)), start, stop)
                continue
            self._node(data, depth - 1, start, stop, child)

    def _believed_indexes(self, starts: list[int], first: int, end: int, block: int | None) -> Sequence[int]:
        """The positions of the entries of a damaged index node that are used; what the others may map is lost."""
        chosen = longest_ascending([(start, start + 1) for start in starts], first, end)
        believed = frozenset(chosen)
        following = iter([*(starts[position] for position in chosen), end])
        reached, stop = first, next(following)
        place = self._place(block, "ei_block", EXT4_EXTENT_IDX.name)
        for position, start in enumerate(starts):
            if position in believed:
                reached, stop = start, next(following)
                continue
            reason = f"extent index of logical block {start} is not between {reached} and {stop}"
            self._lost(CorruptionError(reason, place), reached, stop)
        return chosen

    def _child(self, block: int, depth: int, start: int) -> bytes:
        """A node below the root, verified. Its index entry says that it begins at logical block `start`."""
        if block in self.visited:
            raise CorruptionError("extent tree reaches the same block twice", self._place(block))
        if block <= self._first_block:
            raise CorruptionError(f"extent tree points at block {block}", self._place(block))
        self.visited.add(block)
        data = self._blocks.read(block)
        entries, _ = self._header(data, block, depth)
        if self._seed is not None:
            capacity = EXT4_EXTENT_HEADER.unpack_tuple(data)[2]
            covered = _HEADER_SIZE + capacity * _ENTRY_SIZE
            if covered + EXT4_EXTENT_TAIL.size > len(data):
                raise CorruptionError("extent node has no room for its checksum", self._place(block, "eh_max"))
            (stored,) = EXT4_EXTENT_TAIL.unpack_tuple(data, covered)
            computed = checksum.extent_block(self._seed, data[:covered])
            if stored != computed:
                error = ChecksumError(
                    f"extent block checksum is {stored:#x}, computed {computed:#x}",
                    self._place(block, "et_checksum", EXT4_EXTENT_TAIL.name),
                )
                self._problems.found(error)
        # Indexes and extents both begin with their logical block.
        begins = EXT4_EXTENT_IDX.unpack_tuple(data, _HEADER_SIZE)[0]
        if entries and begins != start:
            reason = f"extent node begins at logical block {begins}, its index says {start}"
            self._problems.found(CorruptionError(reason, self._place(block, "ei_block", EXT4_EXTENT_IDX.name)))
        return data

    def _leaf(self, extents: memoryview, first: int, end: int, block: int | None) -> None:
        add, new = self.found.append, tuple.__new__
        left, begins = self._left, self._first_block
        volume_end = self._blocks.block_count
        reached, before = first, len(self.found)
        for lblk, length, start_high, start_low in EXT4_EXTENT.iter_tuples(extents):
            state = WRITTEN
            if length > EXT_INIT_MAX_LEN:
                length -= EXT_INIT_MAX_LEN  # noqa: PLW2901 - as the kernel's ext4_ext_get_actual_len
                state = UNWRITTEN
            pblk = start_low | start_high << 32
            stop = lblk + length
            if lblk < reached or stop > end or length == 0:
                del self.found[before:]
                self._leaf(self._believed_extents(extents, first, end, block), first, end, block)
                return
            if pblk <= begins or pblk + length > volume_end:
                reason = f"extent points at blocks {pblk} to {pblk + length}, the volume has {volume_end}"
                self._lost(CorruptionError(reason, self._place(block, None, EXT4_EXTENT.name)), lblk, stop)
                reached = stop
                continue
            left -= length
            if left < 0:
                raise _TooManyBlocks(lblk)
            add(new(Run, (lblk, pblk, length, state)))
            reached = stop
        self._left = left

    def _believed_extents(self, extents: memoryview, first: int, end: int, block: int | None) -> memoryview:
        """Those extents of a damaged leaf that are used.

        Of each of the others are lost the blocks that it claims, and those between its neighbours, where it
        may belong; as far as no other extent has them.
        """
        spans = []
        for lblk, length, _, _ in EXT4_EXTENT.iter_tuples(extents):
            spans.append((lblk, lblk + length - (EXT_INIT_MAX_LEN if length > EXT_INIT_MAX_LEN else 0)))
        chosen = longest_ascending(spans, first, end)
        place = self._place(block, None, EXT4_EXTENT.name)
        following = iter([*(spans[position][0] for position in chosen), end])
        believed = frozenset(chosen)
        reached, stop = first, next(following)
        for position, (start, beyond) in enumerate(spans):
            if position in believed:
                reached, stop = beyond, next(following)
                continue
            reason = f"extent of logical blocks {start} to {beyond} does not fit between {reached} and {stop}"
            self._lost(CorruptionError(reason, place), reached, stop)
            self._add_lost(start, min(beyond, LBLK_END))
        size = _ENTRY_SIZE
        return memoryview(b"".join(extents[position * size : (position + 1) * size] for position in chosen))


class _BlockMap(_MappingTree):
    """Twelve direct blocks, then trees of one, two and three levels of block pointers."""

    def __init__(
        self, inode: StoredInode, blocks: BlockReader, problems: Problems, first_block: int, max_mapped: int
    ) -> None:
        super().__init__(inode, blocks, problems, first_block, max_mapped)
        self._pointers: tuple[int, ...] = unpack("<15I", inode.block_area)
        self._per_block = blocks.block_size // 4
        self._format = f"<{self._per_block}I"

    def _collect(self) -> None:
        self._add(0, self._pointers[:EXT4_NDIR_BLOCKS], None)
        lblk = EXT4_NDIR_BLOCKS
        for level, pointer in enumerate(self._pointers[EXT4_NDIR_BLOCKS:]):
            if pointer:
                self._tree(pointer, level, lblk)
            lblk += self._per_block ** (level + 1)
            if lblk >= LBLK_END:
                break

    def _tree(self, block: int, level: int, lblk: int) -> None:
        span = self._per_block**level
        try:
            pointers = self._read(block)
        except (CorruptionError, SourceError) as error:
            place = Place(inode=self._inode, block=block)
            self._lost(_as_corruption(error, place), lblk, min(lblk + span * self._per_block, LBLK_END))
            return
        if level == 0:
            self._add(lblk, pointers, block)
            return
        for index, pointer in enumerate(pointers):
            if lblk + index * span >= LBLK_END:
                break
            if pointer:
                self._tree(pointer, level - 1, lblk + index * span)

    def _read(self, block: int) -> tuple[int, ...]:
        place = Place(inode=self._inode, block=block)
        if block in self.visited:
            raise CorruptionError("block map reaches the same block twice", place)
        if block <= self._first_block:
            raise CorruptionError(f"block map points at block {block}", place)
        self.visited.add(block)
        return unpack(self._format, self._blocks.read(block))

    def _add(self, lblk: int, pointers: tuple[int, ...], block: int | None) -> None:
        first, end = self._first_block, self._blocks.block_count
        start = length = 0  # of the run that is growing: its first physical block
        begun = lblk
        for number, pblk in enumerate(pointers, lblk):
            if length and pblk == start + length and pblk < end:
                length += 1
                continue
            if length:
                self._run(begun, start, length)
                length = 0
            if not pblk:
                continue
            if first < pblk < end:
                start, length, begun = pblk, 1, number
            else:
                place = Place(inode=self._inode, block=block, record=EXT4_INODE.name, field="i_block")
                how = f"are mapped to blocks outside the volume's {end}"
                self._problems.found_range("logical blocks", how, number, number + 1, place)
                self._add_lost(number, number + 1)
        if length:
            self._run(begun, start, length)

    def _run(self, lblk: int, pblk: int, length: int) -> None:
        self._left -= length
        if self._left < 0:
            raise _TooManyBlocks(lblk)
        self.found.append(Run(lblk, pblk, length, WRITTEN))


def _as_corruption(error: CorruptionError | SourceError, place: Place) -> CorruptionError:
    """The error as damage of this inode's mapping."""
    if not isinstance(error, CorruptionError):
        return CorruptionError(str(error), place)
    return error if error.place.inode is not None else CorruptionError(error.reason, place)


def _disjoint(runs: list[Run]) -> list[Run]:
    """The runs sorted and disjoint: damaged nodes can map the same logical blocks twice.

    The run that was found first keeps them. Blocks are lost only if no run has them.
    """
    solid: list[Run] = []
    reached = 0
    for lblk, pblk, length, state in sorted((run for run in runs if run.state != LOST), key=itemgetter(0)):
        skip = max(reached - lblk, 0)
        if skip < length:
            solid.append(Run(lblk + skip, pblk + skip, length - skip, state))
            reached = lblk + length
    lost: list[Run] = []
    reached = position = 0
    for run in sorted((run for run in runs if run.state == LOST), key=itemgetter(0)):
        reached = max(reached, run.lblk)
        while reached < run.end:
            while position < len(solid) and solid[position].end <= reached:
                position += 1
            if position < len(solid) and solid[position].lblk <= reached:
                reached = solid[position].end
                continue
            stop = min(solid[position].lblk, run.end) if position < len(solid) else run.end
            lost.append(Run(reached, 0, stop - reached, LOST))
            reached = stop
    return sorted(solid + lost, key=itemgetter(0))
