"""Tar framing read back, with nothing taken on trust.

Only what `pax` writes is accepted: the format is a promise, and a header that says one thing to
this reader and another to the next tar is how archives attack. So two names for one member must
agree, no key may come twice, and every number is digits of bounded length.
"""

from __future__ import annotations

import re
from typing import Final

from ext4img.backup.input import Cursor
from ext4img.backup.pax import (
    HEADER_LIMIT_BYTES,
    PATH_LIMIT_BYTES,
    SPARSE_DIRECTORY,
    XATTR_PREFIX,
    TarHeader,
    checksum,
    padding,
    parse_records,
    unescape_key,
)
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
_TIME = re.compile(rb"(-?)([0-9]{1,12})(?:\.([0-9]{1,9}))?")
_ZEROS: Final = bytes(BLOCK_BYTES)


def read_header(cursor: Cursor) -> tuple[TarHeader, bytes] | None:
    """The next member's header and its bytes as they stand; None at the blocks of zeros at the end."""
    start = cursor.position
    parts: list[bytes] = []
    records: dict[bytes, bytes] | None = None
    long_name: bytes | None = None
    long_link: bytes | None = None
    while True:
        block = cursor.read(BLOCK_BYTES, f"the header at byte offset {start}")
        if block == _ZEROS:
            if parts:
                raise AlteredArchiveError(f"pax records without a member at byte offset {start}")
            return None
        raw = _checked(block, cursor.position - BLOCK_BYTES)
        parts.append(block)
        typeflag = raw[7]
        if typeflag in _MEMBER_TYPES:
            break
        size = _octal(raw[4], "size")
        what = f"the long header at byte offset {start}"
        if typeflag == XHDTYPE and records is None:
            data = _data(cursor, size, HEADER_LIMIT_BYTES, what, parts)
            records = parse_records(data, what)
        elif typeflag == GNU_LONGNAME and long_name is None:
            long_name = _long(_data(cursor, size, PATH_LIMIT_BYTES + 1, what, parts))
        elif typeflag == GNU_LONGLINK and long_link is None:
            long_link = _long(_data(cursor, size, PATH_LIMIT_BYTES + 1, what, parts))
        else:
            raise ArchiveError(f"member of type {typeflag!r} at byte offset {start} is not of this format")
    header = _header(raw, records or {}, long_name, long_link)
    return header, b"".join(parts) if len(parts) > 1 else parts[0]


def _checked(block: bytes, offset: int) -> tuple[bytes, ...]:
    """The ustar block's fields once magic and checksum are right."""
    raw: tuple[bytes, ...] = POSIX_HEADER.unpack_tuple(block, 0)
    if raw[9] != USTAR_MAGIC or raw[10] != USTAR_VERSION:
        raise ArchiveError(f"no tar header at byte offset {offset}")
    computed = checksum(block) - sum(raw[6]) + len(raw[6]) * ord(" ")
    if _octal(raw[6], "chksum") != computed:
        raise AlteredArchiveError(f"tar header at byte offset {offset} has a wrong checksum")
    return raw


def _header(
    raw: tuple[bytes, ...], records: dict[bytes, bytes], long_name: bytes | None, long_link: bytes | None
) -> TarHeader:
    """What block, records and long names say together."""
    name = _text(raw[0])
    prefix = _text(raw[15])
    in_block = prefix + b"/" + name if prefix else name
    path = _one_of(in_block, prefix, records.get(b"path"), long_name, "name")
    linkpath = _one_of(_text(raw[8]), b"", records.get(b"linkpath"), long_link, "link")
    uid = _number(records, b"uid", _octal(raw[2], "uid"), _ID_LIMIT)
    gid = _number(records, b"gid", _octal(raw[3], "gid"), _ID_LIMIT)
    size = _number(records, b"size", _octal(raw[4], "size"), _SIZE_LIMIT)
    typeflag = raw[7]
    if size and typeflag != REGTYPE:
        raise AlteredArchiveError("a member that is no file has a size", _shown(path))
    sparse_size = None
    if b"GNU.sparse.major" in records:
        path, sparse_size = _sparse(path, records)
        if typeflag != REGTYPE:
            raise AlteredArchiveError("a member that is no file has holes", _shown(path))
    elif not records.keys().isdisjoint((b"GNU.sparse.minor", b"GNU.sparse.name", b"GNU.sparse.realsize")):
        raise AlteredArchiveError("GNU.sparse keys without a version", _shown(path))
    times = None
    if b"mtime" in records:
        try:
            times = (_time(records[b"mtime"]), _time(records[b"atime"]), _time(records[b"ctime"]))
        except KeyError as error:
            raise AlteredArchiveError("mtime, atime and ctime come together or not at all", _shown(path)) from error
    xattrs: dict[bytes, bytes] = {}
    for key, value in records.items():
        if key.startswith(XATTR_PREFIX):
            xattrs[unescape_key(key[len(XATTR_PREFIX) :])] = value
        elif key not in _KEYS:
            raise ArchiveError(f"pax key {key!r} is not of this format", _shown(path))
    rdev = (_octal(raw[13], "devmajor"), _octal(raw[14], "devminor"))
    mode = _octal(raw[1], "mode")
    if mode > 0o7777:
        raise AlteredArchiveError(f"mode {mode:#o} has bits of a type in it", _shown(path))
    return TarHeader(path, typeflag, mode, uid, gid, size, times, linkpath, rdev, sparse_size, xattrs)


def _one_of(in_block: bytes, prefix: bytes, in_records: bytes | None, long: bytes | None, what: str) -> bytes:
    """A path from the one place that has it whole; the block must then hold its beginning."""
    whole = in_records if in_records is not None else long
    if whole is None:
        return in_block
    if in_records is not None and long is not None:
        raise UnsafeArchiveError(f"a long {what} is given in two ways", _shown(whole))
    if prefix or in_block != whole[:_NAME_BYTES] or len(whole) <= _NAME_BYTES:
        raise UnsafeArchiveError(f"two different {what}s are given: {_shown(in_block)!r} too", _shown(whole))
    if len(whole) > PATH_LIMIT_BYTES or b"\0" in whole:
        raise UnsafeArchiveError(f"a {what} of {len(whole)} bytes, or with a NUL in it", _shown(whole[:_NAME_BYTES]))
    return whole


def _sparse(path: bytes, records: dict[bytes, bytes]) -> tuple[bytes, int]:
    """(true path, true size) of a member with holes."""
    if records[b"GNU.sparse.major"] != b"1" or records.get(b"GNU.sparse.minor") != b"0":
        raise ArchiveError("only version 1.0 of GNU's sparse format is known", _shown(path))
    real = records.get(b"GNU.sparse.name")
    if real is not None:
        head, _, base = real.rpartition(b"/")
        if path != b"/".join((head or b".", SPARSE_DIRECTORY, base)):
            raise UnsafeArchiveError(f"two different names are given: {_shown(path)!r} too", _shown(real))
        path = real
    if b"GNU.sparse.realsize" not in records:
        raise AlteredArchiveError("holes, but no true size", _shown(path))
    return path, _number(records, b"GNU.sparse.realsize", 0, _SIZE_LIMIT)


def _data(cursor: Cursor, size: int, limit: int, what: str, parts: list[bytes]) -> bytes:
    """The data of a long header, and its padding; both go into `parts`."""
    if size > limit:
        raise ArchiveError(f"{what} has {size} bytes, the format allows {limit}")
    data = cursor.read(size, what)
    fill = cursor.read(padding(size), what)
    if fill.strip(b"\0"):
        raise AlteredArchiveError(f"{what} is padded with something else than zeros")
    parts += (data, fill)
    return data


def _long(data: bytes) -> bytes:
    """The value of a GNU long name: all but the NUL at its end."""
    if not data.endswith(b"\0"):
        raise AlteredArchiveError("a long name does not end")
    return data[:-1]


def _text(field: bytes) -> bytes:
    """A NUL-padded field's value; nothing may hide behind the NUL."""
    value, _, rest = field.partition(b"\0")
    if rest.strip(b"\0"):
        raise AlteredArchiveError("a tar header has bytes hidden behind a name's end", _shown(value))
    return value


def _octal(field: bytes, name: str) -> int:
    match = _OCTAL.fullmatch(field)
    if not match:
        raise AlteredArchiveError(f"{name} of a tar header is {field!r}, no octal number")
    return int(match[1], 8)


def _number(records: dict[bytes, bytes], key: bytes, in_block: int, limit: int) -> int:
    """A decimal number of the records, or if there is none the block's."""
    text = records.get(key)
    if text is None:
        return in_block
    value = int(text) if _DECIMAL.fullmatch(text) else -1
    if in_block or not 0 <= value < limit:
        raise AlteredArchiveError(f"{key.decode()} of a pax header is {text[:20]!r}, and in the block {in_block}")
    return value


def _time(text: bytes) -> int:
    """Nanoseconds."""
    match = _TIME.fullmatch(text)
    if not match:
        raise AlteredArchiveError(f"a time is {text[:40]!r}")
    time_ns = int(match[2]) * 1_000_000_000 + int((match[3] or b"0").ljust(9, b"0"))
    return -time_ns if match[1] else time_ns


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
