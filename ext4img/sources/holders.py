"""Who else has hold of an image file or block device: mounts, loop devices, device mapper, locks, processes.

A source that somebody can write to while it is read gives a mixture of old and new blocks, and a
mounted device gives old ones: the file system's own pages are not those that a read of the device
sees. Linux tells who holds it in /proc and /sys. Other mount namespaces and other users' processes
are hidden from an ordinary user, so an empty answer is no proof; for a block device the kernel is
asked as well (O_EXCL, open(2)).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, NamedTuple

from ext4img.structs.loop_ioctl import LO_FLAGS_READ_ONLY, LOOP_GET_STATUS64, LOOP_INFO64

_PROC: Final = Path("/proc")
_SYS_DEVICES: Final = Path("/sys/dev/block")
_SYS_BLOCK: Final = Path("/sys/block")
_MAX_DEPTH: Final = 16  # devices upon devices
_SECTOR: Final = 512
# QEMU takes shared locks of single bytes that say what it may do (block/file-posix.c, docs/system/qemu-block-drivers):
# RAW_LOCK_PERM_BASE + the number of a permission's bit. BLK_PERM_WRITE is bit 1.
_QEMU_WRITES_BYTE: Final = 101

HolderKind = Literal["mount", "device", "lock", "process", "claim"]


class Holder(NamedTuple):
    """One that has hold of a source. `writable`: it can change the source's bytes."""

    kind: HolderKind
    name: str
    writable: bool

    def __str__(self) -> str:
        return f"{self.name} ({'read-write' if self.writable else 'read-only'})"


class ByteRange(NamedTuple):
    """The bytes from `start` up to `end` of a file or device; those that are read of it."""

    start: int = 0
    end: int = sys.maxsize

    def within(self, start: int, length: int) -> ByteRange | None:
        """The part of this range that is in a piece of `length` bytes at `start`, counted from there; None if none."""
        first, last = max(self.start - start, 0), min(self.end - start, length)
        return ByteRange(first, last) if first < last else None


_WHOLE: Final = ByteRange()


def holders_of(
    source: str | os.PathLike[str] | int, *, read: ByteRange = _WHOLE, processes: bool = True
) -> list[Holder]:
    """All that can be seen to hold a file or block device, given by its path or an open descriptor.

    Of a disk or an image of one only the bytes `read` count: what holds other partitions of it does not.
    `processes` also looks through the open files of all processes, which takes time where there are
    many. [] where the system is not Linux, or nothing is found. OSError where `source` is not there.
    """
    status = os.stat(source)
    if not sys.platform.startswith("linux"):
        return []
    search = _Search(processes)
    if stat.S_ISBLK(status.st_mode):
        search.block_device(status.st_rdev, read)
        search.disk_of(status.st_rdev)
        search.backing_file(status.st_rdev, read)
    elif stat.S_ISREG(status.st_mode):
        search.file(status, read)
    return list(dict.fromkeys(search.found))


class _Search:
    """Goes from a file or device to what is on top of it."""

    def __init__(self, processes: bool) -> None:
        self.found: list[Holder] = []
        self._processes = processes
        self._seen: set[int] = set()

    @cached_property
    def _mounts(self) -> list[tuple[int, Holder]]:
        return list(_mounts())

    def file(self, status: os.stat_result, read: ByteRange = _WHOLE, but: int | None = None) -> None:
        """Loop devices over a file (`but` one), locks on it, processes that have it open for writing."""
        self._loops(status, read, 0, but)
        self.found += _locks_on(status)
        if self._processes:
            self.found += _writing_processes(status)

    def backing_file(self, device: int, read: ByteRange) -> None:
        """Others that have hold of the file behind a loop device."""
        with suppress(OSError):
            directory = _directory_of(device) / "loop"
            name = (directory / "backing_file").read_bytes().rstrip(b"\n")
            start, _ = _loop_range(directory)
            self.file(os.stat(name), ByteRange(read.start + start, min(read.end, sys.maxsize - start) + start), device)

    def disk_of(self, device: int) -> None:
        """Those that have the whole disk of a partition in use: other partitions of it do not matter."""
        directory = _directory_of(device)
        if not (directory / "partition").exists():
            return
        with suppress(OSError, ValueError):
            disk = _device_number(directory.resolve().parent)
            self._on_top_of(disk, _WHOLE, 1)

    def block_device(self, device: int, read: ByteRange = _WHOLE, depth: int = 0) -> None:
        """Mounts of a device, of its partitions, and of the devices that are made of it."""
        if device in self._seen or depth > _MAX_DEPTH:
            return
        self._seen.add(device)
        before = len(self.found)
        self._on_top_of(device, read, depth)
        directory = _directory_of(device)
        partitions = _numbers_in(directory, "partition")
        for number, child in partitions:
            part = read.within(*_partition_range(child))
            if part is not None:
                self.block_device(number, part, depth + 1)
        # The whole of a disk is claimed, too, where any partition is.
        if len(self.found) == before and not partitions and _is_claimed(device):
            name = f"{_device_name(device)} is in use, by whom cannot be seen"
            self.found.append(Holder("claim", name, not _is_read_only(directory)))

    def _on_top_of(self, device: int, read: ByteRange, depth: int) -> None:
        """What uses the device itself, not its partitions."""
        self.found += [mount for number, mount in self._mounts if number == device]
        for upper, _ in _numbers_in(_directory_of(device) / "holders"):
            first = len(self.found)
            self.block_device(upper, _WHOLE, depth + 1)  # where it has these bytes, only the device mapper knows
            writable = any(holder.writable for holder in self.found[first:])
            self.found.insert(first, Holder("device", f"device {_device_name(upper)}", writable))
        with suppress(OSError):
            status = os.stat(_device_path(device))
            self._loops(status, read, depth)
            if self._processes:
                self.found += _writing_processes(status)

    def _loops(self, status: os.stat_result, read: ByteRange, depth: int, but: int | None = None) -> None:
        """Loop devices over a file or device."""
        for device, directory, read_only in _loops_over(status):
            part = read.within(*_loop_range(directory))
            if device == but or part is None:
                continue
            first = len(self.found)
            self.block_device(device, part, depth + 1)
            # A loop device is as writable as who uses it.
            writable = not read_only and any(holder.writable for holder in self.found[first:])
            self.found.insert(first, Holder("device", f"loop device {_device_name(device)}", writable))


def _mounts() -> Iterator[tuple[int, Holder]]:
    """(device, holder) of all mounts that can be seen (proc_pid_mountinfo(5))."""
    for line in _lines(_PROC / "self" / "mountinfo"):
        words = line.split(b" ")
        try:
            after = words.index(b"-")
            major, _, minor = words[2].partition(b":")
            device = os.makedev(int(major), int(minor))
            kind, options = os.fsdecode(words[after + 1]), words[after + 3].split(b",")
        except (ValueError, IndexError):
            continue
        # The options of the file system count, not those of the mount: a read-only bind mount of it writes nothing,
        # but another mount of the same may.
        yield device, Holder("mount", f"mounted on {_unescaped(words[4])} ({kind})", b"rw" in options)


def _unescaped(path: bytes) -> str:
    """A path of mountinfo, where space, tab, newline and backslash are octal."""
    for code in (b" ", b"\t", b"\n"):
        path = path.replace(b"\\%03o" % code[0], code)
    return os.fsdecode(path.replace(b"\\134", b"\\"))


def _directory_of(device: int) -> Path:
    """What sysfs has of a block device."""
    return _SYS_DEVICES / f"{os.major(device)}:{os.minor(device)}"


def _device_number(directory: Path) -> int:
    """The number of the block device of a directory in /sys."""
    major, minor = (directory / "dev").read_text("ascii").split(":")
    return os.makedev(int(major), int(minor))


def _numbers_in(directory: Path, marker: str = "") -> list[tuple[int, Path]]:
    """(number, directory) of the block devices that have one in a directory of /sys (with a file `marker` in it)."""
    found = []
    with suppress(OSError):
        for child in directory.iterdir():
            with suppress(OSError, ValueError):
                if not marker or (child / marker).exists():
                    found.append((_device_number(child), child))
    return sorted(found)


def _partition_range(directory: Path) -> tuple[int, int]:
    """(start, length) in bytes of a partition; sysfs counts in sectors of 512 whatever the disk's are."""
    try:
        start, length = (int((directory / name).read_text("ascii")) for name in ("start", "size"))
    except (OSError, ValueError):
        return 0, sys.maxsize
    return start * _SECTOR, length * _SECTOR


def _loop_range(directory: Path) -> tuple[int, int]:
    """(start, length) in bytes of what a loop device shows of its file."""
    try:
        start, length = (int((directory / name).read_text("ascii")) for name in ("offset", "sizelimit"))
    except (OSError, ValueError):
        return 0, sys.maxsize
    return start, length or sys.maxsize


def _loops_over(status: os.stat_result) -> Iterator[tuple[int, Path, bool]]:
    """(device, directory in sysfs, whether it is read-only) of the loop devices over a file or device."""
    with suppress(OSError):
        for directory in sorted(_SYS_BLOCK.glob("loop*/loop")):
            with suppress(OSError, ValueError):
                device = _device_number(directory.parent)
                backing, read_only = _backing_of(device, directory)
                if backing == (status.st_dev, status.st_ino):
                    yield device, directory, read_only


def _backing_of(device: int, directory: Path) -> tuple[tuple[int, int], bool]:
    """((device, inode) of the file behind a loop device, whether it is read-only)."""
    try:
        fd = os.open(_device_path(device), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError:
        # An ordinary user may read the path, which another mount namespace may understand otherwise.
        backing = os.stat((directory / "backing_file").read_bytes().rstrip(b"\n"))
        return (backing.st_dev, backing.st_ino), _is_read_only(directory.parent)
    try:
        raw = bytearray(LOOP_INFO64.size)
        fcntl.ioctl(fd, LOOP_GET_STATUS64, raw)
    finally:
        os.close(fd)
    info = LOOP_INFO64.unpack(raw)
    # new_encode_dev (kernel: include/linux/kdev_t.h)
    number = os.makedev(info.lo_device >> 8 & 0xFFF, info.lo_device & 0xFF | info.lo_device >> 12 & 0xFFF00)
    return (number, info.lo_inode), bool(info.lo_flags & LO_FLAGS_READ_ONLY)


def _locks_on(status: os.stat_result) -> Iterator[Holder]:
    """Locks on a file (proc_locks(5)); virtual machines lock the images that they use."""
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}".encode()
    for line in _lines(_PROC / "locks"):
        words = line.replace(b"-> ", b"").split()
        if len(words) < 8 or words[5] != place:
            continue
        kind, access, pid = words[1], words[3], int(words[4])
        writable = access == b"WRITE"
        if kind == b"OFDLCK" and access == b"READ":
            writable = _includes(words[6], words[7], _QEMU_WRITES_BYTE)
        who = _process_name(pid) if pid > 0 else "a process that cannot be named, as a virtual machine's disk is"
        yield Holder("lock", f"locked by {who}", writable)


def _includes(first: bytes, last: bytes, byte: int) -> bool:
    return int(first) <= byte <= (byte if last == b"EOF" else int(last))


def _writing_processes(status: os.stat_result) -> Iterator[Holder]:
    """Processes that have a file or device open for writing, or mapped so. Only root sees other users' processes."""
    is_device = stat.S_ISBLK(status.st_mode)
    wanted = status.st_rdev if is_device else (status.st_dev, status.st_ino)
    for pid in _pids():
        if _has_open_for_writing(pid, wanted) or (not is_device and _has_mapped(pid, status)):
            yield Holder("process", f"open for writing by {_process_name(pid)}", True)


def _pids() -> Iterable[int]:
    return sorted(int(name) for name in os.listdir(_PROC) if name.isdigit())


def _has_open_for_writing(pid: int, wanted: int | tuple[int, int]) -> bool:
    directory = f"{_PROC}/{pid}/fd"
    try:
        names = os.listdir(directory)
    except OSError:  # it has ended, or is somebody else's
        return False
    for name in names:
        with suppress(OSError, ValueError):
            found = os.stat(f"{directory}/{name}")
            if isinstance(wanted, int):
                if not stat.S_ISBLK(found.st_mode) or found.st_rdev != wanted:
                    continue
            elif (found.st_dev, found.st_ino) != wanted:
                continue
            for line in _lines(_PROC / str(pid) / "fdinfo" / name):
                if line.startswith(b"flags:"):
                    if int(line[6:], 8) & os.O_ACCMODE != os.O_RDONLY:
                        return True
                    break
    return False


def _has_mapped(pid: int, status: os.stat_result) -> bool:
    """A shared writable mapping stays when its descriptor is closed (proc_pid_maps(5))."""
    inode = str(status.st_ino).encode()
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}".encode()
    for line in _lines(_PROC / str(pid) / "maps"):
        words = line.split(None, 5)
        if len(words) >= 5 and words[3:5] == [place, inode] and words[1][1:2] == b"w" and words[1][3:4] == b"s":
            return True
    return False


def _process_name(pid: int) -> str:
    try:
        name = os.fsdecode((_PROC / str(pid) / "comm").read_bytes().rstrip(b"\n"))
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({name})"


def _is_claimed(device: int) -> bool:
    """Whether the kernel refuses an exclusive open, as it does of what is mounted or part of another device."""
    try:
        fd = os.open(_device_path(device), os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        return error.errno == errno.EBUSY
    os.close(fd)  # at once: while it is open, nobody could mount the device
    return False


def _device_path(device: int) -> str:
    return f"/dev/{_device_name(device).removeprefix('/dev/')}"


def _device_name(device: int) -> str:
    """As the kernel names it, below /dev."""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in _lines(_SYS_DEVICES / number / "uevent"):
        if line.startswith(b"DEVNAME="):
            return f"/dev/{os.fsdecode(line[8:])}"
    return number


def _is_read_only(directory: Path) -> bool:
    try:
        return (directory / "ro").read_bytes().strip() == b"1"
    except OSError:
        return False


def _lines(path: Path) -> list[bytes]:
    """A file of /proc or /sys, read at once; [] where there is none or it may not be read."""
    try:
        return path.read_bytes().splitlines()
    except OSError:
        return []
