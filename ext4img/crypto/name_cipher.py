"""The interface of the ciphers for names, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ext4img.errors import CorruptionError
from ext4img.structs.fscrypt import FSCRYPT_FNAME_MIN_MSG_LEN

"""Bytes; no mode for names can encrypt a shorter message."""


class PaddedNameCipher(Protocol):
    """A cipher for padded names and targets: messages of at least 16 bytes, all under one IV."""

    def encrypt_names(self, messages: Sequence[bytes], iv: bytes) -> list[bytes]:
        """Each message encrypted; lengths stay."""

    def decrypt_names(self, messages: Sequence[bytes], iv: bytes) -> list[bytes]:
        """Each message decrypted; lengths stay."""


def check_lengths(messages: Sequence[bytes]) -> None:
    """CorruptionError if any message is too short to be a ciphertext."""
    shortest = min(map(len, messages), default=FSCRYPT_FNAME_MIN_MSG_LEN)
    if shortest < FSCRYPT_FNAME_MIN_MSG_LEN:
        raise CorruptionError(
            f"encrypted name of {shortest} bytes, the shortest possible has {FSCRYPT_FNAME_MIN_MSG_LEN}"
        )


def xor(a: bytes, b: bytes) -> bytes:
    """XOR of two byte strings of one length: as two big integers, so without a loop or NumPy."""
    return (int.from_bytes(a, "little") ^ int.from_bytes(b, "little")).to_bytes(len(a), "little")
