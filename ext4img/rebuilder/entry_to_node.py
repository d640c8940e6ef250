"""From an entry to a node: attributes as on disk, contents in the new file system's blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ext4img.archive.entry import Entry, Segments
from ext4img.crypto.policy import parse_context
from ext4img.errors import BuildError, CorruptionError, UnsupportedFeatureError
from ext4img.mkfs import ENCRYPTION_CONTEXT, Node, stored_xattr
from ext4img.mkfs.inodes import FIRST_TIME_NS, LAST_TIME_NS
from ext4img.mkfs.nodes import Path, XattrKey
from ext4img.rebuilder.source import SourceEntry
from ext4img.rebuilder.unreadable_ranges import subtract_unreadable
from ext4img.structs.inode import EXT4_INDEX_FL, EXT4_VERITY_FL
from ext4img.structs.xattr import EXT4_XATTR_ENTRY

PROBLEMS_KEPT: Final = 10_000
_MAX_XATTRS: Final = 2 * 65536 // EXT4_XATTR_ENTRY.size
"""In the largest inode and the largest block."""


@dataclass(slots=True)
class NodeReport:
    """How many nodes were made, by type ("link": further names), and what could not be."""

    made: dict[str, int] = field(default_factory=dict)
    incomplete: int = 0
    left_out: int = 0
    problems: list[BuildError] = field(default_factory=list)

    def skip(self, error: BuildError) -> None:
        """Count an entry that is left out, and note why."""
        self.left_out += 1
        self.note(error)

    def note(self, error: BuildError) -> None:
        """Note a problem with an entry that is not left out."""
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(error)


class EntryToNode:
    """Makes the nodes of a file system with blocks of `block_size` bytes; the source's have `source_block_size`.

    Changes are noted in `report`. With `leave_out`, attributes that ext4 can't store are dropped and
    noted, too.
    """

    def __init__(self, block_size: int, source_block_size: int, report: NodeReport, *, leave_out: bool) -> None:
        self._block_size = block_size
        self._source_block_size = source_block_size
        self._report = report
        self._leave_out = leave_out

    def node(self, source_entry: SourceEntry, path: Path, link_group: int | None) -> Node:
        """The node of an entry that has its own inode. BuildError if ext4 can't store it."""
        entry = source_entry.entry
        if entry.context is not None:
            try:
                parse_context(entry.context, supported_only=False)
            except (CorruptionError, UnsupportedFeatureError) as error:
                raise BuildError(str(error), entry.shown) from error
        times = entry.atime_ns, entry.mtime_ns, entry.ctime_ns, entry.crtime_ns or 0
        if min(times) < FIRST_TIME_NS or max(times) > LAST_TIME_NS:
            entry = self._with_times_of_ext4(entry)
        return Node(
            path,
            entry.mode,
            entry.uid,
            entry.gid,
            entry.size if entry.type == "file" else 0,
            entry.atime_ns,
            entry.mtime_ns,
            entry.ctime_ns,
            entry.crtime_ns,
            entry.flags,
            entry.generation,
            entry.project_id,
            entry.inode,
            link_group,
            self._xattrs(entry),
            self._segments(entry, source_entry.unreadable) if entry.type == "file" else None,
            entry.unwritten,
            source_entry.body,
            entry.link_target if entry.stored_target is None else entry.stored_target,
            entry.rdev,
            entry.name_hash or b"",
            self._is_linear(entry),
            entry.version,
            b"" if entry.stored_name is None else entry.name,
        )

    def _with_times_of_ext4(self, entry: Entry) -> Entry:
        """The entry, with times outside ext4's range replaced by the nearest possible ones."""
        times = {name: getattr(entry, name) for name in ("atime_ns", "mtime_ns", "ctime_ns", "crtime_ns")}
        nearest = {
            name: min(max(time_ns, FIRST_TIME_NS), LAST_TIME_NS)
            for name, time_ns in times.items()
            if time_ns is not None and not FIRST_TIME_NS <= time_ns <= LAST_TIME_NS
        }
        reported = ", ".join(f"{name} {times[name]}" for name in nearest)
        self._report.note(
            BuildError(f"{reported}: outside ext4's range of 1901 to 2446, the nearest time is used", entry.shown)
        )
        return entry._replace(**nearest)

    def _segments(self, entry: Entry, unreadable: Segments) -> Segments | None:
        """The segments for the new blocks; None for all of the file. Unreadable blocks become holes."""
        block_size = self._block_size
        if unreadable:
            entry = entry._replace(segments=subtract_unreadable(entry.segments, unreadable, block_size))
        if block_size == self._source_block_size:
            whole = ((0, entry.body_size),) if entry.body_size else ()
            return None if entry.segments == whole and not entry.flags & EXT4_VERITY_FL else entry.segments
        if entry.context is None:
            return entry.segments
        # With smaller blocks some of the bytes past the end are not needed.
        end = -(-entry.size // block_size) * block_size
        cut = ((offset, min(length, end - offset)) for offset, length in entry.segments)
        return tuple((offset, length) for offset, length in cut if length > 0)

    def _xattrs(self, entry: Entry) -> dict[XattrKey, bytes]:
        if len(entry.xattrs) > _MAX_XATTRS:
            raise BuildError(f"{len(entry.xattrs)} extended attributes are more than ext4 has room for", entry.shown)
        xattrs: dict[XattrKey, bytes] = {}
        for name, value in entry.xattrs.items():
            try:
                key, stored = stored_xattr(name, value)
            except BuildError as error:
                placed = BuildError(error.reason, entry.shown)
                if not self._leave_out:
                    raise placed from error
                self._report.note(placed)
                continue
            xattrs[key] = stored
        if entry.context is not None:
            xattrs[ENCRYPTION_CONTEXT] = entry.context
        return xattrs

    def _is_linear(self, entry: Entry) -> bool:
        """Whether it is an encrypted directory of several blocks without an index: its no-key names have no hashes."""
        several = entry.size > self._source_block_size
        return entry.type == "dir" and entry.context is not None and several and not entry.flags & EXT4_INDEX_FL
