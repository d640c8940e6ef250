"""Files of an image → a directory of the host: a restore without an archive in between.

Files are written as the `FileSystem` shows them: decrypted if it has their keys. Entries that no
key decrypts are skipped and reported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from ext4img.archive.body import CHUNK_BYTES
from ext4img.archive.entry import MODE_OF_TYPE, ROOT, Entry
from ext4img.errors import (
    CorruptionError,
    Ext4Error,
    NoKeyError,
    Place,
    RestoreError,
    SourceError,
    UnsupportedFeatureError,
)
from ext4img.fs.file import File
from ext4img.fs.filesystem import FileSystem
from ext4img.fs.inode import Inode
from ext4img.fs.name_counts import NameCounts
from ext4img.interruption import deferred
from ext4img.progress import Progress
from ext4img.restorer.member_writer import MemberWriter
from ext4img.restorer.options import Overwrite, RestoreOptions, parse_overwrite
from ext4img.restorer.report import RestoreReport
from ext4img.restorer.restorer import Restorer
from ext4img.restorer.target_dir import TargetDir
from ext4img.structs.inode import EXT4_VERITY_FL

Tree = Iterable[tuple[bytes, Inode]]
"""(path, inode) as they are to be in the destination: relative, parents before children, depth first.

b"." stands for the destination itself; it comes first or not at all.
"""


def extract(
    fs: FileSystem,
    tree: Tree,
    destination: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    ciphertext: bool = False,
    overwrite: Overwrite | bool = "never",
    devices: bool = False,
    counts: NameCounts | None = None,
    progress: Progress | None = None,
) -> RestoreReport:
    """Write `tree`, inodes of `fs`, into the directory `destination`, which is created if it does not exist.

    With `ciphertext`, the contents of encrypted files are written as they are stored, up to the end
    of the last block; names and symlink targets are those that `fs` shows in any case. For
    `overwrite` see `restore`. Device nodes are made only with `devices`. `counts` has counted the
    names of all of `tree`; without it each directory is listed when `tree` comes to it, so that only
    names below one directory are surely linked. `progress` is called with the bytes written.
    RestoreError if the destination fails, LiveSourceError if others can write to the image, unless it
    was opened with `live`.
    """
    options = RestoreOptions(overwrite=parse_overwrite(overwrite), devices=devices)
    fs.volume.watch.begin()
    report = RestoreReport()
    with deferred(), TargetDir(destination) as target:
        writer = MemberWriter(target, options, report)
        extraction = _Extraction(fs, ciphertext, counts)
        restorer = Restorer(writer, None, options, report, fetch=extraction.first_name_of)
        restorer.run(extraction.members(tree, restorer), None, progress)
        writer.finish(restorer.root)
    report.changes = fs.volume.watch.finish()
    return report


class _ExtractedInode:
    """An inode as the restorer takes it."""

    def __init__(self, entry: Entry, position: int, open_file: Callable[[], File], buffer: memoryview) -> None:
        self.entry = entry
        self.position = position
        self.data_size = entry.data_bytes
        self._open = open_file
        self._buffer = buffer

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        with self._open() as file:
            for start, length in self.entry.segments:
                end = start + length
                for offset in range(start, end, len(self._buffer)):
                    part = self._buffer[: min(len(self._buffer), end - offset)]
                    file.pread_into(offset, part)
                    yield offset, part


class _Extraction:
    """Makes members of inodes; inodes without a key are skipped."""

    def __init__(self, fs: FileSystem, ciphertext: bool, counts: NameCounts | None) -> None:
        self._fs = fs
        self._counts = NameCounts(fs.volume) if counts is None else None
        self._names = {} if counts is None else counts.too_low()
        self._counted_below: bytes | None = None  # the start of all paths in a directory whose names were counted
        self._ciphertext = ciphertext
        self._buffer = memoryview(bytearray(CHUNK_BYTES))
        self._first_names: dict[int, bytes] = {}
        self._done = 0
        self._last: Inode | None = None

    def members(self, tree: Tree, restorer: Restorer) -> Iterator[_ExtractedInode]:
        """Everything in the tree, for `restorer`; each member is to be written before the next is drawn."""
        is_first = True
        unreadable: bytes | None = None  # the start of all paths in a directory that cannot be read
        for path, inode in tree:
            if unreadable is not None and path.startswith(unreadable):
                continue
            if is_first and path != ROOT:
                restorer.enter_unknown_root()
            is_first = False
            try:
                if inode.type not in MODE_OF_TYPE:
                    place = Place(inode=inode.number, record="ext4_inode", field="i_mode")
                    raise CorruptionError(f"mode {inode.mode:#o} is of no type", place)
                if inode.is_dir:
                    self._count_names(path, inode)
                entry = self._entry(path, inode)
                self._last = inode
                problem = None if entry.is_link or path == ROOT else self._problem(entry, inode)
            except (CorruptionError, SourceError) as error:
                self._fs.problems.unreadable(error, Place(inode=inode.number))
                if path == ROOT:
                    restorer.enter_unknown_root()
                unreadable = path + b"/"
                continue
            if problem is not None:
                restorer.skip(entry, problem)
                continue
            if inode.flags & EXT4_VERITY_FL and inode.is_file and not entry.is_link:
                restorer.report.not_set.add("verity")
            yield self._member(entry, inode)

    def first_name_of(self, link: Entry) -> _ExtractedInode:
        """The member last drawn, a further name, as if it were a first one. NoKeyError if it is skipped."""
        assert self._last is not None
        try:
            entry = self._contents(self._bare(link.link_target, self._last), self._last)
        except (CorruptionError, SourceError) as error:
            self._fs.problems.unreadable(error, Place(inode=self._last.number))
            raise RestoreError(f"it cannot be read: {error}", link.shown) from error
        problem = self._problem(entry, self._last)
        if problem is not None:
            raise problem
        return self._member(entry, self._last)

    def _count_names(self, path: bytes, directory: Inode) -> None:
        """Count the names in a directory and below it, if that was not done."""
        below = self._counted_below
        if self._counts is None or (below is not None and path.startswith(below)):
            return
        self._counted_below = b"" if path == ROOT else path + b"/"
        self._counts.add_tree(directory)
        self._names = self._counts.too_low()

    def _member(self, entry: Entry, inode: Inode) -> _ExtractedInode:
        opened = inode.open_ciphertext if self._ciphertext else inode.open
        member = _ExtractedInode(entry, self._done, opened, self._buffer)
        self._done += member.data_size
        return member

    def _problem(self, entry: Entry, inode: Inode) -> Ext4Error | None:
        """Why an inode is skipped; None if it is not."""
        if self._ciphertext:
            return None
        try:
            context = inode.encryption
        except UnsupportedFeatureError as error:
            return error
        if context is None or self._fs.keyring.has(context.policy):
            return None
        return NoKeyError.at(entry.shown, context.policy.key_id_hex)

    def _entry(self, path: bytes, inode: Inode) -> Entry:
        """The entry as `fs` shows it."""
        entry = self._bare(path, inode)
        if entry.links > 1 and not inode.is_dir:
            first = self._first_names.setdefault(inode.number, path)
            if first != path:
                return entry._replace(is_link=True, link_target=first)
        return self._contents(entry, inode)

    def _bare(self, path: bytes, inode: Inode) -> Entry:
        """What any name of it has; without an inode number, as it gets no records."""
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
            rdev=inode.rdev or (0, 0),
            flags=inode.flags,
            project_id=inode.project_id,
            links=max(inode.links, self._names.get(inode.number, 0)),
        )

    def _contents(self, entry: Entry, inode: Inode) -> Entry:
        """The same with attributes, and size or target."""
        entry = entry._replace(xattrs=inode.xattrs())
        if inode.is_symlink:
            target = inode.readlink()
            if not target:
                raise CorruptionError("a symbolic link without a target", Place(inode=inode.number))
            return entry._replace(link_target=target, size=len(target))
        if inode.is_file:
            # Opening the ciphertext needs no key, and size and holes are the same.
            with inode.open_ciphertext() as file:
                size = file.size if self._ciphertext else inode.size
                segments = tuple(
                    (start, min(length, size - start)) for start, length in file.segments() if start < size
                )
            return entry._replace(size=size, body_size=size, segments=segments)
        return entry
