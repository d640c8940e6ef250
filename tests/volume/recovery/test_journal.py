"""The journal's superblock, the places where a journal can be, and the overlay."""

from __future__ import annotations

from uuid import UUID

import pytest
from google_crc32c import value

from ext4img.errors import ChecksumError, CorruptionError, LimitError, UnsupportedFeatureError
from ext4img.sources import BytesSource
from ext4img.structs.journal import JBD2_MAGIC_BYTES
from ext4img.structs.superblock import EXT4_SUPER_BLOCK
from ext4img.volume.problems import Problems
from ext4img.volume.recovery import overlay as overlay_module
from ext4img.volume.recovery.journal import JournalDevice, JournalFile, JournalIncompat, read_journal_superblock
from ext4img.volume.recovery.overlay import Draft, Overlay
from ext4img.volume.runs import HOLE, UNWRITTEN, WRITTEN, Run
from tests.volume.recovery.journal_log import OWN_UUID, Log, MemoryJournal

V2, V3 = JournalIncompat.CSUM_V2, JournalIncompat.CSUM_V3


def read(log: Log, checks="strict"):
    return read_journal_superblock(log.journal(), Problems(checks))


def test_crc32c_of_the_checksums():
    """CRC catalogue: check value of CRC-32C over "123456789"."""
    assert value(b"123456789") == 0xE3069283


def test_superblock_in_plain_words():
    log = Log(blocks=4096, incompat=V3 | JournalIncompat.BIT64, start=7, sequence=99)
    superblock = read(log)
    assert (superblock.version, superblock.length, superblock.first, superblock.end) == (2, 4096, 1, 4096)
    assert (superblock.start, superblock.sequence, superblock.uuid) == (7, 99, OWN_UUID)
    assert superblock.checksum_version == 3
    assert superblock.feature_names == ("journal_64bit", "journal_checksum_v3")


def test_version_1_has_no_features():
    """What stands where version 2 has its feature words means nothing."""
    log = Log(version=1)
    log.change_superblock(s_feature_incompat=0xFFFFFFFF, s_feature_compat=1, s_uuid=b"\xff" * 16)
    superblock = read(log)
    assert superblock.version == 1
    assert superblock.incompat == 0
    assert superblock.checksum_version == 0


@pytest.mark.parametrize(("stored", "meant"), [(0, 256), (512, 512)])
def test_fast_commits_stand_at_the_end(stored, meant):
    """Kernel: jbd2_journal_get_num_fc_blks, j_last, j_fc_first."""
    log = Log(blocks=2048, incompat=JournalIncompat.FAST_COMMIT)
    log.change_superblock(s_num_fc_blks=stored)
    superblock = read(log)
    assert superblock.fast_commit_blocks == meant
    assert superblock.end == 2048 - meant
    assert superblock.fast_commit_first == 2048 - meant + 1


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"h_magic": 0}, "no superblock"),
        ({"h_blocktype": 2}, "version 1 or 2"),
        ({"s_blocksize": 4096}, "s_blocksize is 4096"),
        ({"s_maxlen": 65}, "has only 64 blocks"),
        ({"s_maxlen": 0}, "s_first"),
        ({"s_first": 0}, "s_first is 0"),
        ({"s_first": 64}, "s_first is 64"),
        ({"s_first": 0xFFFFFFFF}, "s_first"),
        ({"s_feature_incompat": V2 | V3}, "two kinds"),
        ({"s_feature_incompat": V3, "s_feature_compat": 1, "s_checksum_type": 4}, "two kinds"),
        ({"s_feature_incompat": JournalIncompat.FAST_COMMIT}, "s_first"),  # 256 blocks of 64
        ({"s_feature_incompat": JournalIncompat.FAST_COMMIT, "s_num_fc_blks": 0xFFFFFFFF}, "s_first"),
    ],
)
@pytest.mark.parametrize("checks", ["strict", "report", "off"])
def test_superblocks_that_cannot_be(fields, why, checks):
    log = Log()
    log.change_superblock(**fields)
    with pytest.raises(CorruptionError, match=why):
        read(log, checks)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"s_feature_incompat": 0x80}, "FEATURE_I7"),
        ({"s_feature_ro_compat": 1}, "FEATURE_R0"),
        ({"s_feature_incompat": V3, "s_checksum_type": 1}, "type 1"),
    ],
)
def test_what_is_not_known_is_refused_by_name(fields, name):
    log = Log()
    log.change_superblock(**fields)
    with pytest.raises(UnsupportedFeatureError, match=name):
        read(log)


def test_superblock_checksum():
    log = Log(incompat=V3)
    log.blocks[0][-300] ^= 1
    with pytest.raises(ChecksumError, match="journal superblock"):
        read(log)
    problems = Problems("report")
    read_journal_superblock(log.journal(), problems)
    assert len(problems) == 1


# Journal in the volume


class Blocks:
    """A volume of 1 KiB blocks that hold their own numbers."""

    size = 1024

    def read(self, pblk: int, count: int) -> bytes:
        return b"".join((pblk + number).to_bytes(4, "big").ljust(self.size, b"\0") for number in range(count))


def file_of(runs, size=1024 * 30):
    return JournalFile(runs, size, 1024, Blocks().read)


def test_journal_file_follows_its_runs():
    journal = file_of([Run(0, 500, 10, WRITTEN), Run(10, 100, 10, WRITTEN), Run(20, 110, 10, WRITTEN)])
    assert journal.block_count == 30
    assert journal.read(9, 3) == Blocks().read(509, 1) + Blocks().read(100, 2)
    assert [journal.physical(index) for index in (0, 9, 10, 29)] == [500, 509, 100, 119]
    assert [journal.holds(pblk) for pblk in (99, 100, 119, 120, 499, 500, 509, 510)] == [
        False, True, True, False, False, True, True, False,
    ]  # fmt: skip
    with pytest.raises(CorruptionError, match="has 30"):
        journal.read(29, 2)
    assert [index for index, _ in journal.read_each([3, 4, 5, 20, 9])] == [3, 4, 5, 20, 9]


@pytest.mark.parametrize("state", [HOLE, UNWRITTEN])
def test_journal_file_with_a_hole(state):
    journal = file_of([Run(0, 500, 10, WRITTEN), Run(10, 700, 10, state), Run(20, 110, 10, WRITTEN)])
    with pytest.raises(CorruptionError, match="hole"):
        journal.read(5, 10)
    assert journal.physical(10) is None
    assert not journal.holds(700)


def test_journal_file_whose_blocks_are_claimed_twice():
    with pytest.raises(CorruptionError, match="the same block"):
        file_of([Run(0, 500, 10, WRITTEN), Run(10, 505, 10, WRITTEN)])


# Journal on its own device


def device(block_size: int, blocks: int = 64, **fields: object) -> tuple[BytesSource, Log]:
    log = Log(blocks=blocks, block_size=block_size)
    raw = bytearray(b"".join(bytes(block_size) for _ in range(blocks)))
    values = {
        "s_magic": 0xEF53,
        "s_log_block_size": block_size.bit_length() - 11,
        "s_blocks_count_lo": blocks,
        "s_feature_incompat": 0x8,
        "s_uuid": OWN_UUID.bytes,
    }
    raw[1024:2048] = EXT4_SUPER_BLOCK.build(values | fields)
    start = 1024 // block_size + 1
    raw[start * block_size : (start + 1) * block_size] = log.blocks[0]
    return BytesSource(bytes(raw), "journal"), log


@pytest.mark.parametrize("block_size", [1024, 2048, 4096])
def test_journal_device(block_size):
    """Its superblock follows the device's own; blocks count from the device's beginning."""
    source, _ = device(block_size)
    journal = JournalDevice(source, Problems())
    assert journal.uuid == OWN_UUID
    assert journal.block_count == 64
    assert journal.superblock_index == (2 if block_size == 1024 else 1)
    assert read_journal_superblock(journal, Problems()).length == 64
    assert journal.physical(3) is None


@pytest.mark.parametrize(
    "fields", [{"s_magic": 0}, {"s_feature_incompat": 0}, {"s_log_block_size": 377579286}, {"s_log_block_size": 7}]
)
def test_what_is_no_journal_device(fields):
    source, _ = device(1024, **fields)
    with pytest.raises(CorruptionError):
        JournalDevice(source, Problems())


def test_journal_device_that_is_cut_short():
    source, _ = device(1024, s_blocks_count_lo=0xFFFFFFFF)
    journal = JournalDevice(source, Problems())
    assert journal.block_count == 64
    with pytest.raises(CorruptionError):
        journal.read(64)


def test_journal_device_checksum():
    source, _ = device(1024, s_feature_ro_compat=0x400, s_uuid=UUID(int=5).bytes)
    with pytest.raises(ChecksumError):
        JournalDevice(source, Problems("strict"))
    assert JournalDevice(source, Problems("off")).uuid == UUID(int=5)


# Overlay


def overlay_of(count: int, size: int = 1024) -> tuple[Overlay, MemoryJournal]:
    journal = MemoryJournal([bytearray(number.to_bytes(4, "big").ljust(size, b"\0")) for number in range(count)])
    return Overlay(journal, {100 + number: number << 1 | number % 2 for number in range(count)}), journal


def test_overlay_reads_when_asked():
    overlay, journal = overlay_of(10)
    assert journal.reads == 0
    assert len(overlay) == 10
    assert list(overlay) == list(range(100, 110))
    assert 105 in overlay
    assert 110 not in overlay
    assert overlay[104][:4] == b"\0\0\0\4"
    assert overlay[105][:4] == JBD2_MAGIC_BYTES
    assert overlay[105][:4] == JBD2_MAGIC_BYTES
    assert journal.reads == 2
    with pytest.raises(KeyError):
        overlay[110]


def test_overlay_holds_few_blocks(monkeypatch):
    monkeypatch.setattr(overlay_module, "CACHE_BYTES", 8 * 1024)
    overlay, _ = overlay_of(100)
    for pblk in overlay:
        overlay[pblk]
    assert len(overlay._cache) <= 8


def test_patches_come_before_the_log():
    overlay, _ = overlay_of(3)
    patched = overlay.patched_with({101: b"p", 500: b"q"})
    assert (patched[101], patched[500], len(patched)) == (b"p", b"q", 4)
    assert list(patched) == [100, 101, 102, 500]
    assert overlay[101] != b"p"
    assert overlay.patched_with({}) is overlay
    assert not Overlay()


def test_draft_shows_what_was_written():
    overlay, _ = overlay_of(3)
    draft = Draft(overlay)
    draft.write(101, b"p")
    draft.write(500, b"q")
    assert (draft[101], draft[500], draft[100]) == (b"p", b"q", overlay[100])
    assert list(draft) == [100, 101, 102, 500]
    assert len(draft) == 4
    assert 500 in draft
    assert 501 not in draft


def test_draft_is_bounded(monkeypatch):
    monkeypatch.setattr(overlay_module, "MAX_PATCHED_BYTES", 10_000)
    draft = Draft({})
    for _ in range(100):
        draft.write(7, bytes(1000))
    with pytest.raises(LimitError):
        for pblk in range(100):
            draft.write(pblk, bytes(1000))
