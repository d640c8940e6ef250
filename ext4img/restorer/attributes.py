"""The attributes of a restored inode, and the order in which they are set.

The owner comes first, since changing it clears set-id bits and capabilities; then attributes, as long
as the owner may write, which the kernel requires; the mode; ACLs, which may refine the mode; times,
which writing would change and none of these do; and flags last, as nothing of an immutable file can
be changed any more.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from ext4img.archive.entry import Entry
from ext4img.hostfs.ioctl import inode_flags, project_id, set_inode_flags, set_project_id
from ext4img.restorer.report import NotSet
from ext4img.structs.inode import (
    EXT4_APPEND_FL,
    EXT4_CASEFOLD_FL,
    EXT4_COMPR_FL,
    EXT4_DAX_FL,
    EXT4_DIRSYNC_FL,
    EXT4_IMMUTABLE_FL,
    EXT4_JOURNAL_DATA_FL,
    EXT4_NOATIME_FL,
    EXT4_NOCOMPR_FL,
    EXT4_NOCOW_FL,
    EXT4_NODUMP_FL,
    EXT4_NOTAIL_FL,
    EXT4_PROJINHERIT_FL,
    EXT4_SECRM_FL,
    EXT4_SYNC_FL,
    EXT4_TOPDIR_FL,
    EXT4_UNRM_FL,
    INODE_FLAGS,
)

# What things that could not be set are called.
_OWNER: Final = "owner"
_PROJECT: Final = "project"
_FLAG: Final = "flag "
_ATTRIBUTE: Final = "attribute "
# Names of what only root may set, or a user on some file systems only.
_PRIVILEGED: Final = frozenset({_OWNER, _PROJECT})
_PRIVILEGED_PREFIXES: Final = (_FLAG, f"{_ATTRIBUTE}trusted.", f"{_ATTRIBUTE}security.")

# What chattr sets. The file system itself maintains the other flags. ext4 keeps "c" and "x", whatever
# they mean for it, and shows an "m" that is on the disk; other file systems take "C" and "m".
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
    | EXT4_COMPR_FL
    | EXT4_NOCOMPR_FL
    | EXT4_NOCOW_FL
    | EXT4_DAX_FL
)
# A file with one of these takes no further name and can't be moved.
IMMUTABLE_FLAGS: Final = EXT4_IMMUTABLE_FL | EXT4_APPEND_FL
FLAG_NAMES: Final = {
    flag.bit: f"{_FLAG}{flag.letter} ({flag.name.replace('_', ' ')})"
    for flag in INODE_FLAGS
    if flag.bit & SETTABLE_FLAGS
}
_NO_ID: Final = 0xFFFFFFFF
_ACL_PREFIX: Final = "system.posix_acl_"
_USER_PREFIX: Final = "user."
# Refusals of a file system, or for lack of rights. ENOSPC: there is no room for attributes in the inode.
_REFUSED: Final = frozenset(
    (
        errno.E2BIG,
        errno.EACCES,
        errno.EINVAL,
        errno.ENODATA,
        errno.ENOSPC,
        errno.ENOTEMPTY,
        errno.ENOTSUP,
        errno.ENOTTY,
        errno.EOPNOTSUPP,
        errno.EOVERFLOW,
        errno.EPERM,
        errno.ERANGE,
    )
)


def is_privileged(what: str) -> bool:
    """Whether a kind of thing in `NotSet` is one that an ordinary user is not expected to be able to set."""
    return what in _PRIVILEGED or what.startswith(_PRIVILEGED_PREFIXES)


def apply(target: int | str, entry: Entry, xattrs: Mapping[str, bytes], not_set: NotSet) -> None:
    """Set everything but the flags on an open file, or on a path that leads to the inode and nowhere else.

    What the system refuses is counted in `not_set`; any other OSError is raised.
    """
    owner_set = _NO_ID not in (entry.uid, entry.gid)  # chown(2) would leave it unchanged
    if owner_set:
        try:
            os.chown(target, entry.uid, entry.gid)
        except OSError as error:
            _refused(_OWNER, error, not_set)
            owner_set = False
    else:
        not_set.add(_OWNER)
    if xattrs:
        _set_xattrs(target, {name: value for name, value in xattrs.items() if not _is_acl(name)}, not_set)
    if entry.type != "symlink":
        mode = entry.mode & 0o7777
        if not owner_set:
            mode &= ~(stat.S_ISUID | stat.S_ISGID)  # they would grant another user's rights
        try:
            os.chmod(target, mode)
        except OSError as error:
            _refused("mode", error, not_set)
    if xattrs:
        _set_xattrs(target, {name: value for name, value in xattrs.items() if _is_acl(name)}, not_set)
    try:
        os.utime(target, ns=(entry.atime_ns, entry.mtime_ns))
    except OSError as error:
        _refused("times", error, not_set)


def _is_acl(name: str) -> bool:
    return name.startswith(_ACL_PREFIX)


def _set_xattrs(target: int | str, xattrs: Mapping[str, bytes], not_set: NotSet) -> None:
    for name in sorted(xattrs):
        if name.startswith(_USER_PREFIX):
            _let_owner_write(target)
        _set_xattr(target, name, xattrs[name], not_set)


def _let_owner_write(target: int | str) -> None:
    """Let the owner set attributes, until the mode is set: a umask, an ACL or an earlier restore may forbid it."""
    status = os.stat(target)
    if os.geteuid() == status.st_uid and not status.st_mode & stat.S_IWUSR:
        with suppress(PermissionError):
            os.chmod(target, stat.S_IMODE(status.st_mode) | stat.S_IWUSR)


def _set_xattr(target: int | str, name: str, value: bytes, not_set: NotSet) -> None:
    try:
        os.setxattr(target, name, value)
    except OSError as error:
        shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        _refused(_ATTRIBUTE + shown, error, not_set)


def drop_acls(target: int | str) -> None:
    """Remove the ACLs that a new file inherited from its directory, or that an existing directory has."""
    for name in (_ACL_PREFIX + "access", _ACL_PREFIX + "default"):
        try:
            os.removexattr(target, name)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise


def copy(source: int, target: int, status: os.stat_result, not_set: NotSet) -> None:
    """Copy the attributes of an open directory to another one, but for immutable flags.

    `status` is what fstat said of the source before anything was moved out of it.
    """
    owner_set = _attempt(_OWNER, not_set, lambda: os.chown(target, status.st_uid, status.st_gid))
    xattrs = _xattrs_of(source)
    _set_xattrs(target, {name: value for name, value in xattrs.items() if not _is_acl(name)}, not_set)
    mode = stat.S_IMODE(status.st_mode)
    if not owner_set:
        mode &= ~(stat.S_ISUID | stat.S_ISGID)
    _attempt("mode", not_set, lambda: os.chmod(target, mode))
    drop_acls(target)
    _set_xattrs(target, {name: value for name, value in xattrs.items() if _is_acl(name)}, not_set)
    _attempt("times", not_set, lambda: os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns)))
    try:
        flags = inode_flags(source)
        project = project_id(source)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        return  # it has no flags that could be copied
    if project:
        _attempt(_PROJECT, not_set, lambda: set_project_id(target, project))
    add_flags(target, flags & SETTABLE_FLAGS & ~IMMUTABLE_FLAGS, not_set)


def _xattrs_of(fd: int) -> dict[str, bytes]:
    """The attributes of an open directory; none if its file system has none."""
    try:
        return {name: os.getxattr(fd, name) for name in os.listxattr(fd)}
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        return {}


def differs(fd: int, mode: int, uid: int, gid: int, xattrs: Mapping[str, bytes]) -> bool:
    """Whether an open directory has another mode, owner or ACL, or lacks one of the attributes in user.* or trusted.*.

    An ordinary user can't set owners, so these don't count for one.
    """
    status = os.fstat(fd)
    if stat.S_IMODE(status.st_mode) != mode & 0o7777:
        return True
    is_root = not os.geteuid()
    if is_root and (status.st_uid, status.st_gid) != (uid, gid):
        return True
    found = _xattrs_of(fd)
    compared = {name for name in xattrs if name.startswith(_USER_PREFIX) or (is_root and name.startswith("trusted."))}
    compared |= {name for name in (*xattrs, *found) if _is_acl(name)}
    return any(found.get(name) != xattrs.get(name) for name in compared)


def differ(source: int, target: int, status: os.stat_result) -> bool:
    """The same of two open directories; for `status` see `copy`."""
    return differs(target, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, _xattrs_of(source))


def is_finished(fd: int, mode: int, uid: int, gid: int, mtime_ns: int) -> bool:
    """Whether an open directory has these and is immutable: flags are set last, so an earlier restore finished it."""
    status = os.fstat(fd)
    found = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns
    if found != (mode & 0o7777, uid, gid, mtime_ns):
        return False
    try:
        return bool(inode_flags(fd) & IMMUTABLE_FLAGS)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        return False


def apply_flags(fd: int, entry: Entry, not_set: NotSet) -> None:
    """Set project and inode flags on an open file that has all its other attributes; not `IMMUTABLE_FLAGS`."""
    if entry.project_id:
        _attempt(_PROJECT, not_set, lambda: set_project_id(fd, entry.project_id))
    add_flags(fd, entry.flags & SETTABLE_FLAGS & ~IMMUTABLE_FLAGS, not_set)


def add_flags(fd: int, wanted: int, not_set: NotSet) -> None:
    """Add inode flags to those of an open file; flags that its file system refuses are counted by name."""
    if not wanted:
        return
    try:
        _add_flags(fd, wanted)
        missing = wanted & ~inode_flags(fd)  # some are dropped without an error
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        missing = wanted
        for flag in FLAG_NAMES if wanted & (wanted - 1) else ():
            if wanted & flag and _accepts(fd, flag):
                missing &= ~flag
    if missing:
        count_flags(missing, not_set)


def count_flags(flags: int, not_set: NotSet) -> None:
    """Count flags that could not be set, each by its name."""
    for flag, name in FLAG_NAMES.items():
        if flags & flag:
            not_set.add(name)


def _accepts(fd: int, flag: int) -> bool:
    try:
        _add_flags(fd, flag)
        return bool(inode_flags(fd) & flag)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        return False


def set_casefold(fd: int, not_set: NotSet) -> None:
    """Make an open directory case-insensitive; one that is not empty must be so already."""
    _attempt("casefold", not_set, lambda: _add_flags(fd, EXT4_CASEFOLD_FL))


def _add_flags(fd: int, wanted: int) -> None:
    """Set inode flags (FS_*_FL) beside those the file has."""
    flags = inode_flags(fd)
    if flags & wanted != wanted:
        set_inode_flags(fd, flags | wanted)


def _attempt(what: str, not_set: NotSet, action: Callable[[], None]) -> bool:
    try:
        action()
    except OSError as error:
        _refused(what, error, not_set)
        return False
    return True


def _refused(what: str, error: OSError, not_set: NotSet) -> None:
    """Count a refusal; any other error is raised."""
    if error.errno not in _REFUSED:
        raise error
    not_set.add(what)
