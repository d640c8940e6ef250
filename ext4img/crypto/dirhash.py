"""The hashes by which ext4 indexes directories, and with which no-key names begin.

After the kernel's `fs/ext4/hash.c`. In an encrypted directory it is the name's *ciphertext* that is
hashed; in an encrypted case-insensitive one the folded plaintext, by SipHash under a derived key.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final

from ext4img.crypto.siphash import siphash24
from ext4img.errors import UnsupportedFeatureError

# Numbers of s_def_hash_version and dx_root_info.hash_version. On disk are 0 to 2; with the
# superblock flag EXT2_FLAGS_UNSIGNED_HASH the kernel goes on to 3 to 5.
LEGACY: Final = 0
HALF_MD4: Final = 1
TEA: Final = 2
UNSIGNED: Final = 3
"""To be added to the three above where bytes of names count as unsigned."""
SIPHASH: Final = 6

_MASK: Final = 0xFFFFFFFF
_DEFAULT_SEED: Final = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
_EOF: Final = 0xFFFFFFFE  # EXT4_HTREE_EOF_32BIT << 1; a hash may not be this
_WORDS: Final = tuple(Struct(f">{count}I") for count in range(9))


def dirhash(name: bytes, version: int, seed: tuple[int, int, int, int]) -> tuple[int, int]:
    """(major, minor) hash of a name; `version` 0 to 5, `seed` the superblock's s_hash_seed.

    The lowest bit of the major hash is always 0. UnsupportedFeatureError for other versions: for
    SipHash see `siphash_dirhash`.
    """
    if not LEGACY <= version <= TEA + UNSIGNED:
        what = f"directory hash version {version}"
        raise UnsupportedFeatureError(f"{what} is not known", (what,))
    signed = version < UNSIGNED
    kind = version % UNSIGNED
    minor = 0
    if kind == LEGACY:
        major = _legacy(name, signed)
    elif kind == HALF_MD4:
        _, major, minor, _ = _chain(name, signed, seed, 32, _half_md4)
    else:
        major, minor, _, _ = _chain(name, signed, seed, 16, _tea)
    return _clip(major), minor


def siphash_dirhash(key: bytes, folded_name: bytes) -> tuple[int, int]:
    """(major, minor) hash of a name in an encrypted case-insensitive directory.

    `key` is the directory's 16-byte dirhash key, `folded_name` the case-folded plaintext.
    """
    combined = siphash24(key, folded_name)
    return _clip(combined >> 32), combined & _MASK


def _clip(major: int) -> int:
    major &= ~1
    return _EOF - 2 if major == _EOF else major


def _legacy(name: bytes, signed: bool) -> int:
    older, newer = 0x37ABE8F9, 0x12A3FE2D
    for byte in name:
        value = byte - 256 if signed and byte > 127 else byte
        mixed = (older + (newer ^ (value * 7152373 & _MASK))) & _MASK
        if mixed & 0x80000000:
            mixed = (mixed - 0x7FFFFFFF) & _MASK
        older, newer = newer, mixed
    return newer << 1 & _MASK


Words = list[int]
State = tuple[int, int, int, int]


def _chain(
    name: bytes, signed: bool, seed: tuple[int, int, int, int], step: int, mix: Callable[[State, Words], State]
) -> State:
    """Run `mix` over the name, `step` bytes at a time, from the seed (a default where that is zero)."""
    state: State = seed if any(seed) else _DEFAULT_SEED
    for at in range(0, len(name), step):
        state = mix(state, _message(name[at : at + step], len(name) - at, signed, step))
    return state


def _message(piece: bytes, left: int, signed: bool, step: int) -> Words:
    """The words that a piece of the name stands for, `left` being the name's length from there on.

    Each word starts as a padding made of that length and takes in its bytes as (word << 8) + byte;
    words that get no byte stay padding. A signed byte above 127 counts as itself less 256: it
    borrows one from what stands before it.
    """
    pad = left | left << 8
    pad = (pad | pad << 16) & _MASK
    whole, extra = divmod(len(piece), 4)
    words = list(_WORDS[whole].unpack_from(piece))
    if extra:
        words.append(int.from_bytes(piece[4 * whole :], "big"))
    if signed:
        words = [(word - ((word & 0x80808080) << 1)) & _MASK for word in words]
    if extra:
        words[whole] = (words[whole] + (pad << 8 * extra)) & _MASK
    words += [pad] * (step // 4 - len(words))
    return words


def _half_md4(state: State, m: Words) -> State:
    """Three rounds of eight steps each, MD4's own taken with half its message."""
    a, b, c, d = state
    for i in (0, 4):
        a = _rotate(a + (d ^ (b & (c ^ d))) + m[i], 3)
        d = _rotate(d + (c ^ (a & (b ^ c))) + m[i + 1], 7)
        c = _rotate(c + (b ^ (d & (a ^ b))) + m[i + 2], 11)
        b = _rotate(b + (a ^ (c & (d ^ a))) + m[i + 3], 19)
    for i in (1, 0):
        a = _rotate(a + (b & c) + ((b ^ c) & d) + m[i] + 0x5A827999, 3)
        d = _rotate(d + (a & b) + ((a ^ b) & c) + m[i + 2] + 0x5A827999, 5)
        c = _rotate(c + (d & a) + ((d ^ a) & b) + m[i + 4] + 0x5A827999, 9)
        b = _rotate(b + (c & d) + ((c ^ d) & a) + m[i + 6] + 0x5A827999, 13)
    for i, j in ((3, 2), (1, 0)):
        a = _rotate(a + (b ^ c ^ d) + m[i] + 0x6ED9EBA1, 3)
        d = _rotate(d + (a ^ b ^ c) + m[i + 4] + 0x6ED9EBA1, 9)
        c = _rotate(c + (d ^ a ^ b) + m[j] + 0x6ED9EBA1, 11)
        b = _rotate(b + (c ^ d ^ a) + m[j + 4] + 0x6ED9EBA1, 15)
    return (state[0] + a) & _MASK, (state[1] + b) & _MASK, (state[2] + c) & _MASK, (state[3] + d) & _MASK


def _rotate(value: int, bits: int) -> int:
    value &= _MASK
    return (value << bits | value >> (32 - bits)) & _MASK


def _tea(state: State, m: Words) -> State:
    """Sixteen cycles of the Tiny Encryption Algorithm over the first two words, keyed by the message."""
    v0, v1, w2, w3 = state
    total = 0
    for _ in range(16):
        total = (total + 0x9E3779B9) & _MASK
        v0 = (v0 + (((v1 << 4) + m[0]) ^ (v1 + total) ^ ((v1 >> 5) + m[1]))) & _MASK
        v1 = (v1 + (((v0 << 4) + m[2]) ^ (v0 + total) ^ ((v0 >> 5) + m[3]))) & _MASK
    return (state[0] + v0) & _MASK, (state[1] + v1) & _MASK, w2, w3
