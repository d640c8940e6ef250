"""The inodes of the new file system: their records as they will be on disk.

Two hundred thousand objects would take more memory than the file system's own structures. So an
inode is packed into its record at once, and its other properties are columns. An inode is identified
by its `index`, in the order of appearance; its number is assigned when all inodes are known.
"""

from __future__ import annotations

from array import array
from struct import Struct
from typing import Final

from ext4img.errors import BuildError
from ext4img.mkfs.nodes import Node, Path, show_path
from ext4img.structs.directory import EXT4_TYPE_BY_MODE
from ext4img.structs.inode import (
    EXT4_EA_INODE_FL,
    EXT4_EOFBLOCKS_FL,
    EXT4_EXTENTS_FL,
    EXT4_HUGE_FILE_FL,
    EXT4_IMAGIC_FL,
    EXT4_INDEX_FL,
    EXT4_INLINE_DATA_FL,
    EXT4_INODE,
    EXT4_INODE_EXTRA,
    I_BLOCK_SIZE,
    S_IFMT,
)
from ext4img.volume import checksum

# i_flags that describe how an inode is laid out: never copied. The last two are obsolete.
LAYOUT_FLAGS: Final = (
    EXT4_INDEX_FL
    | EXT4_EXTENTS_FL
    | EXT4_HUGE_FILE_FL
    | EXT4_EA_INODE_FL
    | EXT4_INLINE_DATA_FL
    | EXT4_IMAGIC_FL
    | EXT4_EOFBLOCKS_FL
)
NO_INODE: Final = 0xFFFFFFFF
_BILLION: Final = 1_000_000_000
_BEFORE_CRTIME: Final = EXT4_INODE_EXTRA.offset_of("i_crtime")
FIRST_TIME_NS: Final = -(1 << 31) * _BILLION
"""In December 1901."""
LAST_TIME_NS: Final = ((1 << 34) - (1 << 31) - 1) * _BILLION + (1 << 30) - 1
"""In May 2446. The nanoseconds have 30 bits, which is a little more than a second."""
_U16: Final = Struct("<H")
_U32: Final = Struct("<I")
_SIZE_LO: Final = EXT4_INODE.offset_of("i_size_lo")
_SIZE_HIGH: Final = EXT4_INODE.offset_of("i_size_high")
_GENERATION: Final = EXT4_INODE.offset_of("i_generation")
_I_BLOCK: Final = EXT4_INODE.offset_of("i_block")
_OFFSETS: Final = {field.name: (field.offset, _U16 if field.size == 2 else _U32) for field in EXT4_INODE.fields}
# Both records as one, which is how nearly every inode is packed.
_BOTH: Final = Struct(
    EXT4_INODE.byte_order + "".join(field.code for field in (*EXT4_INODE.fields, *EXT4_INODE_EXTRA.fields))
)
assert _BOTH.size == EXT4_INODE.size + EXT4_INODE_EXTRA.size
_pack_both: Final = _BOTH.pack


def extra_size(node: Node, inode_size: int) -> int:
    """i_extra_isize of a node's inode.

    An inode without a birth time ends before i_crtime, for that is how the kernel knows it has none.
    """
    if inode_size <= EXT4_INODE.size:
        return 0
    needs_all = node.crtime_ns is not None or node.project_id or node.version >> 32
    return EXT4_INODE_EXTRA.size if needs_all else _BEFORE_CRTIME


def encode_time(time_ns: int) -> tuple[int, int]:
    """The signed low 32 bits of the seconds, and the extra word: two epoch bits and nanoseconds.

    ValueError outside `FIRST_TIME_NS` to `LAST_TIME_NS`. Kernel: ext4_encode_extra_time.
    """
    seconds, nanoseconds = divmod(time_ns, _BILLION)
    if -0x80000000 <= seconds <= 0x7FFFFFFF:
        return seconds, nanoseconds << 2
    epoch = seconds + 0x80000000 >> 32
    if epoch == 4 and time_ns <= LAST_TIME_NS:
        seconds, nanoseconds, epoch = seconds - 1, nanoseconds + _BILLION, 3
    if not 0 <= epoch <= 3:
        raise ValueError(f"{seconds} seconds since 1970")
    return seconds - (epoch << 32), nanoseconds << 2 | epoch


def put_checksum(seed_of_inode: int, table: bytearray, at: int, inode_size: int) -> None:
    """Fill the checksum fields of an inode within a piece of inode table."""
    raw = table[at : at + inode_size]
    checksum.store_inode(raw, checksum.inode(seed_of_inode, bytes(raw)))
    table[at : at + inode_size] = raw


class InodeRecords:
    """All inodes as columns. `inode_size` decides whether they have the extra fields."""

    def __init__(self, inode_size: int) -> None:
        self.inode_size = inode_size
        self.stride = EXT4_INODE.size + (EXT4_INODE_EXTRA.size if inode_size > EXT4_INODE.size else 0)
        self.records = bytearray()
        self.types = bytearray()  # EXT4_FT_*
        self.names: list[bytes] = []  # the first name, for messages
        self.parents = array("I")  # index of the directory that has this name, or NO_INODE
        self.wanted = array("I")  # the number to be kept, or 0
        self.numbers = array("I")
        self.bodies = array("q")
        self.inline_xattrs: list[bytes] = []
        self.least_extra_size = EXT4_INODE_EXTRA.size
        """The smallest i_extra_isize of all, if they have any."""

    def __len__(self) -> int:
        return len(self.types)

    def add(self, node: Node, parent: int, i_block: bytes, size: int, links: int, flags: int) -> int:
        """Add a node's inode and return its index. `i_block` may be short; `flags` describe its layout."""
        index = len(self.types)
        mode = node.mode
        uid, gid, version = node.uid, node.gid, node.version
        # A negative number stays negative when it is shifted, so this refuses those, too.
        if (uid | gid | node.project_id) >> 32:
            raise BuildError("owner, group and project are numbers of 32 bits", show_path(node.path))
        if mode >> 16 or (node.flags | node.generation) >> 32:
            raise BuildError("mode, flags or generation are out of range", show_path(node.path))
        if version >> 64:
            raise BuildError(f"version {version} does not fit 64 bits", show_path(node.path))
        try:
            atime, atime_extra = encode_time(node.atime_ns)
            ctime, ctime_extra = encode_time(node.ctime_ns)
            mtime, mtime_extra = encode_time(node.mtime_ns)
            crtime, crtime_extra = encode_time(node.crtime_ns or 0)
        except ValueError as error:
            raise BuildError(f"time out of ext4's range: {error}", show_path(node.path)) from None
        extra = extra_size(node, self.inode_size)
        self.least_extra_size = min(self.least_extra_size, extra)
        record = _pack_both(
            mode,
            uid & 0xFFFF,
            size & 0xFFFFFFFF,
            atime,
            ctime,
            mtime,
            0,
            gid & 0xFFFF,
            links,
            0,
            node.flags & ~LAYOUT_FLAGS | flags,
            version & 0xFFFFFFFF,
            i_block,
            node.generation,
            0,
            size >> 32,
            0,
            0,
            0,
            uid >> 16,
            gid >> 16,
            0,
            0,
            extra,
            0,
            ctime_extra,
            mtime_extra,
            atime_extra,
            crtime,
            crtime_extra,
            version >> 32,
            node.project_id,
        )
        if self.stride == EXT4_INODE.size:
            if (atime_extra | ctime_extra | mtime_extra) & 3:
                raise BuildError("a time after 2038 needs inodes of more than 128 bytes", show_path(node.path))
            record = record[: EXT4_INODE.size]
        self.records += record
        self.types.append(EXT4_TYPE_BY_MODE.get(mode & S_IFMT, 0))
        self.names.append(node.shown or (node.path[-1] if node.path else b""))
        self.parents.append(parent)
        self.wanted.append(0)
        self.numbers.append(0)
        self.bodies.append(node.body)
        self.inline_xattrs.append(b"")
        return index

    def cut(self, length: int) -> None:
        """Remove all but the first `length` inodes."""
        del self.records[length * self.stride :]
        for column in (
            self.types,
            self.names,
            self.parents,
            self.wanted,
            self.numbers,
            self.bodies,
            self.inline_xattrs,
        ):
            del column[length:]

    def put(self, index: int, field: str, value: int) -> None:
        """Set an integer field of struct ext4_inode."""
        offset, form = _OFFSETS[field]
        form.pack_into(self.records, index * self.stride + offset, value)

    def get(self, index: int, field: str) -> int:
        """An integer field of struct ext4_inode."""
        offset, form = _OFFSETS[field]
        return int(form.unpack_from(self.records, index * self.stride + offset)[0])

    def set_flags(self, index: int, flags: int, clear: int = 0) -> None:
        """Set and clear bits of i_flags."""
        self.put(index, "i_flags", self.get(index, "i_flags") & ~clear | flags)

    def set_i_block(self, index: int, i_block: bytes) -> None:
        """Fill i_block."""
        at = index * self.stride + _I_BLOCK
        self.records[at : at + I_BLOCK_SIZE] = i_block.ljust(I_BLOCK_SIZE, b"\0")

    def i_block(self, index: int) -> bytes:
        """i_block."""
        at = index * self.stride + _I_BLOCK
        return bytes(self.records[at : at + I_BLOCK_SIZE])

    def has_extents(self, index: int) -> bool:
        """Whether i_block is an extent tree."""
        return bool(self.get(index, "i_flags") & EXT4_EXTENTS_FL)

    def size(self, index: int) -> int:
        """i_size in bytes."""
        at = index * self.stride
        low: int = _U32.unpack_from(self.records, at + _SIZE_LO)[0]
        high: int = _U32.unpack_from(self.records, at + _SIZE_HIGH)[0]
        return high << 32 | low if high else low

    def set_size(self, index: int, size: int) -> None:
        """Set i_size in bytes."""
        self.put(index, "i_size_lo", size & 0xFFFFFFFF)
        self.put(index, "i_size_high", size >> 32)

    def fixed_size(self, index: int) -> int:
        """Bytes of the inode before its attributes."""
        if self.stride == EXT4_INODE.size:
            return EXT4_INODE.size
        return EXT4_INODE.size + int(_U16.unpack_from(self.records, index * self.stride + EXT4_INODE.size)[0])

    def checksum_seed(self, seed: int, index: int) -> int:
        """The seed of the checksums of the inode and its blocks."""
        generation: int = _U32.unpack_from(self.records, index * self.stride + _GENERATION)[0]
        return checksum.inode_seed(seed, self.numbers[index], generation)

    def write(self, index: int, table: bytearray, at: int, seed: int | None) -> None:
        """Put the whole inode into a piece of inode table; without `seed` it gets no checksum."""
        stride = self.stride
        table[at : at + stride] = self.records[index * stride : (index + 1) * stride]
        inline = self.inline_xattrs[index]
        if inline:
            table[at + self.fixed_size(index) : at + self.inode_size] = inline
        if seed is not None:
            put_checksum(self.checksum_seed(seed, index), table, at, self.inode_size)

    def path(self, index: int) -> Path:
        """The path of an inode's first name, for messages."""
        names: list[bytes] = []
        while self.parents[index] != NO_INODE:
            names.append(self.names[index])
            index = self.parents[index]
        return tuple(reversed(names))

    def show(self, index: int) -> str:
        """The path as people read it."""
        return show_path(self.path(index))
