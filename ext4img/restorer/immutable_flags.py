"""Flags that lock a file: what is immutable or append-only takes no further name and can't be moved.

So they are set when all else is done, on what was restored and not on what has its name by then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from ext4img.archive.entry import Entry
from ext4img.restorer import attributes
from ext4img.restorer.attributes import Unset
from ext4img.restorer.target_dir import TargetDir
from ext4img.structs.inode import EXT4_APPEND_FL, EXT4_IMMUTABLE_FL

LOCKING_FLAGS: Final = EXT4_IMMUTABLE_FL | EXT4_APPEND_FL
NOTHING_MERGED: Final[Mapping[tuple[int, int], tuple[int, int]]] = MappingProxyType({})
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _Lock(NamedTuple):
    names: tuple[bytes, ...]
    identity: tuple[int, int]
    flags: int


class ImmutableFlags:
    """Collects what is to be locked in the end."""

    def __init__(self) -> None:
        self._locks: list[_Lock] = []

    def add(self, names: Callable[[], tuple[bytes, ...]], identity: tuple[int, int], entry: Entry) -> None:
        """Note what `names` gives the place of, below the target, if the entry's flags lock it."""
        flags = entry.flags & LOCKING_FLAGS
        if flags:
            self._locks.append(_Lock(names(), identity, flags))

    def apply(
        self,
        target: TargetDir,
        unset: Unset,
        merged: Mapping[tuple[int, int], tuple[int, int]] = NOTHING_MERGED,
    ) -> None:
        """Set the flags. What is not there any more, or was not moved there, is passed over.

        `merged` are directories that others have taken the place of, by their identities.
        """
        for lock in reversed(self._locks):
            try:
                with target.opened(lock.names, _READ) as fd:
                    status = os.fstat(fd)
                    if (status.st_dev, status.st_ino) == merged.get(lock.identity, lock.identity):
                        attributes.add_flags(fd, lock.flags, unset)
            except FileNotFoundError:
                continue
            except PermissionError:  # who may not read it has no right to its flags either
                attributes.count_flags(lock.flags, unset)
        self._locks.clear()
