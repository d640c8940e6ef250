"""Which part of a tree is backed up, where not all of it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ext4img.archive.entry import ROOT
from ext4img.fs.filesystem import FileSystem
from ext4img.fs.path import PathLike
from ext4img.fs.shown_names import NamedEntry

_MAYBE_DIRECTORY: Final = (0, 2)  # EXT4_FT_UNKNOWN, EXT4_FT_DIR


class TreeSelection:
    """What a backup of chosen paths takes of each directory: them, what is below, what leads there."""

    def __init__(self, fs: FileSystem, keyless: FileSystem, only: Iterable[PathLike]) -> None:
        self._whole: set[int] = set()  # directories taken with all that is in them
        self._names: dict[int, set[bytes]] = {}  # stored names taken from other directories
        self._chosen: dict[int, set[bytes]] = {}  # those of them that were asked for
        paths = {self._add(fs, keyless, path) for path in only}
        self.paths = tuple(sorted(paths))

    def _add(self, fs: FileSystem, keyless: FileSystem, wanted: PathLike) -> bytes:
        """Note one path, found with the keys at hand; returns it as it is shown without them."""
        path = fs.path(wanted)
        if path.name:
            path = path.parent.resolve() / path.name
        shown: list[bytes] = []
        chain = [path, *path.parents]
        if path.entry is None:
            self._whole.add(path.inode.number)
            return ROOT
        for link in chain:
            entry = link.entry
            if entry is None:
                break
            self._names.setdefault(link.directory, set()).add(entry.name)
            directory = keyless.inode(link.directory)
            shown += [named.name for named in keyless.listdir(directory) if named.entry.name == entry.name]
        self._chosen.setdefault(path.directory, set()).add(path.entry.name)
        return b"/".join(reversed(shown))

    def of(self, directory: int, names: list[NamedEntry]) -> list[NamedEntry]:
        """What to take of a directory."""
        if directory not in self._whole:
            wanted = self._names.get(directory, set())
            names = [named for named in names if named.entry.name in wanted]
            chosen = self._chosen.get(directory, set())
            self._whole.update(named.entry.inode for named in names if named.entry.name in chosen)
        else:
            self._whole.update(named.entry.inode for named in names if named.entry.file_type in _MAYBE_DIRECTORY)
        return names
