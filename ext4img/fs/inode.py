"""What a caller sees of an inode: its plain fields, and through the view what is behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ext4img.volume.inode import StoredInode
from ext4img.volume.runs import Runs

if TYPE_CHECKING:
    from ext4img.crypto.policy import EncryptionContext
    from ext4img.fs.file import File
    from ext4img.fs.filesystem import FileSystem
    from ext4img.fs.verity import Verity

_FIELDS = len(StoredInode._fields)


class Inode(StoredInode):
    """An inode as a view shows it: the fields of the volume's inode, and what they lead to.

    Equal to another where all fields and the view are the same.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<ext4img.Inode {self.number}: {self.mode_string} {self.size} bytes>"

    def __reduce__(self) -> Any:
        raise TypeError("an Inode belongs to its open image and cannot be pickled")

    @property
    def _fs(self) -> FileSystem:
        return cast("FileSystem", self[_FIELDS])

    @property
    def fields(self) -> StoredInode:
        """The plain fields alone, without the view."""
        return StoredInode._make(self[:_FIELDS])

    @property
    def encryption(self) -> EncryptionContext | None:
        """Policy and nonce, or None where the inode is not encrypted."""
        return self._fs.encryption(self)

    def open(self) -> File:
        """The contents of a regular file, decrypted where they are encrypted.

        NoKeyError without the key; IsDirectoryError, NotRegularFileError for what has no contents.
        """
        return self._fs.open_inode(self)

    def read_bytes(self) -> bytes:
        """The whole contents of a regular file at once; errors as `open`."""
        return self._fs.read_inode(self)

    def open_ciphertext(self) -> File:
        """The contents as stored, up to i_size rounded up to the block; no key is asked for."""
        return self._fs.open_ciphertext(self)

    @property
    def verity(self) -> Verity | None:
        """The fs-verity descriptor with the file's verity digest; None where the file has none.

        In an encrypted file it is encrypted: NoKeyError without the key. CorruptionError for what the
        kernel would not take. The contents are not looked at.
        """
        return self._fs.verity(self)

    def verify_verity(self) -> Verity | None:
        """Hash the contents and compare them with the Merkle tree, and that with its descriptor.

        None where the file has no verity. CorruptionError says which bytes differ; errors as `verity`.
        """
        return self._fs.verity(self, verify=True)

    def readlink(self) -> bytes:
        """The target of a symbolic link; without its key as the kernel shows it. NotSymlinkError."""
        return self._fs.readlink(self)

    def xattrs(self) -> dict[str, bytes]:
        """Extended attributes as getxattr(2) shows them."""
        if not (self.inline_xattrs or self.xattr_block):
            return {}
        return self._fs.volume.xattrs(self)

    def runs(self) -> Runs:
        """Where the blocks stand on the image."""
        return self._fs.volume.runs(self)


def bind(fields: StoredInode, fs: FileSystem) -> Inode:
    """The view's inode for the volume's."""
    # One tuple with the view behind the fields: no second object for each inode.
    return tuple.__new__(Inode, (*fields, fs))
