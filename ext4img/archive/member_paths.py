"""Member names and tree paths: `.ext4img/` is the archive's own, everything else is the tree's.

docs/archive-format.md ("Names") has the rules.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from ext4img.archive.entry import ROOT
from ext4img.errors import UnsafeArchiveError
from ext4img.names.paths import decode_path
from ext4img.structs.directory import EXT4_NAME_LEN

CONTROL: Final = b".ext4img"
BACKUP_PATH: Final = CONTROL + b"/backup.json"
MANIFEST_PATH: Final = CONTROL + b"/manifest.jsonl"
VERITY_DIRECTORY: Final = CONTROL + b"/verity/"
XATTR_DIRECTORY: Final = CONTROL + b"/xattrs/"

_NAME_LIMIT_BYTES: Final = EXT4_NAME_LEN + 1  # one more for an escaped ".ext4img"
_NOT_NAMES: Final = frozenset((b"", b".", b".."))
_USUAL_PATH_BYTES: Final = 4096
_ESCAPED = re.compile(rb"\.ext4img~*")


def is_control(path: bytes) -> bool:
    """Whether a member's name is one of the archive's own."""
    return path.startswith(CONTROL + b"/")


def archive_path(path: bytes) -> bytes:
    """A tree path as a member's name: a top name `.ext4img`, with any number of "~", gets one "~" more."""
    if not path.startswith(CONTROL):
        return path
    top, slash, rest = path.partition(b"/")
    return top + b"~" + slash + rest if _ESCAPED.fullmatch(top) else path


def tree_path(path: bytes, directory: bool) -> bytes:
    """A member's name as a tree path. UnsafeArchiveError if it could lead out of the tree."""
    if directory:
        if not path.endswith(b"/"):
            raise UnsafeArchiveError("a directory's name does not end with a slash", decode_path(path))
        path = path[:-1]
        if path == ROOT:
            return ROOT
    parent, slash, name = path.rpartition(b"/")
    is_path = _is_path_cached if len(parent) <= _USUAL_PATH_BYTES else _is_path
    if not _is_name(name) or (slash and not is_path(parent)):
        raise UnsafeArchiveError("the path has an empty, dotted or overlong component", decode_path(path[:4096]))
    if not path.startswith(CONTROL):
        return path
    top, slash, rest = path.partition(b"/")
    if not _ESCAPED.fullmatch(top):
        return path
    if top == CONTROL:
        raise UnsafeArchiveError("not a member of the tree", decode_path(path))
    return top[:-1] + slash + rest


def _is_name(name: bytes) -> bool:
    return name not in _NOT_NAMES and b"\0" not in name and len(name) <= _NAME_LIMIT_BYTES


def _is_path(path: bytes) -> bool:
    return all(map(_is_name, path.split(b"/")))


_is_path_cached = lru_cache(maxsize=256)(_is_path)  # neighbours have the same parent
