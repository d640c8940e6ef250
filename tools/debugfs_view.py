"""A manifest by debugfs alone, for images that the running kernel can't mount (blocks of 64 KiB).

Less than the kernel shows: no attributes, no data segments, nothing encrypted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools import debugfs
from tools.kernel_view import Entry, head, text

ROOT_INO = 2
TYPES = {
    "regular": ("file", 0o100000),
    "directory": ("dir", 0o040000),
    "symlink": ("symlink", 0o120000),
    "character special": ("char", 0o020000),
    "block special": ("block", 0o060000),
    "FIFO": ("fifo", 0o010000),
    "socket": ("socket", 0o140000),
}


def _walk(image: Path, block_size: int) -> Iterator[tuple[bytes, int, debugfs.InodeFacts]]:
    """Level by level, so that debugfs runs twice a level and not for every directory."""
    level = [(b"/", ROOT_INO)]
    while level:
        facts = debugfs.inode_facts(image, {number for _, number in level})
        for path, number in level:
            yield path, number, facts[number]
        directories = [(path, number) for path, number in level if facts[number].type == "directory"]
        entries = debugfs.directory_entries(image, [number for _, number in directories], facts, block_size)
        level = [
            (path.rstrip(b"/") + b"/" + name, child) for path, number in directories for name, child in entries[number]
        ]


def _describe(image: Path, path: bytes, number: int, facts: debugfs.InodeFacts) -> Entry:
    kind, type_bits = TYPES[facts.type]
    entry: Entry = {
        "path": text(path),
        "ino": number,
        "type": kind,
        "mode": facts.mode | type_bits,
        "uid": facts.uid,
        "gid": facts.gid,
        "nlink": facts.links,
        "size": facts.size,
        "atime_ns": facts.atime_ns,
        "mtime_ns": facts.mtime_ns,
        "ctime_ns": facts.ctime_ns,
        "crtime_ns": facts.crtime_ns,
        "flags": facts.flags,
        "generation": facts.generation,
        "xattrs": {},
        "encrypted": False,
    }
    if kind == "file":
        entry["sha256"] = hashlib.sha256(debugfs.contents(image, number)).hexdigest()
    elif kind == "symlink":
        target = facts.fast_target or debugfs.contents(image, number)
        if len(target) != facts.size:
            raise ValueError(f"{entry['path']}: debugfs shows {len(target)} bytes of a target of {facts.size}")
        entry["target"] = text(target)
    elif facts.rdev:
        entry["rdev"] = list(facts.rdev)
    return entry


def manifest(image: Path, **about: object) -> dict[str, Any]:
    """The manifest of an unencrypted, clean image."""
    document = head(image, about)
    seen = _walk(image, document["block_size"])
    entries = [_describe(image, path, number, facts) for path, number, facts in seen]
    document |= {"keys": [], "passphrases": []}
    document["entries"] = sorted(entries, key=lambda e: str(e["path"]).encode(errors="surrogateescape"))
    return document
