"""Who holds an image: the kernel is made to hold one in each way, and has to be seen doing it."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ext4img.sources import holders
from ext4img.sources.holders import Holder, holders_of
from tools.loop_mount import SBIN, loop_mounted, run

kernel = pytest.mark.kernel


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.img"
    run("mke2fs", "-q", "-t", "ext4", "-F", path, "16M")
    return path


@contextmanager
def loop_device(path: str | Path, *options: str) -> Iterator[str]:
    device = run("losetup", "--find", "--show", *options, path).decode().strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


def kinds(holders: list[Holder]) -> list[tuple[str, bool]]:
    return [(holder.kind, holder.writable) for holder in holders]


def test_a_file_that_nobody_uses(tmp_path: Path):
    (tmp_path / "a.img").write_bytes(b"x")
    assert holders_of(tmp_path / "a.img") == []
    with open(tmp_path / "a.img", "rb") as file:
        assert holders_of(file.fileno()) == []
        assert holders_of(tmp_path / "a.img") == []  # an open file that is only read counts for nothing


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells of open files")
def test_a_process_that_may_write(tmp_path: Path):
    path = tmp_path / "a.img"
    path.write_bytes(bytes(8192))
    code = "import sys; f = open(sys.argv[1], 'r+b'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (holder,) = holders_of(path)
        assert holder.kind == "process"
        assert holder.writable
        assert f"process {process.pid} (" in holder.name
        assert holders_of(path, processes=False) == []
        assert process.stdin is not None
        process.stdin.close()
    assert holders_of(path) == []


def mapped(path: Path, flags: int) -> Callable[[], int]:
    """Map a file for writing and close it; Python's own mmap keeps a descriptor. What unmaps it is returned."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    with open(path, "r+b") as file:
        address = libc.mmap(None, 8192, mmap.PROT_READ | mmap.PROT_WRITE, flags, file.fileno(), 0)
    assert address != ctypes.c_void_p(-1).value
    return lambda: libc.munmap(address, 8192)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells of mappings")
def test_a_mapping_outlives_its_descriptor(tmp_path: Path):
    path = tmp_path / "a.img"
    path.write_bytes(bytes(8192))
    unmap = mapped(path, mmap.MAP_SHARED)
    assert kinds(holders_of(path)) == [("process", True)]
    unmap()
    unmap = mapped(path, mmap.MAP_PRIVATE)
    assert holders_of(path) == []  # its changes never reach the file
    unmap()


@pytest.mark.skipif(sys.platform != "linux", reason="locks of open file descriptions are Linux's")
@pytest.mark.parametrize(
    ("kind", "first", "writable"),
    [(fcntl.F_WRLCK, 0, True), (fcntl.F_RDLCK, 100, False), (fcntl.F_RDLCK, 101, True), (fcntl.F_RDLCK, 201, False)],
    ids=["exclusive", "QEMU may read", "QEMU may write", "QEMU shares writing"],
)
def test_locks_of_virtual_machines(tmp_path: Path, kind: int, first: int, writable: bool):
    """QEMU's shared locks of single bytes: 100 and up for what it may do, 200 and up for what others must not."""
    path = tmp_path / "a.img"
    path.write_bytes(bytes(8192))
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, first, 1, 0))
        assert kinds(holders_of(path, processes=False)) == [("lock", writable)]
    finally:
        os.close(fd)
    assert holders_of(path) == []


@kernel
@pytest.mark.parametrize("options", ["rw", "ro"])
def test_a_mounted_image(image: Path, options: str):
    writable = options == "rw"
    with loop_mounted(image, options) as directory:
        found = holders_of(image)
        assert kinds(found) == [("device", writable), ("mount", writable)]
        assert directory in found[1].name
        assert "(ext4)" in found[1].name
        assert found[0].name.startswith("loop device /dev/loop")
    assert holders_of(image) == []


@kernel
def test_a_mounted_device(image: Path):
    with loop_device(image) as device, ExitStack() as stack:
        assert holders_of(device) == []
        assert kinds(holders_of(image)) == [("device", False)]  # attached, used by nobody
        directory = image.parent / "with space"
        directory.mkdir()
        run("mount", device, directory)
        stack.callback(run, "umount", directory)
        assert kinds(holders_of(device)) == [("mount", True)]
        assert f"mounted on {directory} (" in holders_of(device)[0].name


@kernel
def test_a_mount_of_another_namespace(image: Path):
    """It is in no list that we can read; that the device is in use, the kernel still says."""
    code = 'mount --make-rprivate / && mount "$0" "$1" && echo mounted && read line'
    with loop_device(image) as device:
        directory = image.parent / "m"
        directory.mkdir()
        with subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", code, device, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"mounted\n"
            assert kinds(holders_of(device)) == [("claim", True)]
            assert ("claim", True) in kinds(holders_of(image))
            assert process.stdin is not None
            process.stdin.close()
        assert holders_of(device) == []


@kernel
def test_a_partition_of_a_disk(tmp_path: Path):
    if shutil.which("sfdisk", path=f"{os.environ['PATH']}:{SBIN}") is None:
        pytest.skip("no sfdisk here")
    disk = tmp_path / "disk.img"
    run("truncate", "-s", "24M", disk)
    run("sfdisk", "-q", disk, stdin=b"label: dos\nstart=2048, type=83\n")
    with loop_device(disk, "--partscan") as device, ExitStack() as stack:
        number = Path(f"/sys/class/block/{device.removeprefix('/dev/')}p1/dev")
        if not number.exists():
            pytest.skip("no partitions of loop devices here")
        partition = tmp_path / "partition"  # of our own: who makes those in /dev may be slow, or not there
        os.mknod(partition, 0o600 | stat.S_IFBLK, os.makedev(*map(int, number.read_text().split(":"))))
        run("mke2fs", "-q", "-t", "ext4", "-F", partition)
        directory = tmp_path / "m"
        directory.mkdir()
        run("mount", partition, directory)
        stack.callback(run, "umount", directory)
        assert kinds(holders_of(device)) == [("mount", True)]
        assert kinds(holders_of(partition)) == [("mount", True)]
        assert kinds(holders_of(disk)) == [("device", True), ("mount", True)]


@kernel
def test_two_loop_devices_over_one_file(image: Path):
    """Read through one, written through the other."""
    with loop_device(image) as one, loop_device(image) as other, ExitStack() as stack:
        directory = image.parent / "m"
        directory.mkdir()
        run("mount", other, directory)
        stack.callback(run, "umount", directory)
        assert kinds(holders_of(one)) == [("device", True), ("mount", True)]


@kernel
def test_device_mapper(image: Path):
    with loop_device(image) as device, ExitStack() as stack:
        name = f"ext4img-test-{os.getpid()}"
        try:
            run("dmsetup", "create", name, "--table", f"0 {(16 << 20) // 512} linear {device} 0")
        except (FileNotFoundError, subprocess.CalledProcessError):
            pytest.skip("no device mapper here")
        stack.callback(run, "dmsetup", "remove", "--retry", name)
        assert [(holder.kind, holder.writable) for holder in holders_of(device)] == [("device", False)]
        mapped = f"/dev/mapper/{name}"
        if not Path(mapped).exists():
            pytest.skip("no device node for a mapped device here")
        directory = image.parent / "m"
        directory.mkdir()
        run("mount", mapped, directory)
        stack.callback(run, "umount", directory)
        assert kinds(holders_of(device)) == [("device", True), ("mount", True)]


def test_what_is_not_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        holders_of(tmp_path / "nothing")


def test_partitions_and_stacked_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Partition 8:2 of the disk 8:0 is part of 253:0, which is mounted; as sysfs has it (kernel: block/holder.c)."""
    disk, partition, mapped_device = tmp_path / "8:0", tmp_path / "8:0" / "sda2", tmp_path / "253:0"
    for directory, number, name in ((disk, "8:0", "sda"), (partition, "8:2", "sda2"), (mapped_device, "253:0", "dm-0")):
        (directory / "holders").mkdir(parents=True)
        (directory / "dev").write_text(f"{number}\n")
        (directory / "uevent").write_text(f"MAJOR={number.split(':')[0]}\nDEVNAME={name}\n")
    (partition / "partition").write_text("2\n")
    (tmp_path / "8:2").symlink_to(partition)
    (partition / "holders" / "dm-0").symlink_to(mapped_device)
    mount = holders.Holder("mount", "mounted on /home (ext4)", True)
    monkeypatch.setattr(holders, "_SYS_DEVICES", tmp_path)
    monkeypatch.setattr(holders, "_mounts", lambda: iter([(os.makedev(253, 0), mount)]))
    monkeypatch.setattr(holders, "_is_claimed", lambda device: False)
    for device in (os.makedev(8, 0), os.makedev(8, 2)):
        search = holders._Search(processes=False)
        search.block_device(device)
        assert search.found == [Holder("device", "device /dev/dm-0", True), mount]
