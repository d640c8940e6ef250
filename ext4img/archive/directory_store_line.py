"""The lines of a directory store's `entries.jsonl`: an `Entry` as JSON, and back.

docs/archive-format.md ("The directory store") lists the keys. A parsed line becomes a header and
passes the same checks as an archive's member.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from ext4img.archive.entry import UNWRITTEN_KEPT, VERITY, Entry, Segments
from ext4img.archive.entry_codec import TYPEFLAG_OF_TYPE, entry_of, records_of
from ext4img.archive.json_fields import (
    FIELD_ERRORS,
    LIMIT_32,
    LIMIT_63,
    bytes_field,
    get_bytes,
    get_ranges,
    get_time_ns,
    get_unsigned,
    has_bytes,
    shown_line,
)
from ext4img.archive.member_paths import archive_path
from ext4img.archive.tar_header import TarHeader
from ext4img.errors import AlteredArchiveError
from ext4img.structs.tar import LNKTYPE, REGTYPE

LINE_LIMIT_BYTES: Final = 64 << 20
_MODE_LIMIT: Final = 0o10000
_RDEV_LIMIT: Final = 1 << 21  # seven octal digits, as in an archive's headers
_TYPEFLAG: Final = TYPEFLAG_OF_TYPE | {"link": LNKTYPE}


class DirectoryStoreLine(NamedTuple):
    """A parsed line. `sha256` is the digest of the body's data, all segments in order, in hex."""

    entry: Entry
    sha256: str
    unreadable: Segments


def build_store_line(line: DirectoryStoreLine) -> bytes:
    """The line's bytes, newline included."""
    entry = line.entry
    found: dict[str, Any] = {"type": "link" if entry.is_link else entry.type, **bytes_field("path", entry.path)}
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
        found |= bytes_field("target", entry.link_target)
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
    """Parse a line. AlteredArchiveError if it is malformed."""
    try:
        found = json.loads(raw)
        kind = found["type"]
        path = get_bytes(found, "path")
        body_size, segments = _body(found)
        unreadable = get_ranges(found, "unreadable")
        unwritten = get_ranges(found, "unwritten")
        sha256 = str(found.get("sha256", ""))
        if kind == VERITY:
            inode = get_unsigned(found, "inode", LIMIT_63)
            entry = Entry(path, VERITY, 0, inode=inode, body_size=body_size, segments=segments)
            return DirectoryStoreLine(entry, sha256, unreadable)
        target = get_bytes(found, "target") if has_bytes(found, "target") else b""
        member_path = archive_path(path)
        header = TarHeader(
            path=member_path + b"/" if kind == "dir" else member_path,
            typeflag=_TYPEFLAG[kind],
            mode=get_unsigned(found, "mode", _MODE_LIMIT),
            uid=get_unsigned(found, "uid", LIMIT_32),
            gid=get_unsigned(found, "gid", LIMIT_32),
            size=body_size,
            times=(get_time_ns(found, "mtime_ns"), get_time_ns(found, "atime_ns"), get_time_ns(found, "ctime_ns")),
            linkpath=archive_path(target) if kind == "link" else target,
            rdev=_rdev(found),
            xattrs={name.encode("utf-8", "surrogateescape"): value for name, value in _decoded(found["records"])},
        )
        xattrs = dict(_decoded(found["xattrs"]))
        if body_size and _TYPEFLAG[kind] != REGTYPE:
            raise ValueError("it has a body, but is not a file")
    except FIELD_ERRORS as error:
        raise AlteredArchiveError(f"malformed line: {shown_line(raw)!r} ({error})") from error
    entry = entry_of(header, segments, body_size, xattrs)
    if unwritten and unwritten[:UNWRITTEN_KEPT] != entry.unwritten:
        raise AlteredArchiveError("its unwritten ranges differ from those in its inode record", entry.shown)
    return DirectoryStoreLine(entry._replace(unwritten=unwritten) if unwritten else entry, sha256, unreadable)


def _body(found: dict[str, Any]) -> tuple[int, Segments]:
    """The body's size and its segments, which ascend within it and do not overlap."""
    size = get_unsigned(found, "body_size", LIMIT_63) if "body_size" in found else 0
    segments = get_ranges(found, "segments")
    end = 0
    for offset, length in segments:
        if offset < end or offset + length > size:
            raise ValueError(f"segment at {offset} of {length} bytes")
        end = offset + length
    return size, segments


def _encoded(items: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    return {name: base64.b64encode(value).decode() for name, value in sorted(items)}


def _decoded(items: dict[str, str]) -> list[tuple[str, bytes]]:
    return [(name, base64.b64decode(value, validate=True)) for name, value in items.items()]


def _rdev(found: dict[str, Any]) -> tuple[int, int]:
    """Major and minor number, in the range of a tar header."""
    major, minor = found.get("rdev", (0, 0))
    if any(type(value) is not int or not 0 <= value < _RDEV_LIMIT for value in (major, minor)):
        raise ValueError(f"rdev is {str((major, minor))[:40]}")
    return major, minor
