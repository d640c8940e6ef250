"""From a master key to the keys of files.

Version 1 policies encrypt the master key with AES-128-ECB under the file's nonce; version 2
policies use HKDF-SHA512 (RFC 5869) without salt. The information strings are the kernel's
(`fs/crypto/fscrypt_private.h`, HKDF_CONTEXT_*): the bytes "fscrypt", a zero byte, one context byte,
and further information by the kind of key.
"""

from __future__ import annotations

from typing import Final

KEY_IDENTIFIER: Final = b"\x01"  # no more information
PER_FILE_KEY: Final = b"\x02"  # nonce
DIRECT_KEY: Final = b"\x03"  # mode number
IV_INO_LBLK_64_KEY: Final = b"\x04"  # mode number, file system's UUID
DIRHASH_KEY: Final = b"\x05"  # directory's nonce
IV_INO_LBLK_32_KEY: Final = b"\x06"  # mode number, file system's UUID
INODE_HASH_KEY: Final = b"\x07"  # no more information

_BLOCK_SIZE: Final = 128  # SHA-512's, in bytes
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


class Hkdf:
    """HKDF-SHA512 of one master key, extracted once; one kept HMAC state serves all expansions."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, master_key: bytes) -> None:
        from hashlib import sha512  # imports OpenSSL, which opening an image does not need

        # Extract: HMAC under a key of zeros. HMAC pads a short key with zeros, too.
        pseudorandom = sha512(_OUTER[:1] * _BLOCK_SIZE)
        pseudorandom.update(sha512(_INNER[:1] * _BLOCK_SIZE + master_key).digest())
        padded = pseudorandom.digest().ljust(_BLOCK_SIZE, b"\0")
        # HMAC by hand: copying two hash states takes 1 µs, hmac.new() for each key 2.5 µs.
        self._inner = sha512(padded.translate(_INNER))
        self._inner.update(b"fscrypt\0")
        self._outer = sha512(padded.translate(_OUTER))

    def __repr__(self) -> str:
        return "<Hkdf>"

    def derive(self, context: bytes, info: bytes, size: int) -> bytes:
        """A key of `size` bytes, at most 64 (the first block of HKDF's output)."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(context + info + b"\x01")
        outer.update(inner.digest())
        return outer.digest()[:size]


def derive_v1(master_key: bytes, nonce: bytes, size: int) -> bytes:
    """A version 1 policy's file key: the first `size` bytes of the master key, encrypted under the nonce."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    return Cipher(algorithms.AES(nonce), modes.ECB()).encryptor().update(master_key[:size])


def key_descriptor(master_key: bytes) -> bytes:
    """The 8-byte descriptor that user space tools give a version 1 key: SHA-512, twice.

    The kernel accepts any 8 bytes as descriptor; fscrypt, e4crypt and others compute this one.
    """
    from hashlib import sha512

    return sha512(sha512(master_key).digest()).digest()[:8]
