"""Blocks of directory entries: three ways through them that must agree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ext4img.volume.dir_block import DirectoryFormat, find_entry, parse_block, parse_entries
from ext4img.volume.dir_entry import DirEntry, DirListing
from ext4img.volume.problems import Problems

FORM = DirectoryFormat(12, None, True, False, 1000)
SIZE = 1024


def entry(inode: int, name: bytes, rec_len: int | None = None, kind: int = 1) -> bytes:
    need = 8 + (len(name) + 3 & ~3)
    length = need if rec_len is None else rec_len
    header = inode.to_bytes(4, "little") + length.to_bytes(2, "little") + bytes((len(name), kind))
    return (header + name).ljust(length, b"\0")


def parsed(block: bytes, problems: Problems) -> list[DirEntry]:
    listing = DirListing()
    parse_block(block, FORM, problems, 5, listing)
    entries = listing.entries()
    assert all(type(found) is DirEntry for found in entries)
    assert [entries[at].file_type in (0, 2) for at in listing.branches()] == [True] * len(listing.branches())
    assert sum(found.file_type in (0, 2) for found in entries) == len(listing.branches())
    return entries


names = st.binary(min_size=1, max_size=40).filter(lambda name: name not in (b".", b".."))
slots = st.tuples(st.integers(0, 1000), names, st.integers(0, 3), st.integers(0, 7))


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    block = b""
    for inode, name, slack, kind in draw(st.lists(slots, max_size=30)):
        made = entry(inode, name, 8 + (len(name) + 3 & ~3) + 4 * slack, kind)
        if len(block) + len(made) > SIZE - 12:
            break
        block += made
    return block + entry(0, b"", SIZE - len(block))


@given(blocks())
def test_the_quick_way_is_the_careful_one(block: bytes):
    careful = list(parse_entries(block, 0, FORM, Problems("strict"), None))
    assert parsed(block, Problems("strict")) == careful
    for found in careful:
        first = next(other for other in careful if other.name == found.name)
        assert find_entry(block, found.name, FORM, Problems("strict")) == first
    assert find_entry(block, b"\xff" * 41, FORM, Problems("strict")) is None


odd_names = st.sampled_from([b"", b".", b"..", b"a", b"name"])
odd_slots = st.tuples(
    st.sampled_from([0, 1, 2, 1000, 1001]), odd_names, st.integers(0, 2), st.sampled_from([0, 1, 2, 7, 8, 222])
)


@given(st.lists(odd_slots, max_size=12), st.booleans(), st.integers(0, 12))
def test_the_quick_way_refuses_what_the_careful_one_does(
    slots: list[tuple[int, bytes, int, int]], dots: bool, tail: int
):
    block = entry(2, b".") + entry(2, b"..") if dots else b""
    for inode, name, slack, kind in slots:
        block += entry(inode, name, 12 + (len(name) + 3 & ~3) + 4 * slack, kind)
    block += entry(0, b"", SIZE - len(block) - tail)[: SIZE - len(block)]
    block = block.ljust(SIZE, b"\0")
    quick, careful = Problems("report"), Problems("report")
    assert parsed(block, quick) == list(parse_entries(block, 0, FORM, careful, 5))
    assert list(quick) == list(careful)


@given(st.binary(min_size=SIZE, max_size=SIZE))
def test_noise_is_reported_alike(noise: bytes):
    block = (entry(2, b".") + entry(12, b"sound") + noise)[:SIZE]
    quick, careful = Problems("report"), Problems("report")
    assert parsed(block, quick) == list(parse_entries(block, 0, FORM, careful, 5))
    assert list(quick) == list(careful)


@given(
    st.integers(3, 12), st.integers(0, 60), st.integers(0, 2), st.booleans(),
    st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(0, 255)), max_size=2),
)  # fmt: skip
def test_names_that_count_up(length: int, count: int, kind: int, dots: bool, edits: list[tuple[int, int]]):
    """Entries that are alike are read as a table, up to the first that differs, wherever that is."""
    block = entry(2, b".", kind=2) + entry(2, b"..", kind=2) if dots else b""
    for number in range(count):
        made = entry(number % 7 and number + 11, b"%0*d" % (length, number % 10**length), kind=kind)
        if len(block) + len(made) > SIZE - 12:
            break
        block += made
    damaged = bytearray(block + entry(0, b"", SIZE - len(block), 0))
    for at, byte in edits:
        damaged[at] = byte
    quick, careful = Problems("report"), Problems("report")
    assert parsed(bytes(damaged), quick) == list(parse_entries(bytes(damaged), 0, FORM, careful, 5))
    assert list(quick) == list(careful)


def test_a_name_inside_a_name_is_none():
    """What looks like an entry inside another's name, or in the slack behind it, is not one."""
    hidden = entry(11, b"evil")
    block = entry(10, b"abc\x01" + hidden) + entry(12, b"x", 12 + len(hidden))[:12] + hidden
    block += entry(0, b"", SIZE - len(block))
    assert find_entry(block, b"evil", FORM, Problems("strict")) is None
    assert [found.inode for found in parsed(block, Problems("strict"))] == [10, 12]


def test_a_name_whose_entry_is_damaged_is_not_found():
    """ext4_check_dir_entry, which ext4_search_dir calls for the entry whose name fits."""
    for rec_len in (0, 8, 13, 18, SIZE - 32, SIZE - 28, SIZE - 20, SIZE, 0xFFFC):
        block = (entry(2, b"a", 12) + entry(2, b"b", 12) + entry(3, b"name", 16)).ljust(SIZE, b"\0")
        block = block[:28] + rec_len.to_bytes(2, "little") + block[30:]
        quick, careful = Problems("report"), Problems("report")
        assert find_entry(block, b"name", FORM, quick) is None
        assert b"name" not in [found.name for found in parse_entries(block, 0, FORM, careful, None)]
        assert list(quick) == list(careful) != []
        assert find_entry(block, b"b", FORM, Problems("strict")) == DirEntry(b"b", 2, 1, b"")
