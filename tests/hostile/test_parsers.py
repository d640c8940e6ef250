"""Parsers of one structure each, given any bytes: they raise Ext4Error, note problems, and come to an end."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ext4img.errors import CorruptionError, Ext4Error, Place
from ext4img.sources import BytesSource
from ext4img.structs.superblock import EXT4_SUPER_BLOCK, EXT4_SUPER_MAGIC
from ext4img.volume.blocks import BlockReader
from ext4img.volume.check.block_owners import BlockOwners
from ext4img.volume.dir_block import DirectoryFormat, parse_entries, verify_block
from ext4img.volume.groups import Groups
from ext4img.volume.htree import HashTree
from ext4img.volume.inode import InodeFormat, from_raw
from ext4img.volume.mapping import HOLE, LBLK_END, LOST, Mapper
from ext4img.volume.problems import Problems
from ext4img.volume.superblock import Superblock, parse_superblock
from ext4img.volume.xattr import XattrKey, parse_inline, parse_xattr_block, visible

FORM = InodeFormat(256, 1024, True, True, False, True)
MODES = st.sampled_from(["report", "off", "strict"])
words = st.integers(0, 0xFFFFFFFF)


def superblock() -> Superblock:
    """A sound one: 64 blocks of 1 KiB, no features but extents and filetype."""
    raw = EXT4_SUPER_BLOCK.build(
        {
            "s_inodes_count": 32, "s_blocks_count_lo": 64, "s_first_data_block": 1, "s_blocks_per_group": 8192,
            "s_inodes_per_group": 32, "s_magic": EXT4_SUPER_MAGIC, "s_rev_level": 1, "s_first_ino": 11,
            "s_inode_size": 128, "s_feature_incompat": 0x42,
        }
    )  # fmt: skip
    return parse_superblock(raw, 1024, Problems("strict"))


SUPERBLOCK = superblock()


@given(st.dictionaries(st.sampled_from([field.name for field in EXT4_SUPER_BLOCK.fields]), words), MODES)
def test_superblock(changes, checks):
    record = EXT4_SUPER_BLOCK.unpack(bytes(1024))
    values = {name: value for name, value in changes.items() if isinstance(getattr(record, name), int)}
    sizes = {field.name: field.size for field in EXT4_SUPER_BLOCK.fields}
    values = {name: value & ((1 << 8 * sizes[name]) - 1) for name, value in values.items()}
    raw = EXT4_SUPER_BLOCK.build({**values, "s_magic": EXT4_SUPER_MAGIC})
    try:
        found = parse_superblock(raw, 1024, Problems(checks))
    except Ext4Error:
        return
    assert 1024 <= found.block_size <= 65536
    assert 0 < found.group_count <= 1 << 32
    assert found.inode_size <= found.block_size


@given(st.binary(min_size=256, max_size=256))
def test_inode(raw):
    try:
        inode = from_raw(12, raw, FORM)
    except CorruptionError as error:
        assert error.place.inode == 12
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
def test_directory_checksums(data):
    try:
        verify_block(data, DirectoryFormat(12, 1, True, False, 100), 5)
    except CorruptionError as error:
        assert error.place.block == 5


@given(st.binary(min_size=64, max_size=1024), st.booleans(), words)
def test_index(data, large_dir, major):
    dots = b"\x0c\0\0\0\x0c\0\x01\x02.\0\0\0\x02\0\0\0\xf4\x03\x02\x02..\0\0"
    block = (dots + bytes(4) + data[:4] + data).ljust(1024, b"\0")
    try:
        tree = HashTree(12, lambda lblk: block[:1024], False, large_dir)
        assert len(set(tree.blocks(major))) <= 1024
    except CorruptionError as error:
        assert error.place.inode == 12


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


@given(st.binary(min_size=32, max_size=32), MODES)
def test_descriptor(raw, checks):
    data = bytes(2048) + raw + bytes(65536 - 2048 - 32)
    blocks = BlockReader(BytesSource(data), 1024, 64)
    try:
        group = Groups(SUPERBLOCK, blocks, 0, Problems(checks))[0]
    except Ext4Error:
        return
    assert 0 < group.inode_table < 64


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 20), st.integers(1, 5)), max_size=30), st.integers(1, 4))
def test_claims(runs, unit):
    claims = BlockOwners()
    owners: dict[int, list[int]] = {}
    for start, count, owner in runs:
        claims.add(start, count, owner)
        for block in range(start, start + count):
            owners.setdefault(block, []).append(owner)
    starts, ends = claims.used(unit, 0)
    used = {unit_ for start, end in zip(starts.tolist(), ends.tolist(), strict=True) for unit_ in range(start, end)}
    assert used == {block // unit for block in owners}
    twice = {block for block, them in owners.items() if len(them) > 1}
    told = {block for overlap in claims.overlaps() for block in range(overlap.start, overlap.end)}
    assert told == twice
