"""Which parts of a tree a partial backup has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ext4img.archive.entry import ROOT
from ext4img.fs.filesystem import FileSystem
from ext4img.fs.name_counts import NameCounts
from ext4img.fs.path import Ext4Path, PathLike
from ext4img.fs.shown_names import NamedEntry
from ext4img.structs.directory import EXT4_FT_DIR, EXT4_FT_UNKNOWN
from ext4img.volume.inode import StoredInode
from ext4img.volume.volume import Volume

_MAYBE_DIRECTORY: Final = (EXT4_FT_UNKNOWN, EXT4_FT_DIR)


class TreeSelection:
    """Selects from each directory: the wanted paths, everything below them, and the directories that lead there."""

    def __init__(self, fs: FileSystem, keyless: FileSystem, only: Iterable[PathLike]) -> None:
        self._whole: set[int] = set()  # directories of which everything is selected
        self._names: dict[int, set[bytes]] = {}  # stored names that are selected from other directories
        self._wanted: dict[int, set[bytes]] = {}  # those of them that are wanted paths themselves
        self.tops: list[Ext4Path] = []  # the wanted paths
        paths = {self._add(fs, keyless, path) for path in only}
        self.paths = tuple(sorted(paths))

    def _add(self, fs: FileSystem, keyless: FileSystem, wanted: PathLike) -> bytes:
        """Add one path, which may need keys to be found; return it as it is shown without them."""
        path = fs.path(wanted)
        if path.name:
            path = path.parent.resolve() / path.name
        self.tops.append(path)
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
        self._wanted.setdefault(path.directory, set()).add(path.entry.name)
        return b"/".join(reversed(shown))

    def of(self, directory: int, names: list[NamedEntry]) -> list[NamedEntry]:
        """Those of a directory's names that are selected."""
        if directory not in self._whole:
            selected = self._names.get(directory, set())
            names = [named for named in names if named.entry.name in selected]
            wanted = self._wanted.get(directory, set())
            self._whole.update(named.entry.inode for named in names if named.entry.name in wanted)
        else:
            self._whole.update(named.entry.inode for named in names if named.entry.file_type in _MAYBE_DIRECTORY)
        return names


def count_names(volume: Volume, root: StoredInode, selection: TreeSelection | None) -> dict[int, int]:
    """How many names inodes have whose link count is lower, in the tree or the selected parts of it."""
    counts = NameCounts(volume)
    if selection is None:
        counts.add_tree(root)
        return counts.too_low()
    for top in selection.tops:
        if top.inode.is_dir:
            counts.add_tree(top.inode)
    for top in selection.tops:
        if top.entry is not None:
            counts.add_name(top.directory, top.entry.name, top.inode.number)
    return counts.too_low()
