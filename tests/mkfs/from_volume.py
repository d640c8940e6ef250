"""Nodes of an existing image, so that what the kernel made can be built again and judged by its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ext4img.mkfs import Node
from ext4img.structs.inode import EXT4_ENCRYPT_FL, EXT4_INDEX_FL
from ext4img.volume.contents import Contents
from ext4img.volume.inode import StoredInode
from ext4img.volume.volume import HOLE, UNWRITTEN, WRITTEN, Volume
from ext4img.volume.xattr import INLINE_DATA

ROOT = 2


@dataclass
class VolumeTree:
    """The nodes of a volume, and their contents by inode number."""

    volume: Volume
    inodes: dict[int, StoredInode] = field(default_factory=dict)
    _last: tuple[int, _Reader] | None = None

    def nodes(self) -> Iterator[Node]:
        root = self.volume.inode(ROOT)
        yield self._node(root, (), b"", root)
        yield from self._below(root, ())

    def body(self, number: int) -> _Reader:
        if self._last is None or self._last[0] != number:
            inode = self.inodes[number]
            self._last = number, _Reader(self.volume.contents(inode, self._end(inode)))
        return self._last[1]

    def _below(self, directory: StoredInode, path: tuple[bytes, ...]) -> Iterator[Node]:
        below = []
        for entry in self.volume.directory(directory):
            inode = self.volume.inode(entry.inode)
            yield self._node(inode, (*path, entry.name), entry.hash, directory)
            if inode.is_dir:
                below.append((inode, (*path, entry.name)))
        for inode, name in below:
            yield from self._below(inode, name)

    def _node(self, inode: StoredInode, path: tuple[bytes, ...], name_hash: bytes, directory: StoredInode) -> Node:
        written: list[tuple[int, int]] = []
        unwritten: list[tuple[int, int]] = []
        if inode.is_file:
            self.inodes[inode.number] = inode
            written, unwritten = self._segments(inode)
        xattrs = dict(self.volume.raw_xattrs(inode))
        xattrs.pop(INLINE_DATA, None)
        return Node(
            path,
            inode.mode,
            inode.uid,
            inode.gid,
            inode.size if inode.is_file else 0,
            inode.atime_ns,
            inode.mtime_ns,
            inode.ctime_ns,
            inode.crtime_ns,
            inode.flags,
            inode.generation,
            inode.project_id,
            inode.number,
            inode.number if inode.links > 1 and not inode.is_dir else None,
            xattrs,
            written,
            unwritten,
            inode.number,
            self.volume.symlink_target_stored(inode) if inode.is_symlink else b"",
            inode.rdev or (0, 0),
            name_hash,
            inode.is_dir and not inode.flags & EXT4_INDEX_FL and inode.size > self.volume.block_size,
        )

    def _segments(self, inode: StoredInode) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        if inode.has_inline_data:
            return [(0, inode.size)], []
        size = self.volume.block_size
        runs = self.volume.runs(inode)
        assert all(run.state in (WRITTEN, UNWRITTEN, HOLE) for run in runs)
        written = [(run.lblk * size, run.length * size) for run in runs if run.state == WRITTEN]
        unwritten = [(run.lblk * size, run.length * size) for run in runs if run.state == UNWRITTEN]
        if written and not inode.flags & EXT4_ENCRYPT_FL:
            offset, length = written[-1]
            if offset < inode.size < offset + length:
                written[-1] = (offset, inode.size - offset)
        return written, unwritten

    def _end(self, inode: StoredInode) -> int:
        written, _ = self._segments(inode)
        return max([inode.size, *(offset + length for offset, length in written)])


@dataclass
class _Reader:
    contents: Contents

    def read_at(self, offset: int, length: int) -> bytes:
        return self.contents.read(offset, length)
