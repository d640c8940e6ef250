"""The cipher that belongs to each mode number; each takes a key of the mode's `key_size`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from cryptography.hazmat.primitives.ciphers import algorithms

from ext4img.crypto import modes
from ext4img.crypto.adiantum import Adiantum
from ext4img.crypto.aes_cbc_essiv import CbcEssiv
from ext4img.crypto.aes_cts import CbcCts
from ext4img.crypto.aes_xts import Xts
from ext4img.crypto.hctr2 import Hctr2
from ext4img.crypto.messages import MessageCipher
from ext4img.crypto.units import UnitCipher

CONTENTS: Final[dict[int, Callable[[bytes], UnitCipher]]] = {
    modes.AES_256_XTS.number: partial(Xts, algorithms.AES),
    modes.AES_128_CBC.number: CbcEssiv,
    modes.SM4_XTS.number: partial(Xts, algorithms.SM4),
    modes.ADIANTUM.number: Adiantum,
}

NAMES: Final[dict[int, Callable[[bytes], MessageCipher]]] = {
    modes.AES_256_CTS.number: partial(CbcCts, algorithms.AES),
    modes.AES_128_CTS.number: partial(CbcCts, algorithms.AES),
    modes.SM4_CTS.number: partial(CbcCts, algorithms.SM4),
    modes.ADIANTUM.number: Adiantum,
    modes.AES_256_HCTR2.number: Hctr2,
}
