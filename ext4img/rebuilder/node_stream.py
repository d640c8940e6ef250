"""From entries to the nodes of a new file system: their stored paths, their links, and which are left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ext4img.archive.backup_info import BackupInfo
from ext4img.archive.entry import ROOT, VERITY, Entry
from ext4img.archive.loss import describe
from ext4img.archive.manifest_line import change_key_of
from ext4img.archive.path_filter import PathFilter
from ext4img.errors import AlteredArchiveError, BuildError, LimitError
from ext4img.mkfs import Node
from ext4img.mkfs.nodes import Path
from ext4img.mkfs.options import RefusedFeatureError
from ext4img.names.paths import decode_path
from ext4img.rebuilder.entry_to_node import EntryToNode, NodeReport
from ext4img.rebuilder.readability import ReadabilityRules
from ext4img.rebuilder.source import RebuildSource, SourceEntry
from ext4img.structs.inode import EXT4_VERITY_FL
from ext4img.structs.verity import EXT4_VERITY_METADATA_ALIGNMENT

_MAX_COMPONENTS: Final = 1 << 25
"""In the paths of all directories together: endless nesting would fill the memory."""


class _NodeDirectory(NamedTuple):
    """A directory on the path to the current entry."""

    entry_path: bytes
    path: Path
    encrypted: bool


@dataclass(slots=True)
class _WaitingVerityFile:
    """A verity file that waits for its Merkle tree, and its further names."""

    node: Node
    entry: Entry
    links: list[tuple[Node, Entry]] = field(default_factory=list)


class NodeStream:
    """Makes nodes of the entries of `source`, in one pass.

    `path_filter` selects entries. With `leave_out`, entries that ext4 can't hold are left out and noted
    in `report`; those that only an option excludes are an error. The builder calls `refuse`; it knows
    paths by their stored bytes only. With `salvage` no link count is trusted.
    """

    def __init__(
        self,
        source: RebuildSource,
        rules: ReadabilityRules,
        *,
        path_filter: PathFilter | None = None,
        salvage: bool = False,
        leave_out: bool = True,
    ) -> None:
        self._source = source
        self._info: BackupInfo = source.info
        self._rules = rules
        self._path_filter = path_filter
        self._salvage = salvage
        self._leave_out = leave_out
        self.report = NodeReport()
        self._entry_to_node = EntryToNode(rules.block_size, self._info.block_size, self.report, leave_out=leave_out)
        self._open_directories: list[_NodeDirectory] = []
        self._components = 0
        self._skipped_prefix = b""  # of a directory that is left out with everything below it
        self._count_below_skipped = 0  # 1 if the entries below it are missing, 0 if they are not wanted
        self._last_path = ""  # the path of the last node, for people
        self._refused: BuildError | None = None
        # Inodes of several names, the first of which is in the image, with a hash of its properties.
        self._link_groups: dict[int, int] = {}
        self._disputed_inodes: set[int] = set()  # of these, those that several files claim
        # Inodes of several names, the first of which is left out: the next one replaces it.
        self._left_out_first_names: dict[int, SourceEntry] = {}
        self._waiting: dict[int, _WaitingVerityFile] = {}

    def refuse(self, error: BuildError) -> None:
        """Note that the builder refuses the last node; raise the error if that is not to be left out."""
        self._refused = BuildError(error.reason, self._last_path)
        if not self._leave_out or isinstance(error, RefusedFeatureError):
            raise self._refused from error
        self.report.skip(self._refused)

    def nodes(self) -> Iterator[Node]:
        """The nodes, each directory before its contents."""
        for source_entry in self._source.entries():
            entry = source_entry.entry
            if entry.type == VERITY:
                waiting = self._waiting.pop(entry.inode, None)
                if waiting is not None:
                    yield from self._with_merkle_tree(waiting, source_entry)
            elif self._skipped_prefix and entry.path.startswith(self._skipped_prefix):
                self.report.left_out += self._count_below_skipped
                self._leave_out_first_name(source_entry)
            else:
                self._skipped_prefix = b""
                yield from self._nodes_of(source_entry)
        for waiting in self._waiting.values():
            error = BuildError("a file with fs-verity, but without its Merkle tree", waiting.entry.shown)
            self.report.note(error)
            yield from self._emit(waiting.node, SourceEntry(waiting.entry), waiting.links)
        self._note_losses()
        if self._path_filter is not None:
            self._path_filter.check()

    def _nodes_of(self, source_entry: SourceEntry) -> Iterator[Node]:
        entry = source_entry.entry
        try:
            path = self._path(entry)
            if self._path_filter is not None and not self._is_wanted(source_entry):
                return
            if entry.is_link:
                first = self._left_out_first_names.pop(entry.inode, None)
                if first is None:
                    yield from self._link(entry, path)
                    return
                entry = first.entry._replace(path=entry.path, stored_name=entry.stored_name, name_hash=entry.name_hash)
                source_entry = first._replace(entry=entry)
            if self._is_further_name(entry):
                yield from self._link(entry, path)
                return
            is_linked = (
                entry.type != "dir" and (entry.links > 1 or self._salvage) and entry.inode not in self._link_groups
            )
            node = self._entry_to_node.node(source_entry, path, entry.inode if is_linked else None)
        except BuildError as error:
            if not self._leave_out or entry.path == ROOT:
                raise
            self.report.skip(error)
            self._skip_subtree(entry, 1)
            self._leave_out_first_name(source_entry)
            return
        self._rules.check(entry, self._info.block_size)
        self._note_unreadable(source_entry)
        if node.link_group is not None:
            self._link_groups[entry.inode] = _identity_hash(entry)
        if entry.type == "file" and entry.flags & EXT4_VERITY_FL:
            self._waiting[entry.inode] = _WaitingVerityFile(node, entry)
            return
        if entry.type == "dir":
            self._enter(entry, path)
        yield from self._emit(node, source_entry)

    def _is_further_name(self, entry: Entry) -> bool:
        """Whether this is a further name of a file: those of damaged images are not all marked as such."""
        if entry.inode in self._waiting and entry.type == "file" and entry.flags & EXT4_VERITY_FL:
            raise BuildError(f"a second file with fs-verity has the inode number {entry.inode}", entry.shown)
        known = self._link_groups.get(entry.inode) if entry.type != "dir" else None
        if known is None or known == _identity_hash(entry):
            return known is not None
        if entry.links > 1:
            self._disputed_inodes.add(entry.inode)
            raise BuildError(f"another file of several names also has the inode number {entry.inode}", entry.shown)
        return False

    def _emit(self, node: Node, source_entry: SourceEntry, links: Sequence[tuple[Node, Entry]] = ()) -> Iterator[Node]:
        """Yield a node and its further names. If it is refused, the next name replaces it."""
        entry = source_entry.entry
        self._last_path = entry.shown
        yield node
        refused = self._take_refused()
        if refused is not None:
            if entry.path == ROOT:
                raise refused
            if links:
                (link, further), *others = links
                node = node._replace(path=link.path, name_hash=link.name_hash, shown=link.shown)
                entry = entry._replace(path=further.path)
                yield from self._emit(node, source_entry._replace(entry=entry), others)
                return
            self._link_groups.pop(entry.inode, None)
            self._leave_out_first_name(source_entry)
            self._skip_subtree(entry, 1)
            return
        self._count(entry.type)
        for link, further in links:
            yield from self._emit_link(link, further)

    def _emit_link(self, link: Node, entry: Entry) -> Iterator[Node]:
        self._last_path = entry.shown
        yield link
        if self._take_refused() is None:
            self._count("link")

    def _take_refused(self) -> BuildError | None:
        refused, self._refused = self._refused, None
        return refused

    def _link(self, entry: Entry, path: Path) -> Iterator[Node]:
        """A further name of a file."""
        if entry.inode not in self._link_groups:
            raise BuildError("its first name is missing", entry.shown)
        if entry.inode in self._disputed_inodes:
            raise BuildError(f"several files have the inode number {entry.inode}", entry.shown)
        node = Node(path, entry.mode, link_group=entry.inode, name_hash=entry.name_hash or b"")
        waiting = self._waiting.get(entry.inode)
        if waiting is not None:
            waiting.links.append((node, entry))
            return
        yield from self._emit_link(node, entry)

    def _with_merkle_tree(self, waiting: _WaitingVerityFile, source_entry: SourceEntry) -> Iterator[Node]:
        """A verity file with its Merkle tree and descriptor, which begin at a multiple of 64 KiB."""
        node = waiting.node
        start = -(-node.size // EXT4_VERITY_METADATA_ALIGNMENT) * EXT4_VERITY_METADATA_ALIGNMENT
        past_end = tuple((start + offset, length) for offset, length in source_entry.entry.segments)
        segments = waiting.entry.segments if node.segments is None else node.segments
        node = node._replace(
            segments=(*segments, *past_end), body=self._source.join(node.body, source_entry.body, start)
        )
        self._note_unreadable(source_entry)
        yield from self._emit(node, SourceEntry(waiting.entry), waiting.links)

    def _note_unreadable(self, source_entry: SourceEntry) -> None:
        if source_entry.unreadable:
            self.report.incomplete += 1
            what = f"the source could not be read in {describe(source_entry.unreadable)}: zeros are there"
            self.report.note(BuildError(what, source_entry.entry.shown))

    def _note_losses(self) -> None:
        """Note what a backup lacks besides the ranges of files, which were noted with them."""
        for loss in self._source.losses:
            names = () if loss.path == ROOT else tuple(loss.path.split(b"/"))
            is_wanted = self._path_filter is None or self._path_filter.selects(names, is_directory=False)
            if loss.what != "contents" and is_wanted:
                self.report.note(BuildError(loss.text, decode_path(loss.path)))

    def _count(self, kind: str) -> None:
        self.report.made[kind] = self.report.made.get(kind, 0) + 1

    # Paths

    def _path(self, entry: Entry) -> Path:
        """The path of stored names."""
        if entry.path == ROOT:
            return ()
        parent, _, name = entry.path.rpartition(b"/")
        parent = parent or ROOT
        way = self._open_directories
        while way and way[-1].entry_path != parent:
            way.pop()
        if not way:
            raise BuildError("its directory has not come before it", entry.shown)
        directory = way[-1]
        stored_name = entry.stored_name
        if (stored_name is not None) != directory.encrypted:
            what = "without its stored name in" if directory.encrypted else "with a stored name, but not in"
            raise AlteredArchiveError(f"{what} an encrypted directory", entry.shown)
        return (*directory.path, name if stored_name is None else stored_name)

    def _enter(self, entry: Entry, path: Path) -> None:
        self._components += len(path)
        if self._components > _MAX_COMPONENTS:
            raise LimitError(f"{entry.shown[:100]!r}…: the paths of directories have more than {_MAX_COMPONENTS} names")
        self._open_directories.append(_NodeDirectory(entry.path, path, entry.context is not None))

    def _skip_subtree(self, entry: Entry, count: int) -> None:
        """Leave out everything below the entry, if it is a directory."""
        if entry.type == "dir" and not entry.is_link:
            self._skipped_prefix = entry.path + b"/"
            self._count_below_skipped = count

    def _is_wanted(self, source_entry: SourceEntry) -> bool:
        entry = source_entry.entry
        is_directory = entry.type == "dir" and not entry.is_link
        names = () if entry.path == ROOT else tuple(entry.path.split(b"/"))
        if self._path_filter is None or not names or self._path_filter.selects(names, is_directory=is_directory):
            return True
        self._leave_out_first_name(source_entry)
        self._skip_subtree(entry, 0)
        return False

    def _leave_out_first_name(self, source_entry: SourceEntry) -> None:
        entry = source_entry.entry
        if entry.links > 1 and entry.type not in ("dir", VERITY) and not entry.is_link:
            self._left_out_first_names[entry.inode] = source_entry


def _identity_hash(entry: Entry) -> int:
    """A hash of the properties that all names of an inode share; tuples would take too much memory."""
    return hash((entry.type, entry.size, entry.mtime_ns, entry.context, *change_key_of(entry)))
