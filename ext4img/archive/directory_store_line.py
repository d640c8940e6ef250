"""An `Entry` as a line of JSON, for the directory store, and back.

The way back leads through the same header and the same checks as an archive's member.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from ext4img.archive.entry import UNWRITTEN_KEPT, VERITY, Entry, Segments, parse_ranges
from ext4img.archive.entry_codec import archive_path, entry_of, records_of
from ext4img.archive.pax_writer import TarHeader
from ext4img.errors import AlteredArchiveError
from ext4img.names.paths import decode_path
from ext4img.structs.tar import BLKTYPE, CHRTYPE, DIRTYPE, FIFOTYPE, LNKTYPE, REGTYPE, SYMTYPE

LINE_LIMIT_BYTES: Final = 64 << 20
_TIME_LIMIT_NS: Final = 10**21  # twelve digits of seconds
_RDEV_LIMIT: Final = 1 << 21  # seven octal digits
_TYPEFLAG: Final = {
    "file": REGTYPE,
    "link": LNKTYPE,
    "symlink": SYMTYPE,
    "char": CHRTYPE,
    "block": BLKTYPE,
    "dir": DIRTYPE,
    "fifo": FIFOTYPE,
    "socket": REGTYPE,
    VERITY: REGTYPE,
}
_TIMES: Final = ("mtime_ns", "atime_ns", "ctime_ns")


class DirectoryStoreLine(NamedTuple):
    """What a line says. `sha256` is that of the body's data, segment after segment, in hex."""

    entry: Entry
    sha256: str
    unreadable: Segments


def build_store_line(line: DirectoryStoreLine) -> bytes:
    """The line's bytes, newline included."""
    entry = line.entry
    found: dict[str, Any] = {"type": "link" if entry.is_link else entry.type, **_raw("path", entry.path)}
    if entry.type == VERITY:
        found["inode"] = entry.inode
    else:
        found |= {
            "mode": entry.mode & 0o7777,
            "uid": entry.uid,
            "gid": entry.gid,
            "mtime_ns": entry.mtime_ns,
            "atime_ns": entry.atime_ns,
            "ctime_ns": entry.ctime_ns,
            "xattrs": _encoded(entry.xattrs.items()) if not entry.is_link else {},
            "records": _encoded(records_of(entry).items()),
        }
    if entry.link_target:
        found |= _raw("target", entry.link_target)
    if entry.type in ("char", "block"):
        found["rdev"] = entry.rdev
    if entry.body_size:
        found |= {"body_size": entry.body_size, "segments": entry.segments, "sha256": line.sha256}
    if len(entry.unwritten) > UNWRITTEN_KEPT and not entry.is_link:
        found["unwritten"] = entry.unwritten
    if line.unreadable:
        found["unreadable"] = line.unreadable
    return json.dumps(found, separators=(",", ":")).encode() + b"\n"


def parse_store_line(raw: bytes) -> DirectoryStoreLine:
    """A line back. AlteredArchiveError where it is not one."""
    try:
        found = json.loads(raw)
        kind = found["type"]
        path = _unraw(found, "path")
        body_size, segments = _body(found)
        unreadable = parse_ranges(found.get("unreadable", ()))
        unwritten = parse_ranges(found.get("unwritten", ()))
        sha256 = str(found.get("sha256", ""))
        if kind == VERITY:
            entry = Entry(path, VERITY, 0, inode=_whole(found, "inode"), body_size=body_size, segments=segments)
            return DirectoryStoreLine(entry, sha256, unreadable)
        target = _unraw(found, "target") if "target" in found or "target_base64" in found else b""
        rdev = _rdev(found)
        shown = archive_path(path)
        header = TarHeader(
            path=shown + b"/" if kind == "dir" else shown,
            typeflag=_TYPEFLAG[kind],
            mode=_whole(found, "mode", 0o7777),
            uid=_whole(found, "uid", 0xFFFFFFFF),
            gid=_whole(found, "gid", 0xFFFFFFFF),
            size=body_size,
            times=(_time(found, "mtime_ns"), _time(found, "atime_ns"), _time(found, "ctime_ns")),
            linkpath=archive_path(target) if kind == "link" else target,
            rdev=rdev,
            xattrs={name.encode("utf-8", "surrogateescape"): value for name, value in _decoded(found["records"])},
        )
        xattrs = dict(_decoded(found["xattrs"]))
        if body_size and _TYPEFLAG[kind] != REGTYPE:
            raise ValueError("a body on what is no file")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, binascii.Error) as error:
        raise AlteredArchiveError(f"a line that is none: {decode_path(raw[:60])!r} ({error})") from error
    entry = entry_of(header, segments, body_size, xattrs)
    if unwritten and unwritten[:UNWRITTEN_KEPT] != entry.unwritten:
        raise AlteredArchiveError("its unwritten ranges are given in two ways that differ", entry.shown)
    return DirectoryStoreLine(entry._replace(unwritten=unwritten) if unwritten else entry, sha256, unreadable)


def _body(found: dict[str, Any]) -> tuple[int, Segments]:
    """Size and segments, which ascend inside it."""
    size = _whole(found, "body_size") if "body_size" in found else 0
    segments = parse_ranges(found.get("segments", ()))
    end = 0
    for offset, length in segments:
        if offset < end or offset + length > size:
            raise ValueError(f"segment at {offset} of {length} bytes")
        end = offset + length
    return size, segments


def _raw(key: str, value: bytes) -> dict[str, str]:
    try:
        return {key: value.decode()}
    except UnicodeDecodeError:
        return {f"{key}_base64": base64.b64encode(value).decode()}


def _unraw(found: dict[str, Any], key: str) -> bytes:
    text: str = found.get(key)  # type: ignore[assignment]
    return text.encode() if text is not None else base64.b64decode(found[f"{key}_base64"], validate=True)


def _encoded(items: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    return {name: base64.b64encode(value).decode() for name, value in sorted(items)}


def _decoded(items: dict[str, str]) -> list[tuple[str, bytes]]:
    return [(name, base64.b64decode(value, validate=True)) for name, value in items.items()]


def _time(found: dict[str, Any], key: str) -> int:
    """Nanoseconds, in the range that an archive's headers have."""
    value = found[key]
    if type(value) is not int or abs(value) >= _TIME_LIMIT_NS:
        raise ValueError(f"{key} is {str(value)[:40]}")
    return value


def _rdev(found: dict[str, Any]) -> tuple[int, int]:
    """Major and minor number, as a tar header has room for."""
    major, minor = found.get("rdev", (0, 0))
    if any(type(value) is not int or not 0 <= value < _RDEV_LIMIT for value in (major, minor)):
        raise ValueError(f"rdev is {str((major, minor))[:40]}")
    return major, minor


def _whole(found: dict[str, Any], key: str, most: int = (1 << 63) - 1) -> int:
    value = found[key]
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{key} is {str(value)[:40]}")
    return value
