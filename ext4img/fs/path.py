"""`Ext4Path`: a path on an image, with pathlib's manners."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from fnmatch import translate
from functools import lru_cache
from typing import Literal, overload

from ext4img.errors import NotDirectoryError, PathError, SymlinkLoopError
from ext4img.fs.file import File
from ext4img.fs.inode import Inode
from ext4img.fs.protocol import FileTree
from ext4img.fs.pure_path import PathLike, PureExt4Path, text_of
from ext4img.fs.resolve import MAX_SYMLINKS
from ext4img.fs.walk import prefix_of, walk, walk_directories
from ext4img.structs.inode import SECTOR_SIZE
from ext4img.volume.dir_entry import DirEntry, DirEntryFields

__all__ = ["Ext4Path", "PathLike"]

_BILLION = 1_000_000_000
_BUFFER_BYTES = 256 << 10


class Ext4Path(PureExt4Path):
    """A path on an open image; always absolute there. Nothing is looked up before it is needed.

    ::

        /                      root = fs.path()
        ├── home               home = root / "home"
        │   ├── alice          [p.name for p in home.iterdir()] == ["alice", "bob"]
        │   │   └── notes.txt  (home / "alice/notes.txt").read_text()
        │   └── bob            list(home.glob("*/*.txt"))
        └── etc -> usr/etc     fs.path("/etc").readlink() == "usr/etc"

    Names are str, by UTF-8 with surrogateescape, so every name survives; `bytes(path)` gives the stored
    bytes. Paths of one file system are equal and hash alike by their text. Errors are the builtin ones
    too (NotFoundError is a FileNotFoundError). It is no os.PathLike on purpose: open(path) or
    shutil.copy(path, …) would take the host's file of that name for the image's. docs/library.md lists
    where it differs from pathlib.
    """

    __slots__ = ("_directory", "_entry", "_inode")

    def __init__(self, fs: FileTree, path: PathLike = "/") -> None:
        # As in the base class, without its call: look-ups of many paths show the difference.
        parts = [part for part in text_of(path).split("/") if part and part != "."]
        self._fs = fs
        self._text = "/" + "/".join(parts)
        self._inode: Inode | None = None
        self._entry: DirEntryFields | None = None
        self._directory = 0

    @classmethod
    def from_entry(
        cls, fs: FileTree, text: str, entry: DirEntryFields, inode: Inode | None, directory: int
    ) -> Ext4Path:
        """The path of a directory entry that is already found (walk, iterdir)."""
        path = object.__new__(cls)
        path._fs = fs
        path._text = text
        path._inode = inode
        path._entry = entry
        path._directory = directory
        return path

    # What it leads to

    def _find(self) -> Inode:
        """The inode of the path itself: a symbolic link at its end is not followed."""
        if self._inode is None:
            self._inode, self._entry, self._directory = self._fs.resolve(self._text, follow=False)
        return self._inode

    @property
    def inode(self) -> Inode:
        """The inode, a symbolic link's own. NotFoundError and the other path errors."""
        return self._find()

    @property
    def entry(self) -> DirEntry | None:
        """The directory entry as stored on disk; None for the root."""
        self._find()
        entry = self._entry
        return None if entry is None else DirEntry._make(entry)

    @property
    def directory(self) -> int:
        """Inode number of the directory that holds the entry; 0 for the root."""
        self._find()
        return self._directory

    def _target(self, follow_symlinks: bool = True) -> Inode:
        inode = self._find()
        return self._fs.resolve(self._text, follow=True)[0] if inode.is_symlink and follow_symlinks else inode

    def lstat(self) -> os.stat_result:
        """As os.lstat. An encrypted symlink's st_size is the length of the target as shown."""
        return self._stat_of(self._find())

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """As os.stat; symbolic links are followed."""
        return self._stat_of(self._target(follow_symlinks))

    def _stat_of(self, inode: Inode) -> os.stat_result:
        major, minor = inode.rdev or (0, 0)
        size = len(inode.readlink()) if inode.is_symlink and inode.is_encrypted else inode.size
        times = (inode.atime_ns, inode.mtime_ns, inode.ctime_ns)
        plain = (
            inode.mode, inode.number, 0, inode.links, inode.uid, inode.gid, size,
            *(time // _BILLION for time in times),
        )  # fmt: skip
        exact = {f"st_{kind}time": time / _BILLION for kind, time in zip("amc", times, strict=True)}
        exact |= {f"st_{kind}time_ns": time for kind, time in zip("amc", times, strict=True)}
        # A file in its inode takes none; the kernel counts it as if it did (ext4_file_getattr).
        inline_sectors = -(-inode.size // SECTOR_SIZE) if inode.has_inline_data and inode.is_file else 0
        more = {
            "st_blksize": self._fs.volume.block_size,
            "st_blocks": inode.sectors + inline_sectors,
            "st_rdev": os.makedev(major, minor),
        }
        return os.stat_result(plain, exact | more)

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is there; also False below a file or in a loop of links."""
        try:
            self._target(follow_symlinks)
        except PathError:
            return False
        return True

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it leads to a directory."""
        return self._is(lambda inode: inode.is_dir, follow_symlinks)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it leads to a regular file."""
        return self._is(lambda inode: inode.is_file, follow_symlinks)

    def is_fifo(self) -> bool:
        """Whether it leads to a fifo."""
        return self._is(lambda inode: inode.type == "fifo")

    def is_socket(self) -> bool:
        """Whether it leads to a socket."""
        return self._is(lambda inode: inode.type == "socket")

    def is_block_device(self) -> bool:
        """Whether it leads to a block device."""
        return self._is(lambda inode: inode.type == "block")

    def is_char_device(self) -> bool:
        """Whether it leads to a character device."""
        return self._is(lambda inode: inode.type == "char")

    def is_mount(self) -> bool:
        """Whether it is the image's root."""
        return self._text == "/"

    def is_junction(self) -> bool:
        """False: only Windows has junctions."""
        return False

    def is_symlink(self) -> bool:
        """Whether it is a symbolic link itself."""
        return self._is(lambda inode: inode.is_symlink, follow_symlinks=False)

    def _is(self, test: Callable[[Inode], bool], follow_symlinks: bool = True) -> bool:
        try:
            return test(self._target(follow_symlinks))
        except PathError:
            return False

    def samefile(self, other: PathLike) -> bool:
        """Whether both lead to one inode of one image; False for a path on another image."""
        path = other if isinstance(other, Ext4Path) else self._with(other)
        return self._fs.volume is path._fs.volume and self._target().number == path._target().number

    def owner(self, *, follow_symlinks: bool = True) -> str:
        """The owner's name by the image's own /etc/passwd. KeyError if that does not name the uid."""
        return self._fs.user_name(self._target(follow_symlinks).uid)

    def group(self, *, follow_symlinks: bool = True) -> str:
        """The group's name by the image's own /etc/group. KeyError if that does not name the gid."""
        return self._fs.group_name(self._target(follow_symlinks).gid)

    def readlink(self) -> str:
        """The target as stored text; without its key, as the kernel shows it."""
        return self._fs.readlink(self._find(), self._text).decode("utf-8", "surrogateescape")

    def resolve(self) -> Ext4Path:
        """The path without symbolic links and "..". It must exist: NotFoundError and other path errors."""
        done: list[str] = []
        todo = list(reversed(self.parts[1:]))
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                del done[-1:]
                continue
            path = Ext4Path(self._fs, "/" + "/".join([*done, part]))
            if path.inode.is_symlink:
                links += 1
                if links > MAX_SYMLINKS:
                    raise SymlinkLoopError.at(self._text)
                target = path.readlink()
                if target.startswith("/"):
                    done = []
                todo.extend(part for part in reversed(target.split("/")) if part and part != ".")
            else:
                done.append(part)
        return Ext4Path(self._fs, "/" + "/".join(done))

    def xattrs(self) -> dict[str, bytes]:
        """Extended attributes as getxattr(2) shows them, of a symbolic link itself."""
        return self._find().xattrs()

    # Directories

    def iterdir(self) -> Iterator[Ext4Path]:
        """The paths in a directory, in the disk's order. NotDirectoryError for anything else."""
        directory = self._target()
        if not directory.is_dir:
            raise NotDirectoryError.at(self._text)
        texts, listing = self._fs.listing(directory, prefix_of(self._text))
        for text, entry in zip(texts, listing.rows(), strict=True):
            yield Ext4Path.from_entry(self._fs, text, entry, None, directory.number)

    def walk(
        self,
        top_down: bool = True,
        on_error: Callable[[OSError], object] | None = None,
        follow_symlinks: bool = False,
    ) -> Iterator[tuple[Ext4Path, list[str], list[str]]]:
        """(path, names of directories, names of other files) of each directory, as pathlib's.

        Top-down, names removed from the first list are not entered. `on_error` is called with the
        errors of directories that cannot be read, which are skipped. A directory that is reached twice
        is corruption, or with `follow_symlinks` not entered again. See `FileSystem.walk` for a walk that
        yields every path with its inode.
        """
        found = walk_directories(self._fs, self._text, top_down, on_error, follow_symlinks)
        for text, directories, others in found:
            yield Ext4Path(self._fs, text), directories, others

    def glob(self, pattern: str) -> Iterator[Ext4Path]:
        """Paths below that match a pattern of components; "**" stands for any number of directories."""
        parts = [part for part in pattern.split("/") if part]
        if not parts or pattern.startswith("/"):
            raise ValueError(f"a pattern must be relative and not empty: {pattern!r}")
        seen: set[str] = set()
        for path in self._glob(parts):
            if path._text not in seen:
                seen.add(path._text)
                yield path

    def rglob(self, pattern: str) -> Iterator[Ext4Path]:
        """As glob, at any depth below."""
        return self.glob(f"**/{pattern}")

    def _glob(self, parts: list[str]) -> Iterator[Ext4Path]:
        part, rest = parts[0], parts[1:]
        if not self.is_dir():
            return
        if part == "**":
            # A link to a directory is followed where the search begins, and nowhere below.
            for path, inode in walk(self._fs, self._text, self._target(), self, Ext4Path.from_entry):
                if inode.is_dir:
                    if rest:
                        yield from path._glob(rest)
                    else:
                        yield path
            return
        matches = _component_matcher(part)
        for path in self.iterdir():
            if matches(path.name):
                if rest:
                    yield from path._glob(rest)
                else:
                    yield path

    # Contents

    @overload
    def open(self, mode: Literal["rb"], buffering: int = -1) -> File: ...

    @overload
    def open(
        self,
        mode: Literal["r", "rt"] = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> io.TextIOWrapper: ...

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> File | io.TextIOWrapper:
        """Open a regular file for reading, "rb" or "r" (UTF-8 by default); links are followed.

        `buffering` is accepted as by pathlib and changes nothing. NoKeyError for an encrypted file
        without the key.
        """
        if mode not in ("r", "rt", "rb"):
            raise ValueError(f"images are read-only: mode must be 'r' or 'rb', not {mode!r}")
        if mode == "rb" and (encoding, errors, newline) != (None, None, None):
            raise ValueError("mode 'rb' takes no encoding, errors or newline")
        file = self._fs.open_inode(self._target(), self._text)
        if mode == "rb":
            return file
        buffered = io.BufferedReader(file, _BUFFER_BYTES)
        return io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)

    def read_bytes(self) -> bytes:
        """The whole contents."""
        return self._fs.read_inode(self._target(), self._text)

    def read_text(self, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
        """The whole contents as text, UTF-8 by default."""
        with self.open("r", encoding=encoding, errors=errors, newline=newline) as file:
            return file.read()


@lru_cache(maxsize=256)
def _component_matcher(pattern: str) -> Callable[[str], re.Match[str] | None]:
    """A function that matches one component of a path; case counts."""
    return re.compile(translate(pattern)).match
