"""Renaming to a name that must not exist: renameat2(2), which `os` lacks."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

_RENAME_NOREPLACE: Final = 1  # linux/fs.h
_libc: Final = ctypes.CDLL(None, use_errno=True)
_renameat2 = getattr(_libc, "renameat2", None)
if _renameat2 is not None:
    _renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_UNSUPPORTED: Final = frozenset((errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP))


def rename_new(name: bytes, folder: int, new_name: bytes, new_folder: int) -> None:
    """Rename between open directories and replace nothing; FileExistsError if the new name exists."""
    code = errno.ENOSYS
    if _renameat2 is not None:
        if not _renameat2(folder, name, new_folder, new_name, _RENAME_NOREPLACE):
            return
        code = ctypes.get_errno()
    if code not in _UNSUPPORTED:
        raise OSError(code, os.strerror(code))
    _rename_in_two_steps(name, folder, new_name, new_folder)


def _rename_in_two_steps(name: bytes, folder: int, new_name: bytes, new_folder: int) -> None:
    """The same if the kernel or file system lacks it.

    It is not atomic for directories, and for nothing where there are no hard links.
    """
    try:
        os.link(name, new_name, src_dir_fd=folder, dst_dir_fd=new_folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, *_UNSUPPORTED):
            raise
        try:
            os.stat(new_name, dir_fd=new_folder, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, new_name, src_dir_fd=folder, dst_dir_fd=new_folder)
            return
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
    os.unlink(name, dir_fd=folder)
