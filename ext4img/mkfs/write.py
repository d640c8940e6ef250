"""Writing a plan: one pass over the disk, from the first block to the last.

Each kind of region has a generator of its blocks. They run in the order of the disk, so bodies are
read nearly in the order of the nodes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final

from ext4img.errors import BuildError
from ext4img.interruption import checkpoint, deferred
from ext4img.mkfs.directory_blocks import DirectoryWriter
from ext4img.mkfs.extents import build_blocks
from ext4img.mkfs.geometry import FIRST_INODE
from ext4img.mkfs.groups import build_descriptors
from ext4img.mkfs.image_output import ImageOutput
from ext4img.mkfs.inodes import put_checksum
from ext4img.mkfs.nodes import RandomAccessBody
from ext4img.mkfs.plan import Plan
from ext4img.mkfs.regions import Region, RegionKind
from ext4img.mkfs.reserved_inodes import journal_superblock, orphan_block, reserved_blocks, resize_map
from ext4img.mkfs.superblock import build_superblock
from ext4img.progress import Progress
from ext4img.structs.group import EXT4_BG_BLOCK_UNINIT, EXT4_BG_INODE_UNINIT
from ext4img.structs.inode import EXT4_INODE, I_BLOCK_SIZE
from ext4img.structs.superblock import SUPERBLOCK_OFFSET
from ext4img.structs.xattr import EXT4_XATTR_HEADER
from ext4img.volume import checksum

WINDOW_BYTES: Final = 1 << 20
_TABLE_WINDOW_BYTES: Final = 1 << 18
_I_BLOCK: Final = EXT4_INODE.offset_of("i_block")

# Bytes, or a number of zero blocks.
Chunk = bytes | bytearray | int


def write(
    plan: Plan,
    bodies: Callable[[int], RandomAccessBody],
    destination: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    device: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write the file system of `plan`. `bodies` returns a file's contents for its node's `body`.

    A file gets its name only when it is complete; an existing file is an error without `overwrite`. A
    block device is only written to with `device`, and its superblock last. `progress` is called with
    the bytes of the image that are done. BuildError if the image can't be written, or if a body does
    not match its node. Errors of bodies are passed on.
    """
    block_size = plan.geometry.block_size
    held_back = max(block_size, SUPERBLOCK_OFFSET * 2)
    with (
        deferred(),
        ImageOutput(
            destination,
            plan.image_size,
            device_size=plan.size,
            overwrite=overwrite,
            device=device,
            held_back=held_back,
            progress=progress,
        ) as target,
    ):
        for offset, chunk in chunks(plan, bodies):
            checkpoint()
            if isinstance(chunk, int):
                target.zero(offset, chunk * block_size)
            else:
                target.put(offset, chunk)
        target.commit()


def chunks(plan: Plan, bodies: Callable[[int], RandomAccessBody]) -> Iterator[tuple[int, Chunk]]:
    """(byte offset, bytes or number of zero blocks) in ascending order; the blocks between them are free."""
    writer = _ImageWriter(plan, bodies)
    block_size = plan.geometry.block_size
    for region in plan.placement.regions.in_order():
        offset = region.pblk * block_size
        for chunk in writer.generators[region.kind](region):
            yield offset, chunk
            offset += chunk * block_size if isinstance(chunk, int) else len(chunk)


class _ImageWriter:
    """One generator of chunks for each kind of region."""

    def __init__(self, plan: Plan, bodies: Callable[[int], RandomAccessBody]) -> None:
        self._plan = plan
        self._bodies = bodies
        self._geometry = plan.geometry
        self._block_size = plan.geometry.block_size
        self._tree = plan.tree
        self._inodes = plan.tree.inodes
        self._seed = plan.checksum_seed
        self._descriptors = build_descriptors(plan.usage, plan.groups, plan.uuid, plan.seed)
        self._of_directory = {directory.index: directory for directory in plan.tree.directories}
        self._directory: DirectoryWriter | None = None
        self._directory_index = -1
        self.generators: dict[RegionKind, Callable[[Region], Iterator[Chunk]]] = {
            RegionKind.HEAD: self._head,
            RegionKind.BLOCK_BITMAP: self._block_bitmap,
            RegionKind.INODE_BITMAP: self._inode_bitmap,
            RegionKind.INODE_TABLE: self._inode_table,
            RegionKind.JOURNAL: self._journal,
            RegionKind.RESIZE_MAP: self._resize_map,
            RegionKind.DIRECTORY: self._directory_blocks,
            RegionKind.FILE: self._file,
            RegionKind.UNWRITTEN: self._unwritten,
            RegionKind.VALUE: self._value,
            RegionKind.EXTENT_TREE: self._extent_tree,
            RegionKind.XATTR_BLOCK: self._xattr_block,
            RegionKind.ORPHAN_FILE: self._orphan_file,
        }

    def _head(self, region: Region) -> Iterator[Chunk]:
        group = region.owner
        plan = self._plan
        reserved = plan.reserved
        journal_i_block = b"" if reserved.journal is None else self._inodes.i_block(reserved.journal)
        raw = build_superblock(
            plan.options,
            self._geometry,
            free_blocks=plan.free_blocks,
            free_inodes=plan.free_inodes,
            journal_i_block=journal_i_block,
            journal_size=self._geometry.journal_blocks * self._block_size,
            orphan_file=0 if reserved.orphans is None else self._inodes.numbers[reserved.orphans],
            least_extra_size=self._inodes.least_extra_size,
            seed=plan.seed,
            group=group,
        )
        before = SUPERBLOCK_OFFSET if group == 0 and self._block_size > SUPERBLOCK_OFFSET else 0
        yield (bytes(before) + raw).ljust(self._block_size, b"\0")
        yield self._descriptors.ljust(self._geometry.descriptor_blocks * self._block_size, b"\0")
        if not self._geometry.reserved_descriptor_blocks:
            return
        if group:
            yield self._geometry.reserved_descriptor_blocks
        else:
            yield b"".join(reserved_blocks(self._geometry))

    def _block_bitmap(self, region: Region) -> Iterator[Chunk]:
        uninit = self._plan.groups[region.owner].flags & EXT4_BG_BLOCK_UNINIT
        yield 1 if uninit else self._plan.usage.block_bitmap(region.owner)

    def _inode_bitmap(self, region: Region) -> Iterator[Chunk]:
        uninit = self._plan.groups[region.owner].flags & EXT4_BG_INODE_UNINIT
        yield 1 if uninit else self._plan.usage.inode_bitmap(region.owner)

    def _inode_table(self, region: Region) -> Iterator[Chunk]:
        geometry = self._geometry
        first = region.owner * geometry.inodes_per_group + 1
        usage = self._plan.usage
        used = usage.inodes_in(region.owner)
        numbers = {usage.numbers[position]: usage.inodes_by_number[position] for position in used}
        inode_size = geometry.inode_size
        per_window = _TABLE_WINDOW_BYTES // inode_size
        if region.owner == 0 or first < FIRST_INODE:
            for number in range(first, min(first + geometry.inodes_per_group, FIRST_INODE)):
                numbers.setdefault(number, -1)
        end = max(numbers, default=first - 1) + 1
        done = 0
        for start in range(first, end, per_window):
            blocks = min(_TABLE_WINDOW_BYTES // self._block_size, region.length - done)
            table = bytearray(blocks * self._block_size)
            for number in range(start, min(start + per_window, end)):
                index = numbers.get(number)
                if index is not None:
                    self._put_inode(index, number, table, (number - start) * inode_size)
            done += blocks
            yield table
        if done < region.length:
            yield region.length - done

    def _put_inode(self, index: int, number: int, table: bytearray, at: int) -> None:
        if index < 0:  # reserved, and not in use: zeros, but with a checksum
            if self._seed is not None:
                put_checksum(checksum.inode_seed(self._seed, number, 0), table, at, self._geometry.inode_size)
            return
        inodes = self._inodes
        inodes.write(index, table, at, None)
        inline = self._tree.inline_data.get(index)
        if inline is not None:
            self._put_inline(index, table, at, at + inodes.fixed_size(index) + inline)
        if self._seed is not None:
            put_checksum(inodes.checksum_seed(self._seed, index), table, at, self._geometry.inode_size)

    def _put_inline(self, index: int, table: bytearray, at: int, value_at: int) -> None:
        """Put inline contents into i_block, and the rest of them into the attribute system.data."""
        size = self._inodes.size(index)
        directory = self._of_directory.get(index)
        if directory is None:
            data = self._read(index, self._bodies(self._inodes.bodies[index]), 0, size)
            i_block, rest = data[:I_BLOCK_SIZE].ljust(I_BLOCK_SIZE, b"\0"), data[I_BLOCK_SIZE:]
        else:
            i_block, rest = self._writer_of(index).inline(size)
        table[at + _I_BLOCK : at + _I_BLOCK + I_BLOCK_SIZE] = i_block
        table[value_at : value_at + len(rest)] = rest

    def _journal(self, region: Region) -> Iterator[Chunk]:
        if region.lblk == 0:
            yield journal_superblock(self._plan.options, self._geometry)
        if region.length > (region.lblk == 0):
            yield region.length - (region.lblk == 0)

    def _orphan_file(self, region: Region) -> Iterator[Chunk]:
        seed = None if self._seed is None else self._inodes.checksum_seed(self._seed, region.owner)
        for pblk in range(region.pblk, region.pblk + region.length):
            yield orphan_block(self._block_size, pblk, seed)

    def _resize_map(self, region: Region) -> Iterator[Chunk]:
        yield resize_map(self._geometry)

    def _directory_blocks(self, region: Region) -> Iterator[Chunk]:
        yield from self._writer_of(region.owner).blocks(region.lblk, region.length)

    def _writer_of(self, index: int) -> DirectoryWriter:
        if self._directory is None or self._directory_index != index:
            inodes = self._inodes
            seed = None if self._seed is None else inodes.checksum_seed(self._seed, index)
            self._directory = DirectoryWriter(
                self._of_directory[index], self._plan.directory_options, inodes.numbers, inodes.types, seed
            )
            self._directory_index = index
        return self._directory

    def _file(self, region: Region) -> Iterator[Chunk]:
        index = region.owner
        block_size = self._block_size
        body = self._bodies(self._inodes.bodies[index])
        end_of_data = self._tree.ends.get(index)
        if end_of_data is None:
            end_of_data = self._inodes.size(index)
        start = region.lblk * block_size
        end = start + region.length * block_size
        for offset in range(start, end, WINDOW_BYTES):
            wanted = min(WINDOW_BYTES, end - offset)
            there = min(wanted, end_of_data - offset)  # positive, or the block would not exist
            data = self._read(index, body, offset, there)
            # Zeros of a file become holes in the image. The first byte rules them out for most files.
            if not data[0] and data.count(0) == there:
                yield wanted // block_size
            else:
                yield data if there == wanted else data.ljust(wanted, b"\0")

    def _read(self, index: int, body: RandomAccessBody, offset: int, length: int) -> bytes:
        data = body.read_at(offset, length)
        if len(data) != length:
            raise BuildError(
                f"its contents end early: {len(data)} bytes instead of {length} at {offset}",
                self._inodes.show(index),
            )
        return data

    def _unwritten(self, region: Region) -> Iterator[Chunk]:
        yield from ()

    def _value(self, region: Region) -> Iterator[Chunk]:
        start = region.lblk * self._block_size
        length = region.length * self._block_size
        yield self._tree.values[region.owner][start : start + length].ljust(length, b"\0")

    def _extent_tree(self, region: Region) -> Iterator[Chunk]:
        placement = self._plan.placement
        seed = None if self._seed is None else self._inodes.checksum_seed(self._seed, region.owner)
        blocks = build_blocks(placement.runs_of(region.owner), placement.tree_of(region.owner), self._block_size, seed)
        yield b"".join(blocks[region.lblk : region.lblk + region.length])

    def _xattr_block(self, region: Region) -> Iterator[Chunk]:
        tree = self._tree
        shared = tree.xattr_blocks[tree.xattr_block_of[region.owner]]
        numbers = tuple(self._inodes.numbers[index] for index in shared.values)
        block = shared.block.build(self._block_size, shared.sharers, numbers)
        if self._seed is not None:
            value = checksum.xattr_block(self._plan.seed, region.pblk, bytes(block))
            at = EXT4_XATTR_HEADER.offset_of("h_checksum")
            block[at : at + 4] = value.to_bytes(4, "little")
        yield block
