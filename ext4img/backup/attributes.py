"""What a restored inode gets besides its contents, and in which order.

Owner first, since changing it clears set-id bits and capabilities; mode; ACLs, which may refine
the mode; other attributes; times, which all of these leave alone but writing would not; flags
last, as an immutable file takes nothing more.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import stat
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from ext4img.backup.entry import Entry

# linux/fs.h. FS_IOC_GETFLAGS and FS_IOC_SETFLAGS have a long in their number and an int in fact.
_LONG_BYTES: Final = struct.calcsize("l")
FS_IOC_GETFLAGS: Final = 2 << 30 | _LONG_BYTES << 16 | ord("f") << 8 | 1
FS_IOC_SETFLAGS: Final = 1 << 30 | _LONG_BYTES << 16 | ord("f") << 8 | 2
_FSXATTR_BYTES: Final = 28  # struct fsxattr: words fsx_xflags, fsx_extsize, fsx_nextents, fsx_projid, …
_FSX_PROJID: Final = 3
FS_IOC_FSGETXATTR: Final = 2 << 30 | _FSXATTR_BYTES << 16 | ord("X") << 8 | 31
FS_IOC_FSSETXATTR: Final = 1 << 30 | _FSXATTR_BYTES << 16 | ord("X") << 8 | 32

FS_IMMUTABLE_FL: Final = 0x10
FS_APPEND_FL: Final = 0x20
FS_CASEFOLD_FL: Final = 0x40000000
# What chattr sets: s u S i a d A j t D T P. The rest is the file system's own affair.
SETTABLE_FLAGS: Final = 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x4000 | 0x8000 | 0x10000 | 0x20000 | 0x20000000
_NO_ID: Final = 0xFFFFFFFF
_ACL_PREFIX: Final = "system.posix_acl_"
# What a file system or the lack of rights refuses. ENOSPC: no room for attributes in the inode.
_REFUSED: Final = frozenset(
    (
        errno.E2BIG,
        errno.EACCES,
        errno.EINVAL,
        errno.ENODATA,
        errno.ENOSPC,
        errno.ENOTSUP,
        errno.ENOTTY,
        errno.EOPNOTSUPP,
        errno.EOVERFLOW,
        errno.EPERM,
        errno.ERANGE,
    )
)


Unset = Counter[str]
"""How often each kind of thing could not be set: "owner", "attribute security.capability", …

At most 64 kinds are told apart, since images and archives may have any number of attributes' names.
"""
_MOST_KINDS: Final = 64
_THE_REST: Final = "further attributes"


def apply(target: int | str, entry: Entry, xattrs: Mapping[str, bytes], unset: Unset) -> None:
    """All but the flags, on an open file or on a path that leads to the inode and nowhere else.

    What the system refuses is counted in `unset`; OSError is what nobody foresees.
    """
    if _NO_ID in (entry.uid, entry.gid):  # chown(2) takes it for "leave it as it is"
        unset["owner"] += 1
        owner_set = False
    else:
        owner_set = _attempt("owner", unset, lambda: os.chown(target, entry.uid, entry.gid))
    if entry.type != "symlink":
        mode = stat.S_IMODE(entry.mode)
        if not owner_set:
            mode &= ~(stat.S_ISUID | stat.S_ISGID)  # they would lend the rights of somebody else
        _attempt("mode", unset, lambda: os.chmod(target, mode))
    for name in sorted(xattrs, key=lambda name: (not name.startswith(_ACL_PREFIX), name)):
        value = xattrs[name]
        shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        _attempt(f"attribute {shown}", unset, partial(os.setxattr, target, name, value))
    _attempt("times", unset, lambda: os.utime(target, ns=(entry.atime_ns, entry.mtime_ns)))


def drop_acls(target: int | str) -> None:
    """Take away the ACLs that a new file got from the directory it was made in."""
    for name in (_ACL_PREFIX + "access", _ACL_PREFIX + "default"):
        try:
            os.removexattr(target, name)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise


def apply_flags(fd: int, entry: Entry, unset: Unset, *, but: int = 0) -> None:
    """Inode flags (not those of `but`) and project, on an open file that has all the rest by now."""
    if entry.project_id:
        _attempt("project", unset, lambda: _set_project(fd, entry.project_id))
    add_flags(fd, entry.flags & SETTABLE_FLAGS & ~but, unset)


def add_flags(fd: int, wanted: int, unset: Unset) -> None:
    """Set inode flags beside those that an open file has."""
    if wanted:
        _attempt("flags", unset, lambda: _add_flags(fd, wanted))


def set_casefold(fd: int, unset: Unset) -> None:
    """Make a new, empty directory case-insensitive."""
    _attempt("casefold", unset, lambda: _add_flags(fd, FS_CASEFOLD_FL))


def _add_flags(fd: int, wanted: int) -> None:
    """Set inode flags (FS_*_FL) beside those the file has."""
    value = array.array("i", [0])
    fcntl.ioctl(fd, FS_IOC_GETFLAGS, value)
    if value[0] & 0xFFFFFFFF & wanted != wanted:
        flags = (value[0] & 0xFFFFFFFF) | wanted
        value[0] = flags - (1 << 32) if flags >> 31 else flags
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, value)


def _set_project(fd: int, project_id: int) -> None:
    value = array.array("I", bytes(_FSXATTR_BYTES))
    fcntl.ioctl(fd, FS_IOC_FSGETXATTR, value)
    value[_FSX_PROJID] = project_id
    fcntl.ioctl(fd, FS_IOC_FSSETXATTR, value)


def _attempt(what: str, unset: Unset, action: Callable[[], None]) -> bool:
    try:
        action()
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        unset[what if what in unset or len(unset) < _MOST_KINDS else _THE_REST] += 1
        return False
    return True
