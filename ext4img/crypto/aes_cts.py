"""CBC with ciphertext stealing (CBC-CS3 of NIST SP 800-38A's addendum), for names and targets.

The kernel's cts(cbc(aes)) and cts(cbc(sm4)): the last two blocks are swapped even if the length is a
multiple of the block; a message of one block is plain CBC. Many messages share each call of the
cipher: decrypting any number of them takes two calls.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ext4img.crypto.name_cipher import check_lengths, xor

_BLOCK = 16


class CbcCts:
    """CBC-CTS of AES or SM4 under one key. Holds no state between calls."""

    __slots__ = ("_cipher",)

    def __init__(self, algorithm: type[algorithms.AES | algorithms.SM4], key: bytes) -> None:
        self._cipher = Cipher(algorithm(key), modes.ECB())

    def encrypt_names(self, messages: Sequence[bytes], iv: bytes) -> list[bytes]:
        """Each message of at least 16 bytes encrypted under the same IV of 16 bytes."""
        check_lengths(messages)
        ecb = self._cipher.encryptor()
        # In lockstep: block i of all messages that have one, the longest messages first.
        order = sorted(range(len(messages)), key=lambda i: -len(messages[i]))
        padded = [messages[i] + bytes(-len(messages[i]) % _BLOCK) for i in order]
        columns: list[list[bytes]] = [[] for _ in padded]
        chain = iv * len(padded)
        active = len(padded)
        for at in range(0, len(padded[0]) if padded else 0, _BLOCK):
            while len(padded[active - 1]) <= at:
                active -= 1
            column = b"".join([text[at : at + _BLOCK] for text in padded[:active]])
            chain = ecb.update(xor(column, chain[: len(column)]))
            for i in range(active):
                columns[i].append(chain[i * _BLOCK : (i + 1) * _BLOCK])
        results = [b""] * len(messages)
        for i, blocks in zip(order, columns, strict=True):
            if len(blocks) > 1:
                blocks[-1], blocks[-2] = blocks[-2], blocks[-1]
            results[i] = b"".join(blocks)[: len(messages[i])]
        return results

    def decrypt_names(self, messages: Sequence[bytes], iv: bytes) -> list[bytes]:
        """Each message of at least 16 bytes decrypted under the same IV of 16 bytes."""
        check_lengths(messages)
        ecb = self._cipher.decryptor()
        # If the last block is partial, the block stored before it holds its rest.
        cut = [text for text in messages if len(text) % _BLOCK]
        rests = ecb.update(b"".join([text[-(len(text) % _BLOCK) - _BLOCK : -(len(text) % _BLOCK)] for text in cut]))
        chained: list[bytes] = []
        before: list[bytes] = []
        at = 0
        for text in messages:
            tail = len(text) % _BLOCK
            if tail:
                rest = rests[at + tail : at + _BLOCK]
                at += _BLOCK
                blocks = text[: -tail - _BLOCK] + text[-tail:] + rest + text[-tail - _BLOCK : -tail]
            elif len(text) > _BLOCK:
                blocks = text[:-32] + text[-16:] + text[-32:-16]
            else:
                blocks = text
            chained.append(blocks)
            before.append(iv)
            before.append(blocks[:-_BLOCK])
        joined = b"".join(chained)
        plain = xor(ecb.update(joined), b"".join(before))
        results = []
        at = 0
        for text, whole in zip(messages, chained, strict=True):
            results.append(plain[at : at + len(text)])
            at += len(whole)
        return results
