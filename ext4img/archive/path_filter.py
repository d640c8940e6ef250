"""Which entries of a backup are restored, where not all are."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ext4img.archive.entry import ROOT
from ext4img.errors import NotFoundError
from ext4img.names.paths import decode_path

SelectedPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
_Names = tuple[bytes, ...]


class PathFilter:
    """Paths as the archive has them, or as they are in plain text; leading slashes mean nothing."""

    def __init__(self, paths: Sequence[SelectedPath]) -> None:
        self._wanted: dict[_Names, bool] = {}
        for path in paths:
            names = tuple(name for name in os.fsencode(path).split(b"/") if name not in (b"", ROOT))
            self._wanted[names] = False

    def selects(self, *paths: _Names, is_directory: bool) -> bool:
        """Whether what has these paths, in one form or the other, is wanted or leads to what is."""
        taken = False
        for names in set(paths):
            for wanted in self._wanted:
                if names[: len(wanted)] == wanted:
                    self._wanted[wanted] = taken = True
                elif is_directory and wanted[: len(names)] == names:
                    taken = True
        return taken

    def check(self) -> None:
        """NotFoundError for a path that nothing was found below."""
        for names, found in self._wanted.items():
            if not found:
                raise NotFoundError.at(decode_path(b"/".join(names)), "No such path in the backup")
