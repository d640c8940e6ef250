"""An `Entry` as an archive member, and back.

Tar's own fields and pax times carry what tar knows. The rest rides as extended attributes named
`trusted.ext4img.*`, because stock tools take those in silence and keep them: the e5 and ef/ed
records, an encrypted symlink's stored target, and one line of JSON about the inode.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from ext4img.archive.encryption_records import build_filename, build_metadata, parse_filename, parse_metadata
from ext4img.archive.entry import MODE_OF_TYPE, NO_XATTRS, ROOT, UNWRITTEN_KEPT, Entry, Segments, parse_ranges
from ext4img.archive.lustre_encdata import ENCDATA, encdata_of
from ext4img.archive.pax_writer import (
    PATH_LIMIT_BYTES,
    TarHeader,
    directory_path,
    escape_key,
    parse_records,
    pax_record,
)
from ext4img.errors import AlteredArchiveError, ArchiveError, LimitError, UnsafeArchiveError
from ext4img.names.paths import decode_path
from ext4img.structs.tar import BLKTYPE, CHRTYPE, DIRTYPE, FIFOTYPE, LNKTYPE, REGTYPE, SYMTYPE

CONTROL: Final = b".ext4img"
BACKUP_PATH: Final = CONTROL + b"/backup.json"
MANIFEST_PATH: Final = CONTROL + b"/manifest.jsonl"
VERITY_DIRECTORY: Final = CONTROL + b"/verity/"
XATTR_DIRECTORY: Final = CONTROL + b"/xattrs/"

RESERVED: Final = "trusted.ext4img."
METADATA: Final = RESERVED + "metadata"
FILENAME: Final = RESERVED + "filename"
SYMLINK: Final = RESERVED + "symlink"
INODE: Final = RESERVED + "inode"

_INODE_KEY: Final = INODE.encode()

XATTR_ROOM_BYTES: Final = 768 << 10  # what does not fit travels in a member of its own
XATTR_MEMBER_LIMIT_BYTES: Final = 32 << 20
XATTRS_MOST: Final = 8192  # in an inode and a block of 64 KiB each: an entry has at least 16 bytes
INODE_LINE_LIMIT_BYTES: Final = 4096
_decode: Final = json.JSONDecoder().raw_decode
_ALL32: Final = 1 << 32

_TYPEFLAG: Final = {
    "file": REGTYPE,
    "dir": DIRTYPE,
    "symlink": SYMTYPE,
    "char": CHRTYPE,
    "block": BLKTYPE,
    "fifo": FIFOTYPE,
    "socket": REGTYPE,
}
_TYPE: Final = {flag: kind for kind, flag in _TYPEFLAG.items() if kind != "socket"}
_NAME_LIMIT_BYTES: Final = 256  # EXT4_NAME_LEN, and one for an escaped ".ext4img"
_NO_NAMES: Final = frozenset((b"", b".", b".."))
_USUAL_PATH_BYTES: Final = 4096
_ESCAPED = re.compile(rb"\.ext4img~*")


def header_of(entry: Entry, stored_size: int, sparse: bool, encdata: bool = False) -> tuple[TarHeader, bytes]:
    """The member's header, and the attributes that need a member of their own before it (or b"").

    With `encdata` it has Lustre's attribute, too.
    """
    kind = entry.type
    path = archive_path(entry.path)
    if kind == "dir":
        path = directory_path(path)
    if len(path) > PATH_LIMIT_BYTES:
        raise LimitError(
            f"a path of {len(path)} bytes; the archive takes {PATH_LIMIT_BYTES}: {decode_path(path[:80])!r}…"
        )
    xattrs, overflow = _split_xattrs(entry, encdata)
    linkpath = entry.link_target
    if entry.is_link:
        linkpath = archive_path(linkpath)
    header = TarHeader._make(
        (
            path,
            LNKTYPE if entry.is_link else _TYPEFLAG[kind],
            entry.mode,
            entry.uid,
            entry.gid,
            stored_size,
            (entry.mtime_ns, entry.atime_ns, entry.ctime_ns),
            linkpath,
            entry.rdev,
            entry.body_size if sparse else None,
            xattrs,
        )
    )
    return header, overflow


def entry_of(
    header: TarHeader, segments: Segments, body_size: int, overflow: Mapping[str, bytes], encdata: bool = False
) -> Entry:
    """The entry a member of the tree holds. ArchiveError names the member and what is wrong.

    With `encdata` Lustre's attribute in the header is ours; it says nothing that the records don't.
    """
    path = tree_path(header.path, header.typeflag == DIRTYPE)
    member = decode_path(path)
    if header.times is None:
        raise AlteredArchiveError("a member of the tree without times", member)
    xattrs: dict[str, bytes] = dict(overflow) if overflow else {}
    records: dict[str, bytes] = {}
    for key, value in header.xattrs.items():
        name = decode_path(key)
        if name.startswith(RESERVED):
            records[name] = value
        elif encdata and name == ENCDATA:
            continue
        elif name in xattrs:
            raise AlteredArchiveError(f"attribute {name!r} comes twice", member)
        else:
            xattrs[name] = value
    if len(xattrs) > XATTRS_MOST:
        raise AlteredArchiveError(f"{len(xattrs)} attributes; a file can have {XATTRS_MOST}", member)
    if xattrs and any("\0" in name for name in xattrs):
        raise AlteredArchiveError("an attribute whose name has a NUL in it", member)
    try:
        known = _Inode(records.pop(INODE, b""))
        is_link = header.typeflag == LNKTYPE
        kind = _kind(header, known.type, is_link)
        mode = MODE_OF_TYPE[kind] | header.mode
        metadata = filename = stored_target = None
        if records:
            metadata = parse_metadata(records.pop(METADATA)) if METADATA in records else None
            filename = parse_filename(records.pop(FILENAME)) if FILENAME in records else None
            stored_target = records.pop(SYMLINK, None)
            if records:
                raise ArchiveError(f"attribute {next(iter(records))!r} is not of this format")
        context = metadata.context if metadata is not None else None
        if filename is not None and filename.mode is not None and filename[1:] != (mode, context):
            raise AlteredArchiveError("its directory record and its header differ")
        if is_link and (kind == "dir" or metadata is not None or xattrs):
            raise AlteredArchiveError("a hard link carries what only its first name may")
        if not is_link and (stored_target is not None) != (kind == "symlink" and metadata is not None):
            raise AlteredArchiveError("an encrypted symlink needs its stored target, and nothing else has one")
        size = metadata.size if metadata is not None else body_size
        if metadata is None and known.size is not None and kind == "dir":
            size = known.size
    except ArchiveError as error:
        raise type(error)(error.reason, member) from error
    link_target = header.linkpath
    if is_link:
        link_target = tree_path(link_target, directory=False)
    elif kind == "symlink":
        size = size if metadata is not None else len(link_target)
        if not link_target or b"\0" in link_target:
            raise AlteredArchiveError("a symlink without a target, or with a NUL in it", member)
    elif link_target:
        raise AlteredArchiveError("a link target on what is no link", member)
    mtime_ns, atime_ns, ctime_ns = header.times
    # By position, in the order of its fields: a third of the time that keywords take.
    return Entry._make(
        (
            path,
            kind,
            mode,
            header.uid,
            header.gid,
            size,
            body_size,
            segments,
            atime_ns,
            mtime_ns,
            ctime_ns,
            known.crtime_ns,
            header.rdev,
            link_target,
            is_link,
            xattrs or NO_XATTRS,
            known.number,
            known.generation,
            known.flags,
            known.version,
            known.project,
            known.links,
            known.unwritten,
            context,
            filename.name if filename is not None else None,
            known.hash,
            stored_target,
        )
    )


def _kind(header: TarHeader, said: str | None, is_link: bool) -> str:
    """The entry's type: the header's, or the record's where tar has none."""
    if is_link:
        return said or "file"
    if said is None:
        return _TYPE[header.typeflag]
    if said != "socket" or header.typeflag != REGTYPE or header.size:
        raise AlteredArchiveError(f"its record calls it a {said}, its header says otherwise")
    return said


def archive_path(path: bytes) -> bytes:
    """A tree path as a member's name: `.ext4img` at the top is ours, the tree's own gets a "~"."""
    if not path.startswith(CONTROL):
        return path
    head, slash, rest = path.partition(b"/")
    return head + b"~" + slash + rest if _ESCAPED.fullmatch(head) else path


def tree_path(path: bytes, directory: bool) -> bytes:
    """A member's name as a tree path. UnsafeArchiveError where it would lead astray."""
    if directory:
        if not path.endswith(b"/"):
            raise UnsafeArchiveError("a directory's name without a slash at its end", decode_path(path))
        path = path[:-1]
        if path == ROOT:
            return ROOT
    parent, slash, name = path.rpartition(b"/")
    if not _is_name(name) or (slash and not (_kept_is_path if len(parent) <= _USUAL_PATH_BYTES else _is_path)(parent)):
        raise UnsafeArchiveError("a path with an empty, dotted or overlong component", decode_path(path[:4096]))
    if not path.startswith(CONTROL):
        return path
    head, slash, rest = path.partition(b"/")
    if not _ESCAPED.fullmatch(head):
        return path
    if head == CONTROL:
        raise UnsafeArchiveError("not a member of the tree", decode_path(path))
    return head[:-1] + slash + rest


def _is_name(name: bytes) -> bool:
    return name not in _NO_NAMES and b"\0" not in name and len(name) <= _NAME_LIMIT_BYTES


def _is_path(path: bytes) -> bool:
    return all(map(_is_name, path.split(b"/")))


_kept_is_path = lru_cache(maxsize=256)(_is_path)  # most members have their neighbour's parent


def parse_overflow(data: bytes, member: str) -> dict[str, bytes]:
    """The attributes of a member below `.ext4img/xattrs/`, in the form of pax records."""
    records = parse_records(data, f"the attributes {member!r}", XATTRS_MOST)
    return {decode_path(key): value for key, value in records.items()}


def records_of(entry: Entry) -> dict[str, bytes]:
    """The attributes by which an entry's own facts travel."""
    records: dict[str, bytes] = {}
    if entry.context is not None and not entry.is_link:
        records[METADATA] = build_metadata(entry.size, entry.context)
    if entry.stored_name is not None:
        directory = entry.type == "dir"
        records[FILENAME] = build_filename(
            entry.stored_name, entry.mode if directory else None, entry.context if directory else None
        )
    if entry.stored_target is not None and not entry.is_link:
        records[SYMLINK] = entry.stored_target
    records[INODE] = _inode_line(entry)
    return records


def _split_xattrs(entry: Entry, encdata: bool) -> tuple[dict[bytes, bytes], bytes]:
    """(what goes into the header, what does not fit or has one of our names, as pax records)."""
    if entry.context is None and entry.stored_name is None and entry.stored_target is None:
        records = {_INODE_KEY: _inode_line(entry)}  # as most have it
    else:
        records = {name.encode(): value for name, value in records_of(entry).items()}
    line = encdata_of(entry) if encdata else None
    if line is not None:
        records[ENCDATA.encode()] = line
    if not entry.xattrs or entry.is_link:
        return records, b""
    room = XATTR_ROOM_BYTES
    overflow: list[bytes] = []
    for text, value in sorted(entry.xattrs.items()):
        name = text.encode("utf-8", "surrogateescape")
        room -= len(name) + len(value)
        if room >= 0 and not text.startswith(RESERVED) and not (encdata and text == ENCDATA):
            records[name] = value
        else:
            overflow.append(pax_record(escape_key(name), value))
    data = b"".join(overflow)
    if len(data) > XATTR_MEMBER_LIMIT_BYTES:
        raise LimitError(
            f"{entry.shown!r}: attributes of {len(data)} bytes; the archive takes {XATTR_MEMBER_LIMIT_BYTES}"
        )
    return records, data


def _inode_line(entry: Entry) -> bytes:
    """The JSON of `trusted.ext4img.inode`: what tar has no field for, and only what is there."""
    text = f'{{"number":{entry.inode},"generation":{entry.generation},"flags":{entry.flags},"links":{entry.links}'
    if entry.crtime_ns is not None:
        text += f',"crtime_ns":{entry.crtime_ns}'
    if entry.version:
        text += f',"version":{entry.version}'
    if entry.project_id:
        text += f',"project":{entry.project_id}'
    if entry.type == "socket" or entry.is_link:
        text += f',"type":"{entry.type}"'
    if entry.type == "dir" and entry.context is None:
        text += f',"size":{entry.size}'
    if entry.name_hash is not None:
        text += f',"hash":"{entry.name_hash.hex()}"'
    if entry.unwritten and not entry.is_link:
        kept = entry.unwritten[:UNWRITTEN_KEPT]
        text += f',"unwritten":{json.dumps(kept, separators=(",", ":"))}'
    return text.encode() + b"}"


class _Inode:
    """The line back, each value of its type and in its range."""

    __slots__ = (
        "crtime_ns", "flags", "generation", "hash", "links", "number", "project", "size", "type", "unwritten", "version"
    )  # fmt: skip

    def __init__(self, line: bytes) -> None:
        if not line or len(line) > INODE_LINE_LIMIT_BYTES:
            raise AlteredArchiveError(f"its {INODE} attribute has {len(line)} bytes")
        try:
            text = line.decode()
            found, end = _decode(text)
            if type(found) is not dict or end != len(text):
                raise TypeError("no object")
            self.number = number = found["number"]
            self.generation = generation = found["generation"]
            self.flags = flags = found["flags"]
            self.links = links = found["links"]
            if not type(number) is type(generation) is type(flags) is type(links) is int:
                raise TypeError("number, generation, flags or links is no integer")
            if not (0 < number < _ALL32 and 0 <= generation < _ALL32 and 0 <= flags < _ALL32 and 0 <= links < _ALL32):
                raise ValueError("number, generation, flags or links is not of 32 bits")
            self.version = _ranged(found, "version", 0, 64, 0)
            self.project = _ranged(found, "project", 0, 32, 0) if "project" in found else 0
            self.size: int | None = _ranged(found, "size", 0, 63) if "size" in found else None
            self.crtime_ns: int | None = None
            if "crtime_ns" in found:
                self.crtime_ns = _ranged(found, "crtime_ns", -(1 << 63), 64)  # ext4's end in 2446
            self.type: str | None = found.get("type")
            if self.type is not None and self.type not in MODE_OF_TYPE:
                raise ValueError(f"type is {self.type!r}")
            self.hash: bytes | None = None
            if "hash" in found:
                self.hash = bytes.fromhex(found["hash"])
                if len(self.hash) != 8:
                    raise ValueError("hash is not of 8 bytes")
            self.unwritten: Segments = parse_ranges(found["unwritten"]) if "unwritten" in found else ()
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise AlteredArchiveError(f"its {INODE} attribute cannot be understood: {error}") from error


def _ranged(found: dict[str, Any], key: str, least: int, bits: int, default: int | None = None) -> int:
    value = found.get(key, default) if default is not None else found[key]
    if type(value) is not int or not least <= value < 1 << bits:
        raise ValueError(f"{key} is {str(value)[:40]}")
    return value


def is_control(path: bytes) -> bool:
    """Whether a member's name is one of the archive's own."""
    return path.startswith(CONTROL + b"/")
