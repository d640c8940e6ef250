"""The hashes by which ext4 indexes directories, and with which no-key names begin.

They follow the kernel's `fs/ext4/hash.c`. An encrypted directory hashes the name's *ciphertext*. An
encrypted case-insensitive directory hashes the folded plaintext, by SipHash under a derived key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, Final

from ext4img.errors import UnsupportedFeatureError
from ext4img.names.siphash import siphash24
from ext4img.structs.directory import (
    DX_HASH_HALF_MD4,
    DX_HASH_LEGACY,
    DX_HASH_LEGACY_UNSIGNED,
    DX_HASH_TEA,
)
from ext4img.worth_importing_numpy import worth_importing_numpy

UNSIGNED: Final = DX_HASH_LEGACY_UNSIGNED - DX_HASH_LEGACY
"""Added to a version of hash if the bytes of names are unsigned (EXT2_FLAGS_UNSIGNED_HASH in the superblock)."""

_MASK: Final = 0xFFFFFFFF
_DEFAULT_SEED: Final = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
_EOF: Final = 0xFFFFFFFE  # EXT4_HTREE_EOF_32BIT << 1; a hash may not be this
_WORDS: Final = tuple(Struct(f">{count}I") for count in range(9))
_MANY: Final = 24  # From this number of names on NumPy is quicker.
_MANY_SAVE_US: Final = 8.0  # a name


def dirhash(name: bytes, version: int, seed: tuple[int, int, int, int]) -> tuple[int, int]:
    """(major, minor) hash of a name; `version` 0 to 5, `seed` the superblock's s_hash_seed.

    The lowest bit of the major hash is always 0. UnsupportedFeatureError for other versions; for
    SipHash see `siphash_dirhash`.
    """
    kind, signed = _kind(version)
    if kind == DX_HASH_LEGACY:
        state = _LEGACY_STATE
        for byte in name:
            state = _legacy(state, byte - 256 if signed and byte > 127 else byte)
        return _clip(state[1] << 1), 0
    state = seed if any(seed) else _DEFAULT_SEED
    step, mix = _MIXES[kind]
    for at in range(0, len(name), step):
        state = mix(state, _message(name[at : at + step], len(name) - at, signed, step))
    return _clip(state[1 if kind == DX_HASH_HALF_MD4 else 0]), state[2 if kind == DX_HASH_HALF_MD4 else 1] & _MASK


def dirhashes(names: Sequence[bytes], version: int, seed: tuple[int, int, int, int]) -> list[tuple[int, int]]:
    """`dirhash` of each name; if they are many, less than 1 µs each."""
    kind, signed = _kind(version)
    if len(names) < _MANY or not worth_importing_numpy(len(names) * _MANY_SAVE_US):
        return [dirhash(name, version, seed) for name in names]
    import numpy

    # The longest first, so that the names that have not ended yet always come first.
    order = sorted(range(len(names)), key=lambda i: -len(names[i]))
    lengths = numpy.array([len(names[i]) for i in order])
    step, mix = _MIXES.get(kind, (1, None))
    width = -(-max(int(lengths[0]), 1) // step) * step
    octets = numpy.frombuffer(b"".join([names[i].ljust(width, b"\0") for i in order]), numpy.uint8)
    octets = octets.reshape(len(names), width)
    start = _LEGACY_STATE if mix is None else seed if any(seed) else _DEFAULT_SEED
    state: list[Any] = [numpy.full(len(names), word, numpy.uint32) for word in start]
    for at in range(0, width, step):
        count = int((lengths > at).sum())
        piece = octets[:count, at : at + step]
        if mix is None:
            value = (piece.view(numpy.int8) if signed else piece)[:, 0].astype(numpy.uint32)
            mixed = _legacy((state[0][:count], state[1][:count]), value)
        else:
            message = _messages(piece, lengths[:count] - at, signed)
            mixed = mix(tuple(word[:count] for word in state), message)
        for word, new in zip(state, mixed, strict=True):
            word[:count] = new
    if kind == DX_HASH_LEGACY:
        major, minor = state[1] << 1, numpy.zeros_like(state[1])
    else:
        major, minor = (state[1], state[2]) if kind == DX_HASH_HALF_MD4 else (state[0], state[1])
    results = [(0, 0)] * len(names)
    for i, high, low in zip(order, major.tolist(), minor.tolist(), strict=True):
        results[i] = (_clip(high), low)
    return results


def siphash_dirhash(key: bytes, folded_name: bytes) -> tuple[int, int]:
    """(major, minor) hash of a name in an encrypted case-insensitive directory.

    `key` is the directory's 16-byte dirhash key, `folded_name` the case-folded plaintext.
    """
    combined = siphash24(key, folded_name)
    return _clip(combined >> 32), combined & _MASK


def _kind(version: int) -> tuple[int, bool]:
    if not DX_HASH_LEGACY <= version <= DX_HASH_TEA + UNSIGNED:
        what = f"directory hash version {version}"
        raise UnsupportedFeatureError(f"{what} is not known", (what,))
    return version % UNSIGNED, version < UNSIGNED


def _clip(major: int) -> int:
    major &= _MASK & ~1
    return _EOF - 2 if major == _EOF else major


# The following works on integers and on arrays of uint32 (one number for each name). Integers grow
# beyond 32 bits. Sums, XOR and left shifts never carry downwards, so they are masked only before a
# right shift, and at the end.
Word = Any
State = tuple[Any, ...]
Words = Sequence[Any]


def _legacy(state: State, value: Word) -> State:
    """The state after one more byte of the name."""
    older, newer = state
    mixed = (older + (newer ^ (value * 7152373 & _MASK))) & _MASK
    return newer, (mixed - 0x7FFFFFFF * (mixed >> 31)) & _MASK


_LEGACY_STATE: Final[State] = (0x37ABE8F9, 0x12A3FE2D)


def _message(piece: bytes, left: int, signed: bool, step: int) -> Words:
    """The words of a piece of the name; `left` is the length of the name from the piece on.

    Each word starts as a padding made of that length and takes its bytes as (word << 8) + byte; words
    without bytes remain padding. A signed byte above 127 counts as itself less 256: it borrows one
    from the bytes before it.
    """
    pad = left | left << 8
    pad |= pad << 16
    whole, extra = divmod(len(piece), 4)
    words = list(_WORDS[whole].unpack_from(piece))
    if extra:
        words.append(int.from_bytes(piece[4 * whole :], "big"))
    if signed:
        words = [word - ((word & 0x80808080) << 1) for word in words]
    if extra:
        words[whole] += pad << 8 * extra
    words += [pad] * (step // 4 - len(words))
    return words


def _messages(pieces: Any, left: Any, signed: bool) -> Words:
    """`_message` for rows of pieces, padded with zeros."""
    words = pieces.view(">u4").astype("u8")
    length = left.astype("u8")
    pad = length | length << 8
    pad |= pad << 16
    result = []
    for at in range(words.shape[1]):
        there = (left - 4 * at).clip(0, 4).astype("u8") * 8  # bits of the word that belong to the name
        word = words[:, at] >> (32 - there)
        if signed:
            word -= (word & 0x80808080) << 1
        result.append((word + (pad << there)).astype("u4"))
    return result


def _half_md4(state: State, m: Words) -> State:
    """MD4 with half its message and half its steps in each round."""
    a, b, c, d = state
    for i in (0, 4):
        a = a + (d ^ (b & (c ^ d))) + m[i] & _MASK
        a = a << 3 | a >> 29
        d = d + (c ^ (a & (b ^ c))) + m[i + 1] & _MASK
        d = d << 7 | d >> 25
        c = c + (b ^ (d & (a ^ b))) + m[i + 2] & _MASK
        c = c << 11 | c >> 21
        b = b + (a ^ (c & (d ^ a))) + m[i + 3] & _MASK
        b = b << 19 | b >> 13
    for i in (1, 0):
        a = a + (b & c) + ((b ^ c) & d) + m[i] + 0x5A827999 & _MASK
        a = a << 3 | a >> 29
        d = d + (a & b) + ((a ^ b) & c) + m[i + 2] + 0x5A827999 & _MASK
        d = d << 5 | d >> 27
        c = c + (d & a) + ((d ^ a) & b) + m[i + 4] + 0x5A827999 & _MASK
        c = c << 9 | c >> 23
        b = b + (c & d) + ((c ^ d) & a) + m[i + 6] + 0x5A827999 & _MASK
        b = b << 13 | b >> 19
    for i, j in ((3, 2), (1, 0)):
        a = a + (b ^ c ^ d) + m[i] + 0x6ED9EBA1 & _MASK
        a = a << 3 | a >> 29
        d = d + (a ^ b ^ c) + m[i + 4] + 0x6ED9EBA1 & _MASK
        d = d << 9 | d >> 23
        c = c + (d ^ a ^ b) + m[j] + 0x6ED9EBA1 & _MASK
        c = c << 11 | c >> 21
        b = b + (c ^ d ^ a) + m[j + 4] + 0x6ED9EBA1 & _MASK
        b = b << 15 | b >> 17
    return state[0] + a & _MASK, state[1] + b & _MASK, state[2] + c & _MASK, state[3] + d & _MASK


def _tea(state: State, m: Words) -> State:
    """Sixteen cycles of the Tiny Encryption Algorithm over the first two words, keyed by the message."""
    v0, v1, w2, w3 = state
    for cycle in range(1, 17):
        total = cycle * 0x9E3779B9 & _MASK
        v0 = v0 + (((v1 << 4) + m[0]) ^ (v1 + total) ^ ((v1 >> 5) + m[1])) & _MASK
        v1 = v1 + (((v0 << 4) + m[2]) ^ (v0 + total) ^ ((v0 >> 5) + m[3])) & _MASK
    return state[0] + v0 & _MASK, state[1] + v1 & _MASK, w2, w3


_MIXES: Final[dict[int, tuple[int, Callable[[State, Words], State]]]] = {
    DX_HASH_HALF_MD4: (32, _half_md4),
    DX_HASH_TEA: (16, _tea),
}
