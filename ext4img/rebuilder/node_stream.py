"""Entries → the nodes of a new file system: which are there, under which stored names, and which are one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ext4img.archive.backup_info import BackupInfo
from ext4img.archive.entry import ROOT, VERITY, VERITY_ALIGNMENT_BYTES, Entry
from ext4img.archive.manifest_line import change_key_of
from ext4img.archive.path_filter import PathFilter
from ext4img.errors import AlteredArchiveError, BuildError, LimitError
from ext4img.mkfs import Node
from ext4img.mkfs.nodes import Path
from ext4img.rebuilder.entry_to_node import EntryToNode, NodeReport
from ext4img.rebuilder.readability import ReadabilityRules
from ext4img.rebuilder.source import RebuildSource, SourceEntry
from ext4img.rebuilder.unreadable_ranges import describe
from ext4img.structs.inode import EXT4_VERITY_FL

_MOST_COMPONENTS: Final = 1 << 25
"""Of the paths of all directories together: what is nested without end would fill the memory."""


class _Directory(NamedTuple):
    """A directory on the way to the current entry."""

    entry_path: bytes
    path: Path
    encrypted: bool


@dataclass(slots=True)
class _Held:
    """A verity file that waits for what stands past its end, and its further names."""

    node: Node
    entry: Entry
    links: list[tuple[Node, str]] = field(default_factory=list)  # and how they are shown


class NodeStream:
    """Goes through the entries of `origin` once.

    `chosen` says which are wanted. With `salvage` what the new file system can't hold is left out and
    noted in `taken`. `refuse` is for the builder, which names paths by their stored bytes.
    """

    def __init__(
        self, origin: RebuildSource, form: ReadabilityRules, *, chosen: PathFilter | None = None, salvage: bool = False
    ) -> None:
        self._origin = origin
        self._info: BackupInfo = origin.info
        self._form = form
        self._chosen = chosen
        self._salvage = salvage
        self.taken = NodeReport()
        self._entry_nodes = EntryToNode(form.block_size, self._info.block_size, self.taken, salvage=salvage)
        self._way: list[_Directory] = []
        self._components = 0
        self._passed_by = b""  # a directory that is left out with all below it
        self._passed_by_count = 0  # 1 if what is below is missing, 0 if it is not wanted
        self._given = ""  # the path of the last node, as people know it
        self._refusal: BuildError | None = None
        self._linked: dict[int, int] = {}  # inodes of several names, the first of which is there: a hash of its facts
        self._disputed: set[int] = set()  # of these, those that different files claim to be
        self._unchosen: dict[int, SourceEntry] = {}  # the same, the first of which is not wanted
        self._held: dict[int, _Held] = {}

    def refuse(self, error: BuildError) -> None:
        """The builder does not take the node that it was given last: raised, or noted where that is wanted."""
        self._refusal = BuildError(error.reason, self._given)
        if not self._salvage:
            raise self._refusal from error
        self.taken.leave_out(self._refusal)

    def nodes(self) -> Iterator[Node]:
        """The nodes, each directory before what is in it."""
        for found in self._origin.entries():
            entry = found.entry
            if entry.type == VERITY:
                held = self._held.pop(entry.inode, None)
                if held is not None:
                    yield from self._with_past_end(held, found)
            elif self._passed_by and entry.path.startswith(self._passed_by):
                self.taken.left_out += self._passed_by_count
            else:
                self._passed_by = b""
                yield from self._of(found)
        for held in self._held.values():
            error = BuildError("a file with fs-verity, but without its Merkle tree", held.entry.shown)
            self.taken.note(error)
            yield from self._emit(held.node, held.entry, held.links)
        if self._chosen is not None:
            self._chosen.check()

    def _of(self, found: SourceEntry) -> Iterator[Node]:
        entry = found.entry
        try:
            path = self._path(entry)
            if self._chosen is not None and not self._is_chosen(found):
                return
            if entry.is_link:
                first = self._unchosen.pop(entry.inode, None)
                if first is None:
                    yield from self._link(entry, path)
                    return
                # The first name is not wanted; this one stands in for it.
                found = first._replace(entry=first.entry._replace(path=entry.path, name_hash=entry.name_hash))
                entry = found.entry
            if self._is_there(entry):
                yield from self._link(entry, path)
                return
            is_linked = entry.type != "dir" and (entry.links > 1 or self._salvage) and entry.inode not in self._linked
            node = self._entry_nodes.node(found, path, entry.inode if is_linked else None)
        except BuildError as error:
            if not self._salvage:
                raise
            self.taken.leave_out(error)
            self._pass_by(entry, 1)
            return
        self._form.check(entry, self._info.block_size)
        self._note_unreadable(found)
        if node.link_group is not None:
            self._linked[entry.inode] = _facts(entry)
        if entry.type == "file" and entry.flags & EXT4_VERITY_FL:
            self._held[entry.inode] = _Held(node, entry)
            return
        if entry.type == "dir":
            self._enter(entry, path)
        yield from self._emit(node, entry)

    def _is_there(self, entry: Entry) -> bool:
        """Whether this is a further name of a file that is there: of damaged images not all are marked as such."""
        if entry.inode in self._held and entry.type == "file" and entry.flags & EXT4_VERITY_FL:
            raise BuildError(f"a second file with fs-verity has the inode number {entry.inode}", entry.shown)
        known = self._linked.get(entry.inode) if entry.type != "dir" else None
        if known is None or known == _facts(entry):
            return known is not None
        if entry.links > 1:
            self._disputed.add(entry.inode)
            raise BuildError(f"another file of several names has the inode number {entry.inode} too", entry.shown)
        return False

    def _emit(self, node: Node, entry: Entry, links: Sequence[tuple[Node, str]] = ()) -> Iterator[Node]:
        """Hand out a node and its further names, unless it is refused."""
        self._given = entry.shown
        yield node
        refusal = self._take_refusal()
        if refusal is not None:
            if entry.path == ROOT:
                raise refusal
            self._linked.pop(entry.inode, None)
            self.taken.left_out += len(links)
            self._pass_by(entry, 1)
            return
        self._count(entry.type)
        for link, shown in links:
            yield from self._emit_link(link, shown)

    def _emit_link(self, link: Node, shown: str) -> Iterator[Node]:
        self._given = shown
        yield link
        if self._take_refusal() is None:
            self._count("link")

    def _take_refusal(self) -> BuildError | None:
        refusal, self._refusal = self._refusal, None
        return refusal

    def _link(self, entry: Entry, path: Path) -> Iterator[Node]:
        """A further name of what is there."""
        if entry.inode not in self._linked:
            raise BuildError("its first name is not there", entry.shown)
        if entry.inode in self._disputed:
            raise BuildError(f"several files have the inode number {entry.inode}", entry.shown)
        node = Node(path, entry.mode, link_group=entry.inode, name_hash=entry.name_hash or b"")
        held = self._held.get(entry.inode)
        if held is not None:
            held.links.append((node, entry.shown))
            return
        yield from self._emit_link(node, entry.shown)

    def _with_past_end(self, held: _Held, found: SourceEntry) -> Iterator[Node]:
        """A verity file with its Merkle tree and descriptor, which begin at a multiple of 64 KiB."""
        node = held.node
        start = -(-node.size // VERITY_ALIGNMENT_BYTES) * VERITY_ALIGNMENT_BYTES
        past_end = tuple((start + offset, length) for offset, length in found.entry.segments)
        segments = held.entry.segments if node.segments is None else node.segments
        node = node._replace(segments=(*segments, *past_end), body=self._origin.join(node.body, found.body, start))
        self._note_unreadable(found)
        yield from self._emit(node, held.entry, held.links)

    def _note_unreadable(self, found: SourceEntry) -> None:
        if found.unreadable:
            self.taken.incomplete += 1
            what = f"its source did not give {describe(found.unreadable)}: zeros are there"
            self.taken.note(BuildError(what, found.entry.shown))

    def _count(self, kind: str) -> None:
        self.taken.made[kind] = self.taken.made.get(kind, 0) + 1

    # Where an entry is

    def _path(self, entry: Entry) -> Path:
        """The path of stored names."""
        if entry.path == ROOT:
            return ()
        parent, _, name = entry.path.rpartition(b"/")
        parent = parent or ROOT
        way = self._way
        while way and way[-1].entry_path != parent:
            way.pop()
        if not way:
            raise BuildError("the directory that it is in has not come before it", entry.shown)
        directory = way[-1]
        stored_name = entry.stored_name
        if (stored_name is not None) != directory.encrypted:
            what = "without its stored name in" if directory.encrypted else "with a stored name, but not in"
            raise AlteredArchiveError(f"{what} an encrypted directory", entry.shown)
        return (*directory.path, name if stored_name is None else stored_name)

    def _enter(self, entry: Entry, path: Path) -> None:
        self._components += len(path)
        if self._components > _MOST_COMPONENTS:
            raise LimitError(
                f"{entry.shown[:100]!r}…: the paths of directories have more than {_MOST_COMPONENTS} names"
            )
        self._way.append(_Directory(entry.path, path, entry.context is not None))

    def _pass_by(self, entry: Entry, count: int) -> None:
        """Leave out what is below, if it is a directory."""
        if entry.type == "dir" and not entry.is_link:
            self._passed_by = entry.path + b"/"
            self._passed_by_count = count

    def _is_chosen(self, found: SourceEntry) -> bool:
        entry = found.entry
        is_directory = entry.type == "dir" and not entry.is_link
        names = () if entry.path == ROOT else tuple(entry.path.split(b"/"))
        if self._chosen is None or not names or self._chosen.selects(names, is_directory=is_directory):
            return True
        if entry.links > 1 and not entry.is_link:
            self._unchosen[entry.inode] = found
        self._pass_by(entry, 0)
        return False


def _facts(entry: Entry) -> int:
    """What all names of an inode have in common, as a hash: two hundred thousand tuples would be too many."""
    return hash((entry.type, entry.size, entry.mtime_ns, entry.context, *change_key_of(entry)))
