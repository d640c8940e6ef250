"""fscrypt on disk: the encryption context of an inode, and the stored form of an encrypted symlink.

From the kernel: `fs/crypto/fscrypt_private.h` (`fscrypt_context_v1`, `fscrypt_context_v2`,
`fscrypt_symlink_data`). The context is the value of the inode's xattr with index 9 and name "c".
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ext4img.structs.declaration import Bytes, Int8ul, Int16ul, Struct
from ext4img.structs.record import Record

FSCRYPT_FNAME_MIN_MSG_LEN: Final = 16  # of an encrypted name


class FscryptContextV1(NamedTuple):
    """`struct fscrypt_context_v1`, 28 bytes."""

    version: int
    contents_encryption_mode: int
    filenames_encryption_mode: int
    flags: int
    master_key_descriptor: bytes
    nonce: bytes


class FscryptContextV2(NamedTuple):
    """`struct fscrypt_context_v2`, 40 bytes; the kernel's `__reserved` is `reserved` here."""

    version: int
    contents_encryption_mode: int
    filenames_encryption_mode: int
    flags: int
    log2_data_unit_size: int
    reserved: bytes
    master_key_identifier: bytes
    nonce: bytes


class FscryptSymlinkData(NamedTuple):
    """`struct fscrypt_symlink_data` without its trailing ciphertext of `len` bytes."""

    len: int


FSCRYPT_CONTEXT_V1: Final = Record(
    "fscrypt_context_v1",
    Struct(
        "version" / Int8ul,
        "contents_encryption_mode" / Int8ul,
        "filenames_encryption_mode" / Int8ul,
        "flags" / Int8ul,
        "master_key_descriptor" / Bytes(8),
        "nonce" / Bytes(16),
    ),
    FscryptContextV1,
)

FSCRYPT_CONTEXT_V2: Final = Record(
    "fscrypt_context_v2",
    Struct(
        "version" / Int8ul,
        "contents_encryption_mode" / Int8ul,
        "filenames_encryption_mode" / Int8ul,
        "flags" / Int8ul,
        "log2_data_unit_size" / Int8ul,  # 0: the file system's block size
        "reserved" / Bytes(3),
        "master_key_identifier" / Bytes(16),
        "nonce" / Bytes(16),
    ),
    FscryptContextV2,
)

FSCRYPT_SYMLINK_DATA: Final = Record(
    "fscrypt_symlink_data",
    Struct("len" / Int16ul),
    FscryptSymlinkData,
)
