"""`Inode`: the plain fields of an inode, and through its file system what they lead to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from ext4img.volume.inode import StoredInode
from ext4img.volume.runs import Runs
from ext4img.volume.volume import Volume

if TYPE_CHECKING:
    from ext4img.crypto.policy import EncryptionContext
    from ext4img.fs.file import File
    from ext4img.fs.verity import Verity

_FIELDS = len(StoredInode._fields)


class InodeReader(Protocol):
    """What an inode needs of its file system: the codecs for contents, targets and contexts."""

    @property
    def volume(self) -> Volume:
        """The layer below: names and contents as stored."""

    def encryption(self, inode: StoredInode) -> EncryptionContext | None:
        """See `Inode.encryption`."""

    def open_inode(self, inode: StoredInode, path: str | None = None) -> File:
        """See `Inode.open`; `path` is for messages."""

    def read_inode(self, inode: StoredInode, path: str | None = None) -> bytes:
        """See `Inode.read_bytes`."""

    def open_ciphertext(self, inode: StoredInode, path: str | None = None) -> File:
        """See `Inode.open_ciphertext`."""

    def readlink(self, inode: StoredInode, path: str | None = None) -> bytes:
        """See `Inode.readlink`."""

    def verity(self, inode: StoredInode, verify: bool = False) -> Verity | None:
        """See `Inode.verity` and `Inode.verify_verity`."""


class Inode(StoredInode):
    """An inode of an open file system: its fields, and methods for what they lead to.

    Two are equal if all fields and the file system are the same.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<ext4img.Inode {self.number}: {self.mode_string} {self.size} bytes>"

    def __reduce__(self) -> Any:
        raise TypeError("an Inode belongs to its open image and cannot be pickled")

    @property
    def _fs(self) -> InodeReader:
        return cast("InodeReader", self[_FIELDS])

    @property
    def fields(self) -> StoredInode:
        """The plain fields alone, without the file system."""
        return StoredInode._make(self[:_FIELDS])

    @property
    def encryption(self) -> EncryptionContext | None:
        """Policy and nonce; None if the inode is not encrypted."""
        return self._fs.encryption(self)

    def open(self) -> File:
        """The contents of a regular file, decrypted if they are encrypted.

        NoKeyError without the key; IsDirectoryError or NotRegularFileError for other types.
        """
        return self._fs.open_inode(self)

    def read_bytes(self) -> bytes:
        """The whole contents of a regular file at once; errors as `open`."""
        return self._fs.read_inode(self)

    def open_ciphertext(self) -> File:
        """The contents as stored, up to i_size rounded up to the block. Needs no key."""
        return self._fs.open_ciphertext(self)

    @property
    def verity(self) -> Verity | None:
        """The fs-verity descriptor with the file's verity digest; None if the file has none.

        The descriptor of an encrypted file is encrypted: NoKeyError without the key. CorruptionError
        if the kernel would refuse it. The contents are not read.
        """
        return self._fs.verity(self)

    def verify_verity(self) -> Verity | None:
        """Hash the contents, compare them with the Merkle tree, and the tree with its descriptor.

        None if the file has no verity. CorruptionError says which bytes differ; other errors as
        `verity`.
        """
        return self._fs.verity(self, verify=True)

    def readlink(self) -> bytes:
        """The target of a symbolic link; without its key, as the kernel shows it. NotSymlinkError."""
        return self._fs.readlink(self)

    def xattrs(self) -> dict[str, bytes]:
        """Extended attributes as getxattr(2) shows them."""
        if not (self.inline_xattrs or self.xattr_block):
            return {}
        return self._fs.volume.xattrs(self)

    def runs(self) -> Runs:
        """Where the blocks are on the image."""
        return self._fs.volume.runs(self)


def bind(fields: StoredInode, fs: InodeReader) -> Inode:
    """The inode of a file system for the volume's."""
    # One tuple with the file system after the fields: no second object for each inode.
    return tuple.__new__(Inode, (*fields, fs))
