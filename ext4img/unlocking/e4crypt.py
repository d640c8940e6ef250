"""The e4crypt tool (e2fsprogs): a version 1 master key directly from a passphrase and a salt.

The key is the XOR of 65,535 chained SHA-512 values. It is not PBKDF2, although its function has that name.
Source: the format of misc/e4crypt.c, and the tool of e2fsprogs 1.47.0 itself.
"""

from __future__ import annotations

import hashlib
import re

from ext4img.errors import KeyFormatError

MAX_SALT_BYTES = 256
"""Size to which a salt is padded with zeros before it is hashed."""

MAX_PASSPHRASE_BYTES = 1023
"""The tool reads into a buffer of 1,024 bytes, with a NUL, and ignores the rest."""

_ROUNDS = 0xFFFF
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_HEX = re.compile(r"([0-9a-f]{2})*", re.IGNORECASE)


def derive_key(passphrase: bytes, salt: bytes) -> bytes:
    """The 64-byte master key of `passphrase` and `salt` (at most 256 bytes, else KeyFormatError).

    The usual salt is the file system's own, 16 bytes in `s_encrypt_pw_salt` of the superblock (all zero
    if none was ever made). The key's descriptor is `kdf.key_descriptor`. As in the tool, the
    passphrase ends at a NUL or after 1,023 bytes. Takes about 0.1 s.
    """
    if len(salt) > MAX_SALT_BYTES:
        raise KeyFormatError(f"a salt of {len(salt)} bytes: at most {MAX_SALT_BYTES} are possible")
    passphrase = passphrase.split(b"\0", 1)[0][:MAX_PASSPHRASE_BYTES]
    sha512 = hashlib.sha512
    digest = sha512(salt.ljust(MAX_SALT_BYTES, b"\0") + passphrase).digest()
    key = int.from_bytes(digest, "big")
    for _ in range(_ROUNDS - 1):
        digest = sha512(digest + passphrase).digest()
        key ^= int.from_bytes(digest, "big")
    return key.to_bytes(len(digest), "big")


def parse_salt(text: str) -> bytes:
    """The salt in the form that `e4crypt -S` takes: `s:` and text, `0x` and hexadecimal digits, or a UUID.

    The tool's fourth form, a path, means the salt in the superblock of the file system there.
    KeyFormatError for that and for anything else.
    """
    if text.startswith("s:"):
        salt = text[2:].encode("utf-8", "surrogateescape")
        # One byte less than in hexadecimal: the tool stores this form with its NUL.
        if len(salt) >= MAX_SALT_BYTES:
            raise KeyFormatError(f"a salt of {len(salt)} bytes as text: at most {MAX_SALT_BYTES - 1} are possible")
        return salt
    if text.startswith("0x"):
        if not _HEX.fullmatch(text, 2):
            raise KeyFormatError("a salt after 0x must be an even number of hexadecimal digits")
        if len(text) > 2 + 2 * MAX_SALT_BYTES:
            raise KeyFormatError(f"a salt of {len(text) // 2 - 1} bytes: at most {MAX_SALT_BYTES} are possible")
        return bytes.fromhex(text[2:])
    if _UUID.fullmatch(text):
        return bytes.fromhex(text.replace("-", ""))
    if text.startswith(("/", "f:")):
        raise KeyFormatError("a path as salt means the salt in that file system's superblock: give the salt itself")
    raise KeyFormatError("a salt is s: and text, 0x and hexadecimal digits, or a UUID")
