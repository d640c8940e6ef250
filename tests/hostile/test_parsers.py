"""Parsers of one structure each, given any bytes: they raise Ext4Error, note problems, and come to an end."""

from __future__ import annotations

from struct import pack

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ext4img.errors import CorruptionError, Ext4Error, Place
from ext4img.sources import BytesSource
from ext4img.structs.directory import DX_COUNTLIMIT, DX_ENTRY, DX_ROOT_INFO
from ext4img.structs.superblock import EXT4_SUPER_BLOCK, EXT4_SUPER_MAGIC
from ext4img.volume.blocks import BlockReader
from ext4img.volume.check.block_owners import BlockOwners
from ext4img.volume.checksum import directory_block
from ext4img.volume.dir_block import DirectoryFormat, leaf_tail, parse_entries, verify_block
from ext4img.volume.groups import Groups
from ext4img.volume.htree import HashTree
from ext4img.volume.inode import InodeFormat, from_raw
from ext4img.volume.mapping import Mapper
from ext4img.volume.problems import Problems
from ext4img.volume.runs import HOLE, LBLK_END, LOST
from ext4img.volume.superblock import parse_superblock
from ext4img.volume.xattr import XattrKey, parse_inline, parse_xattr_block, visible

FORM = InodeFormat(256, 1024, True, True, False, True)
CHECKED = DirectoryFormat(12, 1, True, False, 100)
MODES = st.sampled_from(["report", "off", "strict"])
words = st.integers(0, 0xFFFFFFFF)


# 64 blocks of 1 KiB, no features but extents and filetype.
SOUND = {
    "s_inodes_count": 32, "s_blocks_count_lo": 64, "s_first_data_block": 1, "s_blocks_per_group": 8192,
    "s_inodes_per_group": 32, "s_magic": EXT4_SUPER_MAGIC, "s_rev_level": 1, "s_first_ino": 11,
    "s_inode_size": 128, "s_feature_incompat": 0x42,
}  # fmt: skip
SUPERBLOCK = parse_superblock(EXT4_SUPER_BLOCK.build(SOUND), 1024, Problems("strict"))
NUMBERS = {field.name: field.size for field in EXT4_SUPER_BLOCK.fields if not field.code.endswith("s")}


@given(
    st.dictionaries(st.sampled_from(sorted(NUMBERS)), st.one_of(st.integers(0, 64), words), max_size=3),
    MODES,
)
@example({}, "strict")
def test_superblock(changes, checks):
    """Few fields of a sound one are changed: many changes are refused, whatever the others say."""
    values = {name: value & ((1 << 8 * NUMBERS[name]) - 1) for name, value in changes.items()}
    raw = EXT4_SUPER_BLOCK.build({**SOUND, **values, "s_magic": EXT4_SUPER_MAGIC})
    try:
        found = parse_superblock(raw, 1024, Problems(checks))
    except Ext4Error:
        assert changes
        return
    assert 1024 <= found.block_size <= 65536
    assert 0 < found.group_count <= 1 << 32
    assert found.inode_size <= found.block_size


@given(
    st.binary(min_size=256, max_size=256), st.one_of(st.integers(0, 0xFFFF), st.integers(0, 32).map(lambda n: 4 * n))
)
@example(bytes(256), 32)
def test_inode(raw, extra_size):
    raw = raw[:128] + extra_size.to_bytes(2, "little") + raw[130:]
    try:
        inode = from_raw(12, raw, FORM)
    except CorruptionError as error:
        assert error.place.inode == 12
        assert extra_size % 4 or extra_size > 128
        return
    assert inode.type
    assert inode.mode_string
    assert inode.rdev is None or len(inode.rdev) == 2


@given(st.binary(min_size=60, max_size=60), st.integers(0, 1), words, st.binary(max_size=200), MODES)
@settings(max_examples=300)
def test_mapping(area, extents, size, rest, checks):
    if extents:  # let many get past the header
        area = b"\x0a\xf3" + area[2:3] + b"\0\x04\0" + area[6:7] + b"\0" + area[8:]
    inode = from_raw(12, bytes(256), FORM)._replace(
        mode=0o100644, size=size, flags=0x80000 * extents, block_area=area, links=1, sectors=8
    )
    data = (rest * (65536 // max(len(rest), 1) + 1))[:65536].ljust(65536, b"\0")
    blocks = BlockReader(BytesSource(data), 1024, 64)
    try:
        runs = Mapper(SUPERBLOCK, blocks, 0, Problems(checks)).runs(inode)
    except Ext4Error:
        assert checks == "strict"
        return
    reached = 0
    for run in runs:
        assert run.lblk >= reached
        assert run.length > 0
        assert run.end <= LBLK_END
        assert run.state != HOLE
        assert run.state == LOST or 1 < run.pblk + run.length <= 64
        reached = run.end


NAMES = st.sampled_from([b"a", b"name", b"", b".", b"..", b"x/y", b"\0"])
ENTRIES = st.lists(st.tuples(st.integers(0, 120), NAMES, st.sampled_from([12, 16, 64, 8, 0])), max_size=20)


def directory(entries):
    return b"".join(
        (inode.to_bytes(4, "little") + size.to_bytes(2, "little") + bytes((len(name), 1)) + name).ljust(size, b"\0")
        for inode, name, size in entries
    )


@given(ENTRIES.map(directory), st.binary(max_size=100), st.booleans(), st.booleans(), MODES)
def test_directory_entries(entries, noise, has_filetype, has_hash, checks):
    data = entries + noise  # noise alone ends at its first entry
    form = DirectoryFormat(12, None, has_filetype, has_hash, 100)
    try:
        entries = list(parse_entries(data, 0, form, Problems(checks), 5))
    except CorruptionError as error:
        assert checks == "strict"
        assert error.place.inode == 12
        return
    assert all(0 < entry.inode <= 100 and entry.name not in (b".", b"..", b"") for entry in entries)
    assert sum(len(entry.name) + 8 for entry in entries) <= len(data)


@given(st.binary(min_size=1024, max_size=1024))
def test_any_directory_block(data):
    try:
        verify_block(data, CHECKED, 5)
    except CorruptionError as error:
        assert error.place.block == 5


@given(st.binary(min_size=1012, max_size=1012), st.none() | st.integers(0, 8 * 1024 - 1))
@example(bytes(1012), None)
def test_directory_checksums(data, flipped):
    """A block with the right checksum is taken, and no other."""
    data = data[:4] + (1012).to_bytes(2, "little") + data[6:]  # not the rec_len of an index block
    block = bytearray(data + leaf_tail(directory_block(1, data + leaf_tail(0))))
    if flipped is not None:
        block[flipped // 8] ^= 1 << flipped % 8
    try:
        verify_block(bytes(block), CHECKED, 5)
    except CorruptionError as error:
        assert error.place.block == 5
        assert flipped is not None
    else:
        assert flipped is None


INDEX_ENTRIES = st.lists(st.tuples(words, words), min_size=1, max_size=20)


def index_block(head: bytes, limit: int, entries: list[tuple[int, int]]) -> bytes:
    countlimit = DX_COUNTLIMIT.pack((limit, len(entries))) + entries[0][1].to_bytes(4, "little")
    return (head + countlimit + b"".join(DX_ENTRY.pack(entry) for entry in entries[1:])).ljust(1024, b"\0")


@given(
    INDEX_ENTRIES,
    INDEX_ENTRIES,
    st.integers(0, 7),
    st.integers(0, 4),
    st.integers(0, 130),
    st.booleans(),
    st.booleans(),
    words,
)
@example([(0, 1), (100, 2)], [(0, 3), (50, 4)], 1, 1, 100, False, True, 60)
def test_index(root, node, version, levels, limit, in_order, large_dir, major):
    """An index whose nodes are all the same, of any depth, hashes in any order."""
    if in_order:
        root, node = sorted(root), sorted(node)
    dots = b"\x0c\0\0\0\x0c\0\x01\x02.\0\0\0\x02\0\0\0\xf4\x03\x02\x02..\0\0"
    info = DX_ROOT_INFO.pack((0, version, DX_ROOT_INFO.size, levels, 0))
    first = index_block(dots + info, limit, root)
    other = index_block(b"\0\0\0\0\0\x04\0\0", limit, node)
    try:
        tree = HashTree(12, lambda lblk: other if lblk else first, False, large_dir)
        leaves = list(tree.blocks(major))
    except CorruptionError as error:
        assert error.place.inode == 12
        return
    assert tree.levels < (3 if large_dir else 2)
    assert 1 <= len(leaves) == len(set(leaves)) <= len(root) * len(node) ** tree.levels
    assert set(leaves) <= {lblk & 0x0FFFFFFF for _, lblk in (node if tree.levels else root)}


@given(st.binary(max_size=500), MODES)
def test_attributes(data, checks):
    def no_value(number: int, size: int, key: XattrKey) -> bytes:
        raise CorruptionError("there is none", Place(inode=number))

    for parse in (
        lambda problems: parse_inline(b"\0\0\x02\xea" + data, 12, no_value, problems),
        lambda problems: parse_xattr_block(
            b"\0\0\x02\xea\1\0\0\0\1\0\0\0" + bytes(20) + data, Place(inode=12), no_value, problems
        ),
    ):
        problems = Problems(checks)
        try:
            raw = parse(problems)
            assert sum(map(len, raw.values())) <= len(data) * max(len(raw), 1)
            visible(raw, 12, problems)
        except CorruptionError:
            assert checks == "strict"


@given(st.binary(min_size=20, max_size=20), st.tuples(*[st.one_of(st.integers(0, 70), words)] * 3), MODES)
@example(bytes(20), (5, 6, 7), "strict")
def test_descriptor(rest, places, checks):
    raw = pack("<III", *places) + rest
    data = bytes(2048) + raw + bytes(65536 - 2048 - 32)
    blocks = BlockReader(BytesSource(data), 1024, 64)
    try:
        group = Groups(SUPERBLOCK, blocks, 0, Problems(checks))[0]
    except Ext4Error:
        return
    assert 0 < group.inode_table < 64
    assert checks != "strict" or all(1 < place < 64 for place in places)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 20), st.integers(1, 5)), max_size=30), st.integers(1, 4))
@settings(deadline=None)  # the first example imports numpy
def test_block_owners(runs, unit):
    block_owners = BlockOwners()
    owners: dict[int, list[int]] = {}
    for start, count, owner in runs:
        block_owners.add(start, count, owner)
        for block in range(start, start + count):
            owners.setdefault(block, []).append(owner)
    starts, ends = block_owners.used(unit, 0)
    used = {unit_ for start, end in zip(starts.tolist(), ends.tolist(), strict=True) for unit_ in range(start, end)}
    assert used == {block // unit for block in owners}
    twice = {block for block, them in owners.items() if len(them) > 1}
    reported = {block for overlap in block_owners.overlaps() for block in range(overlap.start, overlap.end)}
    assert reported == twice
