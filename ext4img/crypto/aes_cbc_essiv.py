"""AES-128-CBC with ESSIV, for contents: the kernel's essiv(cbc(aes),sha256).

The IV of each unit is encrypted with AES-256 under the SHA-256 of the key, and then serves CBC.
Decrypting takes one ECB call for many units, with each block XORed to the one before it.
"""

from __future__ import annotations

from hashlib import sha256

import numpy
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ext4img.crypto.batches import BatchCipher, Bytes, scratch

_BLOCK = 16


class CbcEssiv(BatchCipher):
    """AES-CBC-ESSIV under a key of 16 bytes."""

    __slots__ = ("_algorithm", "_data", "_ivs")

    def __init__(self, key: bytes) -> None:
        self._algorithm = algorithms.AES(key)
        self._data = Cipher(self._algorithm, modes.ECB())
        self._ivs = Cipher(algorithms.AES(sha256(key).digest()), modes.ECB())

    def _batch(self, data: Bytes, unit_size: int, ivs: bytes, encrypting: bool, out: Bytes) -> None:
        essivs = self._ivs.encryptor().update(ivs)
        if encrypting:
            self._encrypt_each(data, unit_size, essivs, out)
            return
        # The library requires room for almost one more block than it writes.
        mixed = scratch("mixed", len(data) + _BLOCK)
        self._data.decryptor().update_into(data.data, mixed.data)
        blocks = mixed[: len(data)].view(numpy.uint64).reshape(-1, unit_size // 8)
        before = numpy.frombuffer(data, numpy.uint64).reshape(blocks.shape)
        blocks[:, 2:] ^= before[:, :-2]
        blocks[:, :2] ^= numpy.frombuffer(essivs, numpy.uint64).reshape(-1, 2)
        out[:] = mixed[: len(data)]

    def _encrypt_each(self, data: Bytes, unit_size: int, essivs: bytes, out: Bytes) -> None:
        """Within a unit each block depends on the one before it, so each unit takes a CBC context."""
        target = out.data
        for at in range(len(data) // unit_size):
            unit = slice(at * unit_size, (at + 1) * unit_size)
            cipher = Cipher(self._algorithm, modes.CBC(essivs[at * _BLOCK : (at + 1) * _BLOCK]))
            target[unit] = cipher.encryptor().update(data[unit].data)
