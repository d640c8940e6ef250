"""AES-256-HCTR2, for names.

"Length-preserving encryption with HCTR2" (Crowley, Huckleberry, Biggers 2021); the kernel's
hctr2(aes). A message is its first block and the rest; the tweak is the IV of 32 bytes. The rest is
encrypted by XCTR, whose counter is XORed into its IV in little-endian order, and POLYVAL of tweak
and rest masks the block on both sides. The names of a directory go through together, whatever their
lengths: sorted, so that the messages that have an i-th block come first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from ext4img.crypto.batches import Bytes
from ext4img.crypto.name_cipher import check_lengths
from ext4img.crypto.polyval import Polyval, Words

_BLOCK: Final = 16


class Hctr2:
    """HCTR2 under an AES key of 32 bytes."""

    __slots__ = ("_block", "_mask", "_polyval")

    def __init__(self, key: bytes) -> None:
        self._block = Cipher(algorithms.AES(key), modes.ECB())
        secrets = self._block.encryptor().update(bytes(_BLOCK) + b"\x01" + bytes(_BLOCK - 1))
        self._polyval = Polyval(secrets[:_BLOCK])
        self._mask: Words = numpy.frombuffer(secrets[_BLOCK:], numpy.uint64)

    def encrypt_names(self, messages: Sequence[bytes], iv: bytes) -> list[bytes]:
        """Each message of at least 16 bytes encrypted under the same tweak of 32 bytes."""
        return self._messages(messages, iv, True)

    def decrypt_names(self, messages: Sequence[bytes], iv: bytes) -> list[bytes]:
        """Each message of at least 16 bytes decrypted under the same tweak of 32 bytes."""
        return self._messages(messages, iv, False)

    def _messages(self, messages: Sequence[bytes], iv: bytes, encrypting: bool) -> list[bytes]:
        check_lengths(messages)
        if not messages:
            return []
        order = sorted(range(len(messages)), key=lambda i: -len(messages[i]))
        lengths = numpy.array([len(messages[i]) - _BLOCK for i in order])
        width = -(-int(lengths[0]) // _BLOCK) * _BLOCK
        rows = b"".join([messages[i].ljust(_BLOCK + width, b"\0") for i in order])
        table = numpy.frombuffer(rows, numpy.uint8).reshape(len(order), _BLOCK + width)
        first = numpy.ascontiguousarray(table[:, :_BLOCK]).view(numpy.uint64)
        rest = _Rest(table[:, _BLOCK:], lengths)
        crypt = self._block.encryptor() if encrypting else self._block.decryptor()

        tweaked = self._hash_tweak(iv, rest.lengths % _BLOCK != 0)
        before = first ^ self._hash(tweaked, rest)
        after = _words(crypt.update(before.tobytes()))
        stream = self._xctr(before ^ after ^ self._mask, width)
        rest = _Rest(rest.octets ^ stream, lengths)
        final = after ^ self._hash(tweaked, rest)

        head, tail = final.tobytes(), rest.octets.tobytes()
        results = [b""] * len(order)
        for at, i in enumerate(order):
            size = len(messages[i]) - _BLOCK
            results[i] = head[at * _BLOCK : (at + 1) * _BLOCK] + tail[at * width : at * width + size]
        return results

    def _hash_tweak(self, iv: bytes, ragged: NDArray[numpy.bool_]) -> Words:
        """States after the length block and the tweak: one where the rest has whole blocks, one where not."""
        length = 2 * 8 * len(iv) + 2
        states = _words(length.to_bytes(_BLOCK, "little") + (length + 1).to_bytes(_BLOCK, "little"))
        states = self._polyval.times_key(states)
        for block in _words(iv):
            states = self._polyval.absorb(states, block)
        return states[ragged.astype(numpy.intp)]

    def _hash(self, tweaked: Words, rest: _Rest) -> Words:
        """POLYVAL of tweak and rest; a short last block is filled up with a one bit and zeros."""
        states = tweaked.copy()
        blocks = rest.padded().view(numpy.uint64).reshape(len(tweaked), -1, 2)
        for at, count in enumerate(rest.counts):
            states[:count] = self._polyval.absorb(states[:count], blocks[:count, at])
        return states

    def _xctr(self, ivs: Words, width: int) -> Bytes:
        """Key stream of `width` bytes for each IV: the IV, XORed with 1, 2, 3, …, encrypted."""
        counters = numpy.zeros((len(ivs), width // _BLOCK, 2), numpy.uint64)
        counters[:, :, 0] = numpy.arange(1, width // _BLOCK + 1, dtype=numpy.uint64)
        counters ^= ivs[:, None]
        stream = self._block.encryptor().update(counters.tobytes())
        return numpy.frombuffer(stream, numpy.uint8).reshape(len(ivs), width)


class _Rest:
    """The messages without their first blocks, longest first, in rows filled up with anything."""

    def __init__(self, octets: Bytes, lengths: NDArray[numpy.int_]) -> None:
        self.octets = octets
        self.lengths = lengths
        blocks = -(-lengths // _BLOCK)
        self.counts = [int((blocks > at).sum()) for at in range(int(blocks[0]))]
        """How many messages have block 0, 1, …"""

    def padded(self) -> Bytes:
        """With a one after each message that does not fill its last block, and zeros from there on."""
        padded = numpy.ascontiguousarray(self.octets).copy()
        padded[numpy.arange(padded.shape[1]) >= self.lengths[:, None]] = 0
        ragged = numpy.flatnonzero(self.lengths % _BLOCK)
        padded[ragged, self.lengths[ragged]] = 1
        return padded


def _words(octets: bytes) -> Words:
    return numpy.frombuffer(octets, numpy.uint64).reshape(-1, 2)
