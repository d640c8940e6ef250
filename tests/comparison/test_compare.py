"""A backup held against an image: nothing differs where nothing changed, and what changed is named."""

from __future__ import annotations

import io
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import ext4img
from ext4img import backup
from ext4img.archiver.collect import TreeScanner
from ext4img.comparison.compare import compare
from ext4img.comparison.rebuilt import RebuildRules, data_digest, with_offsets
from ext4img.crypto.policy import parse_context
from tests.conftest import UnpackedImage
from tools.loop_mount import SBIN, run


def archive_of(path: Path, **options) -> io.BytesIO:
    output = io.BytesIO()
    with ext4img.open(path) as fs:
        backup(fs, output, **options)
    output.seek(0)
    return output


def test_nothing_differs(image: UnpackedImage):
    with ext4img.open(image.path) as fs:
        report = compare(archive_of(image.path), fs)
    assert report.same, report.differences[:5]
    assert report.members >= len(image.manifest.entries)


@pytest.fixture
def sample(fixture_image: Callable[[str], UnpackedImage]) -> UnpackedImage:
    return fixture_image("sample-encrypted")


def test_parts_of_a_tree(sample: UnpackedImage):
    top = next(entry["path"] for entry in sample.manifest.entries if entry["type"] == "dir" and entry["encrypted"])
    with ext4img.open(sample.path) as fs:
        assert compare(archive_of(sample.path, only=[top]), fs).same
        assert compare(archive_of(sample.path, encrypted_only=True), fs).same


def test_a_changed_image(sample: UnpackedImage, tmp_path: Path):
    """One block of ciphertext overwritten: metadata checksums do not cover it, the comparison does."""
    entry = next(e for e in sample.manifest.entries if e["type"] == "file" and e["encrypted"] and e["size"] > 4096)
    changed = tmp_path / "changed.img"
    data = bytearray(sample.path.read_bytes())
    with ext4img.open(sample.path) as fs:
        run = fs.path(entry["nokey_path"]).inode.runs()[0]
        data[run.pblk * fs.block_size] ^= 1
    changed.write_bytes(data)
    with ext4img.open(changed) as fs:
        report = compare(archive_of(sample.path), fs)
    assert [(difference.path, difference.what) for difference in report.differences] == [
        (entry["nokey_path"][1:], "contents")
    ]


def test_another_image(sample: UnpackedImage, fixture_image: Callable[[str], UnpackedImage]):
    other = fixture_image("plain-4k")
    with ext4img.open(other.path) as fs:
        report = compare(archive_of(sample.path), fs)
    what = {difference.what for difference in report.differences}
    assert {"only in the backup", "only on the image"} <= what


def rebuilt(archive: io.BytesIO, path: Path, **options) -> Path:
    ext4img.rebuild(archive, path, overwrite=True, **options)
    archive.seek(0)
    return path


def test_a_rebuilt_image(image: UnpackedImage, tmp_path: Path):
    """The kernel's view of rebuilt images is that of their sources (tests/kernel): so nothing may differ here."""
    archive = archive_of(image.path)
    try:
        new = rebuilt(archive, tmp_path / "new.img")
    except ext4img.BuildError as error:
        pytest.skip(f"cannot be rebuilt: {error}")
    with ext4img.open(new) as fs:
        report = compare(archive, fs)
    assert report.same, report.differences[:5]


@pytest.mark.parametrize(
    ("name", "options", "kinds"),
    [
        ("plain-4k", {"uuid": "new"}, {"inode number", "directory size"}),
        ("sample-encrypted", {"keep_inodes": True}, set()),
        ("ext4-inline", {"features": ("^inline_data",)}, {"layout flag"}),
        ("ext2-1k", {"block_size": 4096}, {"hole", "layout flag", "directory size"}),
        ("ext4-bigalloc", {"block_size": 4096}, {"hole", "directory size"}),
    ],
)
def test_what_a_rebuild_changes_is_counted(
    name: str,
    options: dict[str, object],
    kinds: set[str],
    fixture_image: Callable[[str], UnpackedImage],
    tmp_path: Path,
):
    archive = archive_of(fixture_image(name).path)
    with ext4img.open(rebuilt(archive, tmp_path / "new.img", **options)) as fs:
        report = compare(archive, fs)
    assert report.same, report.differences[:5]
    found = {kind for kind, count in report.rebuilt.items() if count}
    assert kinds <= found <= (kinds | {"inode number", "directory size", "birth time"} if kinds else set())


@pytest.mark.skipif(shutil.which("debugfs", path=f"{os.environ['PATH']}:{SBIN}") is None, reason="no debugfs here")
@pytest.mark.parametrize("options", [{}, {"only": ["/d/one"]}, {"exclude": ["one"]}])
def test_link_counts_of_a_rebuilt_image(options: dict[str, object], tmp_path: Path):
    """It has a lost+found that its source has not, and counts only names that were backed up."""
    image = tmp_path / "source.img"
    run("mke2fs", "-q", "-t", "ext4", "-F", image, "2M")
    content = tmp_path / "content"
    content.write_bytes(b"content")
    for command in ("mkdir d", "mkdir d/one", "mkdir d/two", f"write {content} d/one/file", "ln d/one/file d/two/name"):
        run("debugfs", "-w", "-R", command, image)
    run("debugfs", "-w", "-R", "sif d/one/file links_count 2", image)
    run("debugfs", "-w", "-R", "rmdir lost+found", image)
    archive = archive_of(image, **options)
    with ext4img.open(rebuilt(archive, tmp_path / "new.img")) as fs:
        report = compare(archive, fs)
    assert report.same, report.differences
    assert report.rebuilt["link count"]


@pytest.mark.skipif(shutil.which("debugfs", path=f"{os.environ['PATH']}:{SBIN}") is None, reason="no debugfs here")
@pytest.mark.parametrize(
    ("command", "path", "what"),
    [
        ("sif /kinds/fifo mode 010600", "kinds/fifo", {"mode"}),
        ("sif /attributes/acl uid 77", "attributes/acl", {"uid"}),
        ("sif /attributes/acl mtime 19700102", "attributes/acl", {"mtime_ns"}),
        ("sif /attributes/acl generation 77", "attributes/acl", {"generation"}),
        ("sif /attributes/acl flags 0x80010", "attributes/acl", {"flags"}),  # immutable
        ("unlink /kinds/fifo", "kinds/fifo", {"only in the backup"}),
        ("ln /kinds/fifo /kinds/another", "kinds/another", {"only on the image"}),
        ("ea_set /attributes/acl user.more value", "attributes/acl", {"xattrs"}),
    ],
)
def test_what_is_altered_in_a_rebuilt_image_differs(
    command: str, path: str, what: set[str], fixture_image: Callable[[str], UnpackedImage], tmp_path: Path
):
    """debugfs alters it: all other inode numbers differ, too, and are no difference."""
    archive = archive_of(fixture_image("plain-4k").path)
    new = rebuilt(archive, tmp_path / "new.img")
    run("debugfs", "-w", "-R", command, new)
    with ext4img.open(new, checks="off") as fs:
        report = compare(archive, fs)
    # Another name also changes the number of names, whatever the link count in the inode says.
    others = ["kinds/fifo"] if command.startswith("ln ") else []
    assert [difference.path for difference in report.differences] == [path, *others]
    assert what <= set(report.differences[0].what.split(", ")) | {report.differences[0].what}


def test_ciphertext_that_depends_on_inode_numbers_and_uuid(fixture_image: Callable[[str], UnpackedImage]):
    """Under the kernel's IV_INO_LBLK policies another number, or UUID, is another plaintext."""
    with ext4img.open(fixture_image("encrypted-variants").path) as fs:
        entries = [entry for entry, _ in TreeScanner(fs).entries() if entry.context is not None]
        info = TreeScanner(fs).info("test")
        rules = RebuildRules(info, fs)
        elsewhere = RebuildRules(replace(info, uuid=uuid.UUID(int=7)), fs)
        seen = set()
        for entry in entries:
            policy = parse_context(entry.context or b"").policy
            depends = any("IV_INO" in name for name in policy.flag_names)
            moved = entry._replace(inode=entry.inode + 1)
            assert rules.kind("inode", entry, moved) == (None if depends else "inode number")
            assert not rules.is_lost(entry)
            assert elsewhere.is_lost(entry) == depends
            seen.add(depends)
    assert seen == {True, False}


def test_holes_are_zeros(tmp_path: Path):
    """Wherever the zeros are, and however the data is cut; anything else is another digest."""
    data = b"a" * 1024 + bytes(2048) + b"b" * 1000
    parts = [(0, memoryview(data))]
    same = [[(0, memoryview(data[:1024])), (3072, memoryview(data[3072:]))], [(0, memoryview(data[:2048])), *parts[1:]]]
    same[1].append((2048, memoryview(data[2048:])))
    for other in same:
        assert data_digest(other) == data_digest(parts)
    assert data_digest([(1024, memoryview(data))]) != data_digest(parts)
    assert data_digest([(0, memoryview(data[:-1]))]) != data_digest(parts)
    segments = ((0, 1024), (3072, 1000))
    joined = data[:1024] + data[3072:]
    assert data_digest(with_offsets(segments, [joined[:1024], joined[1024:]])) == data_digest(parts)
    assert data_digest(with_offsets(segments, [joined])) == data_digest(parts)
