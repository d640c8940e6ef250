"""The order of the tree in an archive, which is a depth-first walk with names in byte order.

It is checked on writing and on reading: with it a reader knows without a list of all paths that
no member comes twice, that each lies in a directory of the archive, and so none below a link.
"""

from __future__ import annotations

from typing import Final

from ext4img.archive.entry import ROOT
from ext4img.errors import UnsafeArchiveError
from ext4img.names.paths import decode_path

DEPTH_LIMIT: Final = 1 << 15


class TreeOrder:
    """Takes paths one by one and refuses the first that is not in its place."""

    def __init__(self) -> None:
        self._started = False
        self._open: list[bytes] = []  # names of the directories on the way to the last member
        self._last: list[bytes] = []  # the last name seen in each of them, the root first
        self._parent = b""  # the last member's directory, "" for the root
        self._depth = 0  # how many names that has

    def check(self, path: bytes, is_directory: bool) -> int:
        """The depth of `path` (0 for the root); UnsafeArchiveError where it is out of place."""
        if path == ROOT or not self._started:
            if path != ROOT or self._started or not is_directory:
                raise UnsafeArchiveError("the tree does not start with its root, or has two", decode_path(path))
            self._started = True
            return 0
        parent, _, name = path.rpartition(b"/")
        if parent != self._parent:
            names = parent.split(b"/") if parent else []
            if len(names) > DEPTH_LIMIT:
                raise UnsafeArchiveError(f"more than {DEPTH_LIMIT} directories deep", decode_path(path[:4096]))
            if names != self._open[: len(names)]:
                raise UnsafeArchiveError("it is in no directory of the archive, or out of order", decode_path(path))
            self._parent, self._depth = parent, len(names)
        depth = self._depth
        del self._open[depth:], self._last[depth + 1 :]
        if len(self._last) == depth:
            self._last.append(name)
        elif name <= self._last[depth]:
            raise UnsafeArchiveError("it comes twice, or out of order", decode_path(path))
        else:
            self._last[depth] = name
        if is_directory:
            self._open.append(name)
        return depth + 1
