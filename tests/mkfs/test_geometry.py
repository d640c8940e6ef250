"""Sizes and groups: those of mke2fs for the same size, and the smallest that will do."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext4img.errors import BuildError
from ext4img.mkfs import Node, Options
from ext4img.mkfs.geometry import SpaceDemand, choose_geometry, has_superblock
from ext4img.mkfs.options import DEFAULT_FEATURES, FeatureChoice
from ext4img.volume.features import Features, RoCompat
from tests.mkfs.judges import assert_clean, head
from tests.mkfs.samples import CREATED_S, FILE, ROOT, build

MIB = 1 << 20
# Of dumpe2fs' lines those that chance, the clock or the making of a file system decides.
ACCIDENTAL = {
    *("Filesystem UUID", "Filesystem created", "Last write time", "Last checked", "Directory Hash Seed"),
    *("Lifetime writes", "Checksum", "Checksum seed", "Last mount time"),
}


@pytest.mark.parametrize(
    ("size", "block_size", "inode_size", "features"),
    [
        (8 * MIB, 1024, 256, ""),
        (8 * MIB, 4096, 256, ""),
        (64 * MIB, 1024, 256, ""),
        (600 * MIB, 1024, 256, ""),
        (600 * MIB, 4096, 256, ""),
        (3072 * MIB, 2048, 512, ""),
        (129 * MIB, 4096, 256, ""),  # a last group too short to be of use
        (40 << 30, 4096, 256, ""),
        (1024 * MIB, 65536, 256, ""),
        (64 * MIB, 4096, 128, ""),
        (200 * MIB, 4096, 256, "^resize_inode,^flex_bg,^64bit"),
        (300 * MIB, 1024, 256, "^metadata_csum,uninit_bg"),
        (700 * MIB, 4096, 256, "orphan_file,fast_commit,metadata_csum_seed"),
        (100 * MIB, 1024, 1024, "^has_journal,^sparse_super,^resize_inode"),
        (50 * MIB, 2048, 256, "encrypt,casefold,verity,project,ea_inode,large_dir,stable_inodes"),
    ],
)
def test_as_mke2fs_divides_it(size: int, block_size: int, inode_size: int, features: str, tmp_path: Path):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    # The default features of mke2fs.conf differ from one distribution to another.
    wanted = ",".join(["none", *DEFAULT_FEATURES.names, *filter(None, [features])])
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-T", "default", "-b", block_size, "-I", inode_size, "-O", wanted]
    command += [
        "-i",
        max(16384, block_size),
        "-E",
        "lazy_itable_init=1,lazy_journal_init=1",
        theirs,
        f"{size // 1024}k",
    ]
    environment = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL": "C"}
    subprocess.run([str(word) for word in command], check=True, capture_output=True, env=environment, input=b"y\n")
    build(
        ours,
        [ROOT._replace(crtime_ns=CREATED_S * 10**9)],
        Options(
            size=size,
            block_size=block_size,
            inode_size=inode_size,
            features=tuple(features.split(",")) if features else (),
            created_s=CREATED_S,
        ),
    )
    assert_clean(ours)
    expected, got = head(theirs), head(ours)
    assert {key: value for key, value in got.items() if key not in ACCIDENTAL} == {
        key: value for key, value in expected.items() if key not in ACCIDENTAL
    }


def test_groups_with_a_superblock():
    """ext4(5), sparse_super: groups 0, 1 and powers of 3, 5 and 7."""
    features = Features.from_words(0, 0, RoCompat.SPARSE_SUPER)
    found = [group for group in range(3000) if has_superblock(group, features)]
    assert found == [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343, 625, 729, 2187, 2401]


@settings(deadline=None, max_examples=300)
@given(
    blocks=st.integers(0, (1 << 26) - (1 << 21)),  # with 300 % spare room and the metadata, just below 16 TiB
    inodes=st.integers(1, 1 << 22),
    highest=st.sampled_from([0, 0, 12, 1 << 20, 1 << 26]),
    block_size=st.sampled_from([1024, 2048, 4096, 65536]),
    spare=st.sampled_from([0.0, 10.0, 300.0]),
)
def test_an_automatic_size_holds_what_is_needed(blocks: int, inodes: int, highest: int, block_size: int, spare: float):
    options = Options(block_size=block_size, spare_percent=spare).resolved()
    geometry = choose_geometry(SpaceDemand(blocks, inodes, highest), options, FeatureChoice())
    free = geometry.block_count - geometry.overhead - geometry.journal_blocks
    assert free >= blocks * (1 + spare / 100)
    assert geometry.inode_count >= max(highest, inodes + 10)
    if inodes <= blocks and not highest:  # else groups are made for the sake of their inodes
        assert free <= blocks * (1 + spare / 100) * 1.05 + 1000 + geometry.max_free_ranges


@pytest.mark.parametrize("block_size", [1024, 4096])
def test_the_smallest_size_is_full_to_the_last_block(block_size: int, tmp_path: Path):
    nodes = [ROOT, *(Node((b"%d" % number,), FILE, size=number * 997) for number in range(400))]
    made = build(tmp_path / "auto", nodes, Options(block_size=block_size, spare_percent=0, created_s=CREATED_S))
    assert_clean(tmp_path / "auto")
    least = made.size - made.free_blocks * block_size
    assert made.free_blocks <= 60 * (4096 // block_size)
    exact = build(tmp_path / "exact", nodes, Options(block_size=block_size, size=made.size, created_s=CREATED_S))
    assert_clean(tmp_path / "exact")
    assert exact.free_blocks <= made.free_blocks + 300
    with pytest.raises(BuildError, match=r"too small: \d+ KiB are needed"):
        build(tmp_path / "small", nodes, Options(block_size=block_size, size=least - 64 * block_size))
    assert not (tmp_path / "small").exists()


def test_the_image_has_the_size_that_was_asked_for(tmp_path: Path):
    size = 129 * MIB + 777
    made = build(tmp_path / "i", [ROOT], Options(size=size, created_s=CREATED_S))
    assert (tmp_path / "i").stat().st_size == size
    assert made.size < size  # the last group is too short to be of use
    assert_clean(tmp_path / "i")


def test_the_reserved_room_is_used_to_grow(tmp_path: Path):
    """resize2fs takes the resize inode and all backups as they are."""
    build(tmp_path / "i", [ROOT, Node((b"f",), FILE, size=5 * MIB)], Options(size=40 * MIB, created_s=CREATED_S))
    for size in ("900M", "30M"):
        environment = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL": "C"}
        subprocess.run(["resize2fs", "-f", str(tmp_path / "i"), size], check=True, capture_output=True, env=environment)
        assert_clean(tmp_path / "i")


@pytest.mark.parametrize("group", [1, 3, 5])
def test_backups_serve_when_the_superblock_is_lost(group: int, tmp_path: Path):
    image = tmp_path / "i"
    made = build(image, [ROOT, Node((b"f",), FILE, size=5 * MIB)], Options(size=900 * MIB, created_s=CREATED_S))
    with image.open("r+b") as file:
        file.write(bytes(65536))
    block = made.geometry.first_block(group)
    environment = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL": "C"}
    done = subprocess.run(
        ["e2fsck", "-fy", "-b", str(block), "-B", "4096", str(image)],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 1, done.stdout
    assert_clean(image)
