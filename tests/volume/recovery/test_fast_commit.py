"""Fast commits: what is found, what is left over, what is damaged; and single tags upon a real image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google_crc32c import extend
from hypothesis import given, settings
from hypothesis import strategies as st

from ext4img.errors import CorruptionError, Ext4Error, LimitError, UnsupportedFeatureError
from ext4img.sources import BytesSource
from ext4img.structs import fast_commit as fc
from ext4img.structs.extent import EXT4_EXTENT
from ext4img.structs.inode import EXT4_EXTENTS_FL, EXT4_INODE, EXT4_INODE_EXTRA
from ext4img.volume import checksum
from ext4img.volume.problems import Problems
from ext4img.volume.recovery import overlay
from ext4img.volume.recovery.editor import RecoveryEditor
from ext4img.volume.recovery.fast_commit import replay_fast_commits, scan_fast_commits
from ext4img.volume.recovery.journal import JournalIncompat, read_journal_superblock
from ext4img.volume.recovery.overlay import Draft
from ext4img.volume.recovery.recovery_report import FastCommits
from ext4img.volume.volume import Volume
from tests.volume.recovery.journal_log import Log

MASK = 0xFFFFFFFF
AREA = 48  # blocks
SEQUENCE = 77


def tag(kind: int, value: bytes = b"") -> bytes:
    return fc.EXT4_FC_TL.pack((kind, len(value))) + value


def head(sequence: int = SEQUENCE, features: int = 0) -> bytes:
    return tag(fc.EXT4_FC_TAG_HEAD, fc.EXT4_FC_HEAD.pack((features, sequence)))


def names(kind: int, parent: int, number: int, name: bytes) -> bytes:
    return tag(kind, fc.EXT4_FC_DENTRY_INFO.pack((parent, number)) + name)


def add_range(number: int, lblk: int, pblk: int, length: int) -> bytes:
    extent = EXT4_EXTENT.pack((lblk, length, pblk >> 32, pblk & MASK))
    return tag(fc.EXT4_FC_TAG_ADD_RANGE, fc.EXT4_FC_ADD_RANGE.pack((number, extent)))


def remove_range(number: int, lblk: int, length: int) -> bytes:
    return tag(fc.EXT4_FC_TAG_DEL_RANGE, fc.EXT4_FC_DEL_RANGE.pack((number, lblk, length)))


def inode(number: int, raw: bytes) -> bytes:
    return tag(fc.EXT4_FC_TAG_INODE, fc.EXT4_FC_INODE.pack((number,)) + raw)


class Area:
    """The fast commit area of a log, written commit by commit."""

    def __init__(self, block_size: int = 1024) -> None:
        incompat = JournalIncompat.FAST_COMMIT | JournalIncompat.BIT64
        self.log = Log(blocks=128, block_size=block_size, incompat=incompat, fast_commit_blocks=AREA)
        self.next = 128 - AREA + 1
        self.size = block_size

    def commit(self, *tags: bytes, sequence: int = SEQUENCE, crc: int | None = None) -> None:
        """One commit: tags, what pads them, the TAIL; each commit begins in a block of its own."""
        self.blocks([*tags], sequence, crc)

    def blocks(self, tags: list[bytes], sequence: int, crc: int | None) -> None:
        sofar = b""
        block = b""
        for one in tags:
            if len(block) + len(one) > self.size - 16:
                padded = block + tag(fc.EXT4_FC_TAG_PAD, bytes(self.size - len(block) - 4))
                sofar += padded
                self.put(padded)
                block = b""
            block += one
        pad = self.size - len(block) - 4 - fc.EXT4_FC_TAIL.size
        start = fc.EXT4_FC_TL.pack((fc.EXT4_FC_TAG_TAIL, fc.EXT4_FC_TAIL.size + pad)) + sequence.to_bytes(4, "little")
        computed = extend(MASK, sofar + block + start) ^ MASK  # from 0, without inversions
        stored = computed if crc is None else crc
        self.put(block + start + stored.to_bytes(4, "little"))

    def put(self, data: bytes) -> None:
        self.log.blocks[self.next][: len(data)] = data
        self.next += 1

    def scan(self, checks: Any = "strict") -> tuple[FastCommits, Problems]:
        problems = Problems(checks)
        journal = self.log.journal()
        superblock = read_journal_superblock(journal, problems)
        return scan_fast_commits(journal, superblock, SEQUENCE, 256, problems), problems


PADDING = tag(fc.EXT4_FC_TAG_PAD, bytes(20))


# What is found


def test_commits_one_after_another():
    area = Area()
    area.commit(head(), names(fc.EXT4_FC_TAG_LINK, 2, 12, b"one"))
    area.commit(add_range(12, 0, 500, 10), add_range(12, 10, 600, 0x8000 + 5))
    found, problems = area.scan()
    assert found == FastCommits(2, 6, ((500, 510), (600, 605)))
    assert not problems


def test_a_commit_over_several_blocks():
    area = Area()
    area.commit(head(), *[names(fc.EXT4_FC_TAG_LINK, 2, 12, b"n" * 200)] * 12)
    found, _ = area.scan()
    assert found.commits == 1
    assert found.tags == 1 + 12 + 2 + 1  # HEAD, names, two PADs, TAIL


def test_an_area_that_does_not_begin_with_a_head():
    area = Area()
    assert area.scan()[0] == FastCommits()
    area.commit(names(fc.EXT4_FC_TAG_LINK, 2, 12, b"one"))
    assert area.scan()[0] == FastCommits()


def test_commits_from_before_a_full_one():
    """Their HEAD carries an older number; the kernel stops there without a word."""
    area = Area()
    area.commit(head(SEQUENCE - 1), PADDING, sequence=SEQUENCE - 1)
    found, problems = area.scan()
    assert found == FastCommits()
    assert not problems


def test_commits_left_over_behind_valid_ones():
    area = Area()
    area.commit(head(), PADDING)
    area.commit(PADDING, sequence=SEQUENCE - 1)
    found, problems = area.scan()
    assert found.commits == 1
    assert not problems


def test_a_commit_behind_the_end_is_told():
    """The kernel stops as above. But nothing of this number can stand there, unless what is before it is damaged."""
    area = Area()
    area.commit(head(), PADDING)
    area.commit(PADDING, sequence=SEQUENCE - 1)
    area.commit(PADDING)
    found, problems = area.scan()
    assert found.commits == 1
    assert ["ends behind them" in str(problem) for problem in problems] == [True]


def test_garbage_behind_valid_commits_is_left_over():
    area = Area()
    area.commit(head(), PADDING)
    area.put(b"\xff" * 1024)
    found, problems = area.scan()
    assert found.commits == 1
    assert not problems


def test_a_commit_that_was_interrupted_is_told_and_not_raised():
    area = Area()
    area.commit(head(), PADDING)
    area.commit(PADDING, crc=1)
    found, problems = area.scan()
    assert found.commits == 1
    assert "checksum" in problems[0].reason


@pytest.mark.parametrize("damage", ["crc", "sequence", "tag", "length"])
def test_damage_before_any_valid_commit(damage):
    """The kernel refuses to mount: ext4_fc_replay_scan returns an error."""
    area = Area()
    if damage == "crc":
        area.commit(head(), PADDING, crc=1)
    elif damage == "sequence":
        area.commit(head(), PADDING, sequence=SEQUENCE + 1)
    elif damage == "tag":
        area.commit(head(), tag(99, b"?"))
    else:
        area.put(head() + fc.EXT4_FC_TL.pack((fc.EXT4_FC_TAG_PAD, 60_000)))
    with pytest.raises(CorruptionError):
        area.scan()
    found, problems = area.scan("report")
    assert found == FastCommits()
    assert len(problems) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        tag(fc.EXT4_FC_TAG_ADD_RANGE, bytes(15)),
        tag(fc.EXT4_FC_TAG_DEL_RANGE, bytes(13)),
        tag(fc.EXT4_FC_TAG_LINK, bytes(8)),
        tag(fc.EXT4_FC_TAG_LINK, bytes(8 + 256)),
        tag(fc.EXT4_FC_TAG_INODE, bytes(4 + 127)),
        tag(fc.EXT4_FC_TAG_INODE, bytes(4 + 257)),
        tag(fc.EXT4_FC_TAG_TAIL, bytes(7)),
        tag(fc.EXT4_FC_TAG_HEAD, bytes(9)),
    ],
)
def test_lengths_that_do_not_fit_their_tag(wrong):
    """Kernel: ext4_fc_value_len_isvalid."""
    area = Area()
    area.put(head() + wrong)
    with pytest.raises(CorruptionError, match="bytes"):
        area.scan()


def test_unknown_features_are_refused():
    area = Area()
    area.commit(head(features=4))
    with pytest.raises(UnsupportedFeatureError, match="0x4"):
        area.scan("report")


def test_checksums_do_not_count_when_off():
    area = Area()
    area.commit(head(), PADDING, crc=1)
    assert area.scan("off")[0].commits == 1


def test_tags_are_counted(monkeypatch):
    monkeypatch.setattr("ext4img.volume.recovery.fast_commit.MAX_TAGS", 10)
    area = Area()
    area.commit(head(), PADDING)
    area.commit(*[PADDING] * 20)
    found, problems = area.scan()
    assert found.commits == 1
    assert "more than 10" in problems[0].reason


# What tags do, upon a real image


class Upon:
    """A fixture's volume, and tags to be replayed upon it."""

    def __init__(self, image: bytes, checks: Any = "strict") -> None:
        self.source = BytesSource(image, "image")
        self.before = Volume(self.source, journal="ignore")
        self.area = Area()
        self.problems = Problems(checks)
        self.files = self.listing(self.before)

    def replay(self, *tags: bytes) -> Volume:
        self.area.commit(head(), *tags)
        found, _ = self.area.scan()
        draft = Draft({})
        superblock = self.before.superblock
        seed = checksum.filesystem_seed(superblock.uuid, superblock.checksum_seed)
        editor = RecoveryEditor(self.source, superblock, seed, draft, self.problems, found.ranges)
        journal = self.area.log.journal()
        replay_fast_commits(journal, read_journal_superblock(journal, self.problems), found, editor)
        after = Volume(self.source, journal="ignore")
        after.blocks.overlay = draft.patches
        return after

    def listing(self, volume: Volume, number: int = 2) -> dict[bytes, int]:
        return {entry.name: entry.inode for entry in volume.directory(volume.inode(number))}


@pytest.fixture
def upon(fixture_image: Callable[[str], Any]) -> Upon:
    return Upon(fixture_image("ext4-cut").path.read_bytes())


def test_link_and_unlink(upon):
    number = upon.files[b"whole"]
    after = upon.replay(
        names(fc.EXT4_FC_TAG_LINK, 2, number, b"second"), names(fc.EXT4_FC_TAG_UNLINK, 2, number, b"whole")
    )
    assert upon.listing(after).get(b"second") == number
    assert b"whole" not in upon.listing(after)
    assert after.inode(number).links == 1


def test_a_link_that_is_there_already(upon):
    number = upon.files[b"whole"]
    after = upon.replay(names(fc.EXT4_FC_TAG_LINK, 2, number, b"whole"))
    assert after.inode(number).links == 1
    assert upon.listing(after) == upon.listing(upon.before)


def test_the_last_unlink_deletes(upon):
    number = upon.files[b"whole"]
    after = upon.replay(names(fc.EXT4_FC_TAG_UNLINK, 2, number, b"whole"))
    gone = after.inode(number)
    assert (gone.links, gone.size, gone.sectors) == (0, 0, 0)
    assert gone.dtime
    assert after.runs(gone) == ()


def test_a_name_that_belongs_to_another_inode_stays(upon):
    """Kernel: skip_remove_dentry; the link count goes down all the same."""
    number, other = upon.files[b"whole"], upon.files[b"tree"]
    after = upon.replay(names(fc.EXT4_FC_TAG_LINK, 2, other, b"x"), names(fc.EXT4_FC_TAG_UNLINK, 2, other, b"whole"))
    assert upon.listing(after)[b"whole"] == number
    assert after.inode(other).links == 1


def test_names_of_inodes_that_are_not_in_use_are_passed_over(upon):
    after = upon.replay(
        names(fc.EXT4_FC_TAG_LINK, 2, 100, b"ghost"),
        names(fc.EXT4_FC_TAG_UNLINK, 2, 100, b"whole"),
        names(fc.EXT4_FC_TAG_LINK, 2, 0, b"zero"),
        names(fc.EXT4_FC_TAG_LINK, 2, MASK, b"far"),
        names(fc.EXT4_FC_TAG_LINK, 100, upon.files[b"whole"], b"nowhere"),
        add_range(100, 0, 500, 1),
        remove_range(100, 0, 1),
    )
    assert upon.listing(after) == upon.listing(upon.before)
    assert not upon.problems


def mapping(volume: Volume, number: int) -> dict[int, tuple[int, int]]:
    """Logical block → (physical block, state)."""
    runs = volume.runs(volume.inode(number))
    return {run.lblk + at: (run.pblk + at, run.state) for run in runs for at in range(run.length)}


def test_ranges(upon):
    number = upon.files[b"whole"]
    expected = mapping(upon.before, number)
    assert sorted(expected) == list(range(20))
    after = upon.replay(
        remove_range(number, 5, 5),
        add_range(number, 7, 3000, 1),
        add_range(number, 8, 3001, 0x8000 + 1),
        remove_range(number, 15, 0x7FFFFFFF),
        remove_range(number, 0x80000000, 0x7FFFFFFF),
        add_range(number, 100, 3500, 2),
        add_range(number, 12, 3600, 1),
        remove_range(number, 3, 0),
    )
    for lblk in (5, 6, 9, *range(15, 20)):
        del expected[lblk]
    expected |= {7: (3000, 0), 8: (3001, 1), 12: (3600, 0), 100: (3500, 0), 101: (3501, 0)}
    assert mapping(after, number) == expected


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.integers(0, 40), st.integers(1, 20), st.integers(1200, 3900), st.booleans()),
        max_size=40,
    )
)
def test_ranges_in_any_order(fixture_image, steps):
    """Against a dictionary of blocks."""
    upon = Upon(fixture_image("ext4-cut").path.read_bytes())
    number = upon.files[b"whole"]
    expected = mapping(upon.before, number)
    tags = []
    for adds, lblk, length, pblk, unwritten in steps:
        if adds:
            tags.append(add_range(number, lblk, pblk, length + (0x8000 if unwritten else 0)))
            expected |= {lblk + at: (pblk + at, int(unwritten)) for at in range(length)}
        else:
            tags.append(remove_range(number, lblk, length))
            expected = {at: found for at, found in expected.items() if not lblk <= at < lblk + length}
    assert mapping(upon.replay(*tags), number) == expected


def test_a_tree_of_many_extents_grows_levels(upon):
    number = upon.files[b"whole"]
    added = {2 * at + 100: (1200 + 3 * at % 2000, 0) for at in range(500)}
    after = upon.replay(*[add_range(number, lblk, pblk, 1) for lblk, (pblk, _) in added.items()])
    assert mapping(after, number) == mapping(upon.before, number) | added
    assert int.from_bytes(after.inode(number).block_area[6:8], "little") == 2  # eh_depth


@pytest.mark.parametrize("pblk", [0, 1, 4095, 1 << 40])
def test_ranges_outside_the_volume(upon, pblk):
    number = upon.files[b"whole"]
    with pytest.raises(CorruptionError, match="a range of blocks"):
        upon.replay(add_range(number, 0, pblk, 2))
    upon.problems.checks = "report"
    after = upon.replay(add_range(number, 0, pblk, 2))
    assert after.runs(after.inode(number)) == upon.before.runs(upon.before.inode(number))
    assert upon.problems


def test_an_inode_is_made_and_named(upon):
    """In the order of the kernel: inode, ranges, name; the inode's place was never initialised."""
    record = EXT4_INODE.build(
        {"i_mode": 0o100600, "i_size_lo": 1500, "i_links_count": 1, "i_flags": EXT4_EXTENTS_FL, "i_generation": 7}
    )
    raw = record + EXT4_INODE_EXTRA.build({"i_extra_isize": 32})
    after = upon.replay(
        inode(60, raw), add_range(60, 0, 3000, 2), names(fc.EXT4_FC_TAG_CREAT, 2, 60, b"new"), inode(60, raw)
    )
    made = after.inode(60)
    assert upon.listing(after)[b"new"] == 60
    assert (made.mode, made.size, made.links, made.generation, made.sectors) == (0o100600, 1500, 1, 7, 4)
    assert [tuple(run) for run in after.runs(made)] == [(0, 3000, 2, 0)]
    assert 60 in [found.number for found in after.inodes.scan()]


def test_names_in_what_is_no_directory(upon):
    with pytest.raises(CorruptionError, match="not a directory"):
        upon.replay(names(fc.EXT4_FC_TAG_LINK, upon.files[b"whole"], upon.files[b"tree"], b"x"))


def test_recovery_is_bounded(upon, monkeypatch):
    monkeypatch.setattr(overlay, "MAX_PATCHED_BYTES", 2048)
    tags = [names(fc.EXT4_FC_TAG_LINK, 2, upon.files[b"whole"], b"n" * 200 + b"%d" % number) for number in range(40)]
    with pytest.raises(LimitError):
        upon.replay(*tags)
    upon.problems.checks = "report"
    upon.area = Area()
    upon.replay(*tags)
    assert "only partly" in str(upon.problems[-1])


kinds = st.sampled_from([1, 2, 3, 4, 5, 6])
numbers = st.one_of(st.sampled_from([0, 1, 2, 8, 11, 12, 13, 14, 15, 60, 128, 129, MASK]), st.integers(0, MASK))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_tags_at_all(fixture_image, data):
    """Well-formed commits of anything: recovery ends, and the volume can be listed after it."""
    tags = []
    for _ in range(data.draw(st.integers(1, 12))):
        kind, number = data.draw(kinds), data.draw(numbers)
        if kind == fc.EXT4_FC_TAG_ADD_RANGE:
            lblk, length = data.draw(st.integers(0, MASK)), data.draw(st.integers(0, 0xFFFF))
            tags.append(add_range(number, lblk, data.draw(numbers), length))
        elif kind == fc.EXT4_FC_TAG_DEL_RANGE:
            tags.append(remove_range(number, data.draw(st.integers(0, MASK)), data.draw(st.integers(0, MASK))))
        elif kind == fc.EXT4_FC_TAG_INODE:
            tags.append(inode(number, data.draw(st.binary(min_size=128, max_size=256))))
        else:
            name = data.draw(st.sampled_from([b"whole", b"tree", b"new", b".", b"..", b"\0", b"x" * 255]))
            tags.append(names(kind, data.draw(numbers), number, name))
    upon = Upon(fixture_image("ext4-cut").path.read_bytes(), "report")
    after = upon.replay(*tags)
    after.problems.checks = "report"
    for found in after.inodes.scan():
        try:
            after.runs(found)
            if found.is_dir:
                after.directory(found)
        except Ext4Error:
            continue
