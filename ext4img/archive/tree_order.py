"""Check the order of the tree in an archive: a depth-first walk, names in byte order.

Writers and readers check it. It proves, without a list of all paths, that no member is a duplicate
and that each lies in a directory of the archive, so none below a link.
"""

from __future__ import annotations

from typing import Final

from ext4img.archive.entry import ROOT
from ext4img.errors import UnsafeArchiveError
from ext4img.names.paths import decode_path

DEPTH_LIMIT: Final = 1 << 15


class TreeOrder:
    """Checks paths one by one."""

    def __init__(self) -> None:
        self._started = False
        self._open: list[bytes] = []  # names on the path of the last member's directory
        self._last: list[bytes] = []  # the last name seen in each of them, the root first
        self._parent = b""  # the last member's directory, "" for the root
        self._depth = 0  # how many names that has

    def check(self, path: bytes, is_directory: bool) -> int:
        """The depth of `path` (0 for the root). UnsafeArchiveError if it is a duplicate or out of order."""
        if path == ROOT or not self._started:
            if path != ROOT or self._started or not is_directory:
                raise UnsafeArchiveError(
                    "the tree does not start with its root, or has a second one", decode_path(path)
                )
            self._started = True
            return 0
        parent, _, name = path.rpartition(b"/")
        if parent != self._parent:
            names = parent.split(b"/") if parent else []
            if len(names) > DEPTH_LIMIT:
                raise UnsafeArchiveError(f"more than {DEPTH_LIMIT} directories deep", decode_path(path[:4096]))
            if names != self._open[: len(names)]:
                raise UnsafeArchiveError("its directory is missing, or it is out of order", decode_path(path))
            self._parent, self._depth = parent, len(names)
        depth = self._depth
        del self._open[depth:], self._last[depth + 1 :]
        if len(self._last) == depth:
            self._last.append(name)
        elif name <= self._last[depth]:
            raise UnsafeArchiveError("duplicate, or out of order", decode_path(path))
        else:
            self._last[depth] = name
        if is_directory:
            self._open.append(name)
        return depth + 1
