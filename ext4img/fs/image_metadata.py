"""The `.fscrypt` directory of an image, as a `MetadataPlace`; see `unlocking.metadata_dirs` for its rules."""

from __future__ import annotations

import os

from ext4img.errors import CorruptionError, NotFoundError, Place
from ext4img.fs.inode import Inode, bind
from ext4img.fs.protocol import FileTree
from ext4img.unlocking.metadata_dirs import (
    BASE,
    Kind,
    MetadataFile,
    check_name,
    not_plain_directory,
    not_plain_file,
    too_large,
)
from ext4img.unlocking.protobuf import MAX_MESSAGE_BYTES


class ImageMetadata:
    """The `.fscrypt` in the root directory of an image."""

    def __init__(self, fs: FileTree) -> None:
        self._fs = fs
        self._where = f"/{BASE}"

    def find(self, kind: Kind, name: str) -> MetadataFile | None:
        """See `MetadataPlace`."""
        check_name(name)
        directory = self._directory(kind)
        inode = None if directory is None else self._child(directory, name)
        if inode is None:
            return None
        where = f"{self._where}/{kind}/{name}"
        place = Place(inode=inode.number)
        if not inode.is_file or inode.is_encrypted:
            raise CorruptionError(not_plain_file(where, inode.type, inode.is_encrypted), place)
        if inode.size > MAX_MESSAGE_BYTES:
            raise too_large(where, inode.size)
        with inode.open() as file:
            return MetadataFile(file.read(), where)

    def _directory(self, kind: Kind) -> Inode | None:
        base = self._base()
        directory = None if base is None else self._child(base, kind)
        return None if directory is None else self._plain_directory(directory, f"{self._where}/{kind}")

    def _base(self) -> Inode | None:
        fs = self._fs
        base = self._child(fs.root(), BASE)
        if base is None:
            return None
        if base.is_symlink and not base.is_encrypted:
            target = fs.readlink(base)
            self._where = f"/{BASE} -> {os.fsdecode(target)}"
            base = self._follow(target)
        return self._plain_directory(base, self._where)

    def _follow(self, target: bytes) -> Inode:
        """The target of `.fscrypt`, within the image. No other symbolic link on the way is followed."""
        trail = [self._fs.root()]
        for name in target.split(b"/"):
            if name == b"..":
                del trail[max(len(trail) - 1, 1) :]
            elif name not in (b"", b"."):
                entry = self._fs.lookup(self._plain_directory(trail[-1], self._where), name)
                if entry is None:
                    raise NotFoundError.at(self._where, "the symbolic link leads to nothing on this image")
                trail.append(self._inode(trail[-1], name, entry.inode))
        return trail[-1]

    def _child(self, directory: Inode, name: str) -> Inode | None:
        raw = name.encode("ascii")
        entry = self._fs.lookup(directory, raw)
        return None if entry is None else self._inode(directory, raw, entry.inode)

    def _inode(self, directory: Inode, name: bytes, number: int) -> Inode:
        inode = self._fs.volume.named_inode(number, os.fsdecode(name), directory.number)
        if inode is None:
            raise NotFoundError.at(os.fsdecode(name), f"Its inode {number} cannot be read or is not in use")
        return bind(inode, self._fs)

    def _plain_directory(self, inode: Inode, where: str) -> Inode:
        if inode.is_dir and not inode.is_encrypted:
            return inode
        raise CorruptionError(not_plain_directory(where, inode.type), Place(inode=inode.number))
