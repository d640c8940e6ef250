"""Every image that a kernel made, built again from its stored names, blocks and attributes.

The expected values are those of the manifest, which came from a kernel; e2fsck, this machine's
kernel and the reader judge the copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import ext4img
from ext4img.build import Options, plan, write
from tests import manifest
from tests.build.from_volume import VolumeTree
from tests.build.judges import assert_clean
from tests.conftest import UnpackedImage
from tests.manifest import Manifest, assert_none
from tools import kernel_view
from tools.kernel_view import Key

# EXTENTS, INDEX, HUGE_FILE, INLINE_DATA: how a file is laid out is the copy's own affair.
LAYOUT_FLAGS = 0x00080000 | 0x00001000 | 0x00040000 | 0x10000000
HASH_VERSIONS = ("legacy", "half_md4", "tea")
# What the kernel shows of the copy must be what another showed of the original.
KERNEL_FIELDS = [
    *("ino", "generation", "type", "mode", "uid", "gid", "nlink", "size", "rdev", "atime_ns", "mtime_ns", "ctime_ns"),
    *("sha256", "samples", "target", "xattrs", "projid", "encrypted", "context", "name_ct", "nokey_path"),
    *("nokey_target", "disk_size", "ciphertext_size", "ciphertext_sha256"),
]
AES_256_XTS, AES_256_CTS = 1, 4


@pytest.fixture(scope="module")
def copy(image: UnpackedImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The image built again; gone when its tests are done."""
    path = tmp_path_factory.mktemp("copy") / f"{image.name}.img"
    with ext4img.open(image.path) as fs:
        source = VolumeTree(fs.volume)
        write(plan(source.nodes(), options_of(fs)), source.body, path)
    yield path
    path.unlink()


def options_of(fs: ext4img.View) -> Options:
    superblock = fs.superblock
    names = fs.features.names
    kept = [name for name in ("inline_data", "large_dir", "metadata_csum_seed") if name in names]
    return Options(
        uuid=superblock.uuid,
        label=superblock.label,
        block_size=fs.block_size,
        inode_size=superblock.inode_size,
        features=(*kept, *(() if "dir_index" in names else ("^dir_index",))),
        keep_inodes=True,
        hash_seed=b"".join(word.to_bytes(4, "little") for word in superblock.hash_seed),
        hash_version=HASH_VERSIONS[superblock.hash_version],
        hash_unsigned=superblock.hash_unsigned,
        password_salt=superblock.password_salt,
        encoding_flags=superblock.encoding_flags,
        created_s=1_700_000_000,
    )


def expected_of(image: UnpackedImage, fs: ext4img.View) -> Manifest:
    """The manifest, but for what a copy decides itself."""
    expected = Manifest(image.packed.manifest)
    expected.entries = deepcopy(expected.entries)
    for entry in expected.entries:
        copied = fs.inode(entry["ino"])
        entry["flags"] = entry["flags"] & ~LAYOUT_FLAGS | copied.flags & LAYOUT_FLAGS
        if entry["type"] == "dir":
            entry["size"] = copied.size
        if entry["crtime_ns"] is None and copied.crtime_ns is not None:
            entry["crtime_ns"] = 0  # the original has no room for it
    return expected


def test_e2fsck_finds_nothing_to_say(copy: Path):
    assert_clean(copy)


def test_the_reader_sees_every_path_and_attribute(image: UnpackedImage, copy: Path):
    with ext4img.open(copy) as fs:
        expected = expected_of(image, fs)
        assert_none(manifest.head_differences(fs, expected))
        assert_none(manifest.attribute_differences(fs, expected, with_keys=False))
        assert_none(manifest.nokey_differences(fs, expected))
        assert list(fs.problems) == []


def test_the_reader_reads_all_contents_with_the_keys(image: UnpackedImage, copy: Path):
    with ext4img.open(copy) as fs:
        expected = expected_of(image, fs)
        expected.add_keys_to(fs)
        assert_none(manifest.content_differences(fs, expected))


def kernel_refuses(expected: Manifest) -> str | None:
    """Why this machine's kernel can't show the copy."""
    unsupported = {"casefold", "verity"} & set(expected.head["features"])
    if unsupported and not features_of_kernel() >= unsupported:
        return f"this kernel has no {' or '.join(sorted(unsupported))}"
    modes = {(key["contents_mode"], key["filenames_mode"]) for key in expected.head["keys"]}
    if modes - {(AES_256_XTS, AES_256_CTS)}:
        return f"this kernel has no ciphers {sorted(modes)}"
    if expected.head["block_size"] > 4096:
        return "this kernel takes no blocks larger than a page"
    return None


def features_of_kernel() -> set[str]:
    directory = Path("/sys/fs/ext4/features")
    return {path.name for path in directory.iterdir()} if directory.exists() else set()


@pytest.mark.kernel
def test_the_kernel_shows_the_same(image: UnpackedImage, copy: Path):
    expected = Manifest(image.packed.manifest)
    if reason := kernel_refuses(expected):
        pytest.skip(reason)
    keys: dict[tuple[str, int, str | None], Key] = {}
    for key in expected.head["keys"]:
        descriptor = key.get("descriptor")
        raw = bytes.fromhex(key["hex"])
        keys[key["hex"], key["version"], descriptor] = Key(
            raw, key["version"], bytes.fromhex(descriptor) if descriptor else None
        )
    shown = {entry["path"]: entry for entry in kernel_view.manifest(copy, keys.values())["entries"]}
    assert set(shown) == {entry["path"] for entry in expected.entries}
    assert not list(kernel_differences(expected, shown))


def kernel_differences(expected: Manifest, shown: dict[str, dict[str, Any]]) -> Iterator[str]:
    for entry in expected.entries:
        got = shown[entry["path"]]
        for field in KERNEL_FIELDS:
            if field == "size" and entry["type"] == "dir":
                continue
            if field not in entry.get("unstable", ()) and entry.get(field) != got.get(field):
                yield f"{entry['path']} {field}: {entry.get(field)!r}, the copy {got.get(field)!r}"
        if (entry["flags"] ^ got["flags"]) & ~LAYOUT_FLAGS:
            yield f"{entry['path']} flags: {entry['flags']:#x}, the copy {got['flags']:#x}"
        if entry["crtime_ns"] is not None and entry["crtime_ns"] != got["crtime_ns"]:
            yield f"{entry['path']} crtime: {entry['crtime_ns']}, the copy {got['crtime_ns']}"
