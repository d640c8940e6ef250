"""The cipher of each mode, imported when it is first needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cryptography.hazmat.primitives.ciphers import algorithms

from ext4img.crypto import modes
from ext4img.crypto.data_cipher import DataUnitCipher
from ext4img.crypto.name_cipher import PaddedNameCipher
from ext4img.errors import UnsupportedFeatureError


def contents_cipher(mode: modes.Mode) -> Callable[[bytes], DataUnitCipher]:
    """A function that makes the cipher for contents from a key of `mode.key_size` bytes."""
    if mode in (modes.AES_256_XTS, modes.SM4_XTS):
        from ext4img.crypto.aes_xts import Xts

        return partial(Xts, algorithms.AES if mode == modes.AES_256_XTS else algorithms.SM4)
    if mode == modes.AES_128_CBC:
        from ext4img.crypto.aes_cbc_essiv import CbcEssiv

        return CbcEssiv
    if mode == modes.ADIANTUM:
        from ext4img.crypto.adiantum import Adiantum

        return Adiantum
    raise UnsupportedFeatureError(f"{mode.name} is not a mode for contents", (mode.name,))


def names_cipher(mode: modes.Mode) -> Callable[[bytes], PaddedNameCipher]:
    """A function that makes the cipher for names and symlink targets from a key of `mode.key_size` bytes."""
    if mode in (modes.AES_256_CTS, modes.AES_128_CTS, modes.SM4_CTS):
        from ext4img.crypto.aes_cts import CbcCts

        return partial(CbcCts, algorithms.SM4 if mode == modes.SM4_CTS else algorithms.AES)
    if mode == modes.AES_256_HCTR2:
        from ext4img.crypto.hctr2 import Hctr2

        return Hctr2
    if mode == modes.ADIANTUM:
        from ext4img.crypto.adiantum import Adiantum

        return Adiantum
    raise UnsupportedFeatureError(f"{mode.name} is not a mode for names", (mode.name,))
