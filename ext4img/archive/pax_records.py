"""Pax records, `length key=value`: written and parsed (POSIX.1-2001, pax, "pax Header Block")."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from ext4img.errors import AlteredArchiveError

XATTR_PREFIX: Final = b"SCHILY.xattr."
_BILLION: Final = 1_000_000_000
_TEN_DIGITS_NS: Final = 10**18
_SMALL_NUMBERS: Final = {b"%d" % number: number for number in range(1, 1024)}


def pax_record(key: bytes, value: bytes) -> bytes:
    r"""A pax record, `length key=value\n`; the decimal length includes itself."""
    return b"%b%b\n" % (record_start(key, len(value)), value)


@lru_cache(maxsize=4096)
def record_start(key: bytes, value_size: int) -> bytes:
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


def time_records(mtime_ns: int, atime_ns: int, ctime_ns: int) -> bytes:
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


def escape_key(key: bytes) -> bytes:
    """Escape an attribute's name for a pax key, which must not contain "="."""
    return key.replace(b"%", b"%25").replace(b"=", b"%3D")


def unescape_key(key: bytes) -> bytes:
    """The inverse of `escape_key`."""
    return key.replace(b"%3D", b"=").replace(b"%25", b"%")
