"""Unlocking an image: the adapter between a `FileSystem` and `unlocking.unlocker`."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ext4img.crypto.policy import Policy
from ext4img.fs.image_metadata import ImageMetadata
from ext4img.sources import open_source
from ext4img.unlocking.fscrypt_kdf import CostLimits
from ext4img.unlocking.metadata_dirs import FscryptDir, HostMetadata, MetadataPlace
from ext4img.unlocking.secrets import Secrets
from ext4img.unlocking.unlocker import HomeSlots, Unlocker
from ext4img.volume.problems import Checks
from ext4img.volume.volume import Volume

if TYPE_CHECKING:
    from ext4img.fs.filesystem import FileSystem


class ImageUnlocker:
    """Unlocks one `FileSystem`, and remembers what was hashed from one call to the next."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._unlocker = Unlocker(_ImageTree(fs))

    def unlock(
        self,
        passphrase: str | bytes | None,
        raw_keys: Iterable[bytes],
        salts: Iterable[str | bytes],
        fscrypt_dirs: Iterable[FscryptDir],
        limits: CostLimits | None,
    ) -> tuple[Policy, ...]:
        """See `FileSystem.unlock`."""
        fs = self._fs
        secrets = Secrets.of(passphrase, raw_keys)
        with metadata_places(fscrypt_dirs, fs.problems.checks) as places:
            unlocked = self._unlocker.unlock(secrets, salts=salts, places=places, limits=limits)
        for key in unlocked.keys.values():
            fs.keyring.add(key)
        for error in unlocked.problems:
            fs.problems.note(str(error))
        return unlocked.policies


class _ImageTree:
    """What an image tells about its keys: an `EncryptedTree`."""

    kind = "image"

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs

    @property
    def password_salt(self) -> bytes:
        return self._fs.superblock.password_salt

    def policies(self) -> Iterable[Policy]:
        return self._fs.policies()

    def fscrypt_metadata(self) -> MetadataPlace:
        return self._fs.fscrypt_metadata()

    def homes(self, descriptors: Collection[bytes]) -> Iterator[HomeSlots]:
        for policy, use in self._fs.policies().items():
            if policy.key_id in descriptors:
                for number in use.homes:
                    yield HomeSlots(f"inode {number}", policy.key_id, partial(self._xattrs, number))

    def _xattrs(self, number: int) -> dict[str, bytes]:
        volume = self._fs.volume
        return volume.xattrs(volume.inode(number))


@contextmanager
def metadata_places(directories: Iterable[FscryptDir], checks: Checks) -> Iterator[list[MetadataPlace]]:
    """Where fscrypt metadata is searched for besides the tree's own place.

    A host directory, the path of an image, or anything open that has metadata. Images that are
    opened here, with `checks`, are closed at the end.
    """
    from ext4img.fs.filesystem import FileSystem

    places: list[MetadataPlace] = []
    opened: list[FileSystem] = []
    try:
        for directory in directories:
            if not isinstance(directory, (str, bytes, os.PathLike)):
                places.append(directory.fscrypt_metadata())
            elif Path(directory).is_dir():
                places.append(HostMetadata(directory))
            else:
                source = open_source(directory)
                try:
                    opened.append(FileSystem(Volume(source, checks=checks), owned=[source]))
                except BaseException:
                    source.close()
                    raise
                places.append(ImageMetadata(opened[-1]))
        yield places
    finally:
        for fs in opened:
            fs.close()
