"""Writing out what the system still holds of a file system: syncfs(2), which `os` lacks."""

from __future__ import annotations

import ctypes
import os

from ext4img.errors import RestoreError


def sync_file_system(fd: int, path: str) -> None:
    """Write out all cached data of the file system that `fd` is on. RestoreError, naming `path`, if that fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd):
        raise RestoreError(f"it could not be written out: {os.strerror(ctypes.get_errno())}", path)
