"""Archives made to attack: members put in past the writer, with digests that fit.

Each is refused with the member's name, as a file and as a stream, by restore and by verify; what
lies outside the target is untouched. After the pattern of borg's extract tests.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from ext4img import Archive, rebuild, restore, verify
from ext4img.archive.backup_info import BackupInfo
from ext4img.archive.encryption_records import build_filename, build_metadata
from ext4img.archive.entry_codec import FILENAME
from ext4img.archive.manifest_line import ChangeKey
from ext4img.archive.member_paths import MANIFEST_PATH
from ext4img.archive.pax_records import pax_record
from ext4img.archive.tar_header import TarHeader
from ext4img.errors import AlteredArchiveError, ArchiveError, Ext4Error, UnsafeArchiveError
from ext4img.names.nokey import nokey_name
from ext4img.structs.tar import BLKTYPE, CHRTYPE, DIRTYPE, FIFOTYPE, REGTYPE
from tests.archive.enemy import TIMES, EnemyArchive
from tests.archive.synthetic import KEY, UUID, Tree, context_of
from tests.archive.test_archive import as_file, as_stream

both = pytest.mark.parametrize("opened", [as_file, as_stream], ids=["file", "stream"])
Make = Callable[[EnemyArchive], None]
CONTEXT = context_of().raw


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """(the target, a victim outside of it)."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_bytes(b"untouched")
    return tmp_path / "target", victim


def assert_untouched(victim: Path) -> None:
    assert os.listdir(victim) == ["file"]
    assert (victim / "file").read_bytes() == b"untouched"
    assert os.listdir(victim.parent) in (["victim"], ["victim", "target"], ["target", "victim"])


def refused(archive: EnemyArchive, opened: Callable[[bytes], BinaryIO], target: Path, **options) -> ArchiveError:
    """The error of a restore, or of the one member that it skipped; verify must report one, too."""
    data = archive.bytes()
    with pytest.raises(ArchiveError) as caught:
        report = restore(opened(data), target, devices=True, **options)
        assert report.damaged == report.left_out == 1
        raise report.problems[0]
    try:
        assert not verify(opened(data)).intact
    except ArchiveError:
        pass
    return caught.value


PATHS = {
    "parent": b"../victim/evil",
    "absolute": b"/tmp/ext4img-evil",
    "parent inside": b"a/../../victim/evil",
    "dot": b"./a",
    "dot inside": b"a/./b",
    "double slash": b"a//b",
    "empty": b"",
    "only dots": b"..",
    "directory's slash on a file": b"a/",
    "long component": b"a" * 300,
    "long component that is not ASCII": b"\xe9" * 300,
    "the archive's own": b".ext4img/evil",
    "the archive's own directory": b".ext4img",
    "a second first member": b".ext4img/backup.json",
    "verity without file": b".ext4img/verity/101",
    "verity of no number": b".ext4img/verity/x",
    "xattrs of nobody": b".ext4img/xattrs/5",
}


@both
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_paths_that_lead_astray(path: bytes, opened, places):
    target, victim = places
    archive = EnemyArchive().root()
    archive.add(path, data=b"evil")
    refused(archive, opened, target)
    assert_untouched(victim)


@both
def test_below_a_symlink(opened, places):
    target, victim = places
    archive = EnemyArchive().root()
    archive.symlink(b"link", os.fsencode(victim))
    archive.add(b"link/file", data=b"evil")
    error = refused(archive, opened, target)
    assert isinstance(error, UnsafeArchiveError)
    assert error.member == "link/file"
    assert_untouched(victim)


@both
def test_a_directory_that_becomes_a_symlink(opened, places):
    target, victim = places
    archive = EnemyArchive().root()
    archive.directory(b"d")
    archive.symlink(b"d", os.fsencode(victim))
    archive.add(b"d/file", data=b"evil")
    assert refused(archive, opened, target).member == "d"
    assert_untouched(victim)


@both
def test_twice_the_same(opened, places):
    archive = EnemyArchive().root()
    archive.add(b"f", data=b"good")
    archive.add(b"f", data=b"evil")
    assert refused(archive, opened, places[0]).member == "f"


@both
@pytest.mark.parametrize(
    ("what", "link"),
    [
        ("outside", b"../victim/file"),
        ("absolute", b"/etc/passwd"),
        ("not there", b"nothing"),
        ("a directory", b"d"),
        ("itself", b"z"),
        ("another inode", b"other"),
        ("what has one name", b"single"),
        ("empty", b""),
    ],
)
def test_hard_links(what: str, link: bytes, opened, places):
    target, victim = places
    archive = EnemyArchive().root()
    archive.directory(b"d", inode=50, links=2)
    archive.add(b"other", inode=51, links=2)
    archive.add(b"single", inode=50)
    archive.link(b"z", link, inode=50, links=2)
    refused(archive, opened, target)
    assert_untouched(victim)


@both
def test_a_hard_link_to_a_symlink_is_a_symlink(opened, places):
    """Nothing wrong with it; but nothing is written through it."""
    target, victim = places
    archive = EnemyArchive().root()
    archive.symlink(b"a", os.fsencode(victim / "file"), inode=50, links=2)
    archive.link(b"b", b"a", inode=50, links=2, kind="symlink")
    restore(opened(archive.bytes()), target)
    assert os.readlink(target / "b") == str(victim / "file")
    archive = EnemyArchive().root()
    archive.symlink(b"a", os.fsencode(victim / "file"), inode=50, links=2)
    archive.link(b"b", b"a", inode=50, links=2, kind="symlink")
    archive.add(b"b", data=b"evil")
    refused(archive, opened, target.with_name("target2") if target.exists() else target)
    assert (victim / "file").read_bytes() == b"untouched"


@both
def test_more_links_than_the_file_has_names(opened, places):
    archive = EnemyArchive().root()
    archive.add(b"a", inode=50, links=2, data=b"x")
    archive.link(b"b", b"a", inode=50, links=2)
    archive.link(b"c", b"a", inode=50, links=2)
    refused(archive, opened, places[0])


def odd(name: str) -> Make:
    """A member that is wrong in itself."""

    def make(archive: EnemyArchive) -> None:
        match name:
            case "no record":
                archive.raw(TarHeader(b"f", REGTYPE, times=TIMES))
            case "no times":
                record = b'{"number":5,"generation":0,"flags":0,"links":1}'
                archive.raw(TarHeader(b"f", REGTYPE, xattrs={b"trusted.ext4img.inode": record}), inode=5)
            case "a record of another format":
                archive.add(b"f", xattrs={b"trusted.ext4img.new": b""})
            case "a socket with data":
                archive.add(b"f", data=b"x", more=',"type":"socket"')
            case "a file that says it is a directory":
                archive.add(b"f", more=',"type":"dir"')
            case "a directory that says it is a socket":
                archive.add(b"f/", DIRTYPE, more=',"type":"socket"')
            case "a symlink without a target":
                archive.symlink(b"f", b"")
            case "a file with a link target":
                archive.add(b"f", linkpath=b"x")
            case "an altered e5 record":
                raw = bytearray(build_metadata(0, CONTEXT))
                raw[5] ^= 1
                archive.add(b"f", xattrs={b"trusted.ext4img.metadata": bytes(raw)})
            case "an e5 record of a huge size":
                archive.add(b"f", xattrs={b"trusted.ext4img.metadata": build_metadata((1 << 64) - 1, CONTEXT)})
            case "a ciphertext shorter than its size":
                record = build_metadata(5000, CONTEXT)
                archive.add(b"f", data=bytes(4096), xattrs={b"trusted.ext4img.metadata": record})
            case "a ciphertext of half a block":
                record = build_metadata(100, CONTEXT)
                archive.add(b"f", data=bytes(100), xattrs={b"trusted.ext4img.metadata": record})
            case "a directory record of another mode":
                records = {
                    b"trusted.ext4img.metadata": build_metadata(4096, CONTEXT),
                    b"trusted.ext4img.filename": build_filename(bytes(16), 0o40700, CONTEXT),
                }
                archive.add(b"f/", DIRTYPE, xattrs=records)
            case "an encrypted symlink without its target":
                archive.symlink(b"f", b"x", xattrs={b"trusted.ext4img.metadata": build_metadata(18, CONTEXT)})
            case "a file with a stored target":
                archive.add(b"f", xattrs={b"trusted.ext4img.symlink": bytes(18)})
            case "an inode line that is no JSON":
                archive.add(b"f", more=",")
            case "an inode line of the wrong types":
                archive.add(b"f", more=',"version":"1"')
            case "an inode line without end":
                archive.add(b"f", more="," + "[" * 3000)
            case "inode 0":
                archive.add(b"f", inode=0)
            case "an inode beyond 32 bits":
                archive.add(b"f", inode=1 << 32)
            case "a hard link with attributes":
                archive.add(b"e", inode=50, links=2)
                archive.link(b"f", b"e", inode=50, links=2, xattrs={b"user.x": b"y"})
            case "a hard link that is a directory":
                archive.add(b"e", inode=50, links=2)
                archive.link(b"f", b"e", inode=50, links=2, kind="dir")
            case "attributes of another inode":
                archive.raw(TarHeader(b".ext4img/xattrs/77", REGTYPE), b"13 user.x=yy\n", inode=77)
                archive.add(b"f", inode=78)
            case "attributes that are none":
                archive.raw(TarHeader(b".ext4img/xattrs/77", REGTYPE), b"99 user.x=yy\n", inode=77)
                archive.add(b"f", inode=77)
            case "attributes without a file":
                archive.raw(TarHeader(b".ext4img/xattrs/77", REGTYPE), b"13 user.x=yy\n", inode=77)
            case "an attribute given twice":
                archive.raw(TarHeader(b".ext4img/xattrs/77", REGTYPE), b"12 user.x=y\n", inode=77)
                archive.add(b"f", inode=77, xattrs={b"user.x": b"z"})
            case "a verity tree of a file that has none":
                archive.add(b"f", inode=77)
                archive.raw(TarHeader(b".ext4img/verity/77", REGTYPE), b"tree", inode=77)
            case _:
                raise AssertionError(name)

    return make


ODD = [
    "no record",
    "no times",
    "a record of another format",
    "a socket with data",
    "a file that says it is a directory",
    "a directory that says it is a socket",
    "a symlink without a target",
    "a file with a link target",
    "an altered e5 record",
    "an e5 record of a huge size",
    "a ciphertext shorter than its size",
    "a ciphertext of half a block",
    "a directory record of another mode",
    "an encrypted symlink without its target",
    "a file with a stored target",
    "an inode line that is no JSON",
    "an inode line of the wrong types",
    "an inode line without end",
    "inode 0",
    "an inode beyond 32 bits",
    "a hard link with attributes",
    "a hard link that is a directory",
    "attributes of another inode",
    "attributes that are none",
    "attributes without a file",
    "an attribute given twice",
    "a verity tree of a file that has none",
]


@both
@pytest.mark.parametrize("name", ODD)
def test_odd_members(name: str, opened, places):
    target, victim = places
    archive = EnemyArchive().root()
    odd(name)(archive)
    refused(archive, opened, target)
    assert_untouched(victim)
    if target.exists() and "verity" not in name:
        assert not [found for found in os.listdir(target) if found != "e" and (target / found).is_file()]


@both
@pytest.mark.parametrize("ranges", ["[[1e999,1]]", "[[-1,2]]", "[[0,0]]", "[[0,9223372036854775808]]", '["12"]', "7"])
def test_unwritten_ranges_that_no_file_has(ranges: str, opened, places):
    archive = EnemyArchive().root()
    archive.add(b"f", more=f',"unwritten":{ranges}')
    error = refused(archive, opened, places[0])
    assert isinstance(error, AlteredArchiveError)
    assert error.member == "f"


@both
def test_attributes_that_no_file_can_have(opened, places):
    archive = EnemyArchive().root()
    archive.add(b"f", xattrs={b"user.a\0b": b"v"})
    error = refused(archive, opened, places[0])
    assert isinstance(error, AlteredArchiveError)
    assert error.member == "f"


@both
@pytest.mark.parametrize("overflow", [8193, 8000, 0])
def test_more_attributes_than_a_file_can_have(overflow: int, opened, places):
    """A block of 64 KiB and an inode as large have room for 8192 entries of 16 bytes."""
    archive = EnemyArchive().root()
    if overflow:
        records = b"".join(pax_record(b"user.%d" % number, b"") for number in range(overflow))
        archive.raw(TarHeader(b".ext4img/xattrs/500", REGTYPE), records, inode=500)
    archive.add(b"f", inode=500, xattrs={b"user.x%d" % number: b"" for number in range(8193 - min(overflow, 8192))})
    error = refused(archive, opened, places[0])
    assert isinstance(error, AlteredArchiveError)


@pytest.mark.parametrize("digest", ["z" * 64, "A" * 64, "\u0663" * 64])
def test_digests_that_are_none(digest: str, tmp_path: Path):
    archive = EnemyArchive().root()
    archive.add(b"f", data=b"data", line={"data_sha256": digest})
    with pytest.raises(AlteredArchiveError):
        rebuild(as_file(archive.bytes()), tmp_path / "image")
    assert not list(tmp_path.iterdir())


@both
@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("another path", {"path": b"g"}),
        ("another inode", {"inode": 7}),
        ("another size", {"data_size": 99}),
        ("another digest", {"data_sha256": "0" * 64}),
        ("another header", {"header_sha256": "0" * 64}),
        ("another place", {"header_offset": 512}),
        ("no change key", {"change_key": None}),
        ("a name it has not", {"filename": build_filename(bytes(16))}),
    ],
)
def test_a_manifest_that_lies(what: str, change: dict, opened, places):
    archive = EnemyArchive().root()
    archive.add(b"f", data=b"data", line=change)
    error = refused(archive, opened, places[0])
    assert isinstance(error, AlteredArchiveError)
    assert error.member == "f"
    assert not (places[0] / "f").exists()


@both
def test_members_that_the_manifest_does_not_have(opened, places):
    archive = EnemyArchive().root()
    archive.add(b"f", data=b"data")
    del archive.lines[-1]
    refused(archive, opened, places[0])
    assert not (places[0] / "f").exists()


@both
def test_members_that_only_the_manifest_has(opened, places):
    archive = EnemyArchive().root()
    archive.add(b"e", data=b"data")
    archive.lines.append(archive.lines[-1]._replace(path=b"f"))
    refused(archive, opened, places[0])


@both
@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1023), bytes(1024) + b"more", bytes(2048) + b"\1"])
def test_ends(end: bytes, opened, places):
    archive = EnemyArchive().root()
    data = archive.bytes(end)
    with pytest.raises(ArchiveError):
        restore(opened(data), places[0])


@both
def test_a_second_archive_behind_the_first(opened, places):
    data = EnemyArchive().root().bytes()
    with pytest.raises(ArchiveError):
        restore(opened(data + data), places[0])


@both
def test_a_tree_without_a_root(opened, places):
    archive = EnemyArchive()
    archive.add(b"f", data=b"x")
    refused(archive, opened, places[0])


@both
@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_versions_are_named(version: object, opened, places):
    info = BackupInfo(UUID, 4096).to_json().replace(b'"version": 1', b'"version": ' + json.dumps(version).encode())
    archive = EnemyArchive()
    archive.output, archive.lines = io.BytesIO(), []
    archive.raw(TarHeader(b".ext4img/backup.json", REGTYPE), info, inode=0)
    with pytest.raises(Ext4Error, match="version"):
        restore(opened(archive.bytes()), places[0])
    assert not places[0].exists()


@both
def test_what_a_reader_must_know_is_named(opened, places):
    archive = EnemyArchive(BackupInfo(UUID, 4096, requires=("time travel",))).root()
    with pytest.raises(Ext4Error, match="time travel"):
        restore(opened(archive.bytes()), places[0])


EVIL_NAMES = {
    "parent": b"../victim/evil".ljust(32, b"\0"),
    "two dots": b"..".ljust(16, b"\0"),
    "dot": b".".ljust(16, b"\0"),
    "slash": b"a/b".ljust(16, b"\0"),
    "absolute": b"/etc/evil".ljust(16, b"\0"),
    "NUL inside": b"a\0b".ljust(16, b"\0"),
    "empty": bytes(32),
}


def encrypted(names: list[bytes]) -> EnemyArchive:
    """An encrypted directory with these names, which are padded already."""
    tree = Tree()
    tree.keyring.add(KEY)
    context = context_of()
    archive = EnemyArchive(BackupInfo(UUID, 4096, policies=(context.policy,))).root()
    archive.add(b"d/", DIRTYPE, inode=50, xattrs={b"trusted.ext4img.metadata": build_metadata(4096, context.raw)})
    cipher = tree.keyring.names_cipher(context, 50, UUID.bytes)
    assert cipher is not None
    stored = cipher.encrypt_raw(names)
    for name in sorted(stored, key=lambda name: nokey_name(name, 0, 0)):
        path = b"d/" + nokey_name(name, 0, 0)
        archive.add(path, data=b"", xattrs={b"trusted.ext4img.filename": build_filename(name)})
    return archive


@both
@pytest.mark.parametrize("name", EVIL_NAMES.values(), ids=EVIL_NAMES.keys())
def test_names_that_decrypt_to_evil(name: bytes, opened, places):
    target, victim = places
    with pytest.raises(ArchiveError) as caught:
        restore(opened(encrypted([name]).bytes()), target, keys=[KEY])
    assert caught.value.member is not None
    assert caught.value.member.startswith("d/")
    assert_untouched(victim)


@both
def test_two_names_that_decrypt_to_one(opened, places):
    archive = encrypted([b"same".ljust(16, b"\0"), b"same".ljust(32, b"\0")])
    with pytest.raises(AlteredArchiveError, match="as another one's did"):
        restore(opened(archive.bytes()), places[0], keys=[KEY], overwrite=True)


@both
def test_an_encrypted_directory_with_a_name_that_is_not(opened, places):
    archive = encrypted([])
    archive.add(b"d/plain", data=b"x")
    with pytest.raises(ArchiveError):
        restore(opened(archive.bytes()), places[0], keys=[KEY])


@both
def test_a_name_that_is_not_the_one_in_its_record(opened, places):
    for path in (b"harmless", nokey_name(b"another stored name", 0, 0)):
        archive = EnemyArchive().root()
        archive.add(path, data=b"x", xattrs={FILENAME.encode(): build_filename(bytes(16))})
        error = refused(archive, opened, places[0])
        assert isinstance(error, AlteredArchiveError)
        assert error.member == path.decode()


@both
def test_extreme_values_are_restored_or_skipped(opened, places):
    """Nothing that a header can hold ends in anything but an error of ours or a note."""
    archive = EnemyArchive().root()
    far = (10**12 - 1) * 10**9
    archive.add(b"char", CHRTYPE, rdev=(0o7777777, 0o7777777))
    archive.add(b"disk", BLKTYPE, rdev=(4095, 1 << 20))
    archive.add(b"fifo", FIFOTYPE)
    archive.add(b"nobody", uid=(1 << 32) - 1, gid=(1 << 32) - 1, mode=0o6755)
    archive.add(b"suid", mode=0o7777, uid=12345)
    record = b'{"number":99,"generation":0,"flags":4294967295,"links":65535,"project":4294967295}'
    for name, times in ((b"time-a", (far,) * 3), (b"time-b", (-far,) * 3)):
        header = TarHeader(name, REGTYPE, times=times, xattrs={b"trusted.ext4img.inode": record})
        archive.raw(header, inode=99, change_key=ChangeKey(0, 0, times[2], 0))
    restore(opened(archive.bytes()), places[0], devices=True)
    subprocess.run(["chattr", "-R", "-i", "-a", str(places[0])], check=False, capture_output=True)
    assert not (places[0] / "nobody").stat().st_mode & 0o6000
    with Archive(as_file(archive.bytes())) as again:
        assert len(list(again)) == 8


def test_huge_files_cost_nothing(places):
    """A sparse file of 4 EiB in a kilobyte: the target may refuse it, memory may not be asked for."""
    archive = EnemyArchive().root()
    record = {b"trusted.ext4img.inode": b'{"number":99,"generation":0,"flags":0,"links":1}'}
    header = TarHeader(b"huge", REGTYPE, times=TIMES, sparse_size=1 << 62, xattrs=record)
    text = b"1\n%d\n0\n" % (1 << 62)
    archive.raw(header, text + bytes(512 - len(text)), inode=99, change_key=ChangeKey(0, 1 << 62, TIMES[2], 0))
    archive.add(b"next", data=b"x")
    report = restore(as_file(archive.bytes()), places[0])
    assert (places[0] / "next").read_bytes() == b"x"
    assert report.left_out <= 1


@both
def test_a_manifest_in_the_middle(opened, places):
    archive = EnemyArchive().root()
    archive.raw(TarHeader(MANIFEST_PATH, REGTYPE), b"{}\n", inode=0)
    archive.add(b"f", data=b"x")
    refused(archive, opened, places[0])
