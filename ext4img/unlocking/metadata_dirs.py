"""Reading the metadata files of the fscrypt tool: from a directory of the host, or from several places in turn.

`.fscrypt` lies in the root directory of the file system whose directories it unlocks. It has the
subdirectories `policies` and `protectors`. Rules of google/fscrypt, filesystem/filesystem.go: only
`.fscrypt` itself may be a symbolic link; nothing in it is encrypted; a metadata file is a regular
file of at most 16,384 bytes. File names consist of hexadecimal digits and ".link" only, so that no
name can lead elsewhere.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeAlias

from ext4img.errors import CorruptionError, Ext4Error, LimitError, NotFoundError, SourceError
from ext4img.unlocking.protobuf import MAX_MESSAGE_BYTES

Kind = Literal["policies", "protectors"]
BASE = ".fscrypt"
_METADATA_NAME = re.compile(r"[0-9a-f]{1,32}(\.link)?")


class MetadataFile(NamedTuple):
    """A metadata file: its bytes, and its path for messages."""

    data: bytes
    where: str


class MetadataPlace(Protocol):
    """One `.fscrypt` directory."""

    def find(self, kind: Kind, name: str) -> MetadataFile | None:
        """The file of that name, None if there is none. Ext4Error if it breaks the rules."""


class HasFscryptMetadata(Protocol):
    """An open image or backup, which may have a `.fscrypt`."""

    def fscrypt_metadata(self) -> MetadataPlace:
        """Its `.fscrypt`, there or not."""


FscryptDir: TypeAlias = "str | os.PathLike[str] | HasFscryptMetadata"
"""Where else fscrypt metadata may be: a directory of the host, or an open image or backup."""


class HostMetadata:
    """An exported `.fscrypt` in a directory of the host. No symbolic link in it is followed."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """`directory` is a `.fscrypt` or its parent. NotFoundError if it is neither."""
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
                    raise CorruptionError(f"{path}: fscrypt metadata must be a regular file")
                if status.st_size > MAX_MESSAGE_BYTES:
                    raise too_large(str(path), status.st_size)
                data = os.read(file, MAX_MESSAGE_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise CorruptionError(f"{path}: symbolic links in exported metadata are not followed") from None
            raise SourceError(error.errno, error.strerror, str(path)) from error
        return MetadataFile(data, str(path))


class OpenedImage(HasFscryptMetadata, Protocol):
    """An image that was opened for its metadata alone."""

    def close(self) -> None:
        """Close it."""


@contextmanager
def opened_places(
    places: Iterable[FscryptDir], open_image: Callable[[str | os.PathLike[str]], OpenedImage] | None = None
) -> Iterator[list[MetadataPlace]]:
    """The places, open until the end of the block.

    A path that is no directory is taken for an image and given to `open_image`. NotFoundError without
    that, or for a directory without metadata.
    """
    opened: list[MetadataPlace] = []
    with ExitStack() as images:
        for place in places:
            if not isinstance(place, (str, bytes, os.PathLike)):
                opened.append(place.fscrypt_metadata())
            elif open_image is None or Path(place).is_dir():
                opened.append(HostMetadata(place))
            else:
                image = open_image(place)
                images.callback(image.close)
                opened.append(image.fscrypt_metadata())
        yield opened


class MetadataChain:
    """Several places, searched in turn: the image's own, then those with login protectors."""

    def __init__(self, places: Iterable[MetadataPlace]) -> None:
        self._places = tuple(places)

    def find(self, kind: Kind, name: str) -> MetadataFile | None:
        """The first readable file. The first error is raised if no place has a readable one."""
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
        """The bytes of a policy file, for `open_policies`."""
        found = self.find("policies", name)
        return None if found is None else found.data

    def protector(self, name: str) -> bytes | None:
        """The bytes of a protector file, or of a ".link" file, for `open_policies`."""
        found = self.find("protectors", name)
        return None if found is None else found.data


@contextmanager
def _opened(path: str | Path, flags: int, directory: int | None = None) -> Iterator[int]:
    """A descriptor of a path that is no symbolic link. O_NONBLOCK: opening a fifo must not block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def check_name(name: str) -> None:
    """CorruptionError if no metadata file can have that name."""
    if not _METADATA_NAME.fullmatch(name):
        raise CorruptionError(f"{name!a} cannot name a metadata file of fscrypt")


def too_large(where: str, size: int) -> LimitError:
    """The error for a metadata file of more than 16,384 bytes."""
    return LimitError(f"{where}: {size} bytes, more than the {MAX_MESSAGE_BYTES} that metadata may have")


def not_plain_file(where: str, kind: str, is_encrypted: bool) -> str:
    """Why a file of type `kind` cannot be metadata."""
    what = "is encrypted" if kind == "file" and is_encrypted else f"is a {kind}"
    return f"{where} {what}: fscrypt metadata must be a plain regular file"


def not_plain_directory(where: str, kind: str) -> str:
    """Why a file of type `kind` cannot be a directory of metadata."""
    what = "an encrypted one" if kind == "dir" else f"a {kind}"
    return f"{where}: must be a plain directory, not {what}"
