"""Encrypted names as the kernel shows them without the key (no-key names), and the padding of names.

The no-key form is `struct fscrypt_nokey_name` of the kernel's `fs/crypto/fname.c`, in base64url
without padding: two little-endian words of directory hash, then the name's ciphertext; where that
is longer than 149 bytes, its first 149 and the SHA-256 of the rest. That makes at most 252
characters, so the result is a name again.
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from struct import Struct
from typing import Final, NamedTuple

from ext4img.errors import CorruptionError, Place
from ext4img.structs.directory import EXT4_NAME_LEN
from ext4img.structs.fscrypt import FSCRYPT_FNAME_MIN_MSG_LEN, FSCRYPT_SYMLINK_DATA

_HASHES = Struct("<II")
_PLAIN_SIZE: Final = 149
_LONG_SIZE: Final = _HASHES.size + _PLAIN_SIZE + 32
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_TO_URLSAFE = bytes.maketrans(b"+/", b"-_")
_NOT_IN_URLSAFE = frozenset(b"+/=")


class NokeyName(NamedTuple):
    """The parts of a no-key name.

    `prefix` is the stored name, or its first 149 bytes if there is `rest_sha256`, the digest of the
    bytes after them.
    """

    major: int
    minor: int
    prefix: bytes
    rest_sha256: bytes | None

    @property
    def stored(self) -> bytes | None:
        """The stored name; None if only its start is known."""
        return self.prefix if self.rest_sha256 is None else None

    def matches(self, stored: bytes) -> bool:
        """Whether it is the no-key name of a directory entry's name. The hash is not compared."""
        if self.rest_sha256 is None:
            return stored == self.prefix
        return (
            len(stored) > _PLAIN_SIZE
            and stored[:_PLAIN_SIZE] == self.prefix
            and _sha256(stored[_PLAIN_SIZE:]) == self.rest_sha256
        )


def nokey_name(stored: bytes, hash_major: int, hash_minor: int) -> bytes:
    """The name that the kernel shows without the key for the name `stored`.

    The hashes are those by which the directory is read; 0, 0 for symlink targets and for directories
    without hashes. CorruptionError for a name below 16 bytes, as for the kernel.
    """
    if len(stored) < FSCRYPT_FNAME_MIN_MSG_LEN:
        raise CorruptionError(
            f"encrypted name of {len(stored)} bytes, the shortest possible has {FSCRYPT_FNAME_MIN_MSG_LEN}"
        )
    # fscrypt_fname_disk_to_usr() takes a major hash of 0 for "no hash" and drops the minor one too.
    head = _HASHES.pack(hash_major, hash_minor) if hash_major else bytes(_HASHES.size)
    if len(stored) <= _PLAIN_SIZE:
        return _urlsafe(head + stored)
    return _urlsafe(head + stored[:_PLAIN_SIZE] + _sha256(stored[_PLAIN_SIZE:]))


def parse_nokey_name(text: bytes) -> NokeyName | None:
    """The parts of a no-key name; None if `text` is not one (the kernel then finds no such file)."""
    if not _NOT_IN_URLSAFE.isdisjoint(text):
        return None
    try:
        raw = a2b_base64(text.translate(_TO_STANDARD) + b"=" * (-len(text) % 4), strict_mode=True)
    except Base64Error:
        return None
    # Strict mode still accepts stray bits in the last character; the kernel does not.
    if _urlsafe(raw) != text:
        return None
    if not _HASHES.size < len(raw) <= _HASHES.size + _PLAIN_SIZE and len(raw) != _LONG_SIZE:
        return None
    major, minor = _HASHES.unpack_from(raw)
    if len(raw) < _LONG_SIZE:
        return NokeyName(major, minor, raw[_HASHES.size :], None)
    return NokeyName(major, minor, raw[_HASHES.size : -32], raw[-32:])


def encrypted_length(length: int, padding: int, max_length: int = EXT4_NAME_LEN) -> int:
    """Length of the ciphertext of a name or target of `length` bytes (`fscrypt_fname_encrypted_size`)."""
    padded = -(-max(length, FSCRYPT_FNAME_MIN_MSG_LEN) // padding) * padding
    return min(padded, max_length)


def is_padded_name(raw: bytes) -> bool:
    """Whether decrypted bytes, padding included, can be a name: NULs only at the end, no "/".

    With version 1 policies nothing else shows that a key is wrong.
    """
    name = raw.rstrip(b"\0")
    return bool(name) and b"\0" not in name and b"/" not in name


def symlink_ciphertext(stored: bytes, inode_number: int | None = None) -> bytes:
    """The ciphertext of a target, from the stored bytes of an encrypted symlink: u16 length, ciphertext."""
    place = Place(inode=inode_number, record=FSCRYPT_SYMLINK_DATA.name, field="len")
    length = FSCRYPT_SYMLINK_DATA.unpack(stored, 0, place).len
    ciphertext = stored[FSCRYPT_SYMLINK_DATA.size : FSCRYPT_SYMLINK_DATA.size + length]
    if length < FSCRYPT_FNAME_MIN_MSG_LEN or len(ciphertext) != length:
        raise CorruptionError(f"encrypted target of {length} bytes in {len(stored)} stored bytes", place)
    return bytes(ciphertext)


def nokey_target(stored: bytes, inode_number: int | None = None) -> bytes:
    """The target that readlink gives without the key, from the stored bytes of an encrypted symlink."""
    return nokey_name(symlink_ciphertext(stored, inode_number), 0, 0)


def _urlsafe(raw: bytes) -> bytes:
    """base64url without padding."""
    return b2a_base64(raw, newline=False).rstrip(b"=").translate(_TO_URLSAFE)


def _sha256(data: bytes) -> bytes:
    from hashlib import sha256  # imports OpenSSL, which opening an image does not need

    return sha256(data).digest()
