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
from typing import Final

from ext4img.archive.entry import Entry
from ext4img.structs.inode import (
    EXT4_APPEND_FL,
    EXT4_CASEFOLD_FL,
    EXT4_DIRSYNC_FL,
    EXT4_IMMUTABLE_FL,
    EXT4_JOURNAL_DATA_FL,
    EXT4_NOATIME_FL,
    EXT4_NODUMP_FL,
    EXT4_NOTAIL_FL,
    EXT4_PROJINHERIT_FL,
    EXT4_SECRM_FL,
    EXT4_SYNC_FL,
    EXT4_TOPDIR_FL,
    EXT4_UNRM_FL,
    INODE_FLAGS,
)

# linux/fs.h. FS_IOC_GETFLAGS and FS_IOC_SETFLAGS have a long in their number and an int in fact.
_LONG_BYTES: Final = struct.calcsize("l")
FS_IOC_GETFLAGS: Final = 2 << 30 | _LONG_BYTES << 16 | ord("f") << 8 | 1
FS_IOC_SETFLAGS: Final = 1 << 30 | _LONG_BYTES << 16 | ord("f") << 8 | 2
_FSXATTR_BYTES: Final = 28  # struct fsxattr: words fsx_xflags, fsx_extsize, fsx_nextents, fsx_projid, …
_FSX_PROJID: Final = 3
FS_IOC_FSGETXATTR: Final = 2 << 30 | _FSXATTR_BYTES << 16 | ord("X") << 8 | 31
FS_IOC_FSSETXATTR: Final = 1 << 30 | _FSXATTR_BYTES << 16 | ord("X") << 8 | 32

# What chattr sets. The rest is the file system's own affair.
SETTABLE_FLAGS: Final = (
    EXT4_SECRM_FL
    | EXT4_UNRM_FL
    | EXT4_SYNC_FL
    | EXT4_IMMUTABLE_FL
    | EXT4_APPEND_FL
    | EXT4_NODUMP_FL
    | EXT4_NOATIME_FL
    | EXT4_JOURNAL_DATA_FL
    | EXT4_NOTAIL_FL
    | EXT4_DIRSYNC_FL
    | EXT4_TOPDIR_FL
    | EXT4_PROJINHERIT_FL
)
FLAG_NAMES: Final = {
    flag.bit: f"{flag.letter} ({flag.name.replace('_', ' ')})" for flag in INODE_FLAGS if flag.bit & SETTABLE_FLAGS
}
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
    owner_set = _NO_ID not in (entry.uid, entry.gid)  # chown(2) takes it for "leave it as it is"
    if owner_set:
        try:
            os.chown(target, entry.uid, entry.gid)
        except OSError as error:
            _refused("owner", error, unset)
            owner_set = False
    else:
        _count("owner", unset)
    if entry.type != "symlink":
        mode = entry.mode & 0o7777
        if not owner_set:
            mode &= ~(stat.S_ISUID | stat.S_ISGID)  # they would lend the rights of somebody else
        try:
            os.chmod(target, mode)
        except OSError as error:
            _refused("mode", error, unset)
    if xattrs:
        for name in sorted(xattrs, key=lambda name: (not name.startswith(_ACL_PREFIX), name)):
            _set_xattr(target, name, xattrs[name], unset)
    try:
        os.utime(target, ns=(entry.atime_ns, entry.mtime_ns))
    except OSError as error:
        _refused("times", error, unset)


def _set_xattr(target: int | str, name: str, value: bytes, unset: Unset) -> None:
    try:
        os.setxattr(target, name, value)
    except OSError as error:
        shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        _refused(f"attribute {shown}", error, unset)


def drop_acls(target: int | str) -> None:
    """Take away the ACLs that a new file got from the directory it was made in."""
    for name in (_ACL_PREFIX + "access", _ACL_PREFIX + "default"):
        try:
            os.removexattr(target, name)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise


def copy(source: int, target: int, status: os.stat_result, unset: Unset) -> None:
    """All that an open directory has, and `status` says of it, for another one; but for flags that lock it."""
    owner_set = _attempt("owner", unset, lambda: os.chown(target, status.st_uid, status.st_gid))
    mode = stat.S_IMODE(status.st_mode)
    if not owner_set:
        mode &= ~(stat.S_ISUID | stat.S_ISGID)
    _attempt("mode", unset, lambda: os.chmod(target, mode))
    try:
        names = os.listxattr(source)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        names = []
    for name in sorted(names, key=lambda name: (not name.startswith(_ACL_PREFIX), name)):
        _set_xattr(target, name, os.getxattr(source, name), unset)
    _attempt("times", unset, lambda: os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns)))
    try:
        flags = _flags_of(source)
        project_id = _fsxattr_of(source)[_FSX_PROJID]
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        return  # what has no flags has none to give
    if project_id:
        _attempt("project", unset, lambda: _set_project(target, project_id))
    add_flags(target, flags & SETTABLE_FLAGS & ~(EXT4_IMMUTABLE_FL | EXT4_APPEND_FL), unset)


def is_finished(fd: int, mode: int, uid: int, gid: int, mtime_ns: int) -> bool:
    """Whether an open directory is locked and has these: locks come last, so an earlier restore was done with it."""
    status = os.fstat(fd)
    found = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns
    if found != (mode & 0o7777, uid, gid, mtime_ns):
        return False
    try:
        return bool(_flags_of(fd) & (EXT4_IMMUTABLE_FL | EXT4_APPEND_FL))
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        return False


def apply_flags(fd: int, entry: Entry, unset: Unset, *, but: int = 0) -> None:
    """Inode flags (not those of `but`) and project, on an open file that has all the rest by now."""
    if entry.project_id:
        _attempt("project", unset, lambda: _set_project(fd, entry.project_id))
    add_flags(fd, entry.flags & SETTABLE_FLAGS & ~but, unset)


def add_flags(fd: int, wanted: int, unset: Unset) -> None:
    """Set inode flags beside those that an open file has: all that its file system takes.

    Each of the others is counted by its name.
    """
    if not wanted:
        return
    try:
        _add_flags(fd, wanted)
        missing = wanted & ~_flags_of(fd)  # some are masked out in silence
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        missing = wanted
        for flag in FLAG_NAMES if wanted & (wanted - 1) else ():
            if wanted & flag and _is_taken(fd, flag):
                missing &= ~flag
    if missing:
        count_flags(missing, unset)


def count_flags(flags: int, unset: Unset) -> None:
    """Count flags that could not be set, each by its name."""
    for flag, name in FLAG_NAMES.items():
        if flags & flag:
            _count(f"flag {name}", unset)


def _is_taken(fd: int, flag: int) -> bool:
    try:
        _add_flags(fd, flag)
        return bool(_flags_of(fd) & flag)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        return False


def set_casefold(fd: int, unset: Unset) -> None:
    """Make a new, empty directory case-insensitive."""
    _attempt("casefold", unset, lambda: _add_flags(fd, EXT4_CASEFOLD_FL))


def _flags_of(fd: int) -> int:
    value = array.array("i", [0])
    fcntl.ioctl(fd, FS_IOC_GETFLAGS, value)
    return value[0] & 0xFFFFFFFF


def _add_flags(fd: int, wanted: int) -> None:
    """Set inode flags (FS_*_FL) beside those the file has."""
    flags = _flags_of(fd)
    if flags & wanted != wanted:
        flags |= wanted
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, array.array("i", [flags - (1 << 32) if flags >> 31 else flags]))


def _fsxattr_of(fd: int) -> array.array[int]:
    value = array.array("I", bytes(_FSXATTR_BYTES))
    fcntl.ioctl(fd, FS_IOC_FSGETXATTR, value)
    return value


def _set_project(fd: int, project_id: int) -> None:
    value = _fsxattr_of(fd)
    value[_FSX_PROJID] = project_id
    fcntl.ioctl(fd, FS_IOC_FSSETXATTR, value)


def _attempt(what: str, unset: Unset, action: Callable[[], None]) -> bool:
    try:
        action()
    except OSError as error:
        _refused(what, error, unset)
        return False
    return True


def _refused(what: str, error: OSError, unset: Unset) -> None:
    """Count what the system refused; anything else is raised."""
    if error.errno not in _REFUSED:
        raise error
    _count(what, unset)


def _count(what: str, unset: Unset) -> None:
    unset[what if what in unset or len(unset) < _MOST_KINDS else _THE_REST] += 1
