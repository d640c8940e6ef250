"""`Entry`: all facts of one name in the tree, independent of image, archive and target.

The archiver makes entries from an image, the writer stores them, and the reader yields the same
entries again. Restore and rebuild know nothing else of the image.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from ext4img.names.paths import decode_path

ROOT: Final = b"."
NO_XATTRS: Final[Mapping[str, bytes]] = MappingProxyType({})

MODE_OF_TYPE: Final = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
}
TYPE_OF_MODE: Final = {mode: kind for kind, mode in MODE_OF_TYPE.items()}

# Not in the tree: a verity file's Merkle tree and descriptor, which are stored after its end.
VERITY: Final = "verity"

Segments = tuple[tuple[int, int], ...]

UNWRITTEN_KEPT: Final = 32  # ranges in an inode record, which must fit into an attribute; the manifest has all
MAX_UNWRITTEN: Final = 50_000
MAX_UNREADABLE: Final = 10_000


class Entry(NamedTuple):
    """One name in the tree, as it is without any key. Frozen.

    `path` is relative, its components separated by "/", encrypted ones in the kernel's no-key form;
    b"." is the root. `type` is "file", "dir", "symlink", "char", "block", "fifo", "socket", or
    "verity" (see `VERITY`; its path is its file's). `mode` is st_mode, type bits included.

    `size` is the true i_size in bytes. The body has `body_size` bytes: a file's contents, or of an
    encrypted file the ciphertext rounded up to the block. Only its `segments`, ascending (offset,
    length) pairs, have data; the rest are holes. `unwritten` are the holes that have blocks on the
    disk; an entry from a stream has the first 32 of them.

    `link_target` is a symlink's target as shown without the key, or for a further name of a file
    (`is_link`) the path of its first name. `stored_*` and `context` are bytes as on disk:
    `stored_name` if the directory is encrypted, `stored_target` (with its two length bytes) of an
    encrypted symlink, `context` of an encrypted file, directory or symlink.
    """

    path: bytes
    type: str
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    body_size: int = 0
    segments: Segments = ()
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    crtime_ns: int | None = None
    rdev: tuple[int, int] = (0, 0)
    link_target: bytes = b""
    is_link: bool = False
    xattrs: Mapping[str, bytes] = NO_XATTRS
    inode: int = 0
    generation: int = 0
    flags: int = 0
    version: int = 0
    project_id: int = 0
    links: int = 1
    unwritten: Segments = ()
    context: bytes | None = None
    stored_name: bytes | None = None
    name_hash: bytes | None = None
    stored_target: bytes | None = None

    @property
    def name(self) -> bytes:
        """The last component of the path."""
        return self.path.rpartition(b"/")[2]

    @property
    def parent(self) -> bytes:
        """The path of its directory; b"." for the root's children and for the root itself."""
        return self.path.rpartition(b"/")[0] or ROOT

    @property
    def is_encrypted(self) -> bool:
        """Whether its contents, its target or (of a directory) the names in it are encrypted."""
        return self.context is not None

    @property
    def data_bytes(self) -> int:
        """The number of bytes in the body's segments."""
        segments = self.segments
        return segments[0][1] if len(segments) == 1 else sum(length for _, length in segments)

    @property
    def shown(self) -> str:
        """The path for messages."""
        return decode_path(self.path)
