"""Immutable and append-only flags, which are set when everything else is done.

A file that has one takes no further name and can't be moved. So they are noted while files are
restored, and set in the end on exactly these files, whatever has their names by then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from ext4img.archive.entry import Entry
from ext4img.hostfs.safe_dir import Identity, SafeDir
from ext4img.restorer import attributes
from ext4img.restorer.attributes import IMMUTABLE_FLAGS
from ext4img.restorer.hard_links import HardLink, Names
from ext4img.restorer.report import NotSet

NOTHING_MERGED: Final[Mapping[Identity, Identity]] = MappingProxyType({})
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _Noted(NamedTuple):
    where: Names | HardLink
    identity: Identity
    flags: int


class ImmutableFlags:
    """Collects the flags of restored files, to set them in the end."""

    def __init__(self) -> None:
        self._noted: list[_Noted] = []

    def note(self, entry: Entry, where: Callable[[], Names] | HardLink, identity: Identity) -> None:
        """Note the flags of an entry, if it has any; `where` has the path of its file below the target."""
        flags = entry.flags & IMMUTABLE_FLAGS
        if flags:
            self._noted.append(_Noted(where if isinstance(where, HardLink) else where(), identity, flags))

    def apply(self, target: SafeDir, not_set: NotSet, merged: Mapping[Identity, Identity] = NOTHING_MERGED) -> None:
        """Set the flags of all files that are at their paths in `target`; others are passed over.

        `merged` maps files and directories to those of the target that replace them, by identity.
        """
        for noted in reversed(self._noted):
            names = noted.where.names if isinstance(noted.where, HardLink) else noted.where
            if names is None:
                continue
            try:
                with target.opened(names, _READ) as fd:
                    status = os.fstat(fd)
                    if (status.st_dev, status.st_ino) == merged.get(noted.identity, noted.identity):
                        attributes.add_flags(fd, noted.flags, not_set)
            except FileNotFoundError:
                continue
            except PermissionError:  # a user who may not read a file may not set its flags either
                attributes.count_flags(noted.flags, not_set)
        self._noted.clear()
