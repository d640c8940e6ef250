"""Where the metadata files of the fscrypt tool are read: on an image, or in a directory of the host.

`.fscrypt` lies in the root directory of the file system whose directories it unlocks, and holds
`policies` and `protectors`. Rules of google/fscrypt, filesystem/filesystem.go: only `.fscrypt` itself
may be a symbolic link; nothing in it is encrypted; a metadata file is a regular file of at most 16,384
bytes. The names asked for consist of hexadecimal digits and ".link", so none leads elsewhere.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from ext4img.crypto.unlock.protobuf import MAX_MESSAGE_BYTES
from ext4img.errors import CorruptionError, Ext4Error, LimitError, NotFoundError, Place, SourceError

if TYPE_CHECKING:
    from ext4img.view.inode import Inode
    from ext4img.view.view import View

Kind = Literal["policies", "protectors"]
BASE = ".fscrypt"
_METADATA_NAME = re.compile(r"[0-9a-f]{1,32}(\.link)?")


class MetadataFile(NamedTuple):
    """A metadata file: its bytes, and where it stands, for messages."""

    data: bytes
    where: str


class MetadataPlace(Protocol):
    """One `.fscrypt` directory."""

    def find(self, kind: Kind, name: str) -> MetadataFile | None:
        """The file of that name; None where there is none. Ext4Error where it cannot be believed."""


class ImageMetadata:
    """The `.fscrypt` in the root directory of an image."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._where = f"/{BASE}"

    def find(self, kind: Kind, name: str) -> MetadataFile | None:
        """See `MetadataPlace`."""
        _check_name(name)
        directory = self._directory(kind)
        inode = None if directory is None else self._child(directory, name)
        if inode is None:
            return None
        where = f"{self._where}/{kind}/{name}"
        place = Place(inode=inode.number)
        if not inode.is_file or inode.is_encrypted:
            what = "is encrypted" if inode.is_file else f"is a {inode.type}"
            raise CorruptionError(f"{where} {what}: metadata of fscrypt is in plain regular files", place)
        if inode.size > MAX_MESSAGE_BYTES:
            raise _too_large(where, inode.size)
        with inode.open() as file:
            return MetadataFile(file.read(), where)

    def _directory(self, kind: Kind) -> Inode | None:
        base = self._base()
        directory = None if base is None else self._child(base, kind)
        return None if directory is None else self._plain_directory(directory, f"{self._where}/{kind}")

    def _base(self) -> Inode | None:
        view = self._view
        base = self._child(view.root(), BASE)
        if base is None:
            return None
        if base.is_symlink and not base.is_encrypted:
            target = view.readlink(base)
            self._where = f"/{BASE} -> {os.fsdecode(target)}"
            base = self._follow(target)
        return self._plain_directory(base, self._where)

    def _follow(self, target: bytes) -> Inode:
        """What the one symbolic link leads to, an absolute target within the image."""
        trail = [self._view.root()]
        for name in target.split(b"/"):
            if name == b"..":
                del trail[max(len(trail) - 1, 1) :]
            elif name not in (b"", b"."):
                entry = self._view.lookup(self._plain_directory(trail[-1], self._where), name)
                if entry is None:
                    raise NotFoundError.at(self._where, "the symbolic link leads to nothing on this image")
                trail.append(self._view.inode(entry.inode))
        return trail[-1]

    def _child(self, directory: Inode, name: str) -> Inode | None:
        entry = self._view.lookup(directory, name.encode("ascii"))
        return None if entry is None else self._view.inode(entry.inode)

    def _plain_directory(self, inode: Inode, where: str) -> Inode:
        if inode.is_dir and not inode.is_encrypted:
            return inode
        what = "an encrypted one" if inode.is_dir else f"a {inode.type}"
        raise CorruptionError(f"{where}: a plain directory is wanted, this is {what}", Place(inode=inode.number))


class HostMetadata:
    """An exported `.fscrypt` in a directory of the host. No symbolic link in it is followed."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """`directory` is a `.fscrypt` or its parent; NotFoundError where it is neither."""
        path = Path(directory)
        self._base = path / BASE if (path / BASE).is_dir() else path
        if not any((self._base / kind).is_dir() for kind in ("policies", "protectors")):
            raise NotFoundError.at(str(path), f"neither a {BASE} directory nor the parent of one")

    def find(self, kind: Kind, name: str) -> MetadataFile | None:
        """See `MetadataPlace`."""
        _check_name(name)
        path = self._base / kind / name
        try:
            with (
                _opened(self._base / kind, os.O_DIRECTORY) as directory,
                _opened(name, os.O_NONBLOCK, directory) as file,
            ):
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode):
                    raise CorruptionError(f"{path} is not a regular file, as metadata of fscrypt is")
                if status.st_size > MAX_MESSAGE_BYTES:
                    raise _too_large(str(path), status.st_size)
                data = os.read(file, MAX_MESSAGE_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise CorruptionError(f"{path}: a symbolic link, which is not followed, or no directory") from None
            raise SourceError(error.errno, error.strerror, str(path)) from error
        return MetadataFile(data, str(path))


class MetadataChain:
    """Several places, asked in turn: the image's own, then those with login protectors."""

    def __init__(self, places: Iterable[MetadataPlace]) -> None:
        self._places = tuple(places)

    def find(self, kind: Kind, name: str) -> MetadataFile | None:
        """The first place's file that can be read; what is wrong in one place counts only if none has it."""
        failure: Ext4Error | None = None
        for place in self._places:
            try:
                found = place.find(kind, name)
            except Ext4Error as error:
                failure = failure or error
                continue
            if found is not None:
                return found
        if failure is not None:
            raise failure
        return None

    def policy(self, name: str) -> bytes | None:
        """Reads a policy for `open_policies`."""
        found = self.find("policies", name)
        return None if found is None else found.data

    def protector(self, name: str) -> bytes | None:
        """Reads a protector, or with ".link" the file that says where it is, for `open_policies`."""
        found = self.find("protectors", name)
        return None if found is None else found.data


@contextmanager
def _opened(path: str | Path, flags: int, directory: int | None = None) -> Iterator[int]:
    """A descriptor of what is no symbolic link. O_NONBLOCK: a fifo of that name must not make us wait."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _check_name(name: str) -> None:
    if not _METADATA_NAME.fullmatch(name):
        raise CorruptionError(f"{name!a} cannot name a metadata file of fscrypt")


def _too_large(where: str, size: int) -> LimitError:
    return LimitError(f"{where}: {size} bytes, more than the {MAX_MESSAGE_BYTES} that metadata may have")
