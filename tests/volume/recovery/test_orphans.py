"""Orphans of every shape: the kernel's own are in the fixtures, these are what nobody would write.

The images are ext3-cut, which has no checksums and whose three truncates were begun, and
ext4-orphans, whose orphan file has them.
"""

from __future__ import annotations

import pytest

from ext4img.errors import ChecksumError, CorruptionError, Ext4Error
from ext4img.sources import BytesSource
from ext4img.structs.directory import EXT4_ORPHAN_BLOCK_TAIL
from ext4img.structs.inode import EXT4_INODE
from ext4img.structs.superblock import EXT4_SUPER_BLOCK
from ext4img.volume.recovery.recover import Recovery
from ext4img.volume.recovery.recovery_report import Orphans
from ext4img.volume.volume import Volume

CUT = {13: 204900, 14: 0, 15: 12588}


class Image:
    """Bytes of an image, to be changed before it is opened."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.volume = Volume(BytesSource(data, "original"), journal="ignore")

    def superblock(self, **fields: int) -> None:
        record = EXT4_SUPER_BLOCK.unpack(bytes(self.data), 1024)
        self.data[1024:2048] = EXT4_SUPER_BLOCK.pack(record._replace(**fields))

    def inode(self, number: int, **fields: object) -> None:
        place = self.volume.inodes.place(number)
        assert place.offset is not None
        record = EXT4_INODE.unpack(bytes(self.data), place.offset)
        self.data[place.offset : place.offset + 128] = EXT4_INODE.pack(record._replace(**fields))

    def open(self, checks="strict", journal="replay") -> Volume:
        return Volume(BytesSource(bytes(self.data), "image"), checks=checks, journal=journal)


def recovered(volume: Volume) -> Orphans:
    assert isinstance(volume.recovery, Recovery)
    return volume.recovery.orphans


@pytest.fixture
def cut(fixture_image) -> Image:
    return Image(fixture_image("ext3-cut").path.read_bytes())


@pytest.fixture
def filed(fixture_image) -> Image:
    return Image(fixture_image("ext4-orphans").path.read_bytes())


def blocks(volume: Volume, number: int) -> int:
    return sum(run.length for run in volume.runs(volume.inode(number)))


def test_begun_truncates_are_finished(cut):
    volume = cut.open()
    assert recovered(volume) == Orphans((), (13, 14, 15))
    for number, size in CUT.items():
        inode = volume.inode(number)
        assert inode.size == size
        assert all(run.end <= -(-size // 1024) for run in volume.runs(inode))
    assert blocks(volume, 14) == volume.inode(14).sectors == 0
    # 13 data blocks and the indirect block that the thirteenth hangs on
    assert (blocks(volume, 15), volume.inode(15).sectors) == (13, 28)


def test_nothing_is_finished_when_the_journal_is_ignored(cut):
    volume = cut.open(journal="ignore")
    assert volume.recovery is None
    assert blocks(volume, 15) == 293


def test_what_has_no_links_is_deleted(cut):
    cut.inode(14, i_links_count=0)
    assert recovered(cut.open()) == Orphans((14,), (13, 15))


def test_a_volume_with_errors_is_left_alone(cut):
    """Kernel: "Skipping orphan recovery on fs with errors"."""
    cut.superblock(s_state=3)
    volume = cut.open()
    assert recovered(volume) == Orphans()
    assert blocks(volume, 15) == 293


def test_features_that_forbid_writing(cut):
    cut.superblock(s_feature_ro_compat=cut.volume.features.ro_compat | 0x4000)  # shared_blocks
    assert recovered(cut.open()) == Orphans()


@pytest.mark.parametrize("first", [1, 8, 129, 0xFFFFFFFF])
def test_a_list_that_begins_nowhere(cut, first):
    """Below s_first_ino, or past the last inode (kernel: ext4_orphan_get)."""
    cut.superblock(s_last_orphan=first)
    with pytest.raises(CorruptionError, match=f"inode {first}"):
        cut.open()
    volume = cut.open("report")
    assert recovered(volume) == Orphans()
    assert len(volume.problems) == 1


def test_a_list_in_a_circle(cut):
    cut.inode(15, i_dtime=13)
    with pytest.raises(CorruptionError, match="loop"):
        cut.open()
    assert recovered(cut.open("report")) == Orphans((), (13, 14, 15))


def test_an_inode_that_follows_itself(cut):
    cut.inode(13, i_dtime=13)
    assert recovered(cut.open("report")) == Orphans((), (13,))


def test_orphans_that_are_no_files(cut):
    cut.inode(13, i_mode=0o010644)
    cut.inode(14, i_mode=0)
    with pytest.raises(CorruptionError, match="fifo"):
        cut.open()
    volume = cut.open("report")
    assert recovered(volume) == Orphans((), (15,))
    assert len(volume.problems) == 2


def test_a_damaged_mapping_is_left_alone(cut):
    area = bytearray(cut.volume.inode(15).block_area)
    area[48:52] = (0xFFFFFF).to_bytes(4, "little")
    cut.inode(15, i_block=bytes(area))
    with pytest.raises(CorruptionError):
        cut.open()
    volume = cut.open("report")
    assert recovered(volume) == Orphans((), (13, 14))


def test_the_orphan_file(filed):
    assert recovered(filed.open()) == Orphans((13, 14, 16), ())


def test_an_orphan_file_with_damage(filed):
    # The log holds a newer version of the file's blocks; here it is they that must be damaged.
    volume = filed.open()
    (run, *_) = volume.runs(volume.inode(volume.superblock.orphan_file_inode))
    overlay = volume.recovery.overlay
    (pblk,) = [number for number in range(run.pblk, run.pblk + run.length) if number in overlay]
    stored = volume.blocks.read(pblk)
    at = bytes(filed.data).index(stored)
    filed.data[at + 40] ^= 1
    with pytest.raises(ChecksumError):
        filed.open()
    # The journal's checksum keeps the older version; without looking at any, what it names is told.
    assert recovered(filed.open("report")) == Orphans()
    assert recovered(filed.open("off")).deleted[:1] == (13,)
    filed.data[at + 40] ^= 1
    filed.data[at + 1024 - EXT4_ORPHAN_BLOCK_TAIL.size] ^= 1
    assert recovered(filed.open("off")) == Orphans()


@pytest.mark.parametrize("number", [0xFFFFFFFF, 11, 200, 2])
def test_an_orphan_file_that_is_none(filed, number):
    """Another inode in its place: no magic, or no inode."""
    filed.superblock(s_orphan_file_inum=number)
    try:
        volume = filed.open("report")
    except Ext4Error:
        return
    assert volume.superblock.features
