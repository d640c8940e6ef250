"""Where the metadata files of the fscrypt tool are read: in a directory of the host, and in several places at once.

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
from typing import Literal, NamedTuple, Protocol

from ext4img.errors import CorruptionError, Ext4Error, LimitError, NotFoundError, SourceError
from ext4img.unlocking.protobuf import MAX_MESSAGE_BYTES

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
        check_name(name)
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
                    raise too_large(str(path), status.st_size)
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


def check_name(name: str) -> None:
    """CorruptionError where no metadata file can have that name."""
    if not _METADATA_NAME.fullmatch(name):
        raise CorruptionError(f"{name!a} cannot name a metadata file of fscrypt")


def too_large(where: str, size: int) -> LimitError:
    """The error for a metadata file of more than 16,384 bytes."""
    return LimitError(f"{where}: {size} bytes, more than the {MAX_MESSAGE_BYTES} that metadata may have")
