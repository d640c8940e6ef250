"""Unlocking an image: the adapter between its file system and `unlocking.unlocker`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial

from ext4img.crypto.policy import Policy
from ext4img.fs.image_metadata import ImageMetadata
from ext4img.fs.policies import PolicyUse
from ext4img.fs.protocol import FileTree
from ext4img.unlocking.fscrypt_kdf import CostLimits
from ext4img.unlocking.metadata_dirs import MetadataPlace
from ext4img.unlocking.secrets import Secrets
from ext4img.unlocking.unlocker import HomeSlots, Unlocker


class ImageUnlocker:
    """Unlocks one file system, and remembers what was hashed from one call to the next."""

    def __init__(self, fs: FileTree) -> None:
        self._fs = fs
        self._unlocker = Unlocker(_ImageTree(fs))

    def unlock(
        self,
        secrets: Secrets,
        salts: Iterable[str | bytes],
        places: Iterable[MetadataPlace],
        limits: CostLimits | None,
    ) -> tuple[Policy, ...]:
        """See `FileSystem.unlock`; the keys go into its keyring."""
        unlocked = self._unlocker.unlock(secrets, salts=salts, places=places, limits=limits)
        for key in unlocked.keys.values():
            self._fs.encrypted.keyring.add(key)
        for error in unlocked.problems:
            self._fs.problems.note(str(error))
        return unlocked.policies


class _ImageTree:
    """The key metadata of an image: an `EncryptedTree`."""

    kind = "image"

    def __init__(self, fs: FileTree) -> None:
        self._fs = fs

    @property
    def password_salt(self) -> bytes:
        return self._fs.volume.superblock.password_salt

    def policies(self) -> Mapping[Policy, PolicyUse]:
        return self._fs.encrypted.policies()

    def fscrypt_metadata(self) -> MetadataPlace:
        return ImageMetadata(self._fs)

    def homes(self, descriptors: Collection[bytes]) -> Iterator[HomeSlots]:
        for policy, use in self.policies().items():
            if policy.key_id in descriptors:
                for number in use.homes:
                    yield HomeSlots(f"inode {number}", policy.key_id, partial(self._xattrs, number))

    def _xattrs(self, number: int) -> dict[str, bytes]:
        volume = self._fs.volume
        return volume.xattrs(volume.inode(number))
