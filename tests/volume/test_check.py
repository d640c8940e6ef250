"""The whole-volume check: silent on sound images, and each kind of contradiction told.

That it is silent is judged on images that the kernel filled and e2fsck calls clean.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import ext4img
from ext4img.volume.check import CheckSummary, run_check
from ext4img.volume.check.block_owners import BlockOwners
from tests.conftest import UnpackedImage
from tests.hostile.editing import EditedImage

UNFINISHED = {"ext3-cut": 3, "ext4-cut": 3}  # by fixture: the orphans that e2fsck -fn complains about
Fixture = Callable[[str], UnpackedImage]
Edit = Callable[[str], EditedImage]


@pytest.fixture(scope="module")
def edit(fixture_image: Fixture) -> Edit:
    sound: dict[str, EditedImage] = {}

    def copy(name: str) -> EditedImage:
        if name not in sound:
            sound[name] = EditedImage(fixture_image(name).path.read_bytes())
            assert sound[name].sites
            assert sound[name].volume
        return sound[name].copy()

    return copy


def checked(image: EditedImage | bytes | Path) -> tuple[CheckSummary, list[str]]:
    source = bytes(image) if isinstance(image, EditedImage) else image
    with ext4img.open(source, checks="report") as fs:
        summary = run_check(fs.volume)
        assert summary.problems + summary.remarks == len(fs.problems)
        assert summary.problems == sum(not problem.remark for problem in fs.problems)
        return summary, [str(problem) for problem in fs.problems]


def assert_remarked(image: EditedImage | bytes | Path, *words: str) -> None:
    """Some remark has all of these words, and there is no damage."""
    summary, remarks = checked(image)
    assert summary.sound
    assert any(all(word in remark for word in words) for remark in remarks), remarks[:20]


def assert_told(image: EditedImage | bytes | Path, *words: str) -> None:
    """Some problem has all of these words."""
    summary, problems = checked(image)
    assert not summary.sound
    assert any(all(word in problem for word in words) for problem in problems), problems[:20]


def test_sound_images_have_no_problems(image: UnpackedImage):
    summary, problems = checked(image.path)
    if image.name in UNFINISHED:  # orphans without a journal to recover: e2fsck -fn calls them damage
        assert summary.problems == len(problems) == UNFINISHED[image.name]
        assert all("the next mount has to do it (orphan)" in problem for problem in problems)
    else:
        assert summary.sound
        assert all("finished in memory" in problem for problem in problems)
    recovered = image.manifest.head["dirty"]
    if not recovered:
        numbers = {entry["ino"] for entry in image.manifest.entries}
        assert summary.names == len(image.manifest.entries) - 1  # all but the root have one
        assert summary.directories == sum(entry["type"] == "dir" for entry in image.manifest.entries)
        assert summary.inodes >= len(numbers)


def test_strict_volumes_are_checked_too(fixture_image: Fixture):
    with ext4img.open(fixture_image("plain-4k").path) as fs:
        assert run_check(fs.volume).sound


def test_strict_raises(edit: Edit):
    image = edit("plain-4k")
    image.inode(image.number("/kinds/fifo"), i_links_count=7)
    with ext4img.open(bytes(image)) as fs, pytest.raises(ext4img.CorruptionError, match="i_links_count"):
        run_check(fs.volume)


def test_progress_and_contents(fixture_image: Fixture):
    seen: list[tuple[int, int | None]] = []
    with ext4img.open(fixture_image("plain-4k").path, checks="report") as fs:
        summary = run_check(fs.volume, contents=True, progress=lambda *step: seen.append(step))
        files = {inode.number: inode for _, inode in fs.walk() if inode.is_file}
        sizes = [length for inode in files.values() for _, length in inode.open().segments()]
    assert summary.bytes_read >= sum(sizes)
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {fs.superblock.inode_count}
    assert seen[-1][0] == fs.superblock.inode_count


# Blocks


def test_blocks_of_two_files(edit: Edit):
    image = edit("plain-4k")
    one, two = image.number("/extents/extents-1"), image.number("/kinds/three-names")
    run = image.volume.runs(image.volume.inode(one))[0]
    image.set(image.site("inode", two), "ee_start_lo", run.pblk)
    assert_told(image, f"block {run.pblk} is used by inode {two} and inode {one}")


def test_a_file_on_the_inode_table(edit: Edit):
    image = edit("plain-4k")
    number = image.number("/kinds/three-names")
    table = image.volume.groups[0].inode_table
    image.set(image.site("inode", number), "ee_start_lo", table)
    assert_told(image, f"block {table}", "the file system itself", f"inode {number}")


def test_a_block_twice_in_one_file(edit: Edit):
    image = edit("plain-4k")
    number = image.number("/extents/extents-4")
    first = image.volume.runs(image.volume.inode(number))[0].pblk
    image.set(image.site("inode", number), "ee_start_lo", first, index=1)
    assert_told(image, f"block {first} is used twice by the same inode", f"inode {number}")


def test_clusters_are_shared_within_a_file_only(edit: Edit):
    """bigalloc: sound extents of one file may lie in one cluster; of two files they may not."""
    assert checked(edit("ext4-bigalloc"))[0].sound


@pytest.mark.parametrize(("name", "kind"), [("plain-4k", "block"), ("ext2-1k", "block"), ("ext4-bigalloc", "cluster")])
def test_block_bitmap(edit: Edit, name: str, kind: str):
    image = edit(name)
    bitmap = image.site("block bitmap")
    used = next(offset for offset in range(bitmap.size) if image.data[bitmap.offset + offset])
    image.write(bitmap.offset + used, b"\0")
    assert_told(image, "block bitmap of group 0", kind, "in use, but marked free")
    image = edit(name)
    free = next(offset for offset in range(bitmap.size) if not image.data[bitmap.offset + offset])
    image.write(bitmap.offset + free, b"\x81")
    assert_told(image, "block bitmap of group 0", f"{kind} ", "marked used, but nothing uses them")


def test_bitmap_checksums(edit: Edit):
    for kind in ("block bitmap", "inode bitmap"):
        image = edit("plain-4k")
        bitmap = image.site(kind)
        image.write(bitmap.offset, bytes((image.data[bitmap.offset] ^ 1,)))
        assert_told(image, f"checksum of the {kind} of group 0")


def test_inode_bitmap(edit: Edit):
    image = edit("ext2-1k")
    bitmap = image.site("inode bitmap")
    number = image.number("/indirect/single")
    at = bitmap.offset + (number - 1) // 8
    image.write(at, bytes((image.data[at] & ~(1 << (number - 1) % 8),)))
    assert_told(image, "inode bitmap", f"inode {number} in use, but marked free")


@pytest.mark.parametrize(
    "field", ["bg_free_blocks_count_lo", "bg_free_inodes_count_lo", "bg_used_dirs_count_lo", "bg_itable_unused_lo"]
)
def test_counts_of_descriptors(edit: Edit, field: str):
    image = edit("plain-4k")
    site = image.site("descriptor")
    place = site.field(field)
    value = int.from_bytes(image.data[place.offset : place.offset + 2], "little")
    image.set(site, field, value + (200 if field == "bg_itable_unused_lo" else 1))
    assert_told(image, "descriptor of group 0", field)


def test_sectors(edit: Edit):
    image = edit("plain-4k")
    number = image.number("/extents/extents-360")
    image.inode(number, i_blocks_lo=7)
    assert_told(image, "i_blocks is 7 sectors", f"inode {number}")


def test_sizes(edit: Edit):
    image = edit("plain-4k")
    number = image.number("/extents/extents-4")
    image.inode(number, i_size_lo=1)
    assert_told(image, "1 bytes long, but has written blocks", f"inode {number}")
    image = edit("plain-4k")
    number = image.number("/kinds")
    image.inode(number, i_size_lo=4095)
    assert_told(image, "not whole blocks", f"inode {number}")


def test_deletion_time_of_what_is_in_use(edit: Edit):
    image = edit("plain-4k")
    number = image.number("/kinds/empty")
    image.inode(number, i_dtime=12345)
    assert_told(image, "deletion time", f"inode {number}")


# Names


def test_links(edit: Edit):
    image = edit("plain-4k")
    number = image.number("/kinds/three-names")
    image.inode(number, i_links_count=2)
    assert_told(image, "i_links_count is 2, but it has 3", f"inode {number}")
    image = edit("plain-4k")
    number = image.number("/kinds")
    image.inode(number, i_links_count=9)
    assert_told(image, "i_links_count is 9, but it has 4", f"inode {number}")


def test_types_of_entries(edit: Edit):
    image = edit("plain-4k")
    image.entry("/kinds", b"fifo", file_type=1)
    assert_told(image, "b'fifo' has type 1", "has 5")


def test_names_of_what_is_not_in_use(edit: Edit):
    image = edit("plain-4k")
    image.entry("/kinds", b"fifo", inode=400)
    assert_told(image, "b'fifo' names inode 400, which is not in use")


def test_what_no_directory_names(edit: Edit):
    image = edit("plain-4k")
    number = image.number("/kinds/fifo")
    image.entry("/kinds", b"fifo", inode=0)
    assert_told(image, "no directory names it", f"inode {number}")


def test_dots(edit: Edit):
    image = edit("plain-4k")
    number, other = image.number("/kinds"), image.number("/attributes")
    image.entry("/kinds", b".", inode=other)
    assert_told(image, f"its '.' names inode {other}", f"inode {number}")
    image = edit("plain-4k")
    image.entry("/kinds", b"..", inode=other)
    assert_told(image, f"its '..' names inode {other}, its parent is 2", f"inode {number}")
    image = edit("plain-4k")
    image.entry("/kinds", b"..", name=b"._")
    assert_told(image, "begins with", f"inode {number}")


def test_directories_in_a_loop(edit: Edit):
    image = edit("plain-4k")
    kinds = image.number("/kinds")
    image.entry("/", b"kinds", inode=0)
    image.entry("/kinds/elsewhere", b"other", inode=kinds, file_type=2)
    assert_told(image, "in a loop that is not below the root")


def test_same_name_twice(edit: Edit):
    image = edit("plain-4k")
    names = [entry.name for entry in image.volume.directory(image.volume.inode(image.number("/kinds")))]
    one, two = next((a, b) for a in names for b in names if a < b and len(a) == len(b))
    image.entry("/kinds", one, name=two)
    assert_told(image, f"duplicate name {two!r}")


# Attributes and indexes


@pytest.mark.parametrize("name", ["plain-4k", "ext2-1k"])
def test_references_of_attribute_blocks(edit: Edit, name: str):
    image = edit(name)
    site = image.site("xattr block")
    image.set(site, "h_refcount", 900)
    assert_told(image, "attribute block counts 900 inodes", f"block {site.offset // image.volume.block_size}")


def test_references_of_attribute_values(edit: Edit):
    image = edit("ext4-inline")
    value = image.site("attribute value").inode
    assert value
    image.inode(value, l_i_version=5)
    assert_told(image, "attribute value counts 5 references, it has", f"inode {value}")


def test_index_hashes(edit: Edit):
    image = edit("plain-4k")
    site = image.site("directory index block")
    image.set(site, "hash", 0xFFFFFFF0, index=1)
    assert_told(image, "comes before one of")
    image = edit("plain-4k")
    image.set(site, "hash", 2, index=1)
    assert_told(image, "in a leaf of 0x0 to 0x2")


def test_leaves_that_the_index_leaves_out(edit: Edit):
    image = edit("ext2-1k")
    site = image.site("directory index block")
    place = site.field("count")
    count = int.from_bytes(image.data[place.offset : place.offset + 2], "little")
    image.set(site, "count", count - 1)
    assert_told(image, "not in the index")


# The file system's own records


def test_backup_superblocks(edit: Edit):
    image = edit("ext4-meta-bg")
    site = image.site("backup superblock")
    image.set(site, "s_inodes_per_group", 16)
    assert_remarked(image, "backup superblock of group 1")
    image = edit("ext4-meta-bg")
    image.set(site, "s_uuid", bytes(16))
    assert_remarked(image, "backup superblock of group 1 differs", "uuid")
    image = edit("ext4-meta-bg")
    image.set(site, "s_volume_name", b"x" * 16, sealed=False)
    assert_remarked(image, "backup superblock of group 1", "checksum")


def test_copies_of_descriptors(edit: Edit):
    image = edit("ext4-meta-bg")
    groups = image.volume.groups
    block = groups.descriptor_block(0, 1)
    image.write(block * 1024 + 8, (77).to_bytes(4, "little"))
    assert_remarked(image, "copy of the descriptors of groups 0 to", f"block {block}")


@pytest.mark.parametrize("options", ["mmp", "orphan_file", "sparse_super2", "bigalloc", "^resize_inode", "^flex_bg"])
def test_fresh_file_systems(tmp_path: Path, options: str):
    """As mke2fs makes them, of several groups."""
    if shutil.which("mke2fs") is None:
        pytest.skip("mke2fs is not installed")
    raw = tmp_path / "image"
    done = subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-O", options, raw, "40M"], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"this mke2fs knows no {options}")
    assert checked(raw)[1] == []
    image = EditedImage(raw.read_bytes())
    if options == "mmp":
        image.write(image.volume.superblock.mmp_block * 1024, b"\0")
        assert_told(image, "multiple mount protection")
    elif options == "orphan_file":
        image.write(image.site("orphan block").offset, b"\1")
        assert_told(image, "orphan file block checksum")


@pytest.mark.parametrize("group_count", [1, 2, 16, 17, 18, 32])
def test_copies_of_descriptors_where_groups_are_few(tmp_path: Path, group_count: int):
    """A meta group of 16 that is cut short has its copies in the groups that there are, if any."""
    if shutil.which("mke2fs") is None:
        pytest.skip("mke2fs is not installed")
    raw = tmp_path / "image"
    options = ["-t", "ext4", "-b", "1024", "-g", "512", "-O", "meta_bg,^resize_inode,^has_journal"]
    subprocess.run(["mke2fs", "-q", "-F", *options, raw, str(group_count * 512 + 1)], capture_output=True, check=True)
    with ext4img.open(raw) as fs:
        assert fs.volume.superblock.group_count == group_count
    assert checked(raw)[1] == []


def test_claims():
    """Overlaps by the run that reaches furthest, as intervals of owners."""
    owners = BlockOwners()
    for start, count, owner in ((10, 5, 1), (0, 3, 2), (12, 1, 3), (14, 10, 4), (30, 1, 5), (30, 1, 5)):
        owners.add(start, count, owner)
    assert [tuple(overlap) for overlap in owners.overlaps()] == [(12, 13, 1, 3), (14, 15, 1, 4), (30, 31, 5, 5)]
    starts, ends = owners.used(1, 0)
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == [(0, 3), (10, 24), (30, 31)]
    starts, ends = owners.used(4, 0)
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == [(0, 1), (2, 6), (7, 8)]
    assert not list(BlockOwners().overlaps())
