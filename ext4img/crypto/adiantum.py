"""Adiantum with XChaCha12 and AES-256, for contents and names.

"Adiantum: length-preserving encryption for entry-level processors" (Crowley, Biggers 2018); the
kernel's adiantum(xchacha12,aes). The last 16 bytes of a message are its right part, all before them
its left part; the tweak is the IV of 32 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ext4img.crypto.batches import BatchCipher, Bytes
from ext4img.crypto.name_cipher import check_lengths
from ext4img.crypto.nhpoly1305 import MAX_RAGGED, NH_KEY_SIZE, NhPoly1305, Poly1305
from ext4img.crypto.xchacha import keystreams

_RIGHT: Final = 16
_MASK_128: Final = (1 << 128) - 1


class Adiantum(BatchCipher):
    """Adiantum under a key of 32 bytes; a cipher for data units and for names."""

    __slots__ = ("_block", "_header", "_key", "_message")
    iv_size = 32
    batch_bytes = 1 << 18

    def __init__(self, key: bytes) -> None:
        nonce = numpy.zeros((1, 24), numpy.uint8)
        nonce[0, 0] = 1
        derived = keystreams(key, nonce, 32 + 16 + 16 + NH_KEY_SIZE).tobytes()
        self._key = key
        self._block = Cipher(algorithms.AES(derived[:32]), modes.ECB())
        self._header = Poly1305(derived[32:48])
        self._message = NhPoly1305(derived[48:])

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
        lengths = [len(message) - _RIGHT for message in messages]
        width = -(-max(lengths) // 16) * 16
        if width > MAX_RAGGED and len(messages) > 1:  # long symlink targets, which nobody has many of
            return [self._messages([message], iv, encrypting)[0] for message in messages]
        rows = b"".join([message[:-_RIGHT].ljust(width, b"\0") for message in messages])
        left = numpy.frombuffer(rows, numpy.uint8).reshape(len(messages), width)
        right = b"".join([message[-_RIGHT:] for message in messages])
        left, right = self._crypt(left, lengths, right, iv * len(messages), encrypting)
        octets = left.tobytes()
        return [
            octets[at * width : at * width + length] + right[at * _RIGHT : (at + 1) * _RIGHT]
            for at, length in enumerate(lengths)
        ]

    def _batch(self, data: Bytes, unit_size: int, ivs: bytes, encrypting: bool, out: Bytes) -> None:
        units = data.reshape(-1, unit_size)
        left, right = units[:, :-_RIGHT], units[:, -_RIGHT:].tobytes()
        left, right = self._crypt(left, unit_size - _RIGHT, right, ivs, encrypting)
        target = out.reshape(-1, unit_size)
        target[:, :-_RIGHT] = left
        target[:, -_RIGHT:] = numpy.frombuffer(right, numpy.uint8).reshape(-1, _RIGHT)

    def _crypt(
        self, left: Bytes, lengths: list[int] | int, right: bytes, tweaks: bytes, encrypting: bool
    ) -> tuple[Bytes, bytes]:
        """Both parts of many messages, encrypted or decrypted.

        `left` has a row a message, of a multiple of 16 bytes; `lengths` is the length of all, or of
        each, with zeros up to the row's end.
        """
        many = None if isinstance(lengths, int) else lengths
        headers = self._headers(lengths, tweaks)
        hashes = map(int.__add__, headers, self._message.hash(left, many))
        middle = b"".join(
            [
                ((int.from_bytes(right[at * 16 : at * 16 + 16], "little") + digest) & _MASK_128).to_bytes(16, "little")
                for at, digest in enumerate(hashes)
            ]
        )
        # The stream's nonce is the block between cipher and ciphertext, then 1.
        if encrypting:
            middle = nonces = self._block.encryptor().update(middle)
        else:
            nonces, middle = middle, self._block.decryptor().update(middle)
        extended = numpy.zeros((len(headers), 24), numpy.uint8)
        extended[:, :16] = numpy.frombuffer(nonces, numpy.uint8).reshape(-1, 16)
        extended[:, 16] = 1
        result = keystreams(self._key, extended, left.shape[1])
        result ^= left
        if many is not None:
            result[numpy.arange(left.shape[1]) >= numpy.array(many)[:, None]] = 0
        hashes = map(int.__add__, headers, self._message.hash(result, many))
        final = b"".join(
            [
                ((int.from_bytes(middle[at * 16 : at * 16 + 16], "little") - digest) & _MASK_128).to_bytes(16, "little")
                for at, digest in enumerate(hashes)
            ]
        )
        return result, final

    def _headers(self, lengths: list[int] | int, tweaks: bytes) -> list[int]:
        """Hash of each message's length in bits, and of its tweak."""
        count = len(tweaks) // self.iv_size
        each = [lengths] * count if isinstance(lengths, int) else lengths
        from_bytes = int.from_bytes
        return [
            self._header.hash(
                [
                    8 * length,
                    from_bytes(tweaks[at * 32 : at * 32 + 16], "little"),
                    from_bytes(tweaks[at * 32 + 16 : at * 32 + 32], "little"),
                ]
            )
            for at, length in enumerate(each)
        ]
