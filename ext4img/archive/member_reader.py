"""Read an archive's members in their order, each one checked before the caller gets it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ext4img.archive.backup_info import INFO_LIMIT_BYTES, BackupInfo
from ext4img.archive.entry import NO_XATTRS, UNWRITTEN_KEPT, VERITY, Entry, Segments
from ext4img.archive.entry_codec import XATTR_MEMBER_LIMIT_BYTES, entry_of, parse_overflow
from ext4img.archive.input import Cursor
from ext4img.archive.loss import Losses
from ext4img.archive.manifest import ManifestReader, ManifestWriter, check_end, parse_member
from ext4img.archive.manifest_line import (
    Closing,
    ManifestLine,
    archive_in,
    build_line,
    digest_in,
)
from ext4img.archive.member import DamagedMembers, Member, ReadResources
from ext4img.archive.member_paths import BACKUP_PATH, MANIFEST_PATH, VERITY_DIRECTORY, XATTR_DIRECTORY, is_control
from ext4img.archive.pax_reader import read_header
from ext4img.archive.sparse_map import read_map
from ext4img.archive.tar_header import TarHeader
from ext4img.archive.tree_order import TreeOrder
from ext4img.errors import AlteredArchiveError, ArchiveError, TruncatedArchiveError, UnsafeArchiveError
from ext4img.names.nokey import parse_nokey_name
from ext4img.names.paths import decode_path
from ext4img.structs.inode import EXT4_VERITY_FL
from ext4img.structs.tar import REGTYPE

_ATTRIBUTES: Final = "attributes"
_INODE_DIGITS: Final = 10
_FIELD_NAMES: Final = {
    "data_size": "size",
    "data_sha256": "digest",
    "header_sha256": "header",
    "header_offset": "offset",
    "data_offset": "data offset",
    "change_key": "generation, size, change time or version",
    "name_hash": "name hash",
    "filename": "filename record",
    "symlink": "stored target",
}


class MemberReader:
    """Reads forward from the cursor; `start` is the offset of the last header read.

    Each member is compared with `expected`, the manifest's lines, raw or parsed. Without them (a
    stream) all members are compared with the manifest when it is reached.

    Without `info` the cursor must be at the archive's start, and `read_info` comes first. With `info`
    the cursor may be at any member; order and links, which depend on earlier members, are not checked.
    """

    def __init__(
        self,
        cursor: Cursor,
        expected: Iterator[bytes | ManifestLine] | None,
        info: BackupInfo | None = None,
        resources: ReadResources | None = None,
    ) -> None:
        self.closing: Closing | None = None
        self.losses = Losses()  # of a stream, when its manifest has been read
        self.start = cursor.position
        self._cursor = cursor
        self._expected = expected
        self._block_size = info.block_size if info is not None else 0
        self._encdata = info is not None and info.encdata
        self._in_order = info is None
        self._is_partial = False  # an incremental archive: first names may be in another archive
        self._seen = ManifestWriter() if expected is None else None
        self._owns_resources = resources is None
        self._resources = ReadResources() if resources is None else resources
        self._order = TreeOrder()
        self._links: dict[bytes, tuple[int, int]] = {}  # first name: its inode, further names expected
        self._attributes: tuple[int, Mapping[str, bytes]] | None = None  # of the next member
        self._verity: dict[int, tuple[bytes, bytes | None]] = {}  # inode of a verity file: path, context
        self._after_tree = False

    def read_info(self) -> BackupInfo:
        """Read the archive's first member. ArchiveError if this is not a backup."""
        found = read_header(self._cursor)
        if found is None or found[0].path != BACKUP_PATH or found[0].typeflag != REGTYPE:
            raise ArchiveError(f"{self._cursor.name}: not a backup made by ext4img")
        header, header_bytes = found
        if header.size > INFO_LIMIT_BYTES or header.sparse_size is not None:
            raise ArchiveError(f"it is sparse or too large: {header.size} bytes", decode_path(BACKUP_PATH))
        entry = Entry(BACKUP_PATH, _ATTRIBUTES, 0, body_size=header.size, segments=_no_holes(header.size))
        member = Member(entry, header, header_bytes, 0, b"", self._cursor, self._resources)
        self._expect(member)
        info = BackupInfo.from_json(member.read())
        self._remember(member)
        self._block_size = info.block_size
        self._encdata = info.encdata
        self._is_partial = bool(info.requires)
        return info

    def members(self, verify: bool) -> Iterator[Member]:
        """The members up to the manifest; see `Archive.members`."""
        cursor = self._cursor
        verify = verify or self._seen is not None
        with self:
            while True:
                start = self.start = cursor.position
                found = read_header(cursor)
                if found is None:
                    raise TruncatedArchiveError(f"{cursor.name}: it ends without its manifest")
                header, header_bytes = found
                if header.path == MANIFEST_PATH:
                    self._finish(header, start)
                    return
                member = self._member(header, header_bytes, start)
                if member.entry.type == _ATTRIBUTES:
                    self._attributes = member.entry.inode, parse_overflow(member.read(), member.entry.shown)
                else:
                    yield member
                    member.finish(verify)
                self._remember(member)

    def close(self) -> None:
        """Close the digest thread, unless it is shared, and the spooled lines."""
        if self._owns_resources:
            self._resources.digests.close()
        if self._seen is not None:
            self._seen.close()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self.close()

    def _member(self, header: TarHeader, header_bytes: bytes, offset: int) -> Member:
        body_size, segments, raw_map = header.size, _no_holes(header.size), b""
        if header.sparse_size is not None:
            body_size = header.sparse_size
            segments, raw_map = read_map(self._cursor, header.size, body_size, decode_path(header.path))
        control = is_control(header.path)
        entry = (self._control_entry if control else self._tree_entry)(header, segments, body_size)
        member = Member(entry, header, header_bytes, offset, raw_map, self._cursor, self._resources)
        self._expect(member)
        return member

    def _control_entry(self, header: TarHeader, segments: Segments, body_size: int) -> Entry:
        """The entry of one of the archive's own members: attributes or a verity tree."""
        shown = decode_path(header.path)
        directory, _, digits = header.path.rpartition(b"/")
        directory += b"/"
        known = directory in (XATTR_DIRECTORY, VERITY_DIRECTORY) and header.typeflag == REGTYPE
        if not known or not digits.isdigit() or len(digits) > _INODE_DIGITS:
            raise ArchiveError("the format has no such member", shown)
        inode = int(digits)
        if directory == XATTR_DIRECTORY:
            if self._attributes is not None or header.sparse_size is not None or body_size > XATTR_MEMBER_LIMIT_BYTES:
                raise AlteredArchiveError("a second attribute member, or one that is sparse or too large", shown)
            return Entry(header.path, _ATTRIBUTES, 0, body_size=body_size, segments=segments, inode=inode)
        self._after_tree = True
        path, context = self._verity.pop(inode, (header.path, None))
        if path == header.path and self._in_order:
            raise AlteredArchiveError("a verity tree without its file, or a second one", shown)
        return Entry(path, VERITY, 0, body_size=body_size, segments=segments, inode=inode, context=context)

    def _tree_entry(self, header: TarHeader, segments: Segments, body_size: int) -> Entry:
        """The entry of a member of the tree; checks that it may come here."""
        inode, attributes = self._attributes or (0, NO_XATTRS)
        entry = entry_of(header, segments, body_size, attributes, self._encdata)
        if inode and inode != entry.inode:
            raise AlteredArchiveError("the attribute member before it belongs to another inode", entry.shown)
        self._attributes = None
        if self._after_tree:
            raise AlteredArchiveError("a member of the tree after the verity trees", entry.shown)
        if self._in_order:
            self._order.check(entry.path, entry.type == "dir")
            if not self._is_partial:
                self._check_link(entry)
        if entry.stored_name is not None:
            shown = parse_nokey_name(entry.name)
            if shown is None or not shown.matches(entry.stored_name):
                raise AlteredArchiveError("its name does not match its filename record", entry.shown)
        if entry.type == "file" and entry.context is not None:
            block = self._block_size
            in_blocks = all(offset % block == 0 and length % block == 0 for offset, length in segments)
            if not in_blocks or body_size != -(-entry.size // block) * block:
                raise AlteredArchiveError("its ciphertext does not consist of whole blocks up to its size", entry.shown)
        if entry.flags & EXT4_VERITY_FL and entry.type == "file" and not entry.is_link:
            self._verity[entry.inode] = entry.path, entry.context
        return entry

    def _check_link(self, entry: Entry) -> None:
        """Check that a hard link names an earlier member of the same inode, which is not a directory."""
        if entry.is_link:
            inode, names_remaining = self._links.get(entry.link_target, (0, 0))
            if inode != entry.inode:
                what = f"a hard link to {decode_path(entry.link_target)!r}, which is not the same file"
                raise UnsafeArchiveError(what, entry.shown)
            if names_remaining > 1:
                self._links[entry.link_target] = (inode, names_remaining - 1)
            else:
                del self._links[entry.link_target]
        elif entry.links > 1 and entry.type != "dir":
            self._links[entry.path] = (entry.inode, entry.links - 1)

    def _expect(self, member: Member) -> None:
        """Compare a header with the manifest before the caller gets the entry."""
        if self._expected is None:
            return
        seen = member.line()
        for promised in self._expected:
            raw = promised if isinstance(promised, bytes) else build_line(promised)[:-1]
            sha256 = digest_in(raw, seen)
            if sha256 is not None:
                member.expect(sha256, raw)
                return
            if archive_in(raw) is None:
                line = parse_member(raw)
                member.expect(line.data_sha256, raw)
                member.unreadable = line.unreadable
                if line.unwritten:  # the inode record has only the first
                    if line.unwritten[:UNWRITTEN_KEPT] != member.entry.unwritten:
                        raise AlteredArchiveError(
                            "its unwritten ranges are not those that were written", decode_path(member.path)
                        )
                    member.entry = member.entry._replace(unwritten=line.unwritten)
                _compare(line, member.line())
                return
            # else another archive stores it
        raise AlteredArchiveError("the manifest has no line for it", decode_path(member.path))

    def _remember(self, member: Member) -> None:
        """On a stream keep the member's line until the manifest is reached."""
        if self._seen is not None:
            self._seen.add(member.line())

    def _finish(self, header: TarHeader, start: int) -> None:
        """Compare all members with the manifest on a stream; check that none is missing."""
        if self._attributes is not None:
            raise AlteredArchiveError("an attribute member without the member it belongs to")
        if self._seen is None:
            if self._expected is not None and any(_is_stored(line) for line in self._expected):
                raise AlteredArchiveError("members are missing that the manifest has")
            return
        manifest = ManifestReader(self._cursor, header.size, start)
        lines = self._seen.lines()
        damaged = DamagedMembers()
        place = -1
        for line in manifest:
            if line.reference is not None:
                continue
            seen = next(lines, None)
            if seen is None:
                raise AlteredArchiveError("members are missing that the manifest has")
            place += line.path != BACKUP_PATH and not line.path.startswith(XATTR_DIRECTORY)
            try:
                _compare(line, seen)
            except AlteredArchiveError as error:
                sound = line._replace(data_sha256=seen.data_sha256, header_sha256=seen.header_sha256)
                if sound != seen._replace(
                    unreadable=line.unreadable, unwritten=line.unwritten, header_atime_ns=line.header_atime_ns
                ):
                    raise
                # An attribute member belongs to the next member.
                damaged.add(place + line.path.startswith(XATTR_DIRECTORY), error)
        if next(lines, None) is not None:
            raise AlteredArchiveError("it has members that the manifest does not have")
        self.closing = manifest.closing
        self.losses = manifest.losses
        check_end(self._cursor, header.size)
        if damaged.errors:
            raise damaged


def _no_holes(size: int) -> Segments:
    """The segments of a body without holes."""
    return ((0, size),) if size else ()


def _is_stored(promised: bytes | ManifestLine) -> bool:
    """Whether this archive stores a line's member."""
    return (archive_in(promised) if isinstance(promised, bytes) else promised.reference) is None


def _compare(line: ManifestLine, seen: ManifestLine) -> None:
    """AlteredArchiveError if a member differs from its line in the manifest."""
    if line == seen:
        return
    if line.header_atime_ns is None:  # of an archive of an earlier version
        line = line._replace(header_atime_ns=seen.header_atime_ns)
    if line._replace(unreadable=(), unwritten=seen.unwritten) == seen:
        return
    for what, promised, found in zip(ManifestLine._fields, line, seen, strict=True):
        if promised != found and what != "unreadable":
            reason = f"its {_FIELD_NAMES.get(what, what)} is not the one that was written"
            raise AlteredArchiveError(reason, decode_path(seen.path))
