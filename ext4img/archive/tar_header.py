"""A member's tar header as a value, whoever writes or reads its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple
from zlib import adler32

from ext4img.structs.tar import BLOCK_BYTES

HEADER_LIMIT_BYTES: Final = 1 << 20  # of one member's pax records: bsdtar's limit
PATH_LIMIT_BYTES: Final = 1 << 17
SPARSE_DIRECTORY: Final = b"GNUSparseFile.0"

_NO_RECORDS: Mapping[bytes, bytes] = MappingProxyType({})


class TarHeader(NamedTuple):
    """One member's header, independent of how its fields are encoded. Sizes in bytes.

    The `path` of a directory ends with "/". `size` is the size of the stored data, sparse map
    included. `times` are mtime, atime and ctime in ns, or None for a member without times (mtime 0).
    `sparse_size` is the true size of a member with holes. The keys of `xattrs` are unescaped names.
    """

    path: bytes
    typeflag: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    times: tuple[int, int, int] | None = None
    linkpath: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    sparse_size: int | None = None
    xattrs: Mapping[bytes, bytes] = _NO_RECORDS


def padding(size: int) -> int:
    """Bytes from `size` to the next multiple of a tar block."""
    return -size % BLOCK_BYTES


def checksum(block: bytes) -> int:
    """The sum of a block's 512 bytes."""
    # The low half of Adler-32 is the sum of the bytes plus 1, modulo 65521, which 256 bytes do not reach.
    half = BLOCK_BYTES // 2
    return (adler32(block[:half]) & 0xFFFF) + (adler32(block[half:]) & 0xFFFF) - 2


def directory_path(path: bytes) -> bytes:
    """A directory's path as tar writes it."""
    return path + b"/"
