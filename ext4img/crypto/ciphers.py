"""The cipher that belongs to each mode, under a key of `mode.key_size` bytes."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import algorithms

from ext4img.crypto import modes
from ext4img.crypto.adiantum import Adiantum
from ext4img.crypto.aes_cbc_essiv import CbcEssiv
from ext4img.crypto.aes_cts import CbcCts
from ext4img.crypto.aes_xts import Xts
from ext4img.crypto.hctr2 import Hctr2
from ext4img.crypto.messages import MessageCipher
from ext4img.crypto.units import UnitCipher
from ext4img.errors import UnsupportedFeatureError


def unit_cipher(mode: modes.Mode, key: bytes) -> UnitCipher:
    """The cipher of a mode for contents."""
    if mode == modes.AES_256_XTS:
        return Xts(algorithms.AES, key)
    if mode == modes.SM4_XTS:
        return Xts(algorithms.SM4, key)
    if mode == modes.AES_128_CBC:
        return CbcEssiv(key)
    if mode == modes.ADIANTUM:
        return Adiantum(key)
    raise UnsupportedFeatureError(f"{mode.name} is not a mode for contents", (mode.name,))


def message_cipher(mode: modes.Mode, key: bytes) -> MessageCipher:
    """The cipher of a mode for names and symlink targets."""
    if mode in (modes.AES_256_CTS, modes.AES_128_CTS):
        return CbcCts(algorithms.AES(key))
    if mode == modes.SM4_CTS:
        return CbcCts(algorithms.SM4(key))
    if mode == modes.AES_256_HCTR2:
        return Hctr2(key)
    if mode == modes.ADIANTUM:
        return Adiantum(key)
    raise UnsupportedFeatureError(f"{mode.name} is not a mode for names", (mode.name,))
