"""Filling a mounted file system with the kinds of files that fixtures need."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from pathlib import Path

ACL_USER_OBJ, ACL_USER, ACL_GROUP_OBJ, ACL_GROUP, ACL_MASK, ACL_OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NO_ID = 0xFFFFFFFF

ACCESS = [(ACL_USER_OBJ, 7, _NO_ID), (ACL_USER, 4, 1000), (ACL_GROUP_OBJ, 5, _NO_ID), (ACL_GROUP, 6, 70000)]
ACCESS += [(ACL_MASK, 7, _NO_ID), (ACL_OTHER, 0, _NO_ID)]


def lines(label: str, size: int) -> bytes:
    """`size` bytes of text of which every line tells its place: misplaced blocks show, and it compresses."""
    text = b"".join(b"%-20.20s %010d\n" % (label.encode(), offset) for offset in range(0, size, 32))
    return text[:size]


def noise(label: str, size: int) -> bytes:
    """`size` bytes that do not repeat."""
    return hashlib.shake_256(label.encode()).digest(size)


class Tree:
    """A directory of a mounted file system, and files made below it; paths are relative to it."""

    def __init__(self, root: str) -> None:
        self.root = os.fsencode(root)

    def at(self, path: str | bytes) -> bytes:
        """The absolute path."""
        return os.path.join(self.root, os.fsencode(path))

    def below(self, path: str | bytes) -> Tree:
        """The tree of a directory, made if it is not there."""
        os.makedirs(self.at(path), exist_ok=True)
        return Tree(os.fsdecode(self.at(path)))

    def file(self, path: str | bytes, data: bytes = b"", mode: int = 0o644) -> bytes:
        """A file written in one go."""
        full = self.at(path)
        Path(os.fsdecode(full)).write_bytes(data)
        os.chmod(full, mode)
        return full

    def sparse(self, path: str | bytes, size: int, pieces: dict[int, bytes], sync: bool = False) -> bytes:
        """A file of `size` bytes with data only at the offsets of `pieces`.

        With `sync` each piece is written out before the next, in the order given, so that the
        allocator can't join neighbours: pieces in descending order make one extent each.
        """
        full = self.at(path)
        fd = os.open(full, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            for offset, data in pieces.items():
                os.pwrite(fd, data, offset)
                if sync:
                    os.fsync(fd)
            os.ftruncate(fd, size)
        finally:
            os.close(fd)
        return full

    def preallocated(self, path: str | bytes, size: int, pieces: dict[int, bytes]) -> bytes:
        """A file whose blocks are all allocated and of which only `pieces` were ever written."""
        full = self.at(path)
        fd = os.open(full, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.posix_fallocate(fd, 0, size)
            for offset, data in pieces.items():
                os.pwrite(fd, data, offset)
        finally:
            os.close(fd)
        return full

    def symlink(self, path: str | bytes, target: str | bytes) -> None:
        """A symbolic link."""
        os.symlink(os.fsencode(target), self.at(path))

    def link(self, path: str | bytes, existing: str | bytes) -> None:
        """One more name of an existing file."""
        os.link(self.at(existing), self.at(path), follow_symlinks=False)

    def special_files(self) -> None:
        """One of each type that has no contents; device numbers that need the old and the new encoding."""
        os.mknod(self.at("fifo"), 0o640 | stat.S_IFIFO)
        os.mknod(self.at("socket"), 0o755 | stat.S_IFSOCK)
        os.mknod(self.at("char-old-encoding"), 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(self.at("char-new-encoding"), 0o600 | stat.S_IFCHR, os.makedev(300, 70000))
        os.mknod(self.at("block-old-encoding"), 0o660 | stat.S_IFBLK, os.makedev(255, 255))
        os.mknod(self.at("block-new-encoding"), 0o660 | stat.S_IFBLK, os.makedev(8, 256))

    def xattr(self, path: str | bytes, **attributes: bytes) -> None:
        """Extended attributes; the first underscore of each keyword stands for the dot."""
        for name, value in attributes.items():
            os.setxattr(self.at(path), name.replace("_", ".", 1), value, follow_symlinks=False)

    def acl(self, path: str | bytes, kind: str = "access") -> None:
        """A POSIX ACL (`kind` "access" or "default") with named users and groups, one of them above 65535."""
        value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in ACCESS)
        os.setxattr(self.at(path), f"system.posix_acl_{kind}", value)

    def times(self, path: str | bytes, atime_ns: int, mtime_ns: int) -> None:
        """Access and modification time."""
        os.utime(self.at(path), ns=(atime_ns, mtime_ns), follow_symlinks=False)

    def owner(self, path: str | bytes, uid: int, gid: int) -> None:
        """Owner and group."""
        os.chown(self.at(path), uid, gid, follow_symlinks=False)
