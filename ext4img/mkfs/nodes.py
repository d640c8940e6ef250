"""The input of a new file system: one plain `Node` for every name in it.

A tree is any iterable of nodes, parents before their children, the root (path `()`) first. Nodes do
not know their origin; contents are fetched later, by the number in `body`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from ext4img.errors import BuildError, CorruptionError
from ext4img.structs.xattr import (
    EXT4_XATTR_INDEX_POSIX_ACL_ACCESS,
    EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT,
)
from ext4img.volume.xattr import PREFIXES, acl_to_disk, xattr_key

Path = tuple[bytes, ...]
XattrKey = tuple[int, bytes]  # e_name_index, and the name without that index' prefix

_NO_XATTRS: Final[Mapping[XattrKey, bytes]] = MappingProxyType({})


class Node(NamedTuple):
    """One name in the new file system, and its inode. Sizes are in bytes, times in ns since 1970.

    `path` has the names as they will be stored, one for each level below the root. `mode` is st_mode
    with its type bits. `flags` are i_flags as on disk; those that describe the layout (extents, index,
    inline data and the like) are ignored here and set as needed.

    `size` is i_size, for regular files only. `segments` are (offset, length) of the written parts;
    None for all of `size`. `unwritten` are the parts that are allocated and read as zeros. A block
    that is in both is written. Segments reach past `size` only in the last block, or with the verity
    flag. The writer fetches the contents by the number `body`.

    `version` is i_version, which counts changes (its upper half needs inodes of more than 128 bytes).
    `inode` is the number that the inode had. It is kept if its encryption policy depends on it, or if
    all numbers are kept. Nodes with the same `link_group` are names of one inode: the first one
    describes the inode, the others only have `path` and `name_hash`.

    `xattrs` have their values as stored (ACLs: see `stored_xattr`), including the encryption context
    (`ENCRYPTION_CONTEXT`). `target` is a symlink's target as stored: with the encrypt flag, a 16-bit
    length and ciphertext. `name_hash` is the 8 bytes behind a name in directories that are encrypted
    and case-insensitive. `linear` is for an encrypted directory of several blocks that had no index:
    its no-key names have no hashes, and this keeps them so. `shown` is the name for messages and
    plans, if that is not the stored one.
    """

    path: Path
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    crtime_ns: int | None = None
    flags: int = 0
    generation: int = 0
    project_id: int = 0
    inode: int | None = None
    link_group: int | None = None
    xattrs: Mapping[XattrKey, bytes] = _NO_XATTRS
    segments: Sequence[tuple[int, int]] | None = None
    unwritten: Sequence[tuple[int, int]] = ()
    body: int = -1
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    name_hash: bytes = b""
    linear: bool = False
    version: int = 0
    shown: bytes = b""


class RandomAccessBody(Protocol):
    """Contents of one regular file, which `write` fetches by `Node.body`. A `Source` is one."""

    def read_at(self, offset: int, length: int, /) -> bytes:
        """Exactly `length` bytes from byte `offset` of the file on; holes are zeros.

        Never called for bytes past both `size` and the end of the last segment.
        """


def show_path(path: Path) -> str:
    """A path for people: "/" and the components, their bytes decoded as utf-8/surrogateescape."""
    return "/" + "/".join(name.decode("utf-8", "surrogateescape") for name in path)


_ACL_NAMES: Final = (PREFIXES[EXT4_XATTR_INDEX_POSIX_ACL_ACCESS], PREFIXES[EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT])


def stored_xattr(name: str, value: bytes) -> tuple[XattrKey, bytes]:
    """Key and stored value of an attribute that is as getxattr(2) returns it ("user.x", ACLs for user space).

    So are those of other name indexes, as "ext4.indexN.NAME". BuildError for a name outside ext4's
    namespaces, or an invalid ACL.
    """
    key = xattr_key(name)
    if key is None:
        raise BuildError(f"extended attribute {name!r}: ext4 has no such namespace")
    return key, _stored_acl(name, value) if name in _ACL_NAMES else value


def _stored_acl(name: str, value: bytes) -> bytes:
    try:
        return acl_to_disk(value)
    except CorruptionError as error:
        raise BuildError(f"extended attribute {name!r}: {error.reason}") from error


def device_i_block(major: int, minor: int) -> bytes:
    """The start of a device's i_block: the old encoding if the numbers fit, else the new (kernel: kdev_t.h).

    ValueError if they fit neither: the major has 12 bits, the minor 20.
    """
    if not 0 <= major < 1 << 12 or not 0 <= minor < 1 << 20:
        raise ValueError(f"device {major}:{minor} is out of range")
    if major < 256 and minor < 256:
        return (major << 8 | minor).to_bytes(4, "little")
    return bytes(4) + (minor & 0xFF | major << 8 | (minor & ~0xFF) << 12).to_bytes(4, "little")
