"""Where files are made that don't get their name where they are made.

A file is encrypted by the kernel if the directory is in which it is made; then it can be moved to one
that is not. And a file of several names, of which the first is not restored, must be somewhere until
the next one comes. All this is in one staging directory at the top of the target.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from ext4img.crypto.policy import Policy
from ext4img.hostfs.safe_dir import SafeDir
from ext4img.restorer.kernel_encryption import KernelKeys
from ext4img.restorer.staging import staging

_SPARES = b"spares"


class Scratch:
    """Directories that exist only while a restore works, each made when it is first needed."""

    def __init__(self, target: SafeDir, kernel_keys: KernelKeys | None) -> None:
        self._target = target
        self._kernel_keys = kernel_keys
        self._stack = ExitStack()
        self._top: SafeDir | None = None
        self._names: tuple[bytes, ...] = ()
        self._folders: dict[Policy | None, int] = {}

    def encrypted(self, policy: Policy, path: str) -> int:
        """An open directory in which the kernel encrypts; RestoreError or NoKeyError, for `path`, if it can't."""
        folder = self._folders.get(policy)
        if folder is None:
            assert self._kernel_keys is not None
            folder = self._open(b"policy%d" % len(self._folders))
            self._kernel_keys.encrypt(folder, policy, path)
            self._folders[policy] = folder
        return folder

    def spares(self) -> tuple[int, tuple[bytes, ...]]:
        """An open directory for files that have no name yet, and the names that lead to it from the target."""
        if None not in self._folders:
            self._folders[None] = self._open(_SPARES)
        return self._folders[None], (*self._names, _SPARES)

    def _open(self, name: bytes) -> int:
        if self._top is None:
            above = SafeDir(os.dup(self._target.first_fd))
            self._stack.callback(above.close)
            top, self._names = self._stack.enter_context(staging(above))
            self._top = top
        self._top.enter(name)
        folder = os.dup(self._top.fd)
        self._top.keep_mode()
        self._top.leave()
        self._stack.callback(os.close, folder)
        return folder

    def close(self) -> None:
        """Remove everything. May be called twice."""
        self._folders.clear()
        self._top = None
        self._stack.close()
