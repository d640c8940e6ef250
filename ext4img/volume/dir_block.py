"""Parsing directory entries: in blocks, with or without an index, and inline.

The leaves of an indexed directory are ordinary blocks of entries, and its index blocks look like
empty entries to a linear reader. So listing needs no index (kernel: fs/ext4/dir.c, namei.c).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import chain
from struct import Struct
from typing import Any, NamedTuple

from ext4img.errors import ChecksumError, CorruptionError, Place
from ext4img.structs.directory import (
    DX_COUNTLIMIT,
    DX_ENTRY,
    DX_NODE_ENTRIES_OFFSET,
    DX_ROOT_ENTRIES_OFFSET,
    DX_ROOT_INFO,
    DX_ROOT_INFO_OFFSET,
    DX_TAIL,
    EXT4_DIR_ENTRY,
    EXT4_DIR_ENTRY_HASH,
    EXT4_DIR_ENTRY_TAIL,
    EXT4_DIR_MIN_REC_LEN,
    EXT4_FT_DIR_CSUM,
    EXT4_FT_MAX,
)
from ext4img.volume import checksum
from ext4img.volume.dir_entry import HUGE_BLOCK, DirEntry, DirListing, rec_len_from_disk
from ext4img.volume.problems import Problems

_HEADER_SIZE = EXT4_DIR_ENTRY.size
_MIN_REC_LEN = EXT4_DIR_MIN_REC_LEN
_header = EXT4_DIR_ENTRY.unpack_tuple
_DOTS = [b".", b".."]
_NO_NAMES = frozenset((b"", *_DOTS))
# By the length of the name. The shortest ones are always checked: they may be "." or "..".
_MIN_REC_LENS = tuple(_HEADER_SIZE + name_len if name_len > 2 else HUGE_BLOCK for name_len in range(256))
_KNOWN_TYPES = bytes(range(EXT4_FT_MAX))
# "." and ".." in the usual form: each entry without its inode number, and the first without its two
# bytes of padding.
_DOT_HEAD, _DOT = slice(4, 9), b"\x0c\0\1\2."
_DOTDOT_HEAD, _DOTDOT = slice(16, 22), b"\x0c\0\2\2.."
_DOTS_SIZE = 2 * _MIN_REC_LEN
_MIN_ALIKE = 8
_LITTLE_ENDIAN = sys.byteorder == "little"


class DirectoryFormat(NamedTuple):
    """The properties that decide how a directory's blocks are read."""

    inode: int
    seed: int | None  # of its checksums; None: they are not verified
    has_filetype: bool
    has_hash: bool  # encrypted and case-insensitive
    inode_count: int
    has_index: bool = True  # if not, no block is one of an index, whatever its bytes are


def parse_block(data: bytes, form: DirectoryFormat, problems: Problems, block: int | None, listing: DirListing) -> None:
    """Add the entries of one block to `listing`.

    Sound blocks without hashes take a third of the time that `parse_entries` needs, which reads the
    others.
    """
    end = len(data)
    if not form.has_hash and form.has_filetype and end < HUGE_BLOCK and _parse_sound(data, form, listing):
        return
    for entry in parse_entries(data, 0, form, problems, block):
        listing.add(*entry)


class _NeedsCloserLook(Exception):
    """Ends the quick parsing of a block; never leaves this module."""


def _parse_sound(data: bytes, form: DirectoryFormat, listing: DirListing) -> bool:
    """Add the entries of a block. False, and none added, if any of them needs a closer look."""
    start = _DOTS_SIZE if data[_DOT_HEAD] == _DOT and data[_DOTDOT_HEAD] == _DOTDOT else 0
    try:
        alike = _run_of_alike(data, start)
        if alike:
            names, inodes, types, start = _columns(data, start, alike)
            others = list(_fields(data, start))
            names += others[::3]
            inodes += others[1::3]
            types += bytes(others[2::3])
        else:
            others = list(_fields(data, start))
            names, inodes, types = others[::3], others[1::3], bytes(others[2::3])
    except _NeedsCloserLook:
        return False
    if inodes and not inodes[-1]:  # the tail with the checksum
        del names[-1], inodes[-1]
        types = types[:-1]
    if 0 in inodes:
        used = [at for at, number in enumerate(inodes) if number]
        names, inodes = [names[at] for at in used], [inodes[at] for at in used]
        types = bytes(types[at] for at in used)
    if types.translate(None, _KNOWN_TYPES) or (inodes and max(inodes) > form.inode_count):
        return False
    listing.names += names
    listing.inodes += inodes
    listing.types += types
    return True


def _fields(data: bytes, offset: int) -> Iterator[Any]:
    """Name, inode and type of every entry from `offset` on, in one flat sequence: no object per entry."""
    header, least = _header, _MIN_REC_LENS
    last = len(data) - _MIN_REC_LEN
    lengths = 0
    while offset <= last:
        number, rec_len, name_len, file_type = header(data, offset)
        start = offset + _HEADER_SIZE
        name = data[start : start + name_len]
        if rec_len < least[name_len] and (name_len > 2 or rec_len < _MIN_REC_LEN or (number and name in _NO_NAMES)):
            raise _NeedsCloserLook
        yield name
        yield number
        yield file_type
        lengths |= rec_len
        offset += rec_len
    if offset != len(data) or lengths & 3:
        raise _NeedsCloserLook


def _run_of_alike(data: bytes, offset: int) -> int:
    """How many entries from `offset` on have the rec_len, name length and type of the first.

    Numbered names are such. 0 if they are too few to be worth reading as a table.
    """
    _, rec_len, name_len, _ = _header(data, offset)
    second = offset + rec_len
    if name_len < 3 or rec_len & 3 or rec_len < _MIN_REC_LENS[name_len] or not _LITTLE_ENDIAN:
        return 0
    if data[offset + 4 : offset + _HEADER_SIZE] != data[second + 4 : second + _HEADER_SIZE]:
        return 0
    # The words with lengths and type of all entries as one number: the lowest bit that differs.
    heads = memoryview(data)[offset:].cast("I")[1 :: rec_len >> 2].tobytes()
    different = int.from_bytes(heads, "little") ^ int.from_bytes(heads[:4] * (len(heads) >> 2), "little")
    alike = (different & -different).bit_length() - 1 >> 5 if different else len(heads) >> 2
    return alike if alike >= _MIN_ALIKE and offset + alike * rec_len <= len(data) else 0


def _columns(data: bytes, offset: int, count: int) -> tuple[list[bytes], list[int], bytes, int]:
    """Names, inodes and types of the `count` entries that `_run_of_alike` found, and their end."""
    _, rec_len, name_len, file_type = _header(data, offset)
    end = offset + count * rec_len
    table = memoryview(data)[offset:end]
    names = list(chain.from_iterable(_names_of_alike(rec_len, name_len)(table)))
    return names, table.cast("I")[:: rec_len >> 2].tolist(), bytes((file_type,)) * count, end


@lru_cache(maxsize=256)
def _names_of_alike(rec_len: int, name_len: int) -> Callable[[memoryview], Iterator[tuple[bytes]]]:
    return Struct(f"{_HEADER_SIZE}x{name_len}s{rec_len - _HEADER_SIZE - name_len}x").iter_unpack


def find_entry(data: bytes, name: bytes, form: DirectoryFormat, problems: Problems) -> DirEntry | None:
    """The entry of this name in one block, or None."""
    position = data.find(name)
    if position < 0 and form.seed is not None:
        return None  # its bytes are nowhere in the block, whose checksum was right
    if len(data) < HUGE_BLOCK and not form.has_hash and form.has_filetype:
        # Follow the chain of entries: the same bytes can be part of another name.
        count = form.inode_count
        last = len(data) - _MIN_REC_LEN
        offset = 0
        while offset <= last:
            number, rec_len, name_len, file_type = _header(data, offset)
            start = offset + _HEADER_SIZE
            if name_len == len(name) and number and data[start : start + name_len] == name:
                following = offset + rec_len
                if number > count or rec_len < name_len + _HEADER_SIZE or rec_len & 3 or file_type > 7:
                    break
                if following > last and following != len(data):
                    break
                return DirEntry(name, number, file_type, b"")
            if rec_len < _MIN_REC_LEN or rec_len & 3:
                break
            offset += rec_len
        if offset == len(data):
            return None
    return next((entry for entry in parse_entries(data, 0, form, problems, None) if entry.name == name), None)


def parse_entries(
    data: bytes | memoryview, start: int, form: DirectoryFormat, problems: Problems, block: int | None
) -> Iterator[DirEntry]:
    """The entries of one block or inline part from byte `start` on, without "." and "..".

    A damaged entry is reported and ends its block, because its length cannot be trusted.
    """
    end = len(data)
    huge = end >= HUGE_BLOCK
    extra = EXT4_DIR_ENTRY_HASH.size if form.has_hash else 0
    known_type = form.has_filetype
    offset = start
    while offset < end:
        if end - offset < _HEADER_SIZE:
            problems.found(_damaged("entry runs past the end of its block", form, block, offset))
            return
        number, rec_len, name_len, file_type = _header(data, offset)
        if huge:
            rec_len = rec_len_from_disk(rec_len, end)
        following = offset + rec_len
        # No entry fits into fewer bytes than the smallest before the block's end (ext4_check_dir_entry).
        if rec_len < _MIN_REC_LEN or rec_len & 3 or (following > end - _MIN_REC_LEN and following != end):
            problems.found(_damaged(f"rec_len is {rec_len}", form, block, offset, "rec_len"))
            return
        if number and name_len:
            name = bytes(data[offset + _HEADER_SIZE : offset + _HEADER_SIZE + name_len])
            if name not in _DOTS:
                need = _HEADER_SIZE + (name_len + 3 & ~3) + extra
                if rec_len < _HEADER_SIZE + name_len or (extra and rec_len < need):
                    reason = f"name of {name_len} bytes does not fit into rec_len {rec_len}"
                    problems.found(_damaged(reason, form, block, offset, "name_len"))
                    return
                if number > form.inode_count:
                    reason = f"entry {name!r} names inode {number}, there are {form.inode_count}"
                    problems.found(_damaged(reason, form, block, offset, "inode"))
                else:
                    stored_hash = bytes(data[offset + need - extra : offset + need]) if extra else b""
                    # An unknown type counts as none, as in the kernel (get_dtype).
                    shown_type = file_type if known_type and file_type < EXT4_FT_MAX else 0
                    yield DirEntry(name, number, shown_type, stored_hash)
        elif number:
            problems.found(_damaged("entry in use has no name", form, block, offset, "name_len"))
        offset += rec_len


def _damaged(
    reason: str, form: DirectoryFormat, block: int | None, offset: int, field: str | None = None
) -> CorruptionError:
    place = Place(inode=form.inode, block=block, offset=offset, record=EXT4_DIR_ENTRY.name, field=field)
    return CorruptionError(f"directory: {reason}", place)


def verify_block(data: bytes, form: DirectoryFormat, block: int) -> None:
    """ChecksumError unless the block's checksum is right, be it a block of entries or of an index."""
    if form.seed is None:
        return
    # The index first: an index block that used to be a leaf may still end in a leaf's tail. But the
    # first entry of a leaf with a tail never reaches the block's end, as that of an index block does.
    index = index_entries_offset(data) if form.has_index else None
    if index is None:
        record = EXT4_DIR_ENTRY_TAIL.name
        stored = stored_leaf_checksum(data)
        if stored is None:
            raise CorruptionError(
                "directory block without a checksum", Place(inode=form.inode, block=block, record=record)
            )
        computed = checksum.directory_block(form.seed, data)
    else:
        limit, count = DX_COUNTLIMIT.unpack_tuple(data, index)
        tail = index + limit * DX_ENTRY.size
        if count > limit or count == 0 or tail + DX_TAIL.size > len(data):
            raise CorruptionError(
                f"directory index block with {count} entries of {limit}",
                Place(inode=form.inode, block=block, record=DX_COUNTLIMIT.name),
            )
        stored = DX_TAIL.unpack_tuple(data, tail)[1]
        covered = data[: index + count * DX_ENTRY.size]
        computed = checksum.htree_block(form.seed, covered, data[tail : tail + DX_TAIL.size])
        record = DX_TAIL.name
    if stored != computed:
        raise ChecksumError(
            f"directory block checksum is {stored:#x}, computed {computed:#x}",
            Place(inode=form.inode, block=block, record=record),
        )


def leaf_tail(checksum_of_block: int) -> bytes:
    """The last bytes of a block of entries, with metadata_csum."""
    return EXT4_DIR_ENTRY_TAIL.pack((0, EXT4_DIR_ENTRY_TAIL.size, 0, EXT4_FT_DIR_CSUM, checksum_of_block))


_TAIL_WITHOUT_CHECKSUM = leaf_tail(0)[:-4]


def stored_leaf_checksum(data: bytes) -> int | None:
    """The checksum in the tail of a block of entries; None for a block that has no tail."""
    if data[-EXT4_DIR_ENTRY_TAIL.size : -4] != _TAIL_WITHOUT_CHECKSUM:
        return None
    return int.from_bytes(data[-4:], "little")


def index_entries_offset(data: bytes) -> int | None:
    """Where the entries of an index block begin: behind the root's info or behind a node's header.

    None for a block that is neither (kernel: get_dx_countlimit).
    """
    size = len(data)
    _, rec_len, _, _ = _header(data, 0)
    if rec_len == size or (size >= HUGE_BLOCK and rec_len in (0, 0xFFFF)):
        return DX_NODE_ENTRIES_OFFSET
    if rec_len == _MIN_REC_LEN:
        dotdot_rec_len = _header(data, _MIN_REC_LEN)[1]
        if dotdot_rec_len != size - _MIN_REC_LEN and not (size >= HUGE_BLOCK and dotdot_rec_len >= size - HUGE_BLOCK):
            return None
        zero, _, info_length, _, _ = DX_ROOT_INFO.unpack_tuple(data, DX_ROOT_INFO_OFFSET)
        if zero == 0 and info_length == DX_ROOT_INFO.size:
            return DX_ROOT_ENTRIES_OFFSET
    return None
