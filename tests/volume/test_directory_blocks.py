"""Blocks of directory entries: three ways through them that must agree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ext4img.volume.directory import DirectoryFormat, find_entry, parse_block, parse_entries
from ext4img.volume.problems import Problems

FORM = DirectoryFormat(12, None, True, False, 1000)
SIZE = 1024


def entry(inode: int, name: bytes, rec_len: int | None = None, kind: int = 1) -> bytes:
    need = 8 + (len(name) + 3 & ~3)
    length = need if rec_len is None else rec_len
    header = inode.to_bytes(4, "little") + length.to_bytes(2, "little") + bytes((len(name), kind))
    return (header + name).ljust(length, b"\0")


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
    assert parse_block(block, FORM, Problems("strict"), None) == careful
    for found in careful:
        first = next(other for other in careful if other.name == found.name)
        assert find_entry(block, found.name, FORM, Problems("strict")) == first
    assert find_entry(block, b"\xff" * 41, FORM, Problems("strict")) is None


@given(st.binary(min_size=SIZE, max_size=SIZE))
def test_noise_is_reported_alike(block: bytes):
    quick, careful = Problems("report"), Problems("report")
    assert parse_block(block, FORM, quick, 5) == list(parse_entries(block, 0, FORM, careful, 5))
    assert list(quick) == list(careful)


def test_a_name_inside_a_name_is_none():
    """What looks like an entry inside another's name, or in the slack behind it, is not one."""
    hidden = entry(11, b"evil")
    block = entry(10, b"abc\x01" + hidden) + entry(12, b"x", 12 + len(hidden))[:12] + hidden
    block += entry(0, b"", SIZE - len(block))
    assert find_entry(block, b"evil", FORM, Problems("strict")) is None
    assert [found.inode for found in parse_block(block, FORM, Problems("strict"), None)] == [10, 12]
