"""XChaCha12, many streams at once: the stream cipher inside Adiantum.

ChaCha is D. J. Bernstein's with 12 rounds and a 64-bit counter; XChaCha derives a key by HChaCha
from the first 16 bytes of its nonce and runs ChaCha under the other 8. The state's four rows are
four arrays, of four words for each lane: a lane is a block of one stream.
"""

from __future__ import annotations

from typing import Final

import numpy
from numpy.typing import NDArray

from ext4img.crypto.batches import Bytes, scratch

_ROUNDS: Final = 12
_CONSTANTS = numpy.frombuffer(b"expand 32-byte k", "<u4")
# Lanes at once: 256 bytes each, state and start, should stay in the cache.
_LANES: Final = 2048
# Up to this number of lanes NumPy's calls cost more than the work in them.
_FEW_LANES: Final = 32

# Left and right shifts that make the rotations of d and b in each half of a round.
_ROTATIONS = [
    [(numpy.array(bits, "<u4"), numpy.array(32 - bits, "<u4")) for bits in pair] for pair in ((16, 12), (8, 7))
]

Words = NDArray[numpy.uint32]


def keystreams(key: bytes, nonces: Bytes, size: int) -> Bytes:
    """A row of `size` bytes of key stream for each row of `nonces`, of 24 bytes; the key has 32.

    The result is in a buffer that the next call in this thread overwrites.
    """
    count = len(nonces)
    blocks = -(-size // 64)
    if not blocks:
        return numpy.empty((count, 0), numpy.uint8)
    words = numpy.ascontiguousarray(nonces).view("<u4")
    subkeys = _hchacha(key, words[:, :4])
    streams = scratch("chacha streams", 64 * count * blocks).view("<u4").reshape(count, blocks, 16)
    step = max(_LANES // blocks, 1)
    for first in range(0, count, step):
        part = slice(first, min(first + step, count))
        _chacha(subkeys[:, part], words[part, 4:], streams[part])
    octets: Bytes = streams.view(numpy.uint8).reshape(count, blocks * 64)[:, :size]
    return octets


def _hchacha(key: bytes, nonces: Words) -> Words:
    """The derived key of each nonce of four words: eight rows of words."""
    state = numpy.empty((16, len(nonces)), numpy.uint32)
    state[:4] = _CONSTANTS[:, None]
    state[4:12] = numpy.frombuffer(key, "<u4")[:, None]
    state[12:] = nonces.T
    _permute(state)
    return numpy.concatenate((state[:4], state[12:]))


def _chacha(keys: Words, nonces: Words, out: Words) -> None:
    """Blocks 0, 1, … of one stream for each column of `keys` and row of `nonces`, two words."""
    count, blocks = out.shape[:2]
    size = 64 * count * blocks
    start = scratch("chacha start", size).view(numpy.uint32).reshape(16, count, blocks)
    start[:4] = _CONSTANTS[:, None, None]
    start[4:12] = keys[:, :, None]
    start[12] = numpy.arange(blocks, dtype=numpy.uint32)  # below 2^32: a data unit has 64 KiB at most
    start[13] = 0
    start[14:] = nonces.T[:, :, None]
    state = scratch("chacha state", size).view(numpy.uint32).reshape(start.shape)
    state[...] = start
    _permute(state.reshape(16, -1))
    state += start
    out[...] = state.transpose(1, 2, 0)


def _permute(state: Words) -> None:
    """Twelve rounds over the columns of `state`, in place: first straight, then along the diagonals."""
    if state.shape[1] <= _FEW_LANES:
        _permute_few(state)
    else:
        _permute_many(state)


def _permute_few(state: Words) -> None:
    """The rounds with each row as one big integer, every word with 32 bits of room above it.

    Neither sums nor shifts to the left leave that room, which is then cleared; to move a row along,
    it is rotated by whole words.
    """
    lanes = state.shape[1]
    room = int.from_bytes(b"\xff\xff\xff\xff\0\0\0\0" * (4 * lanes), "little")
    row = (1 << 256 * lanes) - 1
    one, two, three = 64 * lanes, 128 * lanes, 192 * lanes
    raw = state.astype("<u8").tobytes()
    size = 32 * lanes
    a, b, c, d = [int.from_bytes(raw[at : at + size], "little") for at in range(0, 4 * size, size)]
    for _ in range(_ROUNDS // 2):
        for forward, back in ((one, three), (three, one)):
            a = a + b & room
            d ^= a
            d = (d << 16 | d >> 16) & room
            c = c + d & room
            b ^= c
            b = (b << 12 | b >> 20) & room
            a = a + b & room
            d ^= a
            d = (d << 8 | d >> 24) & room
            c = c + d & room
            b ^= c
            b = (b << 7 | b >> 25) & room
            # To the diagonals after a straight round, and back after the other.
            b = b >> forward | b << back & row
            c = c >> two | c << two & row
            d = d >> back | d << forward & row
    packed = b"".join([words.to_bytes(size, "little") for words in (a, b, c, d)])
    state[...] = numpy.frombuffer(packed, "<u8").reshape(state.shape)


def _permute_many(state: Words) -> None:
    """The rounds in NumPy."""
    a, b, c, d = state[:4], state[4:8], state[8:12], state[12:]
    spare = scratch("chacha spare", a.nbytes).view(numpy.uint32).reshape(a.shape)
    pairs = ((a, b), (d, a), (c, d), (b, c))
    straight = [((left, right),) for left, right in pairs]
    # On the diagonals row i of the left goes with row i + 1 of the right, whichever two they are.
    diagonal = [((left[:3], right[1:]), (left[3], right[0])) for left, right in pairs]
    for _ in range(_ROUNDS // 2):
        for ab, da, cd, bc in (straight, diagonal):
            for bits_of_d, bits_of_b in _ROTATIONS:
                for left, right in ab:
                    numpy.add(left, right, out=left)
                for left, right in da:
                    numpy.bitwise_xor(left, right, out=left)
                _rotate(d, *bits_of_d, spare)
                for left, right in cd:
                    numpy.add(left, right, out=left)
                for left, right in bc:
                    numpy.bitwise_xor(left, right, out=left)
                _rotate(b, *bits_of_b, spare)


def _rotate(words: Words, left: Words, right: Words, spare: Words) -> None:
    numpy.left_shift(words, left, out=spare)
    numpy.right_shift(words, right, out=words)
    numpy.bitwise_or(words, spare, out=words)
