"""Every image that a kernel made, built again from its stored names, blocks and attributes.

The expected values are those of the manifest, which came from a kernel; e2fsck, this machine's
kernel and the reader judge the copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import ext4img
from ext4img.mkfs import Options, plan, write
from tests import manifest
from tests.conftest import UnpackedImage
from tests.copies import expected_copy, kernel_differences, kernel_refuses, reader_differences
from tests.manifest import assert_none
from tests.mkfs.from_volume import VolumeTree
from tests.mkfs.judges import assert_clean

HASH_VERSIONS = ("legacy", "half_md4", "tea")


@pytest.fixture(scope="module")
def copy(image: UnpackedImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The image built again; gone when its tests are done."""
    path = tmp_path_factory.mktemp("copy") / f"{image.name}.img"
    with ext4img.open(image.path) as fs:
        source = VolumeTree(fs.volume)
        write(plan(source.nodes(), options_of(fs)), source.body, path)
    yield path
    path.unlink()


def options_of(fs: ext4img.FileSystem) -> Options:
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


def test_e2fsck_finds_nothing_to_say(copy: Path):
    assert_clean(copy)


def test_the_reader_sees_every_path_attribute_and_content(image: UnpackedImage, copy: Path):
    """Without the keys the same names and ciphertext; with them the same contents."""
    with ext4img.open(copy) as fs:
        expected = expected_copy(image.packed.manifest, fs, same_numbers=True)
        assert_none(reader_differences(fs, expected))
        expected.add_keys_to(fs)
        assert_none(manifest.content_differences(fs, expected))


@pytest.mark.kernel
def test_the_kernel_shows_the_same(image: UnpackedImage, copy: Path):
    if reason := kernel_refuses(image.manifest):
        pytest.skip(reason)
    with ext4img.open(copy) as fs:
        expected = expected_copy(image.packed.manifest, fs, same_numbers=True)
    assert_none(kernel_differences(copy, expected))
