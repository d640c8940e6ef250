"""The ioctls of files and directories: inode flags, project, encryption policy; and keys of a file system.

Each function passes OSError on: what a refusal means is for the caller to say.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import struct
import sys
from typing import Final

from ext4img.structs.fscrypt_ioctl import (
    FSCRYPT_ADD_KEY_ARG,
    FSCRYPT_GET_KEY_STATUS_ARG,
    FSCRYPT_GET_POLICY_EX_ARG,
    FSCRYPT_KEY_SPEC_TYPE_DESCRIPTOR,
    FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER,
    FSCRYPT_KEY_STATUS_ABSENT,
    FSCRYPT_POLICY_RECORD_V1,
    FSCRYPT_POLICY_RECORD_V2,
    FSCRYPT_REMOVE_KEY_ARG,
)

# asm-generic/ioctl.h: direction, size of the argument, letter and number.
_READ: Final = 2 << 30
_WRITE: Final = 1 << 30
_F: Final = ord("f") << 8
_X: Final = ord("X") << 8

# linux/fs.h. FS_IOC_GETFLAGS and FS_IOC_SETFLAGS have a long in their number and an int in fact.
_LONG_BYTES: Final = struct.calcsize("l")
FS_IOC_GETFLAGS: Final = _READ | _LONG_BYTES << 16 | _F | 1
FS_IOC_SETFLAGS: Final = _WRITE | _LONG_BYTES << 16 | _F | 2
_FSXATTR_BYTES: Final = 28  # struct fsxattr: words fsx_xflags, fsx_extsize, fsx_nextents, fsx_projid, …
_FSX_PROJID: Final = 3
FS_IOC_FSGETXATTR: Final = _READ | _FSXATTR_BYTES << 16 | _X | 31
FS_IOC_FSSETXATTR: Final = _WRITE | _FSXATTR_BYTES << 16 | _X | 32

# linux/fscrypt.h. FS_IOC_GET_ENCRYPTION_POLICY_EX has only the size field and the version in its number.
FS_IOC_SET_ENCRYPTION_POLICY: Final = _READ | FSCRYPT_POLICY_RECORD_V1.size << 16 | _F | 19
FS_IOC_GET_ENCRYPTION_POLICY_EX: Final = _READ | _WRITE | 9 << 16 | _F | 22
FS_IOC_ADD_ENCRYPTION_KEY: Final = _READ | _WRITE | FSCRYPT_ADD_KEY_ARG.size << 16 | _F | 23
FS_IOC_REMOVE_ENCRYPTION_KEY: Final = _READ | _WRITE | FSCRYPT_REMOVE_KEY_ARG.size << 16 | _F | 24
FS_IOC_GET_ENCRYPTION_KEY_STATUS: Final = _READ | _WRITE | FSCRYPT_GET_KEY_STATUS_ARG.size << 16 | _F | 26

# statx(2), which `os` lacks; it also shows the attributes of symlinks. include/uapi/linux/stat.h, fcntl.h
AT_FDCWD: Final = -100
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_STATX_ATTR_ENCRYPTED: Final = 0x800
_STATX_BYTES: Final = 256
_STX_ATTRIBUTES: Final = 8
_statx = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
if _statx is not None:
    _statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)


def inode_flags(fd: int) -> int:
    """The inode flags (FS_*_FL) of an open file."""
    value = array.array("i", [0])
    fcntl.ioctl(fd, FS_IOC_GETFLAGS, value)
    return value[0] & 0xFFFFFFFF


def set_inode_flags(fd: int, flags: int) -> None:
    """Replace the inode flags of an open file. A file system may drop some without an error."""
    fcntl.ioctl(fd, FS_IOC_SETFLAGS, array.array("i", [flags - (1 << 32) if flags >> 31 else flags]))


def project_id(fd: int) -> int:
    """The project of an open file."""
    return _fsxattr(fd)[_FSX_PROJID]


def set_project_id(fd: int, number: int) -> None:
    """Give an open file a project."""
    value = _fsxattr(fd)
    value[_FSX_PROJID] = number
    fcntl.ioctl(fd, FS_IOC_FSSETXATTR, value)


def _fsxattr(fd: int) -> array.array[int]:
    value = array.array("I", bytes(_FSXATTR_BYTES))
    fcntl.ioctl(fd, FS_IOC_FSGETXATTR, value)
    return value


def encryption_policy(directory: int) -> bytes:
    """The policy of an open directory, as struct fscrypt_policy_v1 or _v2; OSError if it has none."""
    room = FSCRYPT_POLICY_RECORD_V2.size
    argument = bytearray(FSCRYPT_GET_POLICY_EX_ARG.pack((room.to_bytes(8, sys.byteorder), bytes(room))))
    fcntl.ioctl(directory, FS_IOC_GET_ENCRYPTION_POLICY_EX, argument)
    found = FSCRYPT_GET_POLICY_EX_ARG.unpack(argument)
    return bytes(found.policy[: int.from_bytes(found.policy_size, sys.byteorder)])


def is_encrypted(folder: int, name: bytes) -> bool:
    """Whether the kernel encrypts the inode of a name in an open directory; symlinks are not followed."""
    room = ctypes.create_string_buffer(_STATX_BYTES)
    if _statx is None or _statx(folder, name, _AT_SYMLINK_NOFOLLOW, 0, room):
        return False
    found: int = struct.unpack_from("<Q" if sys.byteorder == "little" else ">Q", room, _STX_ATTRIBUTES)[0]
    return bool(found & _STATX_ATTR_ENCRYPTED)


def set_encryption_policy(directory: int, policy: bytes) -> None:
    """Give an empty directory a policy, a struct fscrypt_policy_v1 or _v2."""
    fcntl.ioctl(directory, FS_IOC_SET_ENCRYPTION_POLICY, bytearray(policy))


def is_key_absent(fd: int, key_id: bytes) -> bool:
    """Whether the file system of `fd` lacks the key of this descriptor or identifier."""
    argument = bytearray(FSCRYPT_GET_KEY_STATUS_ARG.pack((*_specifier(key_id), bytes(24), 0, 0, 0, bytes(52))))
    fcntl.ioctl(fd, FS_IOC_GET_ENCRYPTION_KEY_STATUS, argument)
    return bool(FSCRYPT_GET_KEY_STATUS_ARG.unpack(argument).status == FSCRYPT_KEY_STATUS_ABSENT)


def add_encryption_key(fd: int, key_id: bytes, raw: bytes) -> None:
    """Give the file system of `fd` a master key."""
    argument = bytearray(FSCRYPT_ADD_KEY_ARG.pack((*_specifier(key_id), len(raw), 0, bytes(32))) + raw)
    try:
        fcntl.ioctl(fd, FS_IOC_ADD_ENCRYPTION_KEY, argument)
    finally:
        argument[:] = bytes(len(argument))


def remove_encryption_key(fd: int, key_id: bytes) -> None:
    """Take a master key away from the file system of `fd`."""
    argument = bytearray(FSCRYPT_REMOVE_KEY_ARG.pack((*_specifier(key_id), 0, bytes(20))))
    fcntl.ioctl(fd, FS_IOC_REMOVE_ENCRYPTION_KEY, argument)


def _specifier(key_id: bytes) -> tuple[int, int, bytes]:
    """The fields of struct fscrypt_key_specifier."""
    is_descriptor = len(key_id) == FSCRYPT_POLICY_RECORD_V1.span("master_key_descriptor").size
    kind = FSCRYPT_KEY_SPEC_TYPE_DESCRIPTOR if is_descriptor else FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER
    return kind, 0, key_id.ljust(32, b"\0")
