"""A part of a view → a directory of the host: a restore without an archive between.

What the view shows is what is written: plain text where its keys open it. What they do not open
is left out and reported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ext4img.archive.entry import MODE_OF_TYPE, ROOT, Entry
from ext4img.errors import CorruptionError, Ext4Error, NoKeyError, Place, SourceError, UnsupportedFeatureError
from ext4img.fs.file import File
from ext4img.fs.filesystem import FileSystem
from ext4img.fs.inode import Inode
from ext4img.progress import Progress
from ext4img.restorer.restore import Restorable, Restorer, RestoreReport
from ext4img.restorer.target_dir import TargetDir

CHUNK_BYTES: Final = 1 << 20
Tree = Iterable[tuple[bytes, Inode]]
"""(path, inode) as they are to be in the target: relative, parents before children, depth first.

b"." stands for the target itself; it comes first or not at all.
"""


def extract(
    fs: FileSystem,
    tree: Tree,
    destination: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    ciphertext: bool = False,
    overwrite: bool = False,
    devices: bool = False,
    progress: Progress | None = None,
) -> RestoreReport:
    """Write `tree`, inodes of the view, into the directory `destination`, made if it is not there.

    With `ciphertext` files are written as they are stored, up to the end of the last block; names
    and targets are the view's in any case. What is in the way is left as it is and reported,
    unless `overwrite`; device nodes are made only if `devices`. `progress` is called with the
    bytes written. RestoreError where the target fails.
    """
    extraction = _Extraction(fs, ciphertext)
    with TargetDir(destination) as target:
        restorer = _Extractor(target, None, "skip", overwrite, devices)
        restorer.run(extraction.members(tree), None, progress)
        if extraction.has_root and (target.is_new or overwrite):
            restorer.finish_root(target)
        target.sync()
    return restorer.report


class _Found:
    """An inode that is to be written, or `problem`, which keeps it from being."""

    def __init__(
        self,
        entry: Entry,
        position: int,
        open_file: Callable[[], File],
        buffer: memoryview,
        problem: Ext4Error | None,
    ) -> None:
        self.entry = entry
        self.position = position
        self.data_size = entry.data_bytes
        self.problem = problem
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
    """Makes members of inodes. `has_root` tells whether the target itself was among them."""

    def __init__(self, fs: FileSystem, ciphertext: bool) -> None:
        self._fs = fs
        self._ciphertext = ciphertext
        self._buffer = memoryview(bytearray(CHUNK_BYTES))
        self._first_names: dict[int, bytes] = {}
        self._done = 0
        self.has_root = False

    def members(self, tree: Tree) -> Iterator[_Found]:
        """Everything in the tree; one is to be written before the next is drawn."""
        is_first = True
        lost: bytes | None = None  # what is below a directory that cannot be made
        for path, inode in tree:
            if lost is not None and path.startswith(lost):
                continue
            if path == ROOT:
                self.has_root = True
            elif is_first:
                # The target, whose attributes stay as they are.
                yield self._member(Entry(ROOT, "dir", MODE_OF_TYPE["dir"]), inode)
            is_first = False
            try:
                if inode.type not in MODE_OF_TYPE:
                    place = Place(inode=inode.number, record="ext4_inode", field="i_mode")
                    raise CorruptionError(f"mode {inode.mode:#o} is of no type", place)
                entry = self._entry(path, inode)
                member = self._member(entry, inode, None if entry.is_link else self._problem(entry, inode))
            except (CorruptionError, SourceError) as error:
                self._fs.problems.unreadable(error, Place(inode=inode.number))
                lost = path + b"/"
                continue
            yield member

    def _member(self, entry: Entry, inode: Inode, problem: Ext4Error | None = None) -> _Found:
        opened = inode.open_ciphertext if self._ciphertext else inode.open
        member = _Found(entry, self._done, opened, self._buffer, problem)
        self._done += member.data_size
        return member

    def _problem(self, entry: Entry, inode: Inode) -> Ext4Error | None:
        """Why an inode is left out, if it is."""
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
        """The entry of what the view shows; without an inode number, as no record is to go with it."""
        entry = Entry(
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
            links=inode.links,
        )
        if inode.links > 1 and not inode.is_dir:
            first = self._first_names.setdefault(inode.number, path)
            if first != path:
                return entry._replace(is_link=True, link_target=first)
        entry = entry._replace(xattrs=inode.xattrs())
        if inode.is_symlink:
            target = inode.readlink()
            if not target:
                raise CorruptionError("a symbolic link without a target", Place(inode=inode.number))
            return entry._replace(link_target=target, size=len(target))
        if inode.is_file:
            # The ciphertext's file is open to anyone who asks; it tells of size and holes alike.
            with inode.open_ciphertext() as file:
                size = file.size if self._ciphertext else inode.size
                segments = tuple(
                    (start, min(length, size - start)) for start, length in file.segments() if start < size
                )
            return entry._replace(size=size, body_size=size, segments=segments)
        return entry


class _Extractor(Restorer):
    """A restore that leaves out what no key opens, by what its members say."""

    def _restore(self, member: Restorable, name: bytes) -> None:
        if isinstance(member, _Found) and member.problem is not None:
            raise member.problem
        super()._restore(member, name)
