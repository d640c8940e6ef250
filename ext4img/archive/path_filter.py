"""Select the entries of a backup that a restore or rebuild was asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ext4img.archive.entry import ROOT
from ext4img.errors import NotFoundError
from ext4img.names.paths import decode_path

SelectedPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
_Names = tuple[bytes, ...]


class PathFilter:
    """Selects by paths, no-key or plain; leading slashes are ignored."""

    def __init__(self, paths: Sequence[SelectedPath]) -> None:
        self._requested: dict[_Names, bool] = {}
        for path in paths:
            names = tuple(name for name in os.fsencode(path).split(b"/") if name not in (b"", ROOT))
            self._requested[names] = False

    def selects(self, *paths: _Names, is_directory: bool) -> bool:
        """Whether an entry with these paths (no-key and plain) was asked for, or is a directory on the way."""
        selected = False
        for names in set(paths):
            for requested in self._requested:
                if names[: len(requested)] == requested:
                    self._requested[requested] = selected = True
                elif is_directory and requested[: len(names)] == names:
                    selected = True
        return selected

    def check(self) -> None:
        """NotFoundError for a requested path that no entry matched."""
        for names, found in self._requested.items():
            if not found:
                raise NotFoundError.at(decode_path(b"/".join(names)), "No such path in the backup")
