"""Traps that felled readers of ext4: impossible values that stand where everybody believes them.

Each is set in a sound image, with checksums that fit, and met in all modes. Only Ext4Error may come
out, in little time; strict reading refuses what kernels refuse, and report mode reads around it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ext4img
from ext4img.sources import BytesSource
from ext4img.structs.directory import EXT4_DIR_ENTRY
from ext4img.structs.extent import EXT4_EXTENT, EXT4_EXTENT_HEADER
from ext4img.structs.inode import EXT4_EXTENTS_FL, EXT4_INLINE_DATA_FL, EXT4_INODE, S_IFDIR
from ext4img.volume.check import check
from tests.conftest import UnpackedImage
from tests.hostile.editing import EditedImage
from tools.fuzz.exercise import exercise
from tools.fuzz.isolation import run_all

Fixture = Callable[[str], UnpackedImage]
Edit = Callable[[str], EditedImage]
MODES = ("strict", "report", "off")


@pytest.fixture(scope="module")
def edit(fixture_image: Fixture) -> Edit:
    """A copy of a fixture, to be changed."""
    sound: dict[str, EditedImage] = {}

    def copy(name: str) -> EditedImage:
        if name not in sound:
            sound[name] = EditedImage(fixture_image(name).path.read_bytes())
            assert sound[name].sites
            assert sound[name].volume
        return sound[name].copy()

    return copy


def problems_of(image: EditedImage | bytes, read: Callable[[Any], object] | None = None) -> list[str]:
    """What report mode notes while everything is read; and nothing but Ext4Error in the other modes."""
    exercise(BytesSource(bytes(image)), (), ("off", "strict"))
    with ext4img.open(bytes(image), checks="report") as fs:
        for _, inode in fs.walk():
            inode.xattrs()
            if inode.is_symlink:
                inode.readlink()
            elif inode.is_file:
                inode.runs()
        if read:
            read(fs)
        check(fs.volume)
        return [str(problem) for problem in fs.problems]


def assert_told(image: EditedImage | bytes, *words: str) -> None:
    """Some problem has all of these words."""
    problems = problems_of(image)
    assert any(all(word in problem for word in words) for problem in problems), problems[:20]


def assert_strict_refuses(image: EditedImage | bytes, read: Callable[[ext4img.View], object]) -> None:
    with pytest.raises(ext4img.CorruptionError), ext4img.open(bytes(image)) as fs:
        read(fs)


def paths_of(image: EditedImage | bytes, checks: Any = "report") -> set[str]:
    with ext4img.open(bytes(image), checks=checks) as fs:
        return {str(path) for path, _ in fs.walk()}


# Superblock


def test_inode_size_0_in_revision_0_is_128(edit: Edit):
    """Kernel: EXT4_GOOD_OLD_INODE_SIZE in ext4_inode_info_init; revision 0 has no s_inode_size."""
    sound = paths_of(edit("ext2-1k"))
    image = edit("ext2-1k").superblock(s_rev_level=0, s_inode_size=0, s_first_ino=0)
    with ext4img.open(bytes(image)) as fs:
        assert (fs.superblock.inode_size, fs.superblock.first_inode) == (128, 11)
        assert {str(path) for path, _ in fs.walk()} == sound


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("s_log_block_size", 377579286),
        ("s_log_block_size", 0xFFFFFFFF),
        ("s_log_block_size", 7),
        ("s_log_cluster_size", 0xFFFFFFFF),
        ("s_blocks_per_group", 0),
        ("s_blocks_per_group", 0xFFFFFFFF),
        ("s_inodes_per_group", 0),
        ("s_inodes_per_group", 0xFFFFFFFF),
        ("s_inodes_count", 0),
        ("s_blocks_count_lo", 0),
        ("s_blocks_count_lo", 1),
        ("s_blocks_count_lo", 0xFFFFFFFF),
        ("s_blocks_count_hi", 0xFFFFFFFF),
        ("s_first_data_block", 0xFFFFFFFF),
        ("s_inode_size", 0),
        ("s_inode_size", 127),
        ("s_inode_size", 0x8000),
        ("s_desc_size", 0),
        ("s_desc_size", 33),
        ("s_desc_size", 0xFFFF),
        ("s_rev_level", 2),
        ("s_first_ino", 0),
        ("s_reserved_gdt_blocks", 0xFFFF),
        ("s_magic", 0),
        ("s_feature_incompat", 0xFFFFFFFF),
        ("s_feature_incompat", 0x10),
        ("s_checksum_type", 7),
    ],
)
def test_absurd_geometry(edit: Edit, field: str, value: int):
    image = edit("plain-4k").superblock(**{field: value})
    with pytest.raises(ext4img.Ext4Error), ext4img.open(bytes(image)) as fs:
        for _, inode in fs.walk():
            inode.runs()
    exercise(BytesSource(bytes(image)), ())


def test_unknown_features(edit: Edit):
    """Incompatible ones are refused by name, read-only compatible ones told and read, others nobody's business."""
    sound = paths_of(edit("plain-4k"))
    superblock = edit("plain-4k").volume.superblock
    compat, incompat, ro_compat = (int(word) for word in superblock.features)
    with pytest.raises(ext4img.UnsupportedFeatureError, match="FEATURE_I30, FEATURE_I31") as caught:
        ext4img.open(bytes(edit("plain-4k").superblock(s_feature_incompat=incompat | 3 << 30)))
    assert caught.value.names == ("FEATURE_I30", "FEATURE_I31")
    for name, bit in (("compression", 0x1), ("dirdata", 0x1000)):
        with pytest.raises(ext4img.UnsupportedFeatureError, match=name):
            ext4img.open(bytes(edit("plain-4k").superblock(s_feature_incompat=incompat | bit)))
    image = edit("plain-4k").superblock(s_feature_ro_compat=ro_compat | 1 << 31)
    with ext4img.open(bytes(image)) as fs:
        assert {str(path) for path, _ in fs.walk()} == sound
        assert ["FEATURE_R31" in str(problem) for problem in fs.problems] == [True]
    image = edit("plain-4k").superblock(s_feature_compat=compat | 1 << 31)
    with ext4img.open(bytes(image)) as fs:
        assert {str(path) for path, _ in fs.walk()} == sound
        assert not fs.problems


@pytest.mark.parametrize("field", ["s_log_block_size", "s_blocks_per_group", "s_inodes_per_group"])
def test_absurd_geometry_is_read_by_a_backup(edit: Edit, field: str):
    sound = paths_of(edit("ext4-meta-bg"))
    image = edit("ext4-meta-bg").superblock(**{field: 377579286})
    assert paths_of(image) == sound
    assert_told(image, field, "copy in block")


def test_many_groups_of_an_image_cut_short(edit: Edit):
    """A superblock that claims half a billion groups: the work is that of what is there."""
    image = edit("ext2-1k").superblock(
        s_blocks_per_group=8, s_inodes_per_group=8, s_blocks_count_lo=0xFFFFFFF8, s_inodes_count=0xFFFFFFF8
    )
    cut = bytes(image)[: 1 << 20]  # as much as there can be descriptors in
    with pytest.raises(ext4img.Ext4Error), ext4img.open(cut):
        pass
    exercise(BytesSource(cut), ())


def test_journal_device_is_no_file_system(tmp_path: Path):
    if shutil.which("mke2fs") is None:
        pytest.skip("mke2fs is not installed")
    image = tmp_path / "journal"
    subprocess.run(["mke2fs", "-q", "-F", "-O", "journal_dev", "-b", "1024", image, "2048"], check=True)
    for checks in MODES:
        with pytest.raises(ext4img.UnsupportedFeatureError, match="journal_dev") as caught:
            ext4img.open(image, checks=checks)  # type: ignore[arg-type]
        assert caught.value.names == ("journal_dev",)


# Sizes


@pytest.mark.parametrize("low", [0, 0xFFFFFFFF, 0xFFFFF000])
@pytest.mark.parametrize("high", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("path", ["/kinds/setuid", "/symlinks/length-1000", "/symlinks/length-59", "/kinds", "/many"])
def test_sizes_near_the_end_of_numbers(edit: Edit, path: str, low: int, high: int):
    image = edit("plain-4k")
    number = image.number(path)
    image.inode(number, i_size_lo=low, i_size_high=high)
    others = {name for name in paths_of(edit("plain-4k")) if not name.startswith(path)}
    assert others <= paths_of(image)
    is_file = image.volume.inode(number).is_file
    if is_file and high:

        def read_all(fs: ext4img.View) -> bytes:
            return fs.path(path).read_bytes()

        with ext4img.open(bytes(image), checks="off") as fs, pytest.raises(ext4img.LimitError):
            read_all(fs)
        if high >> 31:
            assert_strict_refuses(image, read_all)
    if not is_file or high >> 31:  # a file may be as long as that, and nearly all of it a hole
        assert_told(image, f"inode {number}")


def test_a_symlink_in_the_inode_as_long_as_its_room(edit: Edit):
    """Kernel: "invalid fast symlink length": i_size must be below 60, and the text as long as it says."""
    image = edit("plain-4k")
    number = image.number("/symlinks/length-59")
    for size in (0, 30, 60):
        image.inode(number, i_size_lo=size)
        assert_told(image, f"inode {number}")
        assert_strict_refuses(image, lambda fs: fs.path("/symlinks/length-59").readlink())


# Directories


@pytest.mark.parametrize("rec_len", [0, 1, 8, 11, 13, 4092, 65535])
@pytest.mark.parametrize("name", ["plain-4k", "ext2-1k", "ext4-64k"])
def test_rec_len(edit: Edit, name: str, rec_len: int):
    image = edit(name)
    directory = {"plain-4k": "/kinds", "ext2-1k": "/indirect", "ext4-64k": "/"}[name]
    entries = image.volume.directory(image.volume.inode(image.number(directory)))
    image.entry(directory, entries[1].name, rec_len=rec_len)
    if not (name == "ext4-64k" and rec_len in (0, 65535)):  # there they mean 64 KiB
        assert_strict_refuses(image, lambda fs: list(fs.walk()))
    assert problems_of(image)


@pytest.mark.parametrize("target", ["/", "/kinds", "/kinds/elsewhere"])
def test_entries_that_lead_back(edit: Edit, target: str):
    """A name for the root, for the directory itself, and for one that has a parent already."""
    image = edit("plain-4k")
    back = image.number(target)
    image.entry("/kinds", b"fifo", inode=back, file_type=2)
    assert_strict_refuses(image, lambda fs: list(fs.walk()))
    shown = paths_of(image)
    assert len(shown) < 1000
    assert_told(image, f"inode {back}")


def test_two_parents_are_walked_once(edit: Edit):
    image = edit("plain-4k")
    twin = image.number("/kinds/elsewhere")
    image.entry("/attributes", b"many", inode=twin, file_type=2)
    with ext4img.open(bytes(image), checks="report") as fs:
        below = [str(path) for path, _ in fs.walk() if path.name == "third-name"]
    assert len(below) == 1
    assert_told(image, "two parents", f"inode {twin}")


@pytest.mark.parametrize("name", [b"a/bc", b"\0abc", b"abc\0", b"/../"])
def test_impossible_names(edit: Edit, name: bytes):
    image = edit("plain-4k")
    image.entry("/kinds", b"fifo", name=name)
    assert_strict_refuses(image, lambda fs: list(fs.walk()))
    with ext4img.open(bytes(image), checks="report") as fs:
        names = [path.name for path in fs.path("/kinds").iterdir()]
    assert "elsewhere" in names
    assert not any("/" in shown or "\0" in shown for shown in names)
    assert_told(image, "impossible name", repr(name))


@pytest.mark.parametrize("name", [b".", b".."])
def test_dots_that_are_not_the_first_entries(edit: Edit, name: bytes):
    image = edit("ext2-1k")
    entries = image.volume.directory(image.volume.inode(image.number("/kinds")))
    victim = next(entry.name for entry in entries if len(entry.name) == 4)
    image.entry("/kinds", victim, name=name.ljust(4, b"\0"), name_len=len(name))
    assert paths_of(image) < paths_of(edit("ext2-1k"))
    assert problems_of(image)


@pytest.mark.parametrize("file_type", [8, 0x7F, 0x80, 0xDE, 0xFF])
def test_file_types_above_7(edit: Edit, file_type: int):
    """Kernel: DT_UNKNOWN, and what the file is, its inode says (fs/ext4/dir.c, get_dtype)."""
    image = edit("plain-4k")
    image.entry("/kinds", b"fifo", file_type=file_type)
    with ext4img.open(bytes(image)) as fs:
        path = fs.path("/kinds/fifo")
        assert path.inode.type == "fifo"
        assert {p.name: p.entry.file_type for p in fs.path("/kinds").iterdir() if p.entry}["fifo"] == 0
    assert_told(image, f"unknown type {file_type}")


def test_inode_number_equal_to_the_count_is_valid(edit: Edit):
    image = edit("ext2-1k")
    last = image.volume.superblock.inode_count
    source = image.number("/indirect/single")
    places = [image.volume.inodes.place(number).offset or 0 for number in (source, last)]
    image.write(places[1], bytes(image.data[places[0] : places[0] + 128]))
    image.entry("/indirect", b"single", inode=last)
    with ext4img.open(bytes(image)) as fs, ext4img.open(edit("ext2-1k").data) as sound:
        assert fs.path("/indirect/single").inode.number == last
        assert fs.path("/indirect/single").read_bytes() == sound.path("/indirect/single").read_bytes()


@pytest.mark.parametrize("beyond", [1, 0x80000000])
def test_inode_numbers_beyond_the_count(edit: Edit, beyond: int):
    image = edit("plain-4k")
    number = min(image.volume.superblock.inode_count + beyond, 0xFFFFFFFF)
    image.entry("/kinds", b"fifo", inode=number)
    assert_strict_refuses(image, lambda fs: list(fs.walk()))
    assert paths_of(image) == paths_of(edit("plain-4k")) - {"/kinds/fifo"}
    assert_told(image, f"inode {number}")


@pytest.mark.parametrize("number", [1, 4, 300])
def test_entries_for_inodes_not_in_use(edit: Edit, number: int):
    image = edit("plain-4k")
    image.entry("/kinds", b"fifo", inode=number)
    assert paths_of(image) == paths_of(edit("plain-4k")) - {"/kinds/fifo"}
    assert_told(image, f"inode {number}", "not in use")
    with ext4img.open(bytes(image), checks="report") as fs:
        assert not fs.path("/kinds/fifo").exists()


def test_directory_of_130000_names(tmp_path: Path):
    """Written block by block: all names are listed and found, without an index to help."""
    if shutil.which("mke2fs") is None:
        pytest.skip("mke2fs is not installed")
    raw = tmp_path / "image"
    options = ["-b", "4096", "-O", "^metadata_csum,^has_journal,^resize_inode", "-E", "root_owner=0:0"]
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", *options, raw, "16M"], check=True)
    image = EditedImage(raw.read_bytes())
    count, size = 130_000, 4096
    blocks, data = 0, bytearray()
    names = (b"%07d" % number for number in range(count))
    block = bytearray(EXT4_DIR_ENTRY.pack((2, 12, 1, 2)) + b".\0\0\0" + EXT4_DIR_ENTRY.pack((2, 12, 2, 2)) + b"..\0\0")
    for name in names:
        if len(block) + 16 > size:
            data += _filled(block, size)
            blocks += 1
            block = bytearray()
        block += EXT4_DIR_ENTRY.pack((11, 16, 7, 2)) + name + b"\0"
    data += _filled(block, size)
    blocks += 1
    start = 2048
    image.write(start * size, bytes(data))
    area = EXT4_EXTENT_HEADER.pack((0xF30A, 1, 4, 0, 0)) + EXT4_EXTENT.pack((0, blocks, 0, start))
    image.inode(2, i_block=area.ljust(60, b"\0"), i_size_lo=blocks * size, i_flags=EXT4_EXTENTS_FL)
    with ext4img.open(bytes(image), checks="report") as fs:
        assert len(list(fs.path("/").iterdir())) == count
        assert sum(1 for _ in fs.walk()) == count + 1
        assert fs.path("/0129999").inode.number == 11
        assert not fs.path("/0130000").exists()


def _filled(block: bytearray, size: int) -> bytes:
    """The last entry reaches the block's end."""
    block[-12:-10] = (size - len(block) + 16).to_bytes(2, "little")
    return bytes(block.ljust(size, b"\0"))


# Extents


@pytest.fixture
def tree(edit: Edit) -> tuple[EditedImage, int]:
    """An image with a file whose extents have a tree, and its number."""
    image = edit("plain-4k")
    return image, image.number("/extents/extents-360")


def assert_file_is_lost(image: EditedImage, number: int, *words: str) -> None:
    """The file's damage is told, strict reading refuses it, and all others are there."""
    assert_told(image, f"inode {number}", *words)
    assert_strict_refuses(image, lambda fs: fs.inode(number).open().pread(0, 100))
    with ext4img.open(bytes(image), checks="report") as fs:
        fs.inode(number).open().pread(0, 1 << 20)


@pytest.mark.parametrize("length", [0, 0x8001 - 1 + 0x8000 & 0xFFFF, 0x7FFF])
def test_extent_lengths(tree: tuple[EditedImage, int], length: int):
    image, number = tree
    leaf = image.site("extent block", number)
    image.set(leaf, "ee_len", length)
    assert_file_is_lost(image, number, "extent")


def test_unwritten_extent_of_the_longest_length(edit: Edit):
    """ee_len 0x8000 is 32768 written blocks, 0x8001 one unwritten block."""
    image = edit("plain-4k")
    number = image.number("/extents/extents-1")
    image.set(image.site("inode", number), "ee_len", 0x8001)
    with ext4img.open(bytes(image)) as fs:
        runs = fs.inode(number).runs()
        assert (runs[0].length, runs[0].state) == (1, 1)


@pytest.mark.parametrize(
    ("where", "field", "value", "word"),
    [
        ("inode", "eh_depth", 7, "depth"),
        ("inode", "eh_depth", 0xFFFF, "depth"),
        ("inode", "eh_magic", 0, "magic"),
        ("inode", "eh_entries", 5, "entries"),
        ("inode", "eh_max", 0xFFFF, "room"),
        ("extent block", "eh_depth", 7, "depth"),
        ("extent block", "eh_depth", 1, "depth"),
        ("extent block", "eh_magic", 0, "magic"),
        ("extent block", "eh_entries", 0xFFFF, "entries"),
        ("extent block", "eh_max", 0xFFFF, "room"),
        ("extent block", "eh_max", 0, "room"),
        ("inode", "ei_leaf_lo", 0, "block 0"),
        ("inode", "ei_leaf_lo", 0xFFFFFFFF, "outside"),
        ("inode", "ei_leaf_hi", 0xFFFF, "outside"),
        ("inode", "ei_block", 5, "begins"),
        ("extent block", "ee_start_lo", 0, "blocks"),
        ("extent block", "ee_start_hi", 0xFFFF, "blocks"),
        ("extent block", "ee_block", 0xFFFFFFFF, "extent"),
    ],
)
def test_extent_tree(tree: tuple[EditedImage, int], where: str, field: str, value: int, word: str):
    image, number = tree
    site = image.site(where, number)
    image.set(site, field, value, sealed=field != "eh_max")
    assert_told(image, f"inode {number}", word)
    assert_strict_refuses(image, lambda fs: fs.inode(number).runs())


def test_extent_tree_that_is_its_own_leaf(tree: tuple[EditedImage, int]):
    image, number = tree
    leaf = image.site("extent block", number)
    block = leaf.offset // image.volume.block_size
    image.set(leaf, "eh_depth", 1)
    image.set(leaf, "eh_entries", 1)
    image.set(leaf, "ee_start_lo", block)  # where ei_leaf_lo stands: 4 bytes earlier
    image.write(leaf.offset + EXT4_EXTENT_HEADER.size + 4, block.to_bytes(4, "little") + bytes(4), leaf)
    site = image.site("inode", number)
    image.set(site, "eh_depth", 2)
    assert_told(image, f"inode {number}", "twice")


def test_a_file_that_maps_one_block_over_and_over(tree: tuple[EditedImage, int]):
    """Otherwise the runs of a hostile file would be as many as its tree has room for."""
    image, number = tree
    leaf = image.site("extent block", number)
    start = image.volume.runs(image.volume.inode(number))[0].pblk
    end = leaf.offset + image.volume.block_size
    entries = (image.volume.block_size - 16) // 12
    raw = b"".join(EXT4_EXTENT.pack((100 * index, 100, 0, start)) for index in range(entries))
    image.write(leaf.offset + EXT4_EXTENT_HEADER.size, raw[: end - leaf.offset - 16])
    image.set(leaf, "eh_entries", entries)
    image.set(image.site("inode", number), "eh_entries", 1)
    assert_told(image, f"inode {number}", "more blocks than the volume")


@pytest.mark.parametrize("path", ["/kinds/three-names", "/extents/extents-360", "/many"])
def test_flags_that_contradict_the_features(edit: Edit, path: str):
    image = edit("plain-4k")
    number = image.number(path)
    flags = image.volume.inode(number).flags
    image.inode(number, i_flags=flags | EXT4_INLINE_DATA_FL)
    assert_told(image, f"inode {number}", "EXT4_INLINE_DATA_FL")
    image.inode(number, i_flags=flags & ~EXT4_EXTENTS_FL)
    assert problems_of(image)
    image = edit("ext2-1k")
    image.inode(image.number("/indirect/single"), i_flags=EXT4_EXTENTS_FL)
    assert_told(image, "EXT4_EXTENTS_FL")


# Block maps


@pytest.mark.parametrize("pointer", [0xFFFFFFFF, 1, 4096])
@pytest.mark.parametrize("level", [0, 12, 13, 14])
def test_block_map_pointers(edit: Edit, level: int, pointer: int):
    image = edit("ext2-1k")
    number = image.number("/indirect/single")
    area = bytearray(image.volume.inode(number).block_area)
    area[4 * level : 4 * level + 4] = pointer.to_bytes(4, "little")
    image.inode(number, i_block=bytes(area))
    assert problems_of(image)


def test_block_map_that_is_its_own_block(edit: Edit):
    image = edit("ext2-1k")
    number = image.number("/indirect/single")
    block = image.site("indirect block", number)
    own = block.offset // 1024
    image.write(block.offset, own.to_bytes(4, "little") * 256)
    area = bytearray(image.volume.inode(number).block_area)
    area[56:60] = own.to_bytes(4, "little")  # as a triple indirect block, too
    image.inode(number, i_block=bytes(area))
    assert_told(image, f"inode {number}")


# Inline data


def test_inline_data_goes_on_in_an_attribute(edit: Edit):
    """Sound: up to 60 bytes stand in i_block, the rest in the attribute system.data."""
    with ext4img.open(edit("ext4-inline").data) as fs:
        for size in (0, 1, 59, 60, 61, 100, 150, 160):
            assert len(fs.path(f"/inline/bytes-{size}").read_bytes()) == size
        assert fs.path("/inline/bytes-100").inode.has_inline_data


@pytest.mark.parametrize("path", ["/inline/bytes-100", "/inline/bytes-60", "/inline/directory-3"])
@pytest.mark.parametrize("size", [0, 61, 0xFFFFFFFF])
def test_inline_data_of_other_sizes(edit: Edit, path: str, size: int):
    image = edit("ext4-inline")
    number = image.number(path)
    image.inode(number, i_size_lo=size)
    problems_of(image)
    for checks in MODES:
        with ext4img.open(bytes(image), checks=checks) as fs:  # type: ignore[arg-type]
            shown = fs.path(path)
            try:
                data = shown.read_bytes() if shown.is_file() else b""
            except ext4img.Ext4Error:
                continue
            assert len(data) == (size if shown.is_file() else 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("e_value_offs", 0xFFFF), ("e_value_size", 0xFFFFFFFF), ("e_value_size", 0x1000001), ("e_name_len", 255),
     ("e_value_inum", 0xFFFFFFFF), ("e_value_inum", 2), ("e_name_index", 99), ("h_magic", 0)],
)  # fmt: skip
def test_attributes_of_an_inode(edit: Edit, field: str, value: int):
    image = edit("ext4-inline")
    number = image.number("/inline/bytes-100")
    image.set(image.site("inode", number), field, value)
    assert problems_of(image)


@pytest.mark.parametrize("field", ["h_magic", "h_blocks", "h_refcount", "e_value_offs", "e_value_size", "e_name_len"])
@pytest.mark.parametrize("name", ["plain-4k", "ext2-1k"])
def test_attribute_blocks(edit: Edit, name: str, field: str):
    image = edit(name)
    site = image.site("xattr block")
    place = site.field(field)
    image.set(site, field, (1 << 8 * place.size) - 1)
    assert problems_of(image)


def test_attribute_value_inodes_that_are_none(edit: Edit):
    """ea_inode references: to the file itself, to a directory, to one that is too short."""
    image = edit("ext4-inline")
    number = image.number("/inline/huge-attribute")
    value = image.site("attribute value")
    block = image.site("xattr block", number) if image.volume.inode(number).xattr_block else image.site("inode", number)
    for other in (number, 2, image.number("/inline/bytes-1"), 0xFFFFFFFF):
        image.set(block, "e_value_inum", other)
        assert problems_of(image)
    assert value.inode is not None
    again = edit("ext4-inline")
    again.write(value.offset, b"\xff")
    assert_told(again, "attribute value", f"inode {value.inode}")


# Indexes


@pytest.mark.parametrize(
    ("field", "value"),
    [("limit", 0), ("limit", 0xFFFF), ("count", 0), ("count", 0xFFFF), ("hash_version", 9), ("info_length", 9),
     ("indirect_levels", 3), ("indirect_levels", 0xFF), ("reserved_zero", 1), ("block", 0), ("block", 0x0FFFFFFF)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["plain-4k", "encrypted-old-layout"])
def test_index_roots(edit: Edit, name: str, field: str, value: int):
    image = edit(name)
    site = image.site("directory index block")
    image.set(site, field, value, sealed=field not in ("limit", "count"))
    assert problems_of(image)
    # Every name is found all the same: by reading all of the directory, as the kernel does.
    with ext4img.open(bytes(image), checks="report") as fs:
        for path, inode in list(fs.walk()):
            assert fs.path(path).inode.number == inode.number


def test_index_that_comes_to_the_same_leaf_again(edit: Edit):
    """All hashes alike and marked as going on: a look-up must not run for ever."""
    image = edit("plain-4k")
    site = image.site("directory index block")
    count = len([field for field in site.fields if field.name == "dx_entry.block"])
    for index in range(1, count):
        image.set(site, "hash", 1, index)
        image.set(site, "block", 1, index)
    with ext4img.open(bytes(image), checks="report") as fs:
        assert not fs.path("/many/no such name").exists()
    assert_told(image, "twice")


# Inodes


@pytest.mark.parametrize("mode", [0, 0o7777, 0x3000, 0xF000, 0xFFFF])
def test_modes_without_a_type(edit: Edit, mode: int):
    image = edit("plain-4k")
    number = image.number("/kinds/empty")
    image.inode(number, i_mode=mode)
    assert "/kinds/empty" not in paths_of(image)
    assert_told(image, f"inode {number}")
    assert_strict_refuses(image, lambda fs: list(fs.walk()))


@pytest.mark.parametrize("extra", [1, 3, 129, 0xFFFF, 128])
def test_extra_size(edit: Edit, extra: int):
    image = edit("plain-4k")
    number = image.number("/attributes/in-inode")
    image.inode(number, i_extra_isize=extra)
    assert "/attributes/in-inode" in paths_of(image)
    if extra != 128:
        assert_told(image, f"inode {number}")


def test_root_that_is_no_directory(edit: Edit):
    """Refused by kernels; report mode finds the root's blocks by themselves."""
    image = edit("plain-4k")
    sound = paths_of(image)
    image.inode(2, i_mode=0o100644)
    assert_strict_refuses(image, lambda fs: list(fs.walk()))
    assert paths_of(image) == sound
    assert_told(image, "root directory's inode is lost")


@pytest.mark.parametrize("number", [0, 3, 0xFFFFFFFF])
def test_inode_numbers_outside(edit: Edit, number: int):
    with ext4img.open(edit("plain-4k").data) as fs:
        if number == 3:
            assert fs.inode(number).type == "unknown"
        else:
            with pytest.raises(ext4img.NotFoundError):
                fs.inode(number)


def test_root_that_is_only_in_the_journal(edit: Edit):
    """The inode table's first block as mke2fs left it: zeros; the log has the rest."""
    image = edit("ext4-dirty")
    with ext4img.open(bytes(image)) as fs:
        sound = {str(path) for path, _ in fs.walk()}
    place = image.volume.inodes.place(2)
    start = (place.block or 0) * image.volume.block_size
    image.write(start, bytes(image.volume.block_size))
    with ext4img.open(bytes(image)) as fs:
        assert {str(path) for path, _ in fs.walk()} == sound
        assert not fs.problems
    with ext4img.open(bytes(image), journal="ignore") as fs, pytest.raises(ext4img.CorruptionError, match="root"):
        list(fs.walk())


def test_symlink_chains_end(edit: Edit):
    """Loops and long chains: ELOOP after 40."""
    with ext4img.open(edit("ext4-inline").data) as fs:
        for path in ("/symlinks/loop-a", "/symlinks/loop-b"):
            with pytest.raises(ext4img.SymlinkLoopError):
                fs.path(path).stat()


@pytest.mark.parametrize("length", [0, 1, 1024, 2047, 2048, 4096, 8192, 100_000, 1 << 20])
def test_images_cut_short(edit: Edit, length: int):
    data = bytes(edit("plain-4k").data[:length])
    seen = exercise(BytesSource(data), ())
    assert seen.complained
    if length > 2048:
        assert_strict_refuses(data, lambda fs: None)



@pytest.mark.parametrize("what", ["walk", "paths", "exercise"])
def test_depth_squared_is_not_held(tmp_path: Path, what: str):
    """3,000 directories, one in the other, with names of 255 bytes: their paths together are 1.1 GB."""
    if shutil.which("mke2fs") is None:
        pytest.skip("mke2fs is not installed")
    depth, size, first, inode_size = 3000, 1024, 1000, 128
    raw = tmp_path / "image"
    options = ["-b", "1024", "-I", "128", "-N", "4096", "-O", "^resize_inode"]
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext2", *options, raw, "8M"], check=True)
    data = bytearray(raw.read_bytes())
    with ext4img.open(bytes(data)) as fs:
        root_block = fs.root().runs()[0].pblk
        places = [fs.volume.inodes.place(number).offset or 0 for number in range(12, 12 + depth)]
        root = (fs.volume.inodes.place(2).offset or 0, fs.inode(2))

    def block_of(number: int, parent: int, child: int, name: bytes) -> bytes:
        dots = EXT4_DIR_ENTRY.pack((number, 12, 1, 2)) + b".\0\0\0"
        dots += EXT4_DIR_ENTRY.pack((parent, 12, 2, 2)) + b"..\0\0"
        return (dots + EXT4_DIR_ENTRY.pack((child, size - 24, len(name), 2)) + name).ljust(size, b"\0")

    fields = {"i_mode": S_IFDIR | 0o755, "i_links_count": 3, "i_size_lo": size, "i_blocks_lo": 2}
    data[root_block * size : (root_block + 1) * size] = block_of(2, 2, 12, b"top")
    assert root[1].is_dir
    for index, place in enumerate(places):
        number = 12 + index
        child = number + 1 if index + 1 < depth else 12
        inode = EXT4_INODE.build({**fields, "i_block": (first + index).to_bytes(4, "little").ljust(60, b"\0")})
        data[place : place + inode_size] = inode
        start = (first + index) * size
        data[start : start + size] = block_of(number, max(number - 1, 2), child, b"%0255d" % index)

    def read(_: Any) -> int:
        if what == "exercise":
            return len(exercise(BytesSource(data), (), ("report",)).listing)
        with ext4img.open(data, checks="report") as fs:
            shown = fs.walk() if what == "walk" else fs.paths()
            return sum(1 for _ in shown)

    (outcome,) = run_all([0], read, memory_bytes=1 << 29)
    assert outcome.ok, outcome
    assert outcome.result > depth
