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
from pathlib import Path
from typing import Final, Literal, NamedTuple

from ext4img.structs.loop_ioctl import LO_FLAGS_READ_ONLY, LOOP_GET_STATUS64, LOOP_INFO64

_PROC: Final = Path("/proc")
_SYS_DEVICES: Final = Path("/sys/dev/block")
_SYS_BLOCK: Final = Path("/sys/block")
_MAX_DEPTH: Final = 16  # devices upon devices
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


def holders_of(source: str | os.PathLike[str] | int, *, processes: bool = True) -> list[Holder]:
    """All that can be seen to hold a file or block device, given by its path or an open descriptor.

    `processes` also looks through the open files of all processes, which takes time where there are
    many. [] where the system is not Linux, or nothing is found. OSError where `source` is not there.
    """
    status = os.stat(source)
    if not sys.platform.startswith("linux"):
        return []
    search = _Search(processes)
    if stat.S_ISBLK(status.st_mode):
        search.block_device(status.st_rdev)
        search.backing_file(status.st_rdev)
    elif stat.S_ISREG(status.st_mode):
        search.file(status)
    return list(dict.fromkeys(search.found))


class _Search:
    """Goes from a file or device to what is on top of it."""

    def __init__(self, processes: bool) -> None:
        self.found: list[Holder] = []
        self._processes = processes
        self._seen: set[int] = set()
        self._mounts = list(_mounts())

    def file(self, status: os.stat_result, but: int | None = None) -> None:
        """Loop devices over a file (`but` one), locks on it, processes that have it open for writing."""
        for device, read_only in _loops_over(status):
            if device == but:
                continue
            before = len(self.found)
            self.block_device(device)
            name = _device_name(device)
            # A loop device is as writable as who uses it.
            writable = not read_only and any(holder.writable for holder in self.found[before:])
            self.found.insert(before, Holder("device", f"loop device {name}", writable))
        self.found += _locks_on(status)
        if self._processes:
            self.found += _writing_processes(status)

    def backing_file(self, device: int) -> None:
        """Others that have hold of the file behind a loop device."""
        with suppress(OSError):
            name = (_SYS_DEVICES / f"{os.major(device)}:{os.minor(device)}" / "loop" / "backing_file").read_bytes()
            self.file(os.stat(name.rstrip(b"\n")), but=device)

    def block_device(self, device: int, depth: int = 0) -> None:
        """Mounts of a device, of its partitions, and of the devices that are made of it."""
        if device in self._seen or depth > _MAX_DEPTH:
            return
        self._seen.add(device)
        before = len(self.found)
        self.found += [mount for number, mount in self._mounts if number == device]
        directory = _SYS_DEVICES / f"{os.major(device)}:{os.minor(device)}"
        for partition in _numbers_in(directory, "partition"):
            self.block_device(partition, depth + 1)
        for upper in _numbers_in(directory / "holders"):
            first = len(self.found)
            self.block_device(upper, depth + 1)
            writable = any(holder.writable for holder in self.found[first:])
            self.found.insert(first, Holder("device", f"device {_device_name(upper)}", writable))
        with suppress(OSError):
            for loop, read_only in _loops_over(os.stat(_device_path(device))):
                first = len(self.found)
                self.block_device(loop, depth + 1)
                writable = not read_only and any(holder.writable for holder in self.found[first:])
                self.found.insert(first, Holder("device", f"loop device {_device_name(loop)}", writable))
        if self._processes:
            with suppress(OSError):
                self.found += _writing_processes(os.stat(_device_path(device)))
        if len(self.found) == before and _is_claimed(device):
            name = f"{_device_name(device)} is in use, by whom cannot be seen"
            self.found.append(Holder("claim", name, not _is_read_only(directory)))


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


def _numbers_in(directory: Path, marker: str = "") -> list[int]:
    """The numbers of the block devices that have a directory in one of /sys (with a file `marker` in it)."""
    found = []
    with suppress(OSError):
        for child in directory.iterdir():
            with suppress(OSError, ValueError):
                if marker and not (child / marker).exists():
                    continue
                major, minor = (child / "dev").read_text("ascii").split(":")
                found.append(os.makedev(int(major), int(minor)))
    return sorted(found)


def _loops_over(status: os.stat_result) -> Iterator[tuple[int, bool]]:
    """(device, whether it is read-only) of the loop devices over a file or device."""
    with suppress(OSError):
        for directory in sorted(_SYS_BLOCK.glob("loop*/loop")):
            with suppress(OSError, ValueError):
                major, minor = (directory.parent / "dev").read_text("ascii").split(":")
                device = os.makedev(int(major), int(minor))
                backing, read_only = _backing_of(device, directory)
                if backing == (status.st_dev, status.st_ino):
                    yield device, read_only


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
