"""A tree on the host (restored, extracted) against a manifest.

What a restore cannot set is not compared: inode numbers, change and creation times, sizes of
directories. Numbers of links count only within the tree.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.manifest import Entry, Manifest, Segments, clip, disk_bytes
from tools import kernel_ioctl
from tools.kernel_view import TYPES, Seen, walk

HOST_BLOCK_BYTES = 4096
WINDOW_BYTES = 1 << 20
ALL_FIELDS = frozenset({"mode", "owner", "times", "xattrs", "flags", "holes"})
# SYNC, IMMUTABLE, APPEND, NODUMP, NOATIME, DIRSYNC, TOPDIR: flags that an owner sets (linux/fs.h).
RESTORED_FLAGS = 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x10000 | 0x20000


def tree_differences(
    root: Path,
    manifest: Manifest,
    *,
    left_out: frozenset[str] = frozenset(),
    but_the_root: bool = False,
    fields: frozenset[str] = ALL_FIELDS,
) -> Iterator[str]:
    """Differences between the plaintext tree below `root` and the manifest, one line each.

    `left_out` names types that were not restored ("char", "block", "socket"), `but_the_root` leaves
    the attributes of `root` itself alone, `fields` is what is compared beside names, types,
    contents, targets and links.
    """
    expected = {path: entry for path, entry in manifest.by_path.items() if entry["type"] not in left_out}
    links = Counter(entry["ino"] for entry in expected.values())
    first_of: dict[int, tuple[int, int]] = {}
    seen = set()
    for found in walk(str(root)):  # what it yields can be reached only until the next step
        path, status = found.path, found.stat
        seen.add(path)
        if path not in expected:
            yield f"{path!r} should not be there"
            continue
        entry = expected[path]
        identity = (status.st_dev, status.st_ino)
        if first_of.setdefault(entry["ino"], identity) != identity:
            yield f"{path!r} is not the same file as its other names"
        if entry["type"] != "dir" and status.st_nlink != links[entry["ino"]]:
            yield f"{path!r} has {status.st_nlink} names, expected {links[entry['ino']]}"
        if path != b"/" or not but_the_root:
            yield from _entry_differences(entry, found, fields)
    for path in sorted(expected.keys() - seen):
        yield f"{path!r} is missing"


def _entry_differences(entry: Entry, found: Seen, fields: frozenset[str]) -> Iterator[str]:
    status, path = found.stat, found.path
    kind = TYPES[stat.S_IFMT(status.st_mode)]
    if kind != entry["type"]:
        yield f"{path!r} is a {kind}, expected a {entry['type']}"
        return
    compared: dict[str, tuple[Any, Any]] = {}
    if "mode" in fields:
        compared["mode"] = (oct(entry["mode"]), oct(status.st_mode))
    if "owner" in fields:
        compared["owner"] = ((entry["uid"], entry["gid"]), (status.st_uid, status.st_gid))
    if "times" in fields:
        times = {"atime_ns": status.st_atime_ns, "mtime_ns": status.st_mtime_ns}
        unstable = entry.get("unstable", ())
        compared.update({key: (entry[key], got) for key, got in times.items() if key not in unstable})
    if "flags" in fields and kind in ("file", "dir"):
        compared["flags"] = (entry["flags"] & RESTORED_FLAGS, _flags(found))
    if "xattrs" in fields:
        compared["xattrs"] = (entry["xattrs"], _xattrs(found))
    if kind == "symlink":
        compared["target"] = (disk_bytes(entry["target"]), os.readlink(found.reach))
    elif kind in ("char", "block"):
        device = [os.major(status.st_rdev), os.minor(status.st_rdev)]
        compared["rdev"] = (entry["rdev"], device)
    elif kind == "file":
        compared["size"] = (entry["size"], status.st_size)
        if entry["sha256"] is not None:
            compared["contents"] = (entry["sha256"], _sha256(found))
        else:
            for offset, length, digest in entry["samples"]:
                compared[f"{length} bytes at {offset}"] = (digest, _sha256(found, offset, length))
    for what, (expected, got) in compared.items():
        if expected != got:
            yield f"{path!r} {what}: expected {expected!r:.200}, got {got!r:.200}"
    if kind == "file" and "holes" in fields and "data_segments" in entry:
        yield from _hole_differences(entry, found)


def _xattrs(found: Seen) -> dict[str, str]:
    names = os.listxattr(found.reach, follow_symlinks=False)
    return {name: os.getxattr(found.reach, name, follow_symlinks=False).hex() for name in sorted(names)}


def _flags(found: Seen) -> int | str:
    try:
        with kernel_ioctl.opened(found.reach) as fd:
            return kernel_ioctl.get_flags(fd) & RESTORED_FLAGS
    except OSError as error:  # an encrypted file on a mount without its key
        return f"cannot be opened: {error.strerror}"


def _sha256(found: Seen, offset: int = 0, length: int | None = None) -> str:
    digest = hashlib.sha256()
    left = found.stat.st_size if length is None else length
    try:
        with open(found.reach, "rb") as file:
            file.seek(offset)
            while left and (window := file.read(min(left, WINDOW_BYTES))):
                digest.update(window)
                left -= len(window)
    except OSError as error:  # an encrypted file on a mount without its key
        return f"cannot be read: {error.strerror}"
    return digest.hexdigest()


def host_segments(path: bytes) -> Segments:
    """Where the host says that there is data (SEEK_DATA, SEEK_HOLE)."""
    segments = []
    fd = os.open(path, os.O_RDONLY)
    try:
        end = os.fstat(fd).st_size
        offset = 0
        while offset < end:
            try:
                start = os.lseek(fd, offset, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole up to the end
                break
            offset = os.lseek(fd, start, os.SEEK_HOLE)
            segments.append((start, offset - start))
    finally:
        os.close(fd)
    return segments


def _hole_differences(entry: Entry, found: Seen) -> Iterator[str]:
    """Data on the host only where there was data, up to the host's blocks: holes were kept."""

    def rounded(segments: Any) -> Segments:
        widened = []
        for offset, length in segments:
            start = offset // HOST_BLOCK_BYTES * HOST_BLOCK_BYTES
            end = -(-(offset + length) // HOST_BLOCK_BYTES) * HOST_BLOCK_BYTES
            widened.append((start, end - start))
        # Neighbours may overlap after widening.
        merged: Segments = []
        for start, length in sorted(widened):
            if merged and start <= sum(merged[-1]):
                merged[-1] = (merged[-1][0], max(sum(merged[-1]), start + length) - merged[-1][0])
            else:
                merged.append((start, length))
        return clip(merged, entry["size"])

    allowed = rounded(entry["data_segments"])
    for start, length in rounded(host_segments(found.reach)):
        if not any(a <= start and start + length <= a + n for a, n in allowed):
            yield f"{found.path!r} has data at {start}, {length} bytes, where a hole was"
