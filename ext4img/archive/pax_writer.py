"""Build a member's tar headers. `pax_reader` parses them.

The archive is a POSIX.1-2001 pax stream that GNU tar, bsdtar and tarfile read without a warning.
Facts that do not fit into the ustar block go into pax records before it, with one exception: a
path or link target that is not ASCII and too long for the block becomes a GNU `L` or `K` member.
bsdtar expects UTF-8 in pax paths and complains, and GNU tar warns of the `hdrcharset` record that
would declare them binary.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple
from zlib import adler32

from ext4img.errors import AlteredArchiveError
from ext4img.structs.tar import (
    BLOCK_BYTES,
    GNU_LONGLINK,
    GNU_LONGNAME,
    POSIX_HEADER,
    USTAR_MAGIC,
    USTAR_VERSION,
    XHDTYPE,
)

HEADER_LIMIT_BYTES: Final = 1 << 20  # of one member's pax records: bsdtar's limit
PATH_LIMIT_BYTES: Final = 1 << 17
XATTR_PREFIX: Final = b"SCHILY.xattr."
SPARSE_DIRECTORY: Final = b"GNUSparseFile.0"

_NAME_BYTES = POSIX_HEADER.span("name").size
_PREFIX_BYTES = POSIX_HEADER.span("prefix").size
_MODE_AT = POSIX_HEADER.offset_of("mode")
_SIZE_AT = POSIX_HEADER.offset_of("size")
_TYPEFLAG_AT = POSIX_HEADER.offset_of("typeflag")
_ID_MAX = 0o7777777  # seven octal digits
_BILLION: Final = 1_000_000_000
_TEN_DIGITS_NS: Final = 10**18
_SMALL_NUMBERS: Final = {b"%d" % number: number for number in range(1, 1024)}
_SIZE_MAX = 0o77777777777  # eleven
_NO_RECORDS: Mapping[bytes, bytes] = MappingProxyType({})


class TarHeader(NamedTuple):
    """One member's header, independent of how its fields are encoded. Sizes in bytes.

    The `path` of a directory ends with "/". `size` is the size of the stored data, sparse map
    included. `times` are mtime, atime and ctime in ns, or None for a member without times (mtime 0).
    `sparse_size` is the true size of a member with holes. The keys of `xattrs` are unescaped names.
    """

    path: bytes
    typeflag: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    times: tuple[int, int, int] | None = None
    linkpath: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    sparse_size: int | None = None
    xattrs: Mapping[bytes, bytes] = _NO_RECORDS


def padding(size: int) -> int:
    """Bytes from `size` to the next multiple of a tar block."""
    return -size % BLOCK_BYTES


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
        records.append(_time_records(*header.times))
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


def pax_record(key: bytes, value: bytes) -> bytes:
    r"""A pax record, `length key=value\n`; the decimal length includes itself."""
    return b"%b%b\n" % (_record_start(key, len(value)), value)


@lru_cache(maxsize=4096)
def _record_start(key: bytes, value_size: int) -> bytes:
    """A record's bytes before its value."""
    rest = len(key) + value_size + 3  # the space, "=" and newline
    digits = len(str(rest))
    if len(str(rest + digits)) > digits:
        digits += 1
    return b"%d %b=" % (rest + digits, key)


def parse_records(data: bytes, what: str, max_records: int | None = None) -> dict[bytes, bytes]:
    """Parse pax records, at most `max_records`. AlteredArchiveError for a wrong length or a duplicate key."""
    if max_records is not None:
        return _parse_records(data, what, max_records)
    records: dict[bytes, bytes] = {}
    lines = data.split(b"\n")
    if not lines.pop():
        for line in lines:
            digits, _, record = line.partition(b" ")
            if _SMALL_NUMBERS.get(digits) != len(line) + 1:
                break  # a newline in a value, a long record, or a wrong length
            key, equals, value = record.partition(b"=")
            if not equals:
                break
            records[key] = value
        else:
            if len(records) == len(lines):
                return records
    return _parse_records(data, what)


def _parse_records(data: bytes, what: str, max_records: int | None = None) -> dict[bytes, bytes]:
    """The same for any records, one by one: values may contain newlines."""
    records: dict[bytes, bytes] = {}
    at = 0
    end = len(data)
    while at < end:
        space = data.find(b" ", at, at + 8)
        digits = data[at:space]
        if space < 0 or not digits.isdigit() or digits.startswith(b"0"):
            raise AlteredArchiveError(f"{what}: a pax record does not start with a length")
        stop = at + int(digits)
        equals = data.find(b"=", space + 1, stop)
        if stop > end or equals < 0 or data[stop - 1 : stop] != b"\n":
            raise AlteredArchiveError(f"{what}: a pax record has a wrong length")
        key = data[space + 1 : equals]
        if key in records:
            raise AlteredArchiveError(f"{what}: duplicate pax key {key!r}")
        if len(records) == max_records:
            raise AlteredArchiveError(f"{what}: more than {max_records} pax records")
        records[key] = data[equals + 1 : stop - 1]
        at = stop
    return records


def pax_time(time_ns: int) -> bytes:
    """Decimal seconds, without trailing zeros in the fraction."""
    if time_ns < 0:
        return b"-" + pax_time(-time_ns)
    seconds, fraction_ns = divmod(time_ns, _BILLION)
    return (b"%d.%09d" % (seconds, fraction_ns)).rstrip(b"0") if fraction_ns else b"%d" % seconds


def _time_records(mtime_ns: int, atime_ns: int, ctime_ns: int) -> bytes:
    """The three records of a member's times."""
    if (
        min(mtime_ns, atime_ns, ctime_ns) >= _TEN_DIGITS_NS
        and max(mtime_ns, atime_ns, ctime_ns) < 10 * _TEN_DIGITS_NS
        and mtime_ns % 10
        and atime_ns % 10
        and ctime_ns % 10
    ):  # from 2001 to 2286, no trailing zeros: as most times
        mtime, atime, ctime = b"%d" % mtime_ns, b"%d" % atime_ns, b"%d" % ctime_ns
        return b"30 mtime=%b.%b\n30 atime=%b.%b\n30 ctime=%b.%b\n" % (
            mtime[:10],
            mtime[10:],
            atime[:10],
            atime[10:],
            ctime[:10],
            ctime[10:],
        )
    return b"".join(
        (
            pax_record(b"mtime", pax_time(mtime_ns)),
            pax_record(b"atime", pax_time(atime_ns)),
            pax_record(b"ctime", pax_time(ctime_ns)),
        )
    )


@lru_cache(maxsize=4096)
def _xattr_start(name: bytes, value_size: int) -> bytes:
    """The bytes of an attribute's record before its value."""
    return _record_start(XATTR_PREFIX + escape_key(name), value_size)


def escape_key(key: bytes) -> bytes:
    """Escape an attribute's name for a pax key, which must not contain "="."""
    return key.replace(b"%", b"%25").replace(b"=", b"%3D")


def unescape_key(key: bytes) -> bytes:
    """The inverse of `escape_key`."""
    return key.replace(b"%3D", b"=").replace(b"%25", b"%")


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


def checksum(block: bytes) -> int:
    """The sum of a block's 512 bytes."""
    # The low half of Adler-32 is the sum of the bytes plus 1, modulo 65521, which 256 bytes do not reach.
    half = BLOCK_BYTES // 2
    return (adler32(block[:half]) & 0xFFFF) + (adler32(block[half:]) & 0xFFFF) - 2


@lru_cache(maxsize=1024)
def _extended_header(size: int) -> bytes:
    """The block before pax records of `size` bytes."""
    return _block(b"././@PaxHeader", 0o644, 0, 0, size, 0, XHDTYPE, b"", (0, 0), b"")


def _gnu_long(typeflag: bytes, value: bytes) -> bytes:
    """A GNU member whose data is the next member's name or link target."""
    data = value + b"\0"
    block = _block(b"././@LongLink", 0o644, 0, 0, len(data), 0, typeflag, b"", (0, 0), b"")
    return block + data + bytes(padding(len(data)))


def directory_path(path: bytes) -> bytes:
    """A directory's path as tar writes it."""
    return path + b"/"
