"""`FileTree`: what resolving, walking and paths need of a file system.

Modules of this room depend on this protocol, `FileSystem` depends on them; nothing depends on
`FileSystem` in turn. An adapter (FUSE, fsspec) can be written against it as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ext4img.fs.inode import Inode, InodeReader
from ext4img.volume.dir_entry import DirEntry, DirListing
from ext4img.volume.inode import StoredInode
from ext4img.volume.problems import Problems

if TYPE_CHECKING:
    from ext4img.fs.encryption import EncryptionState

Found = tuple[Inode, DirEntry | None, int]
"""What a path leads to: the inode, its directory entry (None for the root), the directory's inode number."""


class FileTree(InodeReader, Protocol):
    """Inodes by number, and directories with the names that the keys at hand give."""

    @property
    def problems(self) -> Problems:
        """What was read around so far, and the setting that decides whether damage raises."""

    @property
    def encrypted(self) -> EncryptionState:
        """Contexts, policies and ciphers."""

    def root(self) -> Inode:
        """The root directory's inode."""

    def inode(self, number: int) -> Inode:
        """The inode of this number, allocated or not. NotFoundError outside the file system's range."""

    def resolve(self, path: str, follow: bool = True) -> Found:
        """Follow a path from the root. PathError."""

    def lookup(self, directory: StoredInode, name: bytes) -> DirEntry | None:
        """The entry that is shown under `name`, or None."""

    def listing(self, directory: StoredInode, prefix: str = "") -> tuple[list[str], DirListing]:
        """The names of a directory as they are shown, each after `prefix`, and their entries as columns."""

    def policy_of(self, directory: StoredInode) -> bytes | None:
        """The start of the contexts below an encrypted directory; None if it is not encrypted."""

    def has_key(self, inode: StoredInode) -> bool:
        """Whether contents, names or target are readable: not encrypted, or the key is at hand."""

    def user_name(self, uid: int) -> str:
        """The name of a user by the image's own /etc/passwd. KeyError."""

    def group_name(self, gid: int) -> str:
        """The name of a group by the image's own /etc/group. KeyError."""
