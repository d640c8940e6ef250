"""Whether others can write to an image: the kernel is made to have it in use, and it is changed while it is read."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

import ext4img
from ext4img.sources import holders
from ext4img.sources.holders import ByteRange, Holder
from tests.conftest import UnpackedImage
from tools.loop_mount import loop_mounted, run

kernel = pytest.mark.kernel
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc and /sys are Linux's")
MIXTURE = "in use, so that what is read may be a mixture of old and new: "


@pytest.fixture
def image(fixture_image: Callable[[str], UnpackedImage], tmp_path: Path) -> Path:
    path = tmp_path / "a.img"
    shutil.copyfile(fixture_image("plain-4k").path, path)
    return path


@contextmanager
def loop_device(path: str | Path, *options: str) -> Iterator[str]:
    device = run("losetup", "--find", "--show", *options, path).decode().strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@contextmanager
def mounted(device: str | Path, directory: Path, *options: str) -> Iterator[None]:
    directory.mkdir(exist_ok=True)
    run("mount", *options, device, directory)
    try:
        yield
    finally:
        run("umount", directory)


def in_use(fs: ext4img.FileSystem) -> list[str]:
    return [problem.reason for problem in fs.problems if isinstance(problem, ext4img.SourceInUse)]


def test_nobody_uses_it(image: Path, tmp_path: Path):
    with ext4img.open(image) as fs:
        report = ext4img.backup(fs, tmp_path / "a.tar")
        assert report.changes == ()
        assert not fs.problems
    with closing(ext4img.open_backup(tmp_path / "a.tar")) as backup:
        assert backup.info.live == ()
    assert ext4img.verify(tmp_path / "a.tar").changes == ()


@linux
def test_every_writer_refuses_what_is_open_for_writing(image: Path, tmp_path: Path):
    """This process holds it; and what was told as a problem has no part in the decision."""
    with open(image, "r+b") as file, ext4img.open(image) as fs:
        assert in_use(fs) == []  # opening does not look through all processes
        for write in (
            lambda: ext4img.backup(fs, tmp_path / "new.tar"),
            lambda: ext4img.backup(fs, tmp_path / "new", format="dir"),
            lambda: ext4img.rebuild(fs, tmp_path / "new.img"),
            lambda: ext4img.extract(fs, iter(()), tmp_path / "out"),
        ):
            with pytest.raises(ext4img.LiveSourceError, match=f"open for writing by process {os.getpid()}") as caught:
                write()
            assert caught.value.holders[0].endswith("(read-write)")
        assert file.fileno() >= 0
        assert sorted(os.listdir(tmp_path)) == ["a.img"]
        assert len(in_use(fs)) == 1


@linux
def test_live_goes_on_and_records_it(image: Path, tmp_path: Path):
    with open(image, "r+b"), ext4img.open(image, live=True) as fs:
        report = ext4img.backup(fs, tmp_path / "a.tar")
        store = ext4img.backup(fs, tmp_path / "store", format="dir")
        copied = ext4img.rebuild(fs, tmp_path / "copy.img")
        extracted = ext4img.extract(fs, iter(()), tmp_path / "out")
    for found in (report, store, copied, extracted):
        assert [reason.startswith(MIXTURE + "open for writing by process") for reason in found.changes] == [True]
    for backup in ("a.tar", "store"):
        with closing(ext4img.open_backup(tmp_path / backup)) as opened:
            assert opened.info.live == ("process",)
        (reason,) = ext4img.verify(tmp_path / backup).changes
        assert "others could write to the image (process)" in reason
        assert ext4img.restore(tmp_path / backup, tmp_path / f"{backup}-restored").changes == (reason,)
        assert ext4img.rebuild(tmp_path / backup, tmp_path / f"{backup}.img").changes == (reason,)
    with open(tmp_path / "a.tar", "rb") as stream:
        assert ext4img.restore(stream, tmp_path / "streamed").changes
    with ext4img.open(image) as fs:
        chained = ext4img.backup(fs, tmp_path / "b.tar", since=tmp_path / "a.tar")
        assert chained.changes == ("the backup that it is based on may be a mixture of old and new",)
    assert ext4img.verify(tmp_path / "b.tar", bases=[tmp_path / "a.tar"]).changes


@linux
@pytest.mark.parametrize(
    "opened", ["path", "descriptor", "/dev/fd", "symlink", "file object", "source", "at an offset"]
)
def test_however_it_is_opened(opened: str, image: Path, tmp_path: Path):
    offset = 0
    with ExitStack() as stack:
        file = stack.enter_context(open(image, "rb", buffering=0))
        if opened == "at an offset":
            offset = 4096
            data = image.read_bytes()
            image.write_bytes(bytes(offset) + data)
        (tmp_path / "link").symlink_to(image)
        ways: dict[str, ext4img.Openable] = {
            "descriptor": file.fileno(),
            "/dev/fd": f"/dev/fd/{file.fileno()}",
            "symlink": tmp_path / "link",
            "file object": file,
            "source": stack.enter_context(ext4img.open_source(image)),
        }
        given = ways.get(opened, image)
        writer = stack.enter_context(open(image, "r+b"))
        fcntl.fcntl(writer, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0))  # as QEMU
        with ext4img.open(given, offset=offset) as fs:
            (reason,) = in_use(fs)
            assert reason.startswith(MIXTURE + "locked by")
            with pytest.raises(ext4img.LiveSourceError):
                ext4img.backup(fs, tmp_path / "a.tar")


@linux
@pytest.mark.parametrize("what", ["time", "contents", "size", "superblock", "opened", "truncated"])
def test_what_changed_while_it_was_read(what: str, image: Path, tmp_path: Path):
    """Nobody had it in use when the backup began."""
    with ExitStack() as stack:

        def change(done: int, total: int | None) -> None:
            if what == "time":
                os.utime(image, ns=(0, 10**9))
            elif what == "opened":
                stack.enter_context(open(image, "r+b"))
            elif what == "size":
                with open(image, "ab") as file:
                    file.write(b"x")
            elif what == "truncated":
                os.truncate(image, os.stat(image).st_size)  # nothing but the times
            else:
                with open(image, "r+b") as file:
                    file.seek(1024 + 0x30 if what == "superblock" else 0)  # s_wtime
                    file.write(b"\x01\x02\x03\x04")

        fs = stack.enter_context(ext4img.open(image))
        report = ext4img.backup(fs, tmp_path / "a.tar", progress=change)
        words = {"opened": MIXTURE + "open for writing", "superblock": "the superblock changed while it was read"}
        told = words.get(what, "the image file's size or time changed while it was read")
        assert any(reason.startswith(told) for reason in report.changes), report.changes
        assert len(in_use(fs)) == len(report.changes)
        (reason,) = ext4img.verify(tmp_path / "a.tar").changes
        assert reason == "the image changed while its backup was made: it may be a mixture of old and new"


@kernel
def test_a_mount_while_it_is_read(image: Path, tmp_path: Path):
    """The backup does not hinder it; and it leaves traces even if it is gone before the backup ends."""
    with loop_device(image) as device:
        times = 0

        def mount(done: int, total: int | None) -> None:
            nonlocal times
            times += 1
            if times == 5:
                with mounted(device, tmp_path / "m"):
                    (tmp_path / "m" / "new").write_text("new")

        with ext4img.open(device) as fs:
            report = ext4img.backup(fs, tmp_path / "a.tar", progress=mount)
        assert times > 5
        assert {"the superblock changed while it was read", "the journal changed while it was read"} & {*report.changes}


@kernel
@pytest.mark.parametrize("options", ["rw", "ro"])
@pytest.mark.parametrize("opened", ["file", "device"])
def test_mounted(opened: str, options: str, image: Path, tmp_path: Path):
    with loop_device(image) as device, mounted(device, tmp_path / "m", "-o", options):
        with ext4img.open(image if opened == "file" else device) as fs:
            if options == "ro":
                assert not fs.problems
                assert not ext4img.backup(fs, tmp_path / "a.tar").changes
                return
            assert any(f"mounted on {tmp_path / 'm'} (ext4)" in reason for reason in in_use(fs))
            with pytest.raises(ext4img.LiveSourceError, match=r"mounted on .* \(read-write\)"):
                ext4img.backup(fs, tmp_path / "a.tar")
        with ext4img.open(device, live=True) as fs:
            assert "mount" in {holder.kind for holder in fs.volume.watch.writers}
            assert ext4img.backup(fs, tmp_path / "a.tar").changes


@kernel
def test_live_devices_are_read_past_the_page_cache(image: Path, tmp_path: Path):
    """What was written and synchronised is read, although the device's page cache still has what was there before."""
    with loop_device(image) as device, mounted(device, tmp_path / "m"):
        path = tmp_path / "m" / "db"
        path.write_bytes(b"A" * 100_000)
        with open(path, "r+b") as file:
            os.fsync(file.fileno())
            with ext4img.open(device) as fs:
                assert fs.path("/db").read_bytes() == b"A" * 100_000
            file.write(b"B" * 100_000)
            file.flush()
            os.fsync(file.fileno())
            with ext4img.open(device, journal="ignore") as fs:
                stale = fs.path("/db").read_bytes()
            with ext4img.open(device, live=True) as fs:
                assert fs.path("/db").read_bytes() == b"B" * 100_000
        assert stale == b"A" * 100_000  # the kernel's own page cache: else this test would show nothing


@kernel
def test_other_partitions_do_not_matter(image: Path, tmp_path: Path):
    """Two file systems on one disk, one of them mounted through a loop device of its part."""
    disk = tmp_path / "disk.img"
    size = image.stat().st_size
    data = image.read_bytes()
    disk.write_bytes(data + data)
    with loop_device(disk, "--offset", str(size), "--sizelimit", str(size)) as part, mounted(part, tmp_path / "m"):
        with ext4img.open_source(disk, 0, size) as first, ext4img.open(first) as fs:
            assert in_use(fs) == []
        with ext4img.open(disk, offset=size) as fs:
            assert any("mounted on" in reason for reason in in_use(fs))


def test_partitions_by_what_sysfs_says_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """8:1 of the disk 8:0 is mounted, 8:2 is not; `start` and `size` are in sectors of 512 (block/partitions)."""
    for name, number, place in (("sda", "8:0", None), ("sda/sda1", "8:1", (8, 8)), ("sda/sda2", "8:2", (16, 8))):
        directory = tmp_path / name
        (directory / "holders").mkdir(parents=True)
        (directory / "dev").write_text(f"{number}\n")
        (directory / "uevent").write_text(f"DEVNAME={Path(name).name}\n")
        if place is not None:
            (directory / "partition").write_text("1\n")
            (directory / "start").write_text(f"{place[0]}\n")
            (directory / "size").write_text(f"{place[1]}\n")
        (tmp_path / number).symlink_to(directory)
    mount = Holder("mount", "mounted on / (ext4)", True)
    monkeypatch.setattr(holders, "_SYS_DEVICES", tmp_path)
    monkeypatch.setattr(holders, "_mounts", lambda: iter([(os.makedev(8, 1), mount)]))
    monkeypatch.setattr(holders, "_is_claimed", lambda device: False)

    def found(number: int, *read: int) -> list[Holder]:
        search = holders._Search(processes=False)
        search.block_device(os.makedev(8, number), ByteRange(*read))
        return search.found

    assert found(0) == [mount]
    assert found(0, 8 * 512, 16 * 512) == [mount]
    assert found(0, 12 * 512, 24 * 512) == [mount]
    assert found(0, 16 * 512, 24 * 512) == []
    assert found(1) == [mount]
    assert found(2) == []

    # What has the whole disk has its partitions, too: here a mapped device that is mounted.
    mapped_device = tmp_path / "dm-0"
    (mapped_device / "holders").mkdir(parents=True)
    (mapped_device / "dev").write_text("253:0\n")
    (mapped_device / "uevent").write_text("DEVNAME=dm-0\n")
    (tmp_path / "253:0").symlink_to(mapped_device)
    (tmp_path / "sda" / "holders" / "dm-0").symlink_to(mapped_device)
    other = Holder("mount", "mounted on /mnt (ext4)", True)
    monkeypatch.setattr(holders, "_mounts", lambda: iter([(os.makedev(8, 1), mount), (os.makedev(253, 0), other)]))
    search = holders._Search(processes=False)
    search.disk_of(os.makedev(8, 2))
    assert search.found == [Holder("device", "device /dev/dm-0", True), other]
    search = holders._Search(processes=False)
    search.disk_of(os.makedev(8, 0))
    assert search.found == []  # it is no partition


@kernel
def test_an_image_inside_a_mounted_image(image: Path, tmp_path: Path):
    """A file that is only read through the mount it lies in is in nobody's use."""
    with loop_mounted(image, "ro") as directory:
        assert any(Path(directory).iterdir())
        with ext4img.open(image) as fs:
            assert in_use(fs) == []
