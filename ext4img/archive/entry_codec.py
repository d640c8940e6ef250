"""Convert an `Entry` to an archive member's header, and back.

Tar's own fields and pax times hold what tar has a field for. The rest is stored as extended
attributes named `trusted.ext4img.*`, which stock tools accept without a warning and keep: the e5
and ef/ed records, an encrypted symlink's stored target, and the inode record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ext4img.archive.encryption_records import build_filename, build_metadata, parse_filename, parse_metadata
from ext4img.archive.entry import MODE_OF_TYPE, NO_XATTRS, Entry, Segments
from ext4img.archive.inode_record import INODE, InodeRecord, build_inode_record
from ext4img.archive.lustre_encdata import ENCDATA, encdata_of
from ext4img.archive.member_paths import archive_path, tree_path
from ext4img.archive.pax_records import escape_key, parse_records, pax_record
from ext4img.archive.tar_header import PATH_LIMIT_BYTES, TarHeader, directory_path
from ext4img.errors import AlteredArchiveError, ArchiveError, LimitError
from ext4img.names.paths import decode_path
from ext4img.structs.tar import BLKTYPE, CHRTYPE, DIRTYPE, FIFOTYPE, LNKTYPE, REGTYPE, SYMTYPE
from ext4img.structs.xattr import RAW_XATTR_PREFIX

RESERVED: Final = "trusted.ext4img."  # attributes of this format
# No file system of Linux takes these from tar, but for ACLs; those of this format it takes as records.
_NOT_FOR_TAR: Final = (RESERVED, RAW_XATTR_PREFIX, "system.")
_ACL_PREFIX: Final = "system.posix_acl_"
METADATA: Final = RESERVED + "metadata"
FILENAME: Final = RESERVED + "filename"
SYMLINK: Final = RESERVED + "symlink"

_INODE_KEY: Final = INODE.encode()

XATTR_ROOM_BYTES: Final = 768 << 10  # of attributes in a header; the others get a member of their own
XATTR_MEMBER_LIMIT_BYTES: Final = 32 << 20
MAX_XATTRS: Final = 8192  # an inode and a block have at most 64 KiB each, an attribute at least 16 bytes

TYPEFLAG_OF_TYPE: Final = {
    "file": REGTYPE,
    "dir": DIRTYPE,
    "symlink": SYMTYPE,
    "char": CHRTYPE,
    "block": BLKTYPE,
    "fifo": FIFOTYPE,
    "socket": REGTYPE,
}
_TYPE_OF_TYPEFLAG: Final = {flag: kind for kind, flag in TYPEFLAG_OF_TYPE.items() if kind != "socket"}


def header_of(entry: Entry, stored_size: int, sparse: bool, encdata: bool = False) -> tuple[TarHeader, bytes]:
    """The member's header, and the body of its attribute member if attributes do not fit (else b"").

    With `encdata` the header also has Lustre's `security.encdata`. LimitError for a path or
    attributes that are too long for the format.
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
            LNKTYPE if entry.is_link else TYPEFLAG_OF_TYPE[kind],
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
    """The entry of a member of the tree. ArchiveError names the member and what is wrong.

    `overflow` has the attributes of its attribute member. With `encdata` the archive's writer added
    `security.encdata`; it is dropped, as the records have the same facts.
    """
    path = tree_path(header.path, header.typeflag == DIRTYPE)
    member = decode_path(path)
    if header.times is None:
        raise AlteredArchiveError("a member of the tree has no times", member)
    xattrs: dict[str, bytes] = dict(overflow) if overflow else {}
    records: dict[str, bytes] = {}
    for key, value in header.xattrs.items():
        name = decode_path(key)
        if name.startswith(RESERVED):
            records[name] = value
        elif encdata and name == ENCDATA:
            continue
        elif name in xattrs:
            raise AlteredArchiveError(f"duplicate attribute {name!r}", member)
        else:
            xattrs[name] = value
    if len(xattrs) > MAX_XATTRS:
        raise AlteredArchiveError(f"{len(xattrs)} attributes; a file can have {MAX_XATTRS}", member)
    if xattrs and any("\0" in name for name in xattrs):
        raise AlteredArchiveError("an attribute's name contains a NUL", member)
    try:
        known = InodeRecord(records.pop(INODE, b""))
        is_link = header.typeflag == LNKTYPE
        kind = _kind(header, known.type, is_link)
        mode = MODE_OF_TYPE[kind] | header.mode
        metadata = filename = stored_target = None
        if records:
            metadata = parse_metadata(records.pop(METADATA)) if METADATA in records else None
            filename = parse_filename(records.pop(FILENAME)) if FILENAME in records else None
            stored_target = records.pop(SYMLINK, None)
            if records:
                raise ArchiveError(f"unknown attribute {next(iter(records))!r}")
        context = metadata.context if metadata is not None else None
        if filename is not None and filename.mode is not None and filename[1:] != (mode, context):
            raise AlteredArchiveError("its filename record and its header differ")
        if is_link and (kind == "dir" or metadata is not None or xattrs):
            raise AlteredArchiveError("a hard link has attributes or records that only the first name may have")
        if not is_link and (stored_target is not None) != (kind == "symlink" and metadata is not None):
            raise AlteredArchiveError("an encrypted symlink has no stored target, or another entry has one")
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
            raise AlteredArchiveError("a symlink's target is empty or contains a NUL", member)
    elif link_target:
        raise AlteredArchiveError("it has a link target, but is not a link", member)
    mtime_ns, atime_ns, ctime_ns = header.times
    # By position, in the order of the fields: three times as fast as by keyword.
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


def _kind(header: TarHeader, recorded: str | None, is_link: bool) -> str:
    """The entry's type: from the header, or from the inode record where tar has no such type."""
    if is_link:
        return recorded or "file"
    if recorded is None:
        return _TYPE_OF_TYPEFLAG[header.typeflag]
    if recorded != "socket" or header.typeflag != REGTYPE or header.size:
        raise AlteredArchiveError(f"its inode record has the type {recorded}, its header another")
    return recorded


def parse_overflow(data: bytes, member: str) -> dict[str, bytes]:
    """The attributes in the body of a member below `.ext4img/xattrs/`, which has pax records."""
    records = parse_records(data, f"the attributes {member!r}", MAX_XATTRS)
    return {decode_path(key): value for key, value in records.items()}


def records_of(entry: Entry) -> dict[str, bytes]:
    """The `trusted.ext4img.*` attributes of an entry."""
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
    records[INODE] = build_inode_record(entry)
    return records


def _split_xattrs(entry: Entry, encdata: bool) -> tuple[dict[bytes, bytes], bytes]:
    """(attributes for the header; pax records of those that do not fit or have a name that is not for tar)."""
    if entry.context is None and entry.stored_name is None and entry.stored_target is None:
        records = {_INODE_KEY: build_inode_record(entry)}  # most entries have no other
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
        for_tar = text.startswith(_ACL_PREFIX) or not text.startswith(_NOT_FOR_TAR)
        if room >= 0 and for_tar and not (encdata and text == ENCDATA):
            records[name] = value
        else:
            overflow.append(pax_record(escape_key(name), value))
    data = b"".join(overflow)
    if len(data) > XATTR_MEMBER_LIMIT_BYTES:
        raise LimitError(
            f"{entry.shown!r}: attributes of {len(data)} bytes; the archive takes {XATTR_MEMBER_LIMIT_BYTES}"
        )
    return records, data
