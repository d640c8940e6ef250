"""The encryption modes that a policy can name, with their kernel numbers.

Numbers are FSCRYPT_MODE_* of `include/uapi/linux/fscrypt.h`; sizes are those of the kernel's mode
table (`fs/crypto/keysetup.c`). Names are written as fscryptctl prints them.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Mode(NamedTuple):
    """One mode: its number on disk and what its cipher needs, in bytes."""

    number: int
    name: str
    key_size: int
    """Length of the cipher's key."""
    iv_size: int
    """Length of the IV (the tweak, for Adiantum and HCTR2)."""
    security_strength: int
    """Shortest master key that a version 2 policy may use with this mode."""


AES_256_XTS: Final = Mode(1, "AES-256-XTS", 64, 16, 32)
AES_256_CTS: Final = Mode(4, "AES-256-CTS", 32, 16, 32)
AES_128_CBC: Final = Mode(5, "AES-128-CBC", 16, 16, 16)  # ESSIV, with SHA-256 of the key
AES_128_CTS: Final = Mode(6, "AES-128-CTS", 16, 16, 16)
SM4_XTS: Final = Mode(7, "SM4-XTS", 32, 16, 16)
SM4_CTS: Final = Mode(8, "SM4-CTS", 16, 16, 16)
ADIANTUM: Final = Mode(9, "Adiantum", 32, 32, 32)
AES_256_HCTR2: Final = Mode(10, "AES-256-HCTR2", 32, 32, 32)

MODES: Final = {
    mode.number: mode
    for mode in (AES_256_XTS, AES_256_CTS, AES_128_CBC, AES_128_CTS, SM4_XTS, SM4_CTS, ADIANTUM, AES_256_HCTR2)
}

# Numbers that are assigned, but that no current kernel supports.
RESERVED_NAMES: Final = {2: "AES-256-GCM", 3: "AES-256-CBC"}
# Linux 4.17 to 4.19 had Speck under the numbers that SM4 has now; only with version 1 policies.
SPECK_NAMES: Final = {7: "Speck128/256-XTS", 8: "Speck128/256-CTS"}

# Pairs of (contents, names) that the kernel accepts: fs/crypto/policy.c, fscrypt_valid_enc_modes_v1/_v2.
PAIRS_V1: Final = frozenset({(1, 4), (5, 6), (9, 9)})
PAIRS_V2: Final = PAIRS_V1 | {(1, 10), (7, 8)}


def mode_name(number: int, version: int) -> str:
    """Name of a mode number in a policy of `version`, including modes that cannot be used."""
    if version == 1 and number in SPECK_NAMES:
        return SPECK_NAMES[number]
    if number in MODES:
        return MODES[number].name
    return RESERVED_NAMES.get(number, f"mode {number}")
