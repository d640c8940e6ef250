"""From the tree of an image to entries and their bodies, for backups, rebuilds and comparisons.

The tree is always read without keys, so a backup is the same whether or not a key is at hand. The
order is the archive's: depth first, the names of a directory in byte order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from ext4img.archive.backup_info import BackupInfo
from ext4img.archive.body import BodyStream
from ext4img.archive.encryption_records import CONTEXT_BYTES
from ext4img.archive.entry import (
    MAX_UNWRITTEN,
    MODE_OF_TYPE,
    NO_XATTRS,
    ROOT,
    VERITY,
    Entry,
    Segments,
)
from ext4img.archive.loss import Loss, LossKind
from ext4img.archiver.bodies import Bodies
from ext4img.archiver.exclude import ExcludeFilter, key_of
from ext4img.archiver.read_ahead import WINDOW_BYTES, Extent, ReadAhead, ReadBatch
from ext4img.archiver.selection import TreeSelection, count_names
from ext4img.errors import CorruptionError, Place, SourceError
from ext4img.fs.filesystem import FileSystem
from ext4img.fs.path import PathLike
from ext4img.fs.shown_names import NamedEntry
from ext4img.names.nokey import nokey_target
from ext4img.names.paths import decode_path
from ext4img.structs.directory import EXT4_FT_DIR
from ext4img.structs.inode import EXT4_ENCRYPT_FL, EXT4_ROOT_INO, EXT4_VERITY_FL
from ext4img.structs.verity import EXT4_VERITY_METADATA_ALIGNMENT
from ext4img.volume.contents import Contents
from ext4img.volume.dir_entry import DirEntry
from ext4img.volume.inode import StoredInode
from ext4img.volume.runs import UNWRITTEN

_NAMES_AT_ONCE: Final = 256  # of a directory, whose inodes are read together
_DEVICES: Final = frozenset(("char", "block"))
_NO_NAME: Final = DirEntry(b"", EXT4_ROOT_INO, EXT4_FT_DIR, b"")  # the root's


class _Child(NamedTuple):
    """A name in a directory with its inode. `extent` is where a small file in one piece is on the volume."""

    path: bytes
    plain_path: bytes
    named: DirEntry
    inode: StoredInode
    extent: Extent | None = None


class _ScannedDirectory(NamedTuple):
    """A directory whose children are being read. Its paths end with a slash; `key` is its policy's key ID."""

    children: Iterator[tuple[_Child, ReadBatch]]
    is_encrypted: bool = False
    path: bytes = b""
    plain_path: bytes = b""
    key: bytes | None = None


class TreeScanner:
    """Yields the tree of `fs`, or those parts of it that `only` names and the directories that lead to them.

    The `checks` of `fs` decide what damage does: it is raised, or the entry is skipped and the damage
    reported in `problems`.
    """

    def __init__(
        self,
        fs: FileSystem,
        only: Sequence[PathLike] = (),
        filtered: ExcludeFilter | None = None,
        *,
        together: bool = True,
    ) -> None:
        """`together`: most bodies will be read, so small files are read with their neighbours."""
        self._fs = fs.without_keys()
        self._plain = fs if filtered is not None and filtered.exclude else None
        self._filter = filtered if filtered is not None and not filtered.is_empty else None
        self._volume = fs.volume
        self._block_size = fs.block_size
        self._problems = fs.problems
        self._selection = TreeSelection(fs, self._fs, only) if only else None
        self._bodies = Bodies(fs.volume)
        self._together = together
        self._ahead = ReadAhead(fs.volume.blocks)
        self._losses: list[Loss] = []
        self._first_names: dict[int, tuple[bytes, int]] = {}  # of hard-linked files: path, names still to come
        self._names: dict[int, int] = {}  # how many names inodes have whose link count is lower

    def info(self, tool: str, encdata: bool = False) -> BackupInfo:
        """The facts about the whole image. Scans its inodes for their policies."""
        superblock = self._fs.superblock
        return BackupInfo(
            uuid=superblock.uuid,
            block_size=superblock.block_size,
            label=superblock.label,
            features=self._fs.features.names,
            inode_count=superblock.inode_count,
            inode_size=superblock.inode_size,
            hash_version=superblock.hash_version,
            hash_unsigned=superblock.hash_unsigned,
            hash_seed=b"".join(word.to_bytes(4, "little") for word in superblock.hash_seed),
            encoding=superblock.encoding,
            encoding_flags=superblock.encoding_flags,
            password_salt=superblock.password_salt,
            policies=tuple(sorted(self._fs.policies())),
            only=self._selection.paths if self._selection else (),
            filtered=self._filter is not None,
            encdata=encdata,
            tool=tool,
        )

    def new_losses(self) -> list[Loss]:
        """What had to be left out since the last call; drawn between the entries and after the last."""
        losses, self._losses = self._losses, []
        return losses

    def entries(self) -> Iterator[tuple[Entry, BodyStream | None]]:
        """Each entry with its body. A body must be read before the next entry is asked for."""
        root = self._fs.root()
        if not root.is_dir:
            raise CorruptionError("the root is not a directory", Place(inode=root.number))
        self._names = count_names(self._volume, root, self._selection)
        yield self._entry(_Child(ROOT, ROOT, _NO_NAME, root), None, in_encrypted=False)
        visited = {root.number}
        verity: list[tuple[Entry, StoredInode]] = []
        stack = [_ScannedDirectory(self._children(_ScannedDirectory(iter(())), root), root.is_encrypted)]
        while stack:
            level = stack[-1]
            in_encrypted = level.is_encrypted
            for child, batch in level.children:
                path, inode = child.path, child.inode
                if inode.number in visited:
                    reason = f"directory {decode_path(path)!r} is reached twice (a loop, or a second parent)"
                    self._found(reason, "entry", path, inode.number)
                    continue
                known_losses = len(self._losses)
                try:
                    if not inode.is_dir and inode.links > 1 and inode.number in self._first_names:
                        yield self._further_name(child, in_encrypted), None
                        continue
                    entry, body = self._entry(child, batch, in_encrypted)
                    if self._filter and not self._filter.includes(path, inode.is_dir, entry.context, level.key):
                        del self._losses[known_losses:]
                        continue
                except (CorruptionError, SourceError) as error:
                    self._skip(error, "entry", path, inode.number)
                    continue
                yield entry, body
                if entry.flags & EXT4_VERITY_FL and entry.type == "file":
                    verity.append((entry._replace(xattrs=NO_XATTRS, segments=()), inode))
                if inode.is_dir:
                    visited.add(inode.number)
                    plain_path = child.plain_path + b"/"
                    below = _ScannedDirectory(
                        iter(()), inode.is_encrypted, path + b"/", plain_path, key_of(entry.context)
                    )
                    stack.append(below._replace(children=self._children(below, inode)))
                    break
                if inode.links > 1:
                    self._first_names[inode.number] = (path, inode.links - 1)
            else:
                stack.pop()
        for entry, inode in verity:
            try:
                found = self._verity(entry, inode)
            except (CorruptionError, SourceError) as error:
                self._skip(error, "verity", entry.path, inode.number)
                continue
            if found is not None:
                yield found

    def _children(self, level: _ScannedDirectory, directory: StoredInode) -> Iterator[tuple[_Child, ReadBatch]]:
        """The children of a directory in byte order of their shown names, each with the batch that it is read in."""
        plain: dict[bytes, bytes] = {}
        directory_path = level.path[:-1] or ROOT
        try:
            texts, listing = self._fs.listing(directory)
            names = [
                NamedEntry(text.encode("utf-8", "surrogateescape"), entry)
                for text, entry in zip(texts, listing.entries(), strict=True)
            ]
            if self._plain is not None and directory.is_encrypted:
                plain = {named.entry.name: named.name for named in self._plain.listdir(directory)}
        except (CorruptionError, SourceError) as error:
            self._skip(error, "names", directory_path, directory.number)
            return
        if listing.damage is not None:
            self._losses.append(Loss("names", directory_path, directory.number, str(listing.damage)))
        if self._selection is not None:
            names = self._selection.of(directory.number, names)
        names.sort()
        last = b""
        for start in range(0, len(names), _NAMES_AT_ONCE):
            part = names[start : start + _NAMES_AT_ONCE]
            children: list[_Child] = []
            for named, row in zip(part, self._volume.inodes.batch([named[1][1] for named in part]), strict=True):
                name, stored = named
                path = plain_path = level.path + name
                if name == last:
                    self._found(f"name {name!r} is in the directory twice", "entry", path, directory.number)
                    continue
                last = name
                if self._filter is not None:
                    plain_path = level.plain_path + plain.get(stored.name, name)
                    if self._filter.excludes(path, plain_path):
                        continue
                fields = (
                    self._volume.named_inode(stored.inode, decode_path(path), directory.number) if row is None else row
                )
                if fields is None:
                    self._losses.append(Loss("entry", path, stored.inode, str(self._problems.last)))
                    continue
                inode = tuple.__new__(StoredInode, fields)
                if inode.number in self._names and not inode.is_dir:
                    inode = inode._replace(links=self._names[inode.number])
                extent = self._bodies.small_extent(inode) if inode.is_file else None
                children.append(_Child(path, plain_path, stored, inode, extent))
            yield from self._in_batches(children)

    def _in_batches(self, children: list[_Child]) -> Iterator[tuple[_Child, ReadBatch]]:
        """Give small files that no directory separates one batch."""
        done = 0
        while done < len(children):
            ready: list[tuple[_Child, ReadBatch]] = []
            extents: list[Extent] = []
            batch = ReadBatch(self._ahead, extents)
            remaining = WINDOW_BYTES // 2  # the other half is for the gaps between them
            for child in islice(children, done, None):
                extent = child.extent
                if extent is not None:
                    remaining -= extent[1]
                    if remaining < 0 or (extents and not self._together):
                        break
                    extents.append(extent)
                elif extents and child.inode.is_dir:
                    break
                ready.append((child, batch))
            done += len(ready)
            yield from ready

    def _entry(self, child: _Child, batch: ReadBatch | None, in_encrypted: bool) -> tuple[Entry, BodyStream | None]:
        """The entry of an inode's first name. `in_encrypted`: the names of its directory are encrypted."""
        path, _, named, inode, extent = child
        kind = inode.type
        if kind not in MODE_OF_TYPE:
            raise CorruptionError(f"mode {inode.mode:#o} names no file type", Place(inode=inode.number, field="i_mode"))
        damage = self._problems.damage
        context = self._context(inode) if inode.flags & EXT4_ENCRYPT_FL else None
        has_xattrs = inode.inline_xattrs or inode.xattr_block
        xattrs = (self._volume.xattrs(inode) or NO_XATTRS) if has_xattrs else NO_XATTRS
        lacks_xattrs = self._problems.damage != damage
        if lacks_xattrs:
            self._losses.append(Loss("attributes", path, inode.number, str(self._problems.last)))
        elif self._volume.is_replaced(inode.number):
            self._losses.append(Loss("attributes", path, inode.number, "its inode was lost"))
        size = body_size = 0
        segments: Segments = ()
        unwritten: Segments = ()
        body = stored_target = None
        link_target = b""
        if kind == "file":
            size = inode.size
            if extent is not None and batch is not None:
                body_size = extent[1]
                segments = ((0, body_size),)
                body = self._bodies.of_batch(inode, extent, batch)
            else:
                body_size = self._bodies.size_of(inode)
                contents = self._volume.contents(inode, body_size)
                segments = tuple(contents.segments(with_lost=False))
                unwritten = self._unwritten(contents, inode)
                lost = list(contents.lost(body_size))
                if self._problems.damage != damage and contents.inline is not None and len(contents.inline) < size:
                    # The rest was in an attribute, which is lost.
                    lost.append((len(contents.inline), size - len(contents.inline)))
                body = self._bodies.of_contents(contents, segments, lost=lost)
        elif kind == "symlink":
            link_target, stored_target = self._target(inode, context)
            size = inode.size if context is not None else len(link_target)
        elif kind == "dir":
            size = inode.size
        # By position, in the order of its fields: a third of the time that keywords take.
        entry = Entry._make(
            (
                path,
                kind,
                inode.mode,
                inode.uid,
                inode.gid,
                size,
                body_size,
                segments,
                inode.atime_ns,
                inode.mtime_ns,
                inode.ctime_ns,
                inode.crtime_ns,
                inode.rdev or (0, 0) if kind in _DEVICES else (0, 0),
                link_target,
                False,
                xattrs,
                inode.number,
                inode.generation,
                inode.flags,
                inode.version,
                inode.project_id,
                inode.links,
                unwritten,
                context,
                named.name if in_encrypted else None,
                (named.hash or None) if in_encrypted else None,
                stored_target,
            )
        )
        return entry, body

    def _further_name(self, child: _Child, in_encrypted: bool) -> Entry:
        """The entry of a second or later name: the first name as its target, and what belongs to this name."""
        path, _, named, inode, *_ = child
        first, names_remaining = self._first_names[inode.number]
        if names_remaining > 1:
            self._first_names[inode.number] = (first, names_remaining - 1)
        else:
            del self._first_names[inode.number]
        return Entry(
            path=path,
            type=inode.type,
            mode=inode.mode,
            uid=inode.uid,
            gid=inode.gid,
            atime_ns=inode.atime_ns,
            mtime_ns=inode.mtime_ns,
            ctime_ns=inode.ctime_ns,
            crtime_ns=inode.crtime_ns,
            link_target=first,
            is_link=True,
            inode=inode.number,
            generation=inode.generation,
            flags=inode.flags,
            version=inode.version,
            project_id=inode.project_id,
            links=inode.links,
            stored_name=named.name if in_encrypted else None,
            name_hash=(named.hash or None) if in_encrypted else None,
        )

    def _verity(self, entry: Entry, inode: StoredInode) -> tuple[Entry, BodyStream] | None:
        """The Merkle tree and descriptor that a verity file has past its end, as they are on disk."""
        runs = self._volume.runs(inode)
        start = -(-inode.size // EXT4_VERITY_METADATA_ALIGNMENT) * EXT4_VERITY_METADATA_ALIGNMENT
        end = max((run.end * self._block_size for run in runs), default=0)
        if end <= start:
            self._found("a verity file without its Merkle tree", "verity", entry.path, inode.number)
            return None
        contents = self._volume.contents(inode, end)
        parts = [(max(offset, start), offset + length) for offset, length in contents.segments()]
        segments = tuple((first - start, last - first) for first, last in parts if last > first)
        verity = Entry(
            path=entry.path,
            type=VERITY,
            mode=0,
            inode=entry.inode,
            body_size=end - start,
            segments=segments,
            context=entry.context,
        )
        return verity, self._bodies.of_contents(contents, segments, start)

    def _context(self, inode: StoredInode) -> bytes | None:
        """The encryption context of an encrypted file, directory or symbolic link; None for others."""
        if not inode.is_encrypted or inode.type not in ("file", "dir", "symlink"):
            return None
        context = self._volume.encryption_context(inode)
        place = Place(inode=inode.number, record="fscrypt_context")
        if context is None:
            raise CorruptionError("encrypted, but without an encryption context", place)
        if len(context) != CONTEXT_BYTES.get(context[0] if context else 0):
            raise CorruptionError(f"an encryption context of {len(context)} bytes: {context[:1].hex()}…", place)
        return context

    def _target(self, inode: StoredInode, context: bytes | None) -> tuple[bytes, bytes | None]:
        """(the target as it is shown without a key, its stored bytes or None if it is not encrypted)."""
        stored = self._volume.symlink_target_stored(inode)
        if context is not None:
            return nokey_target(stored, inode.number), stored
        target = stored.split(b"\0", 1)[0]
        if not target:
            raise CorruptionError("a symbolic link without a target", Place(inode=inode.number))
        return target, None

    def _unwritten(self, contents: Contents, inode: StoredInode) -> Segments:
        """The byte ranges whose blocks are allocated but not written."""
        size = self._block_size
        ranges = [(run.lblk * size, run.length * size) for run in contents.runs if run.state == UNWRITTEN]
        if len(ranges) > MAX_UNWRITTEN:
            place = Place(inode=inode.number)
            self._problems.note(f"only {MAX_UNWRITTEN} of {len(ranges)} unwritten ranges are recorded", place)
        return tuple(ranges[:MAX_UNWRITTEN])

    def _found(self, reason: str, what: LossKind, path: bytes, inode: int) -> None:
        self._skip(CorruptionError(reason, Place(inode=inode)), what, path, inode)

    def _skip(self, error: CorruptionError | SourceError, what: LossKind, path: bytes, inode: int) -> None:
        """Raise in strict mode; else report the error and continue without what it concerns, which is a loss."""
        self._problems.unreadable(error, Place(inode=inode))
        self._losses.append(Loss(what, path, inode, str(error)))
