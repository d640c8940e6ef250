"""The inode table as NumPy arrays: one array for each field, no object for each inode.

For questions about all inodes: timelines, sums, searches. Each array holds the values of the field of
the same name in `StoredInode`; tests prove them equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ext4img.structs.inode import EXT4_HUGE_FILE_FL, EXT4_INODE, EXT4_INODE_EXTRA, S_IFMT, S_IFREG, SECTOR_SIZE
from ext4img.volume.inode import InodeFormat, StoredInode

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

_BILLION = 1_000_000_000
_TIMES = ("atime", "mtime", "ctime", "crtime")
_ALL_EXTRA = EXT4_INODE_EXTRA.size


class InodeArrays(NamedTuple):
    """Some inodes, in order of their numbers: element i of all arrays belongs to the same inode.

    Each time has two arrays: seconds since 1970 and the nanoseconds to add, both int64. Nanoseconds
    since 1970 would outgrow 64 bits in 2262, before ext4's times end. `crtime` is 0 where
    `has_crtime` is False: the inode has no room for it. The other arrays are uint64.
    """

    number: NDArray[numpy.uint64]
    mode: NDArray[numpy.uint64]
    uid: NDArray[numpy.uint64]
    gid: NDArray[numpy.uint64]
    size: NDArray[numpy.uint64]
    links: NDArray[numpy.uint64]
    sectors: NDArray[numpy.uint64]
    flags: NDArray[numpy.uint64]
    generation: NDArray[numpy.uint64]
    version: NDArray[numpy.uint64]
    dtime: NDArray[numpy.uint64]
    project_id: NDArray[numpy.uint64]
    xattr_block: NDArray[numpy.uint64]
    atime: NDArray[numpy.int64]
    atime_ns: NDArray[numpy.int64]
    mtime: NDArray[numpy.int64]
    mtime_ns: NDArray[numpy.int64]
    ctime: NDArray[numpy.int64]
    ctime_ns: NDArray[numpy.int64]
    crtime: NDArray[numpy.int64]
    crtime_ns: NDArray[numpy.int64]
    has_crtime: NDArray[numpy.bool_]

    @property
    def in_use(self) -> NDArray[numpy.bool_]:
        """The mask of inodes that have links and a mode."""
        in_use: NDArray[numpy.bool_] = (self.links != 0) & (self.mode != 0)
        return in_use

    def where(self, rows: NDArray[numpy.bool_]) -> InodeArrays:
        """The inodes for which the mask is True."""
        return InodeArrays._make(column[rows] for column in self)

    def put(self, row: int, inode: StoredInode | None) -> None:
        """Set one inode's values; None makes it one that is not in use."""
        for name, column in zip(self._fields, self, strict=True):
            column[row] = 0 if inode is None else _cell(name, inode)


_PLAIN = InodeArrays._fields[: InodeArrays._fields.index("atime")]


def _cell(name: str, inode: StoredInode) -> int:
    if name in _PLAIN:
        return int(getattr(inode, name))
    if name == "has_crtime":
        return inode.crtime_ns is not None
    time_ns = getattr(inode, f"{name.removesuffix('_ns')}_ns") or 0
    # Seconds are rounded down, also if the stored fraction is more than a second.
    return int(time_ns % _BILLION if name.endswith("_ns") else time_ns // _BILLION)


def decode_arrays(first: int, table: bytes, form: InodeFormat) -> tuple[InodeArrays, list[int]]:
    """The inodes of a piece of inode table, in use or not; the first has number `first`.

    The list has the positions of inodes that only `from_raw` can decode, whose values here mean
    nothing: damaged ones, and those of a layout that only ext4's first kernels wrote.
    """
    import numpy

    u64, i64 = numpy.uint64, numpy.int64
    raw = numpy.frombuffer(table, _dtype(form.inode_size))
    count = len(raw)

    def joined(low: str, high: str, bits: int, wide: bool = True) -> NDArray[numpy.uint64]:
        column = raw[low].astype(u64)
        return column | raw[high].astype(u64) << u64(bits) if wide else column

    zeros = numpy.zeros(count, u64)
    has_extra = form.inode_size > EXT4_INODE.size
    odd = numpy.zeros(count, numpy.bool_)
    version, project_id = raw["l_i_version"].astype(u64), zeros
    if has_extra:
        stored = raw["i_extra_isize"]  # 0: unused space counts as having all fields
        odd = (stored != 0) & ((stored < _ALL_EXTRA) | (stored & 3 != 0) | (stored > form.inode_size - EXT4_INODE.size))
        version = joined("l_i_version", "i_version_hi", 32)
        if form.has_project:
            project_id = raw["i_projid"].astype(u64)
    mode = raw["i_mode"].astype(u64)
    size = joined("i_size_lo", "i_size_high", 32)
    if not form.has_large_dir:
        size = numpy.where(mode & u64(S_IFMT) == S_IFREG, size, raw["i_size_lo"].astype(u64))
    flags = raw["i_flags"].astype(u64)
    sectors = joined("i_blocks_lo", "l_i_blocks_high", 32, form.has_huge_file)
    if form.has_huge_file:
        in_blocks = flags & u64(EXT4_HUGE_FILE_FL) != 0
        sectors = numpy.where(in_blocks, sectors * u64(form.block_size // SECTOR_SIZE), sectors)

    def time(name: str) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]]:
        if not has_extra:
            seconds = numpy.zeros(count, i64) if name == "crtime" else raw[f"i_{name}"].astype(i64)
            return seconds, numpy.zeros(count, i64)
        extra = raw[f"i_{name}_extra"].astype(i64)
        seconds = raw[f"i_{name}"].astype(i64) + ((extra & 3) << 32)
        fraction = extra >> 2  # 30 bits, which can hold more than a second
        return seconds + fraction // _BILLION, fraction % _BILLION

    columns = InodeArrays(
        numpy.arange(first, first + count, dtype=u64),
        mode,
        joined("i_uid", "l_i_uid_high", 16),
        joined("i_gid", "l_i_gid_high", 16),
        size,
        raw["i_links_count"].astype(u64),
        sectors,
        flags,
        raw["i_generation"].astype(u64),
        version,
        raw["i_dtime"].astype(u64),
        project_id,
        joined("i_file_acl_lo", "l_i_file_acl_high", 32, form.has_64bit),
        *time("atime"),
        *time("mtime"),
        *time("ctime"),
        *time("crtime"),
        numpy.full(count, has_extra, numpy.bool_),
    )
    return columns, [int(row) for row in numpy.flatnonzero(odd)]


def arrays_from(inodes: Iterable[StoredInode]) -> InodeArrays:
    """The arrays of inodes that exist as objects."""
    import numpy

    rows = list(inodes)
    kinds: list[Any] = [numpy.uint64] * len(_PLAIN) + [numpy.int64] * (2 * len(_TIMES)) + [numpy.bool_]
    columns = InodeArrays._make(numpy.empty(len(rows), kind) for kind in kinds)
    for row, inode in enumerate(rows):
        columns.put(row, inode)
    return columns


@lru_cache(maxsize=16)
def _dtype(inode_size: int) -> numpy.dtype[Any]:
    """Both records as one, `inode_size` bytes apart."""
    import numpy

    records = [(EXT4_INODE, 0)]
    if inode_size > EXT4_INODE.size:
        records.append((EXT4_INODE_EXTRA, EXT4_INODE.size))
    names, formats, offsets = [], [], []
    for record, start in records:
        layout = record.dtype()
        for field in record.fields:
            names.append(field.name)
            formats.append(layout[field.name])
            offsets.append(start + field.offset)
    return numpy.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": inode_size})
