"""`Ext4Path`: a path on an image, with pathlib's manners."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from fnmatch import translate
from functools import lru_cache, total_ordering
from typing import TYPE_CHECKING, Literal, TypeAlias, overload

from ext4img.errors import NotDirectoryError, PathError
from ext4img.fs.file import File
from ext4img.volume.dir_entry import DirEntry, DirEntryFields

if TYPE_CHECKING:
    from pathlib import PurePosixPath

    from ext4img.fs.filesystem import FileSystem
    from ext4img.fs.inode import Inode

PathLike: TypeAlias = "str | bytes | os.PathLike[str] | Ext4Path"
_BILLION = 1_000_000_000
_BUFFER_BYTES = 256 << 10


@total_ordering
class Ext4Path:
    """A path on an open image; always absolute there. Nothing is looked up before it is needed.

    ::

        /                      root = fs.path()
        ├── home               home = root / "home"
        │   ├── alice          [p.name for p in home.iterdir()] == ["alice", "bob"]
        │   │   └── notes.txt  (home / "alice/notes.txt").read_text()
        │   └── bob            list(home.glob("*/*.txt"))
        └── etc -> usr/etc     fs.path("/etc").readlink() == "usr/etc"

    Names are str, by utf-8 with surrogateescape, so every name survives; `bytes(path)` gives them
    back. Paths of one view are equal and hash alike by their text. Errors are the builtin ones too
    (NotFoundError is a FileNotFoundError). It is no os.PathLike on purpose: open(path) or
    shutil.copy(path, …) would take the host's file of that name for the image's.
    """

    __slots__ = ("_directory", "_entry", "_fs", "_inode", "_text")
    _text: str

    def __init__(self, fs: FileSystem, path: PathLike = "/") -> None:
        text = _text_of(path)
        parts = [part for part in text.split("/") if part and part != "."]
        self._fs = fs
        self._text = "/" + "/".join(parts)
        self._inode: Inode | None = None
        self._entry: DirEntryFields | None = None
        self._directory = 0

    @classmethod
    def known(cls, fs: FileSystem, text: str, entry: DirEntryFields, inode: Inode | None, directory: int) -> Ext4Path:
        """The path of a directory entry that has been found already (walk, iterdir)."""
        path = object.__new__(cls)
        path._fs = fs
        path._text = text
        path._inode = inode
        path._entry = entry
        path._directory = directory
        return path

    @property
    def fs(self) -> FileSystem:
        """The view that it belongs to."""
        return self._fs

    @property
    def prefix(self) -> str:
        """What the names in this directory are put after to make their paths."""
        return "/" if self._text == "/" else self._text + "/"

    # What it is called

    def __str__(self) -> str:
        return self._text

    def __bytes__(self) -> bytes:
        return self._text.encode("utf-8", "surrogateescape")

    def __repr__(self) -> str:
        return f"Ext4Path({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ext4Path) and self._text == other._text and self._fs is other._fs

    def __lt__(self, other: object) -> bool:
        return self.parts < other.parts if isinstance(other, Ext4Path) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    def __truediv__(self, other: PathLike) -> Ext4Path:
        return self.joinpath(other)

    def joinpath(self, *others: PathLike) -> Ext4Path:
        """The path with further components; an absolute one starts again at the root."""
        text = self._text
        for other in others:
            part = _text_of(other)
            text = part if part.startswith("/") else f"{text}/{part}"
        return Ext4Path(self._fs, text)

    @property
    def parts(self) -> tuple[str, ...]:
        """("/", "home", "alice")."""
        return ("/", *(part for part in self._text.split("/") if part))

    @property
    def name(self) -> str:
        """The last component; empty for the root."""
        return self._text.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The last component's extension with its dot, or nothing."""
        stem, dot, suffix = self.name.rpartition(".")
        return dot + suffix if stem.strip(".") and suffix else ""

    @property
    def stem(self) -> str:
        """The last component without its suffix."""
        suffix = self.suffix
        return self.name[: -len(suffix)] if suffix else self.name

    @property
    def parent(self) -> Ext4Path:
        """The path without its last component; the root is its own parent."""
        return Ext4Path(self._fs, self._text.rpartition("/")[0] or "/")

    @property
    def parents(self) -> tuple[Ext4Path, ...]:
        """All parents, the nearest first."""
        found: list[Ext4Path] = []
        path = self
        while path._text != "/":
            path = path.parent
            found.append(path)
        return tuple(found)

    def is_relative_to(self, other: PathLike) -> bool:
        """Whether it lies below `other`, by the text alone."""
        base = Ext4Path(self._fs, other).parts
        return self.parts[: len(base)] == base

    def relative_to(self, other: PathLike) -> PurePosixPath:
        """What leads from `other` to it, by the text alone; ValueError where it does not lie below."""
        from pathlib import PurePosixPath

        base = Ext4Path(self._fs, other)
        if not self.is_relative_to(base):
            raise ValueError(f"{self._text!r} does not lie below {base._text!r}")
        return PurePosixPath(*self.parts[len(base.parts) :])

    def with_name(self, name: str) -> Ext4Path:
        """The path with another last component. ValueError for the root, or where `name` is none."""
        if self._text == "/" or not name or "/" in name or name == ".":
            raise ValueError(f"no last component to put {name!r} in place of, or no name: {self._text!r}")
        return self.parent / name

    def with_suffix(self, suffix: str) -> Ext4Path:
        """The path with another suffix, or without one where it is empty."""
        if suffix and (not suffix.startswith(".") or suffix == "."):
            raise ValueError(f"a suffix is empty or begins with a dot: {suffix!r}")
        return self.with_name(self.stem + suffix)

    def match(self, pattern: str) -> bool:
        """Whether the last component fits a shell pattern; case counts."""
        return _matcher(pattern)(self.name) is not None

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

    def _target(self) -> Inode:
        inode = self._find()
        return self._fs.resolve(self._text, follow=True)[0] if inode.is_symlink else inode

    def lstat(self) -> os.stat_result:
        """As os.lstat. An encrypted symlink's st_size is the length of the target as shown."""
        return self._stat_of(self._find())

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """As os.stat; symbolic links are followed."""
        return self._stat_of(self._target() if follow_symlinks else self._find())

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
        inline_sectors = -(-inode.size // 512) if inode.has_inline_data and inode.is_file else 0
        more = {
            "st_blksize": self._fs.block_size,
            "st_blocks": inode.sectors + inline_sectors,
            "st_rdev": os.makedev(major, minor),
        }
        return os.stat_result(plain, exact | more)

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is there; False as well for what is below a file or in a loop of links."""
        try:
            if follow_symlinks:
                self._target()
            else:
                self._find()
        except PathError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether it leads to a directory."""
        return self._is("dir")

    def is_file(self) -> bool:
        """Whether it leads to a regular file."""
        return self._is("file")

    def _is(self, kind: str) -> bool:
        try:
            return self._target().type == kind
        except PathError:
            return False

    def is_symlink(self) -> bool:
        """Whether it is a symbolic link itself."""
        try:
            return self._find().is_symlink
        except PathError:
            return False

    def readlink(self) -> str:
        """The target's text as it stands; without its key as the kernel shows it."""
        return self._fs.readlink(self._find(), self._text).decode("utf-8", "surrogateescape")

    def resolve(self) -> Ext4Path:
        """The path without symbolic links and "..", as far as it exists. NotFoundError."""
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
                if links > 40:
                    self._target()  # raises SymlinkLoopError
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
        prefix = self.prefix
        for name, entry in zip(*self._fs.children(directory), strict=True):
            yield Ext4Path.known(self._fs, prefix + name, entry, None, directory.number)

    def walk(self) -> Iterator[tuple[Ext4Path, Inode]]:
        """Everything below and the path itself; see `FileSystem.walk`."""
        return self._fs.walk(self)

    def glob(self, pattern: str) -> Iterator[Ext4Path]:
        """Paths below that fit a pattern of components; "**" stands for any number of them."""
        parts = [part for part in pattern.split("/") if part]
        if not parts or pattern.startswith("/"):
            raise ValueError(f"a pattern is relative and not empty: {pattern!r}")
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
            # A link that leads to the directory where the search begins is followed, none below it.
            top = Ext4Path(self._fs, self._text)
            top._inode, top._entry, top._directory = self._target(), self._entry, self._directory
            for path, inode in self._fs.walk(top):
                if not rest:
                    if inode.is_dir:
                        yield path
                elif inode.is_dir:
                    yield from path._glob(rest)
            return
        fits = _matcher(part)
        for path in self.iterdir():
            if fits(path.name):
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
        """Open a regular file for reading, "rb" or "r" (utf-8 by default); links are followed.

        `buffering` stands where pathlib has it and changes nothing. NoKeyError where the file is
        encrypted and the key is absent.
        """
        if mode not in ("r", "rt", "rb"):
            raise ValueError(f"images are read-only: mode is 'r' or 'rb', not {mode!r}")
        if mode == "rb" and (encoding, errors, newline) != (None, None, None):
            raise ValueError("encoding, errors and newline are for text, and the mode is 'rb'")
        file = self._fs.open_inode(self._target(), self._text)
        if mode == "rb":
            return file
        buffered = io.BufferedReader(file, _BUFFER_BYTES)
        return io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)

    def read_bytes(self) -> bytes:
        """The whole contents."""
        return self._fs.read_inode(self._target(), self._text)

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """The whole contents as text, utf-8 by default."""
        with self.open("r", encoding=encoding, errors=errors) as file:
            return file.read()


def _text_of(path: PathLike) -> str:
    if isinstance(path, Ext4Path):
        return str(path)
    raw = os.fspath(path)
    return raw.decode("utf-8", "surrogateescape") if isinstance(raw, bytes) else raw


@lru_cache(maxsize=256)
def _matcher(pattern: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(translate(pattern)).match
