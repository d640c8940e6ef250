"""Write a member's header as tar blocks. `pax_reader` parses them.

The archive is a POSIX.1-2001 pax stream that GNU tar, bsdtar and tarfile read without a warning.
Facts that do not fit into the ustar block go into pax records before it, with one exception: a
path or link target that is not ASCII and too long for the block becomes a GNU `L` or `K` member.
bsdtar expects UTF-8 in pax paths and complains, and GNU tar warns of the `hdrcharset` record that
would declare them binary.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from zlib import adler32

from ext4img.archive.pax_records import XATTR_PREFIX, escape_key, pax_record, record_start, time_records
from ext4img.archive.tar_header import HEADER_LIMIT_BYTES, SPARSE_DIRECTORY, TarHeader, checksum, padding
from ext4img.structs.tar import (
    GNU_LONGLINK,
    GNU_LONGNAME,
    POSIX_HEADER,
    USTAR_MAGIC,
    USTAR_VERSION,
    XHDTYPE,
)

_NAME_BYTES = POSIX_HEADER.span("name").size
_PREFIX_BYTES = POSIX_HEADER.span("prefix").size
_MODE_AT = POSIX_HEADER.offset_of("mode")
_SIZE_AT = POSIX_HEADER.offset_of("size")
_TYPEFLAG_AT = POSIX_HEADER.offset_of("typeflag")
_ID_MAX = 0o7777777  # seven octal digits
_BILLION: Final = 1_000_000_000
_SIZE_MAX = 0o77777777777  # eleven


def encode(header: TarHeader) -> bytes:
    """The header's bytes: pax records and GNU long names if needed, then the ustar block."""
    records: list[bytes] = []
    before = b""
    path = header.path
    if header.sparse_size is not None and path.isascii():
        # As GNU tar does: a tar without sparse support extracts it to a separate path.
        directory, _, base = path.rpartition(b"/")
        path = b"/".join((directory or b".", SPARSE_DIRECTORY, base))
    name, prefix = path, b""
    if len(path) > _NAME_BYTES:
        name, prefix = _split(path)
        if not name:
            name = path[:_NAME_BYTES]
            if path.isascii():
                records.append(pax_record(b"path", path))
            else:
                before += _gnu_long(GNU_LONGNAME, path)
    linkname = header.linkpath
    if len(linkname) > _NAME_BYTES:
        if linkname.isascii():
            records.append(pax_record(b"linkpath", linkname))
        else:
            before += _gnu_long(GNU_LONGLINK, linkname)
        linkname = linkname[:_NAME_BYTES]
    uid, gid, size = header.uid, header.gid, header.size
    if uid > _ID_MAX:
        records.append(pax_record(b"uid", b"%d" % uid))
        uid = 0
    if gid > _ID_MAX:
        records.append(pax_record(b"gid", b"%d" % gid))
        gid = 0
    if size > _SIZE_MAX:
        records.append(pax_record(b"size", b"%d" % size))
        size = 0
    seconds = 0
    if header.times is not None:
        records.append(time_records(*header.times))
        seconds = min(max(header.times[0] // _BILLION, 0), _SIZE_MAX)
    if header.sparse_size is not None:
        records += (pax_record(b"GNU.sparse.major", b"1"), pax_record(b"GNU.sparse.minor", b"0"))
        if path is not header.path:
            records.append(pax_record(b"GNU.sparse.name", header.path))
        records.append(pax_record(b"GNU.sparse.realsize", b"%d" % header.sparse_size))
    for key, value in header.xattrs.items():
        records.append(b"%b%b\n" % (_xattr_start(key, len(value)), value))
    block = _block(name, header.mode & 0o7777, uid, gid, size, seconds, header.typeflag, linkname, header.rdev, prefix)
    if not records:
        return before + block
    data = b"".join(records)
    if len(data) > HEADER_LIMIT_BYTES:
        raise ValueError(f"pax records of {len(data)} bytes; the format allows {HEADER_LIMIT_BYTES}")
    return b"".join((_extended_header(len(data)), data, bytes(padding(len(data))), before, block))


@lru_cache(maxsize=4096)
def _xattr_start(name: bytes, value_size: int) -> bytes:
    """The bytes of an attribute's record before its value."""
    return record_start(XATTR_PREFIX + escape_key(name), value_size)


def _split(path: bytes) -> tuple[bytes, bytes]:
    """(name, prefix) if the path fits into both fields, split at one of its "/"; else (b"", b"")."""
    if len(path) > _NAME_BYTES + 1 + _PREFIX_BYTES:
        return b"", b""
    at = path.find(b"/", len(path) - _NAME_BYTES - 1)
    if not 0 < at <= _PREFIX_BYTES or at + 1 == len(path):
        return b"", b""
    return path[at + 1 :], path[:at]


def _block(
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    seconds: int,
    typeflag: bytes,
    linkname: bytes,
    rdev: tuple[int, int],
    prefix: bytes,
) -> bytes:
    """The ustar block with its checksum."""
    ids, tail, rest = _template(mode, uid, gid, typeflag, linkname, rdev, prefix)
    field = name.ljust(_NAME_BYTES, b"\0")
    numbers = b"%011o\0%011o\0" % (size, seconds)
    # As in `checksum`, of 124 bytes.
    total = rest + (adler32(field + numbers) & 0xFFFF) - 1
    return b"%b%b%b%06o\0 %b" % (field, ids, numbers, total, tail)


@lru_cache(maxsize=1024)
def _template(
    mode: int, uid: int, gid: int, typeflag: bytes, linkname: bytes, rdev: tuple[int, int], prefix: bytes
) -> tuple[bytes, bytes, int]:
    """Parts that many blocks have in common: mode to gid, typeflag to the end, and their checksum."""
    block = POSIX_HEADER.pack(
        (
            b"",
            b"%07o\0" % mode,
            b"%07o\0" % uid,
            b"%07o\0" % gid,
            b"",
            b"",
            b"        ",
            typeflag,
            linkname,
            USTAR_MAGIC,
            USTAR_VERSION,
            b"",
            b"",
            b"%07o\0" % rdev[0],
            b"%07o\0" % rdev[1],
            prefix,
            b"",
        )
    )
    return block[_MODE_AT:_SIZE_AT], block[_TYPEFLAG_AT:], checksum(block)


@lru_cache(maxsize=1024)
def _extended_header(size: int) -> bytes:
    """The block before pax records of `size` bytes."""
    return _block(b"././@PaxHeader", 0o644, 0, 0, size, 0, XHDTYPE, b"", (0, 0), b"")


def _gnu_long(typeflag: bytes, value: bytes) -> bytes:
    """A GNU member whose data is the next member's name or link target."""
    data = value + b"\0"
    block = _block(b"././@LongLink", 0o644, 0, 0, len(data), 0, typeflag, b"", (0, 0), b"")
    return block + data + bytes(padding(len(data)))
