"""`PureExt4Path`: the part of `Ext4Path` that looks nothing up and only handles text.

Names, suffixes and patterns are pathlib's own work, so they follow the running Python's rules.
"""

from __future__ import annotations

import os
from functools import total_ordering
from typing import TYPE_CHECKING, Self, TypeAlias

from ext4img.fs.protocol import FileTree

if TYPE_CHECKING:
    from pathlib import PurePosixPath

PathLike: TypeAlias = "str | bytes | os.PathLike[str] | PureExt4Path"
"""A path on an image: text, bytes, a path of pathlib, or an `Ext4Path`."""


@total_ordering
class PureExt4Path:
    """An absolute path of one file system, as text."""

    __slots__ = ("_fs", "_text")
    _fs: FileTree
    _text: str

    def __init__(self, fs: FileTree, path: PathLike = "/") -> None:
        parts = [part for part in text_of(path).split("/") if part and part != "."]
        self._fs = fs
        self._text = "/" + "/".join(parts)

    @property
    def fs(self) -> FileTree:
        """The file system that it belongs to."""
        return self._fs

    def __str__(self) -> str:
        return self._text

    def __bytes__(self) -> bytes:
        return self._text.encode("utf-8", "surrogateescape")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PureExt4Path) and self._text == other._text and self._fs is other._fs

    def __lt__(self, other: object) -> bool:
        return self.parts < other.parts if isinstance(other, PureExt4Path) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    def _pure(self) -> PurePosixPath:
        from pathlib import PurePosixPath

        return PurePosixPath(self._text)

    def _with(self, path: PathLike) -> Self:
        """Another path of the same file system."""
        return type(self)(self._fs, path)

    def as_posix(self) -> str:
        """The same as str()."""
        return self._text

    def is_absolute(self) -> bool:
        """True: every path on an image is absolute."""
        return True

    def absolute(self) -> Self:
        """The path itself."""
        return self

    # Parts

    @property
    def parts(self) -> tuple[str, ...]:
        """The root and the components: ("/", "home", "alice")."""
        return ("/", *(part for part in self._text.split("/") if part))

    @property
    def drive(self) -> str:
        """Empty, as for every POSIX path."""
        return ""

    @property
    def root(self) -> str:
        """The slash."""
        return "/"

    @property
    def anchor(self) -> str:
        """The slash."""
        return "/"

    @property
    def name(self) -> str:
        """The last component; empty for the root."""
        return self._text.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The last component's extension with its dot, or nothing."""
        return self._pure().suffix

    @property
    def suffixes(self) -> list[str]:
        """All extensions of the last component: [".tar", ".gz"]."""
        return self._pure().suffixes

    @property
    def stem(self) -> str:
        """The last component without its suffix."""
        return self._pure().stem

    @property
    def parent(self) -> Self:
        """The path without its last component; the root is its own parent."""
        return self._with(self._text.rpartition("/")[0] or "/")

    @property
    def parents(self) -> tuple[Self, ...]:
        """All parents, the nearest first."""
        found: list[Self] = []
        path = self
        while path._text != "/":
            path = path.parent
            found.append(path)
        return tuple(found)

    # Other paths

    def __truediv__(self, other: PathLike) -> Self:
        return self.joinpath(other)

    def joinpath(self, *others: PathLike) -> Self:
        """The path with further components; an absolute one starts again at the root."""
        text = self._text
        for other in others:
            part = text_of(other)
            text = part if part.startswith("/") else f"{text}/{part}"
        return self._with(text)

    def with_segments(self, *segments: PathLike) -> Self:
        """The path of these components, on the same file system."""
        return self._with("/").joinpath(*segments)

    def with_name(self, name: str) -> Self:
        """The path with another last component. ValueError for the root, or if `name` cannot be one."""
        return self._renamed(self._pure().with_name(name))

    def with_stem(self, stem: str) -> Self:
        """The path with another stem and the same suffix. ValueError as `with_name`."""
        return self._renamed(self._pure().with_stem(stem))

    def with_suffix(self, suffix: str) -> Self:
        """The path with another suffix, or without one if it is empty. ValueError."""
        return self._renamed(self._pure().with_suffix(suffix))

    def _renamed(self, path: PurePosixPath) -> Self:
        if path.name == "." or "/" in path.name:  # pathlib accepted some such names until 3.12
            raise ValueError(f"invalid name {path.name!r}")
        return self._with(path)

    def is_relative_to(self, other: PathLike) -> bool:
        """Whether it is `other` or lies below it, by the text alone."""
        base = self._with(other).parts
        return self.parts[: len(base)] == base

    def relative_to(self, other: PathLike, *, walk_up: bool = False) -> PurePosixPath:
        """What leads from `other` to it, by the text alone: a path of pathlib, as it is relative.

        ValueError if it does not lie below `other`, unless `walk_up` allows "..".
        """
        from pathlib import PurePosixPath

        base = self._with(other)
        for steps, above in enumerate((base, *base.parents)):
            if self.is_relative_to(above):
                return PurePosixPath(*[".."] * steps, *self.parts[len(above.parts) :])
            if not walk_up:
                break
            if above.name == "..":
                raise ValueError(f"'..' in {base._text!r} cannot be walked up")
        raise ValueError(f"{self._text!r} is not below {base._text!r}")

    def match(self, pattern: str) -> bool:
        """Whether it matches a shell pattern, which is compared from the right if it is relative."""
        return self._pure().match(pattern)


def text_of(path: PathLike) -> str:
    """A path as text, by UTF-8 with surrogateescape."""
    if isinstance(path, PureExt4Path):
        return path._text
    raw = os.fspath(path)
    return raw.decode("utf-8", "surrogateescape") if isinstance(raw, bytes) else raw
