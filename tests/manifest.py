"""A manifest (what the kernel shows of an image), and its comparison with what ext4img shows.

Only the public API is used. Every comparison gives a list of differences, one line each, so that a
failure tells all that is wrong and not only the first thing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

import ext4img

Entry = dict[str, Any]
Segments = list[tuple[int, int]]

# EXT4_FL_USER_VISIBLE: what FS_IOC_GETFLAGS lets through (fs/ext4/ext4.h); HUGE_FILE and the like are left out.
USER_VISIBLE_FLAGS = 0x725BDFFF
WINDOW_BYTES = 1 << 20
FIELDS = {
    "ino": "number",
    "generation": "generation",
    "type": "type",
    "mode": "mode",
    "uid": "uid",
    "gid": "gid",
    "nlink": "links",
    "atime_ns": "atime_ns",
    "mtime_ns": "mtime_ns",
    "ctime_ns": "ctime_ns",
    "crtime_ns": "crtime_ns",
}


def disk_bytes(text: str) -> bytes:
    """A string of the manifest as the bytes on the disk."""
    return text.encode("utf-8", "surrogateescape")


class Manifest:
    """What is true of one image."""

    def __init__(self, path: Path) -> None:
        self.head: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self.entries: list[Entry] = self.head.pop("entries")

    @cached_property
    def by_path(self) -> dict[bytes, Entry]:
        """Entries by their plaintext paths."""
        return {disk_bytes(entry["path"]): entry for entry in self.entries}

    @cached_property
    def by_nokey_path(self) -> dict[bytes, Entry]:
        """Entries by the paths that are shown while no key is there."""
        return {disk_bytes(str(entry.get("nokey_path", entry["path"]))): entry for entry in self.entries}

    @property
    def is_encrypted(self) -> bool:
        """Whether there is anything to decrypt."""
        return bool(self.head["keys"])

    @property
    def keys(self) -> list[tuple[bytes, bytes | None]]:
        """Each master key once, with the descriptor it is known by (v1 only)."""
        unique = {(key["hex"], key.get("descriptor")): None for key in self.head["keys"]}
        return [(bytes.fromhex(raw), bytes.fromhex(name) if name else None) for raw, name in unique]

    def add_keys_to(self, fs: Any) -> None:
        """Give a view every key of the manifest."""
        for raw, descriptor in self.keys:
            fs.add_key(raw, descriptor=descriptor)


def clip(segments: Iterable[Iterable[int]], size: int) -> Segments:
    """Segments merged and cut off at `size`: the kernel's end at the block, past the end of the file."""
    merged: Segments = []
    for offset, length in sorted((int(o), int(n)) for o, n in segments):
        kept = min(length, size - offset)
        if kept <= 0:
            continue
        if merged and sum(merged[-1]) == offset:
            merged[-1] = (merged[-1][0], merged[-1][1] + kept)
        else:
            merged.append((offset, kept))
    return merged


def sha256_of(file: Any, offset: int = 0, length: int | None = None) -> tuple[str, int]:
    """Digest and number of the bytes of an open file, from `offset` on."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(WINDOW_BYTES))
    file.seek(offset)
    total = 0
    while length is None or total < length:
        wanted = buffer if length is None else buffer[: min(WINDOW_BYTES, length - total)]
        count = file.readinto(wanted)
        if not count:
            break
        digest.update(wanted[:count])
        total += count
    return digest.hexdigest(), total


def _differs(where: bytes, what: str, expected: object, got: object) -> Iterator[str]:
    if expected != got:
        yield f"{where!r} {what}: expected {_short(expected)}, got {_short(got)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"


def _path_differences(expected: Iterable[bytes], got: Iterable[bytes]) -> Iterator[str]:
    got = list(got)
    for path in sorted(set(expected) - set(got)):
        yield f"{path!r} is missing"
    for path in sorted(set(got) - set(expected)):
        yield f"{path!r} should not be there"
    if len(got) != len(set(got)):
        yield "a path is listed twice"


def _tree(fs: Any) -> dict[bytes, tuple[Any, Any]]:
    return {bytes(path): (path, inode) for path, inode in fs.walk("/")}


def head_differences(fs: Any, manifest: Manifest) -> Iterator[str]:
    """UUID, block size, features."""
    head = manifest.head
    yield from _differs(b"superblock", "uuid", head["uuid"], str(fs.superblock.uuid))
    yield from _differs(b"superblock", "label", head["label"], fs.superblock.label)
    yield from _differs(b"superblock", "block size", head["block_size"], fs.block_size)


def attribute_differences(fs: Any, manifest: Manifest, *, with_keys: bool = True) -> Iterator[str]:
    """Every path, every attribute, every xattr, every context."""
    expected = manifest.by_path if with_keys else manifest.by_nokey_path
    listed = [(bytes(path), path, inode) for path, inode in fs.walk("/")]
    yield from _path_differences(expected, (raw for raw, _, _ in listed))
    for raw, path, inode in listed:
        if raw in expected:
            yield from _inode_differences(raw, expected[raw], inode)
            if "name_ct" in expected[raw]:
                yield from _differs(raw, "stored name", expected[raw]["name_ct"], path.entry.name.hex())


def _inode_differences(where: bytes, entry: Entry, inode: Any) -> Iterator[str]:
    unstable = entry.get("unstable", ())
    for key, attribute in FIELDS.items():
        if key in entry and key not in unstable:
            yield from _differs(where, key, entry[key], getattr(inode, attribute))
    yield from _differs(where, "size", entry.get("disk_size", entry["size"]), inode.size)
    yield from _differs(where, "flags", hex(entry["flags"] & USER_VISIBLE_FLAGS), hex(inode.flags & USER_VISIBLE_FLAGS))
    if "rdev" in entry:
        yield from _differs(where, "rdev", tuple(entry["rdev"]), tuple(inode.rdev))
    if "projid" in entry:
        yield from _differs(where, "project", entry["projid"], inode.project_id)
    xattrs = {name: value.hex() for name, value in inode.xattrs().items()}
    yield from _differs(where, "xattrs", entry["xattrs"], xattrs)
    context = inode.encryption.raw.hex() if inode.encryption else None
    yield from _differs(where, "context", entry.get("context"), context)
    yield from _differs(where, "encrypted", entry["encrypted"], inode.is_encrypted)


def content_differences(fs: Any, manifest: Manifest) -> Iterator[str]:
    """Contents, symlink targets and data segments, with the keys there."""
    seen: set[int] = set()
    for raw, (path, inode) in _tree(fs).items():
        entry = manifest.by_path.get(raw)
        if entry is None or inode.number in seen:
            continue
        seen.add(inode.number)
        if entry["type"] == "symlink":
            yield from _differs(raw, "target", disk_bytes(entry["target"]), inode.readlink())
        elif entry["type"] == "file":
            with path.open("rb") as file:
                yield from _file_differences(raw, entry, file)
            digest = inode.verity.digest.hex() if inode.verity else None
            yield from _differs(raw, "verity digest", entry.get("verity_digest"), digest)
            inode.verify_verity()


def _file_differences(where: bytes, entry: Entry, file: Any) -> Iterator[str]:
    size = entry["size"]
    if entry["sha256"] is None:
        for offset, length, digest in entry["samples"]:
            got, count = sha256_of(file, offset, length)
            yield from _differs(where, f"{length} bytes at {offset}", (digest, length), (got, count))
    else:
        yield from _differs(where, "contents", (entry["sha256"], size), sha256_of(file))
    if "data_segments" in entry:
        yield from _differs(where, "segments", clip(entry["data_segments"], size), clip(file.segments(), size))


def nokey_differences(fs: Any, manifest: Manifest) -> Iterator[str]:
    """What is seen of encrypted files without a key: NoKeyError, ciphertext, targets as shown."""
    seen: set[int] = set()
    for raw, (path, inode) in _tree(fs).items():
        entry = manifest.by_nokey_path.get(raw)
        if entry is None or not entry["encrypted"] or inode.number in seen:
            continue
        seen.add(inode.number)
        if entry["type"] == "symlink":
            yield from _differs(raw, "target", disk_bytes(entry["nokey_target"]), inode.readlink())
        elif entry["type"] == "file":
            with pytest.raises(ext4img.NoKeyError):
                path.read_bytes()
            size = entry["ciphertext_size"]
            with inode.open_ciphertext() as file:
                yield from _differs(raw, "ciphertext", (entry["ciphertext_sha256"], size), sha256_of(file))
                if "data_segments" in entry:
                    yield from _differs(
                        raw, "segments", clip(entry["data_segments"], size), clip(file.segments(), size)
                    )


def unreplayed_differences(fs: Any, manifest: Manifest, expected: dict[str, Any]) -> Iterator[str]:
    """The tree as it was before recovery; `expected` is the manifest's `without_replay`.

    What recovery changes must still be different, all else the same. Where the kernel met damage
    ("unreadable") the view must have noted a problem.
    """
    missing = {disk_bytes(path) for path in expected["missing"]}
    paths = (manifest.by_path.keys() - missing) | {disk_bytes(path) for path in expected["extra"]}
    tree = _tree(fs)
    unreadable = {disk_bytes(path) for path in expected["unreadable"]}
    yield from _path_differences(paths - unreadable, tree.keys() - unreadable)
    for raw in paths & tree.keys() & manifest.by_path.keys():
        entry, (_, inode) = manifest.by_path[raw], tree[raw]
        changed = expected["changed"].get(entry["path"], [])
        for key, attribute in FIELDS.items():
            same = entry[key] == getattr(inode, attribute)
            if key not in entry.get("unstable", ()) and same == (key in changed):
                yield f"{raw!r} {key}: {'as' if same else 'not as'} after recovery, {getattr(inode, attribute)!r}"
    if unreadable and not list(fs.problems):
        yield f"{unreadable} could not be read by the kernel, and no problem was noted"


def assert_none(differences: Iterable[str]) -> None:
    """Fail with the first differences."""
    found = list(differences)
    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:30])
