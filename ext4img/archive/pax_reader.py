"""Parse a member's tar headers, trusting nothing in them.

Only what `pax_writer` writes is accepted: a header that different tar programs read differently
is a way to attack. So two names of one member must agree, no key may be a duplicate, and every
number must be digits of bounded length.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple
from zlib import adler32

from ext4img.archive.input import Cursor
from ext4img.archive.pax_records import XATTR_PREFIX, parse_records, unescape_key
from ext4img.archive.tar_header import HEADER_LIMIT_BYTES, PATH_LIMIT_BYTES, SPARSE_DIRECTORY, TarHeader, padding
from ext4img.errors import AlteredArchiveError, ArchiveError, UnsafeArchiveError
from ext4img.structs.tar import (
    BLKTYPE,
    BLOCK_BYTES,
    CHRTYPE,
    DIRTYPE,
    FIFOTYPE,
    GNU_LONGLINK,
    GNU_LONGNAME,
    LNKTYPE,
    POSIX_HEADER,
    REGTYPE,
    SYMTYPE,
    USTAR_MAGIC,
    USTAR_VERSION,
    XHDTYPE,
)

_MEMBER_TYPES: Final = frozenset((REGTYPE, LNKTYPE, SYMTYPE, CHRTYPE, BLKTYPE, DIRTYPE, FIFOTYPE))
_NAME_BYTES: Final = POSIX_HEADER.span("name").size
_SIZE_LIMIT: Final = 1 << 63
_ID_LIMIT: Final = 1 << 32
_KEYS: Final = frozenset(
    (
        b"path",
        b"linkpath",
        b"uid",
        b"gid",
        b"size",
        b"mtime",
        b"atime",
        b"ctime",
        b"GNU.sparse.major",
        b"GNU.sparse.minor",
        b"GNU.sparse.name",
        b"GNU.sparse.realsize",
    )
)
_OCTAL = re.compile(rb"([0-7]+)[\0 ]*")
_DECIMAL = re.compile(rb"0|[1-9][0-9]{0,18}")
_TIMES: Final = frozenset((b"mtime", b"atime", b"ctime"))
_SPARSE: Final = frozenset((b"GNU.sparse.minor", b"GNU.sparse.name", b"GNU.sparse.realsize"))
_POINT: Final = ord(".")
_POINT_AT: Final = 10  # from 2001 to 2286
_USUAL_TIME_BYTES: Final = 20
_SECONDS_DIGITS: Final = 12
_FRACTION_DIGITS: Final = 9
_PREFIX_SIZE: Final = len(XATTR_PREFIX)
_USUAL_KEY_BYTES: Final = 300  # of an attribute's key; longer ones are not cached
_TYPEFLAG_AT: Final = POSIX_HEADER.offset_of("typeflag")
_MODE_AT: Final = POSIX_HEADER.offset_of("mode")
_SIZE_AT: Final = POSIX_HEADER.offset_of("size")
_MTIME_AT: Final = POSIX_HEADER.offset_of("mtime")
_CHKSUM_AT: Final = POSIX_HEADER.offset_of("chksum")
_SPACES: Final = POSIX_HEADER.span("chksum").size * ord(" ")  # the checksum counts its own field as spaces
_ZEROS: Final = bytes(BLOCK_BYTES)


def read_header(cursor: Cursor) -> tuple[TarHeader, bytes] | None:
    """(the next member's header, its bytes); None at the blocks of zeros at the archive's end."""
    start = cursor.position
    before: list[bytes] = []
    records: dict[bytes, bytes] | None = None
    long_name: bytes | None = None
    long_link: bytes | None = None
    block = cursor.read(BLOCK_BYTES, "a header")
    while True:
        tail = _tail(block[_TYPEFLAG_AT:])
        if tail is None or not _has_correct_checksum(block, tail):
            if tail is not None:
                raise AlteredArchiveError(f"wrong checksum of the tar header at byte offset {_last(cursor)}")
            if block != _ZEROS:
                raise ArchiveError(f"no tar header at byte offset {_last(cursor)}")
            if before:
                raise AlteredArchiveError(f"pax records without a member at byte offset {start}")
            return None
        typeflag = tail.typeflag
        if typeflag in _MEMBER_TYPES:
            break
        size = _octal(block[_SIZE_AT:_MTIME_AT], "size")
        if typeflag == XHDTYPE and records is None:
            data, rest = _data(cursor, size, HEADER_LIMIT_BYTES)
            records = parse_records(data, f"the long header at byte offset {start}")
        elif typeflag == GNU_LONGNAME and long_name is None:
            data, rest = _data(cursor, size, PATH_LIMIT_BYTES + 1)
            long_name = _long(data)
        elif typeflag == GNU_LONGLINK and long_link is None:
            data, rest = _data(cursor, size, PATH_LIMIT_BYTES + 1)
            long_link = _long(data)
        else:
            raise ArchiveError(f"member of unknown type {typeflag!r} at byte offset {start}")
        before += (block, data, rest[:-BLOCK_BYTES])
        block = rest[-BLOCK_BYTES:]
    header = _header(block, tail, records or {}, long_name, long_link)
    return header, b"".join((*before, block)) if before else block


def _last(cursor: Cursor) -> int:
    """The offset of the block that was read last."""
    return cursor.position - BLOCK_BYTES


class _Tail(NamedTuple):
    """A block's fields from its type on, which many blocks have in common. `total` is the sum of its bytes."""

    typeflag: bytes
    linkpath: bytes
    rdev: tuple[int, int]
    prefix: bytes
    total: int


@lru_cache(maxsize=1024)
def _tail(tail: bytes) -> _Tail | None:
    """Parse a block from its type on; None without tar's magic."""
    raw: tuple[bytes, ...] = POSIX_HEADER.unpack_tuple(bytes(_TYPEFLAG_AT) + tail, 0)
    if raw[9] != USTAR_MAGIC or raw[10] != USTAR_VERSION:
        return None
    rdev = (_octal(raw[13], "devmajor"), _octal(raw[14], "devminor"))
    return _Tail(raw[7], _text(raw[8]), rdev, _text(raw[15]), sum(tail))


@lru_cache(maxsize=1024)
def _ids(field: bytes) -> tuple[int, int, int]:
    """Parse the three fields: (mode, uid, gid)."""
    raw: tuple[bytes, ...] = POSIX_HEADER.unpack_tuple(bytes(_MODE_AT) + field + bytes(BLOCK_BYTES - _SIZE_AT), 0)
    return _octal(raw[1], "mode"), _octal(raw[2], "uid"), _octal(raw[3], "gid")


def _has_correct_checksum(block: bytes, tail: _Tail) -> bool:
    # The low half of Adler-32 is the sum of the bytes plus 1; of these 148 bytes it does not overflow.
    total = (adler32(block[:_CHKSUM_AT]) & 0xFFFF) - 1 + _SPACES + tail.total
    stored = block[_CHKSUM_AT:_TYPEFLAG_AT]
    return stored == b"%06o\0 " % total or _octal(stored, "chksum") == total


def _header(
    block: bytes, tail: _Tail, records: dict[bytes, bytes], long_name: bytes | None, long_link: bytes | None
) -> TarHeader:
    """Combine block, pax records and long names."""
    typeflag, linkpath, rdev, prefix, _ = tail
    path = _text(block[:_NAME_BYTES])
    if prefix:
        path = prefix + b"/" + path
    if long_name is not None or b"path" in records:
        path = _one_of(path, prefix, records.get(b"path"), long_name, "name")
    if long_link is not None or b"linkpath" in records:
        linkpath = _one_of(linkpath, b"", records.get(b"linkpath"), long_link, "link")
    mode, uid, gid = _ids(block[_MODE_AT:_SIZE_AT])
    size = _octal(block[_SIZE_AT:_MTIME_AT], "size")
    times = sparse_size = None
    xattrs: dict[bytes, bytes] = {}
    others = 0
    is_plain = True
    for key, value in records.items():
        if key.startswith(XATTR_PREFIX):
            xattrs[_xattr_name(key) if len(key) <= _USUAL_KEY_BYTES else unescape_key(key[_PREFIX_SIZE:])] = value
            continue
        others += 1
        if key not in _TIMES:
            is_plain = False
            if key not in _KEYS:
                raise ArchiveError(f"unknown pax key {key!r}", _shown(path))
    if others + len(xattrs) != len(records):
        raise AlteredArchiveError("duplicate attribute", _shown(path))
    if b"mtime" in records:
        try:
            times = (_time(records[b"mtime"]), _time(records[b"atime"]), _time(records[b"ctime"]))
        except KeyError as error:
            raise AlteredArchiveError("one of mtime, atime and ctime is missing", _shown(path)) from error
    if not is_plain:
        uid = _number(records, b"uid", uid, _ID_LIMIT)
        gid = _number(records, b"gid", gid, _ID_LIMIT)
        size = _number(records, b"size", size, _SIZE_LIMIT)
        path, sparse_size = _sparse(path, records)
        if sparse_size is not None and typeflag != REGTYPE:
            raise AlteredArchiveError("a member with holes is not a file", _shown(path))
    if size and typeflag != REGTYPE:
        raise AlteredArchiveError("a member with a size is not a file", _shown(path))
    if mode > 0o7777:
        raise AlteredArchiveError(f"mode {mode:#o} contains file type bits", _shown(path))
    return TarHeader._make((path, typeflag, mode, uid, gid, size, times, linkpath, rdev, sparse_size, xattrs))


def _one_of(in_block: bytes, prefix: bytes, in_records: bytes | None, long: bytes | None, what: str) -> bytes:
    """A path from the one place that has it complete; the block must have its beginning."""
    full = in_records if in_records is not None else long
    if full is None:
        return in_block
    if in_records is not None and long is not None:
        raise UnsafeArchiveError(f"a long {what} is given twice", _shown(full))
    if prefix or in_block != full[:_NAME_BYTES] or len(full) <= _NAME_BYTES:
        raise UnsafeArchiveError(f"two different {what}s are given, the other is {_shown(in_block)!r}", _shown(full))
    if len(full) > PATH_LIMIT_BYTES or b"\0" in full:
        raise UnsafeArchiveError(f"a {what} of {len(full)} bytes, or with a NUL", _shown(full[:_NAME_BYTES]))
    return full


def _sparse(path: bytes, records: dict[bytes, bytes]) -> tuple[bytes, int | None]:
    """(true path, true size) of a member with holes; (path, None) of one without."""
    if b"GNU.sparse.major" not in records:
        if not records.keys().isdisjoint(_SPARSE):
            raise AlteredArchiveError("GNU.sparse keys without a version", _shown(path))
        return path, None
    if records[b"GNU.sparse.major"] != b"1" or records.get(b"GNU.sparse.minor") != b"0":
        raise ArchiveError("a version of GNU's sparse format other than 1.0", _shown(path))
    real = records.get(b"GNU.sparse.name")
    if real is not None:
        directory, _, base = real.rpartition(b"/")
        if path != b"/".join((directory or b".", SPARSE_DIRECTORY, base)):
            raise UnsafeArchiveError(f"two different names are given, the other is {_shown(path)!r}", _shown(real))
        path = real
    if b"GNU.sparse.realsize" not in records:
        raise AlteredArchiveError("it has holes, but no true size", _shown(path))
    return path, _number(records, b"GNU.sparse.realsize", 0, _SIZE_LIMIT)


@lru_cache(maxsize=1024)
def _xattr_name(key: bytes) -> bytes:
    """The attribute's name in a pax key."""
    return unescape_key(key[_PREFIX_SIZE:])


def _data(cursor: Cursor, size: int, limit: int) -> tuple[bytes, bytes]:
    """Read (the data of a long header, its padding with the block that follows)."""
    start = cursor.position
    if size > limit:
        raise ArchiveError(f"a long header of {size} bytes before byte offset {start}; the format allows {limit}")
    both = cursor.read(size + padding(size) + BLOCK_BYTES, "a long header")
    rest = both[size:]
    if rest[:-BLOCK_BYTES].strip(b"\0"):
        raise AlteredArchiveError(f"the padding of a long header at byte offset {start} is not zeros")
    return both[:size], rest


def _long(data: bytes) -> bytes:
    """The value of a GNU long name, without the NUL at its end."""
    if not data.endswith(b"\0"):
        raise AlteredArchiveError("a long name has no NUL at its end")
    return data[:-1]


def _text(field: bytes) -> bytes:
    """A NUL-padded field's value; only NULs may follow it."""
    value = field.rstrip(b"\0")
    if b"\0" in value:
        raise AlteredArchiveError("a tar header has bytes after a name's end", _shown(value))
    return value


@lru_cache(maxsize=4096)
def _octal(field: bytes, name: str) -> int:
    match = _OCTAL.fullmatch(field)
    if not match:
        raise AlteredArchiveError(f"{name} of a tar header is {field!r}, not an octal number")
    return int(match[1], 8)


def _number(records: dict[bytes, bytes], key: bytes, in_block: int, limit: int) -> int:
    """A decimal number from the records, else the block's."""
    text = records.get(key)
    if text is None:
        return in_block
    value = int(text) if _DECIMAL.fullmatch(text) else -1
    if in_block or not 0 <= value < limit:
        raise AlteredArchiveError(f"{key.decode()} is {text[:20]!r} in a pax header and {in_block} in the block")
    return value


def _time(text: bytes) -> int:
    """A time in nanoseconds: at most twelve digits of seconds, nine of fraction."""
    if len(text) == _USUAL_TIME_BYTES and text[_POINT_AT] == _POINT:
        digits = text[:_POINT_AT] + text[_POINT_AT + 1 :]
        if digits.isdigit():
            return int(digits)
    if text.startswith(b"-"):
        if text.startswith(b"--"):
            raise AlteredArchiveError(f"a time is {text[:40]!r}")
        return -_time(text[1:])
    seconds, point, fraction = text.partition(b".")
    digits = fraction.ljust(_FRACTION_DIGITS, b"0")
    both = seconds + digits
    if not both.isdigit() or not seconds or len(seconds) > _SECONDS_DIGITS or len(digits) > _FRACTION_DIGITS:
        raise AlteredArchiveError(f"a time is {text[:40]!r}")
    if point and not fraction:
        raise AlteredArchiveError(f"a time is {text[:40]!r}")
    return int(both)


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
