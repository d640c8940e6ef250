"""The kernel's file system ioctls that the oracle and the fixture makers need, by fcntl and ctypes.

Numbers and layouts are those of the kernel's user interface headers: linux/fscrypt.h,
linux/fs.h, linux/fiemap.h, linux/stat.h. x86-64 and arm64 encode ioctl numbers alike.
Nothing here knows ext4img.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_IOC_GETVERSION = 0x80087601
FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_FSSETXATTR = 0x401C5820
FS_IOC_FIEMAP = 0xC020660B
FS_IOC_SET_ENCRYPTION_POLICY = 0x800C6613
FS_IOC_GET_ENCRYPTION_POLICY_EX = 0xC0096616
FS_IOC_ADD_ENCRYPTION_KEY = 0xC0506617
FS_IOC_REMOVE_ENCRYPTION_KEY = 0xC0406618
FS_IOC_GET_ENCRYPTION_NONCE = 0x8010661B

KEY_SPEC_DESCRIPTOR = 1
KEY_SPEC_IDENTIFIER = 2

FIEMAP_FLAG_SYNC = 0x1
FIEMAP_EXTENT_LAST = 0x1
FIEMAP_EXTENT_DATA_INLINE = 0x200
FIEMAP_EXTENT_UNWRITTEN = 0x800

AES_256_XTS = 1
AES_256_CTS = 4


class FiemapExtent(NamedTuple):
    """One extent as the kernel reports it: bytes in the file, bytes on the device, flags."""

    logical: int
    physical: int
    length: int
    flags: int

    @property
    def is_written(self) -> bool:
        """Whether the bytes on the device are the file's bytes."""
        return not self.flags & (FIEMAP_EXTENT_UNWRITTEN | FIEMAP_EXTENT_DATA_INLINE)


@contextmanager
def opened(path: str | bytes, flags: int = os.O_RDONLY, dir_fd: int | None = None) -> Iterator[int]:
    """A file descriptor of `path`, closed at the end; special files are not waited for."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def v1_descriptor(raw: bytes) -> bytes:
    """The descriptor that e4crypt and fscrypt derive for a v1 key: SHA-512 twice, the first 8 bytes.

    A v2 key's identifier is the kernel's to say, see `add_key`.
    """
    return hashlib.sha512(hashlib.sha512(raw).digest()).digest()[:8]


def add_key(mount: str, raw: bytes, version: int, descriptor: bytes | None = None) -> bytes:
    """Give the mounted file system a master key; its descriptor (v1, 8 bytes) or identifier (v2, 16 bytes)."""
    if version == 1:
        name = descriptor or v1_descriptor(raw)
        spec = struct.pack("=II32s", KEY_SPEC_DESCRIPTOR, 0, name)
    else:
        spec = struct.pack("=II32s", KEY_SPEC_IDENTIFIER, 0, b"")
    argument = bytearray(spec + struct.pack("=II32x", len(raw), 0) + raw)
    with opened(mount) as fd:
        fcntl.ioctl(fd, FS_IOC_ADD_ENCRYPTION_KEY, argument)
    return bytes(argument[8:24]) if version == 2 else bytes(argument[8:16])


def remove_key(mount: str, name: bytes) -> None:
    """Take a key away again; `name` is its descriptor (8 bytes) or identifier (16 bytes)."""
    kind = KEY_SPEC_DESCRIPTOR if len(name) == 8 else KEY_SPEC_IDENTIFIER
    with opened(mount) as fd:
        fcntl.ioctl(fd, FS_IOC_REMOVE_ENCRYPTION_KEY, bytearray(struct.pack("=II32s24x", kind, 0, name)))


def set_policy(
    directory: str | bytes,
    name: bytes,
    *,
    contents_mode: int = AES_256_XTS,
    filenames_mode: int = AES_256_CTS,
    flags: int = 2,
    log2_data_unit_size: int = 0,
) -> None:
    """Make an empty directory encrypted; `name` of 8 bytes gives a v1 policy, of 16 bytes a v2 one.

    Flags 0 to 3 are the padding of names (4, 8, 16, 32 bytes).
    """
    if len(name) == 8:
        policy = struct.pack("=BBBB8s", 0, contents_mode, filenames_mode, flags, name)
    else:
        policy = struct.pack("=BBBBB3x16s", 2, contents_mode, filenames_mode, flags, log2_data_unit_size, name)
    with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        fcntl.ioctl(fd, FS_IOC_SET_ENCRYPTION_POLICY, bytearray(policy))


def encryption_context(fd: int) -> bytes | None:
    """The context of an open file as it stands on the disk, put together from what the kernel
    answers about policy and nonce; None where it is not encrypted.
    """
    answer = bytearray(struct.pack("=Q", 24) + bytes(24))
    try:
        fcntl.ioctl(fd, FS_IOC_GET_ENCRYPTION_POLICY_EX, answer)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOTTY):
            return None
        raise
    policy = answer[8 : 8 + struct.unpack_from("=Q", answer)[0]]
    nonce = bytearray(16)
    fcntl.ioctl(fd, FS_IOC_GET_ENCRYPTION_NONCE, nonce)
    if policy[0] == 0:
        policy[0] = 1  # version 1 is 0 in the ioctl and 1 in the xattr
    return bytes(policy + nonce)


def get_flags(fd: int) -> int:
    """FS_IOC_GETFLAGS of an open file or directory."""
    answer = bytearray(8)
    fcntl.ioctl(fd, FS_IOC_GETFLAGS, answer)
    return int.from_bytes(answer[:4], "little")


def set_flags(path: str | bytes, flags: int) -> None:
    """FS_IOC_SETFLAGS: add `flags` to what the file or directory has."""
    with opened(path) as fd:
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, bytearray(struct.pack("=Q", get_flags(fd) | flags)))


def get_generation(fd: int) -> int:
    """FS_IOC_GETVERSION: the inode's generation."""
    answer = bytearray(8)
    fcntl.ioctl(fd, FS_IOC_GETVERSION, answer)
    return int.from_bytes(answer[:4], "little")


def get_project(fd: int) -> int:
    """The project id of an open file or directory, 0 where the file system has none."""
    answer = bytearray(28)
    try:
        fcntl.ioctl(fd, FS_IOC_FSGETXATTR, answer)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY):
            return 0
        raise
    return int(struct.unpack_from("=5I", answer)[3])


def set_project(path: str | bytes, project: int) -> None:
    """Set the project id; the file system must have the project feature."""
    with opened(path) as fd:
        attributes = bytearray(28)
        fcntl.ioctl(fd, FS_IOC_FSGETXATTR, attributes)
        struct.pack_into("=I", attributes, 12, project)
        fcntl.ioctl(fd, FS_IOC_FSSETXATTR, attributes)


def allocate_beyond(fd: int, offset: int, length: int) -> None:
    """fallocate(2) with FALLOC_FL_KEEP_SIZE: blocks without changing the size."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, 1, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def fiemap(fd: int, batch: int = 512) -> list[FiemapExtent]:
    """All extents of an open file, in the file's order."""
    found: list[FiemapExtent] = []
    start = 0
    while True:
        request = bytearray(struct.pack("=QQIIII", start, 2**64 - 1 - start, FIEMAP_FLAG_SYNC, 0, batch, 0))
        request += bytes(56 * batch)
        fcntl.ioctl(fd, FS_IOC_FIEMAP, request)
        mapped = struct.unpack_from("=I", request, 20)[0]
        for i in range(mapped):
            logical, physical, length, flags = struct.unpack_from("=QQQ16xI", request, 32 + 56 * i)
            found.append(FiemapExtent(logical, physical, length, flags))
        if not mapped or found[-1].flags & FIEMAP_EXTENT_LAST:
            return found
        start = found[-1].logical + found[-1].length


_STATX_BTIME = 0x800
_AT_SYMLINK_NOFOLLOW = 0x100


def creation_time_ns(path: bytes) -> int | None:
    """The creation time by statx(2), not following a symlink; None where the inode has none."""
    libc = ctypes.CDLL(None, use_errno=True)
    answer = ctypes.create_string_buffer(256)
    if libc.statx(-100, path, _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, answer) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    mask = struct.unpack_from("=I", answer.raw, 0)[0]
    if not mask & _STATX_BTIME:
        return None
    seconds, nanoseconds = struct.unpack_from("=qI", answer.raw, 80)
    return int(seconds * 1_000_000_000 + nanoseconds)
