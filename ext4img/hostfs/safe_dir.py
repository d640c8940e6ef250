"""A way through a directory tree of the host, by open directories: no path is ever followed twice.

Each step is one name in an open directory, and never a link. Only some directories are held open;
those further up are found again through "..", and must be the same.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ext4img.errors import RestoreError
from ext4img.hostfs.exact_names import ExactNames
from ext4img.names.paths import decode_path

OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_MOST: Final = 64


@dataclass(slots=True)
class _Opened:
    """A directory on the way to the current one. `created` where it was made by the caller."""

    name: bytes
    fd: int
    device: int
    inode: int
    created: bool
    listing: ExactNames | None = None


class SafeDir:
    """Starts at an open directory, which it owns from then on."""

    def __init__(self, fd: int, created: bool = False) -> None:
        self._stack: list[_Opened] = []
        self._push(b".", fd, created)

    @property
    def depth(self) -> int:
        """How many directories below the first the current one is."""
        return len(self._stack) - 1

    @property
    def fd(self) -> int:
        """The current directory."""
        return self._stack[-1].fd

    @property
    def created(self) -> bool:
        """Whether the caller made the current directory."""
        return self._stack[-1].created

    @property
    def identity(self) -> tuple[int, int]:
        """(device, inode) of the current directory."""
        opened = self._stack[-1]
        return opened.device, opened.inode

    @property
    def first_fd(self) -> int:
        """Where the way starts."""
        return self._stack[0].fd

    def names(self) -> tuple[bytes, ...]:
        """The names that lead to the current directory."""
        return tuple(opened.name for opened in self._stack[1:])

    def shown(self, name: bytes = b"") -> str:
        """The path of a name in the current directory, or of that itself, for messages."""
        names = [opened.name for opened in self._stack[1:]]
        return decode_path(b"/".join([*names, name] if name else names) or b".")

    def has_exactly(self, name: bytes) -> bool:
        """Whether the current directory had a name in just this spelling when that was first asked."""
        return name in self.listing()

    def listing(self) -> ExactNames:
        """The names in the current directory, read once."""
        opened = self._stack[-1]
        if opened.listing is None:
            opened.listing = ExactNames(opened.fd)
        return opened.listing

    def step(self, name: bytes, created: bool = False) -> None:
        """Make a directory in the current one the current one. OSError if there is none of that name."""
        self._push(name, os.open(name, OPEN_DIRECTORY, dir_fd=self.fd), created)
        if len(self._stack) > _OPEN_MOST + 1:
            far = self._stack[-_OPEN_MOST - 1]
            if far.fd >= 0 and far is not self._stack[0]:
                os.close(far.fd)
                far.fd = -1

    def leave(self) -> None:
        """Go back to the directory above; RestoreError if it is another one now."""
        left = self._stack.pop()
        try:
            above = self._stack[-1]
            if above.fd < 0:
                fd = os.open(b"..", OPEN_DIRECTORY, dir_fd=left.fd)
                status = os.fstat(fd)
                if (status.st_dev, status.st_ino) != (above.device, above.inode):
                    os.close(fd)
                    raise RestoreError("somebody moved a directory that is in use", self.shown(left.name))
                above.fd = fd
        finally:
            os.close(left.fd)

    def go(self, names: Sequence[bytes]) -> None:
        """Make the directory that `names` lead to, from the start, the current one."""
        common = 0
        for opened, name in zip(self._stack[1:], names, strict=False):
            if opened.name != name:
                break
            common += 1
        while self.depth > common:
            self.leave()
        for name in names[common:]:
            self.step(name)

    def close(self) -> None:
        """Close what is open. May be called twice."""
        for opened in self._stack:
            if opened.fd >= 0:
                os.close(opened.fd)
        self._stack = []

    def _push(self, name: bytes, fd: int, created: bool) -> None:
        status = os.fstat(fd)
        self._stack.append(_Opened(name, fd, status.st_dev, status.st_ino, created))


def sync_file_system(fd: int, path: str) -> None:
    """Have the system write out what it still holds of the file system that `fd` is on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd):
        raise RestoreError(f"it could not be written out: {os.strerror(ctypes.get_errno())}", path)
