"""XChaCha12, many streams at once: the stream cipher inside Adiantum.

ChaCha is D. J. Bernstein's with 12 rounds and a 64-bit counter; XChaCha derives a key by HChaCha
from the first 16 bytes of its nonce and runs ChaCha under the other 8. The state's four rows are
four arrays, of four words for each lane: a lane is a block of one stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy
from numpy.typing import NDArray

from ext4img.crypto.units import Bytes

_ROUNDS: Final = 12
_CONSTANTS = numpy.frombuffer(b"expand 32-byte k", "<u4")
# So many lanes at once: 256 bytes each, state and start, should stay in the cache.
_LANES: Final = 2048

Words = NDArray[numpy.uint32]


def keystreams(key: bytes, nonces: Bytes, size: int) -> Bytes:
    """A row of `size` bytes of key stream for each row of `nonces`, of 24 bytes; the key has 32."""
    count = len(nonces)
    blocks = -(-size // 64)
    words = numpy.ascontiguousarray(nonces).view("<u4")
    subkeys = _hchacha(key, words[:, :4])
    streams = numpy.empty((count, blocks, 16), "<u4")
    step = max(_LANES // max(blocks, 1), 1)
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
    start = numpy.empty((16, count, blocks), numpy.uint32)
    start[:4] = _CONSTANTS[:, None, None]
    start[4:12] = keys[:, :, None]
    start[12] = numpy.arange(blocks, dtype=numpy.uint32)  # below 2^32: a data unit has 64 KiB at most
    start[13] = 0
    start[14:] = nonces.T[:, :, None]
    state = start.copy()
    _permute(state.reshape(16, -1))
    state += start
    out[...] = state.transpose(1, 2, 0)


def _permute(state: Words) -> None:
    """Twelve rounds over the columns of `state`, in place: first straight, then along the diagonals."""
    a, b, c, d = state[:4], state[4:8], state[8:12], state[12:]
    spare = numpy.empty_like(a)
    for _ in range(_ROUNDS // 2):
        _quarter_rounds(a, b, c, d, spare, _straight)
        _quarter_rounds(a, b, c, d, spare, _diagonal)


def _quarter_rounds(a: Words, b: Words, c: Words, d: Words, spare: Words, apply: Callable[..., None]) -> None:
    add, xor = numpy.add, numpy.bitwise_xor
    apply(add, a, b)
    apply(xor, d, a)
    _rotate(d, 16, spare)
    apply(add, c, d)
    apply(xor, b, c)
    _rotate(b, 12, spare)
    apply(add, a, b)
    apply(xor, d, a)
    _rotate(d, 8, spare)
    apply(add, c, d)
    apply(xor, b, c)
    _rotate(b, 7, spare)


def _straight(operation: Any, left: Words, right: Words) -> None:
    operation(left, right, out=left)


def _diagonal(operation: Any, left: Words, right: Words) -> None:
    # On the diagonals row i of the left goes with row i + 1 of the right, whichever two they are.
    operation(left[:3], right[1:], out=left[:3])
    operation(left[3], right[0], out=left[3])


def _rotate(words: Words, bits: int, spare: Words) -> None:
    numpy.left_shift(words, bits, out=spare)
    numpy.right_shift(words, 32 - bits, out=words)
    numpy.bitwise_or(words, spare, out=words)
