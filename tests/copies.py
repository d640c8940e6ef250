"""Images that ext4img built, against the manifest of the image that they are copies of."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import ext4img
from tests import manifest
from tests.manifest import Entry, Manifest, disk_bytes
from tools import kernel_view
from tools.kernel_view import Key

# EXTENTS, INDEX, HUGE_FILE, INLINE_DATA: how a file is laid out is the copy's own affair.
LAYOUT_FLAGS = 0x00080000 | 0x00001000 | 0x00040000 | 0x10000000
# What the kernel shows of the copy must be what another showed of the original.
KERNEL_FIELDS = [
    *("ino", "generation", "type", "mode", "uid", "gid", "nlink", "size", "rdev", "atime_ns", "mtime_ns", "ctime_ns"),
    *("sha256", "samples", "target", "xattrs", "projid", "encrypted", "context", "name_ct", "nokey_path"),
    *("nokey_target", "disk_size", "ciphertext_size", "ciphertext_sha256"),
]
AES_256_XTS, AES_256_CTS = 1, 4
IV_INO_LBLK = 0x08 | 0x10
LARGEST_KERNEL_BLOCK = 4096  # of a kernel with pages of that size


def expected_copy(path: Path, fs: ext4img.FileSystem, *, same_numbers: bool = False) -> Manifest:
    """The manifest, but for what a copy decides itself: layout, and inode numbers where nothing hangs on them.

    AssertionError where the copy's numbers tell files apart or join them as the original's do not.
    With `same_numbers` the copy has no choice there.
    """
    expected = Manifest(path)
    expected.entries = deepcopy(expected.entries)
    copied = {bytes(path): inode for path, inode in fs.without_keys().walk("/")}
    numbers: dict[int, int] = {}
    for entry in expected.entries:
        inode = copied.get(disk_bytes(str(entry.get("nokey_path", entry["path"]))))
        if inode is None:  # the comparison will tell that it is missing
            continue
        assert numbers.setdefault(entry["ino"], inode.number) == inode.number, f"{entry['path']}: another file"
        keeps = same_numbers or needs_number(entry)
        assert inode.number == entry["ino"] or not keeps, f"{entry['path']}: another inode number"
        entry["ino"] = inode.number
        entry["flags"] = entry["flags"] & ~LAYOUT_FLAGS | inode.flags & LAYOUT_FLAGS
        if entry["type"] == "dir":
            entry["size"] = inode.size
        if entry["crtime_ns"] is None and inode.crtime_ns is not None:
            entry["crtime_ns"] = 0  # the original has no room for it
    assert len(set(numbers.values())) == len(numbers), "files that were two are one"
    return expected


def needs_number(entry: Entry) -> bool:
    """Whether an entry's ciphertext hangs on its inode number."""
    context = bytes.fromhex(entry.get("context", ""))
    return context[:1] == b"\2" and bool(context[3] & IV_INO_LBLK)


def reader_differences(fs: ext4img.FileSystem, expected: Manifest) -> Iterator[str]:
    """What ext4img sees of a copy without keys."""
    yield from manifest.head_differences(fs, expected)
    yield from manifest.attribute_differences(fs, expected, with_keys=False)
    yield from manifest.nokey_differences(fs, expected)
    yield from map(str, fs.problems)


def kernel_refuses(expected: Manifest) -> str | None:
    """Why this machine's kernel can't show a copy."""
    unsupported = {"casefold", "verity"} & set(expected.head["features"])
    if unsupported and not features_of_kernel() >= unsupported:
        return f"this kernel has no {' or '.join(sorted(unsupported))}"
    modes = {(key["contents_mode"], key["filenames_mode"]) for key in expected.head["keys"]}
    if modes - {(AES_256_XTS, AES_256_CTS)}:
        return f"this kernel has no ciphers {sorted(modes)}"
    if expected.head["block_size"] > LARGEST_KERNEL_BLOCK:
        return "this kernel takes no blocks larger than a page"
    return None


def features_of_kernel() -> set[str]:
    """What the running kernel's ext4 can."""
    directory = Path("/sys/fs/ext4/features")
    return {path.name for path in directory.iterdir()} if directory.exists() else set()


def kernel_differences(copy: Path, expected: Manifest) -> Iterator[str]:
    """What the running kernel shows of a copy, with all keys and without, against the manifest."""
    keys: dict[tuple[str, int, str | None], Key] = {}
    for key in expected.head["keys"]:
        descriptor = key.get("descriptor")
        raw = bytes.fromhex(key["hex"])
        keys[key["hex"], key["version"], descriptor] = Key(
            raw, key["version"], bytes.fromhex(descriptor) if descriptor else None
        )
    shown = {entry["path"]: entry for entry in kernel_view.manifest(copy, keys.values())["entries"]}
    for path in shown.keys() ^ {entry["path"] for entry in expected.entries}:
        yield f"{path!r} is {'new' if path in shown else 'missing'}"
    for entry in expected.entries:
        if entry["path"] in shown:
            yield from _entry_differences(entry, shown[entry["path"]])


def _entry_differences(entry: Entry, got: dict[str, Any]) -> Iterator[str]:
    for field in KERNEL_FIELDS:
        if field == "size" and entry["type"] == "dir":
            continue
        if field not in entry.get("unstable", ()) and entry.get(field) != got.get(field):
            yield f"{entry['path']} {field}: {entry.get(field)!r}, the copy {got.get(field)!r}"
    if (entry["flags"] ^ got["flags"]) & ~LAYOUT_FLAGS:
        yield f"{entry['path']} flags: {entry['flags']:#x}, the copy {got['flags']:#x}"
    if entry["crtime_ns"] is not None and entry["crtime_ns"] != got["crtime_ns"]:
        yield f"{entry['path']} crtime: {entry['crtime_ns']}, the copy {got['crtime_ns']}"
