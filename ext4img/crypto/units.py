"""What the ciphers of contents share: many data units of one size, each under its own IV."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any, Final

import numpy
from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview
Bytes = NDArray[numpy.uint8]

BATCH_BYTES: Final = 1 << 19
"""Bytes that are worked on at once: what the passes over them touch should stay in the cache."""
RESULT_BYTES: Final = 1 << 22


class UnitCipher(ABC):
    """A cipher for contents under one key. Holds no state between calls, so threads may share it.

    All methods take whole data units of `unit_size` bytes and their IVs one after the other.
    """

    __slots__ = ()
    iv_size = 16

    def encrypt(self, data: Buffer, unit_size: int, ivs: bytes) -> bytes:
        """The units' ciphertext."""
        return self._run(data, unit_size, ivs, True)

    def decrypt(self, data: Buffer, unit_size: int, ivs: bytes) -> bytes:
        """The units' plaintext."""
        return self._run(data, unit_size, ivs, False)

    def encrypt_into(self, data: Buffer, unit_size: int, ivs: bytes, out: Buffer) -> None:
        """As `encrypt`, into a writable buffer of the same length (it may be the same memory)."""
        self._run_into(data, unit_size, ivs, True, numpy.frombuffer(out, numpy.uint8))

    def decrypt_into(self, data: Buffer, unit_size: int, ivs: bytes, out: Buffer) -> None:
        """As `decrypt`, into a writable buffer of the same length (it may be the same memory)."""
        self._run_into(data, unit_size, ivs, False, numpy.frombuffer(out, numpy.uint8))

    def _run(self, data: Buffer, unit_size: int, ivs: bytes, encrypting: bool) -> bytes:
        # Into a kept buffer, and out of it as one new object: only that is fresh memory.
        pieces = []
        step = max(RESULT_BYTES // unit_size, 1)
        view = memoryview(data)
        for first in range(0, len(data) // unit_size, step):
            piece = view[first * unit_size : (first + step) * unit_size]
            out = scratch("result", len(piece))
            last = first + len(piece) // unit_size
            self._run_into(piece, unit_size, ivs[first * self.iv_size : last * self.iv_size], encrypting, out)
            pieces.append(out.tobytes())
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _run_into(self, data: Buffer, unit_size: int, ivs: bytes, encrypting: bool, out: Bytes) -> None:
        step = max(BATCH_BYTES // unit_size, 1)
        size = self.iv_size
        source = numpy.frombuffer(data, numpy.uint8)
        for first in range(0, len(source) // unit_size, step):
            piece = source[first * unit_size : (first + step) * unit_size]
            count = len(piece) // unit_size
            target = out[first * unit_size : (first + count) * unit_size]
            self._batch(piece, unit_size, ivs[first * size : (first + count) * size], encrypting, target)

    @abstractmethod
    def _batch(self, data: Bytes, unit_size: int, ivs: bytes, encrypting: bool, out: Bytes) -> None:
        """Encrypt or decrypt some units at once, from `data` to `out`."""


class _Scratch(threading.local):
    buffers: dict[str, Any]

    def __init__(self) -> None:
        self.buffers = {}


_scratch = _Scratch()


def scratch(name: str, size: int) -> Bytes:
    """A buffer of `size` bytes of this thread, kept for reuse under its name; its contents are anything.

    Fresh memory costs more in page faults than the ciphers do in work.
    """
    kept = _scratch.buffers.get(name)
    if kept is None or len(kept) < size:
        kept = _scratch.buffers[name] = numpy.empty(max(size, BATCH_BYTES), numpy.uint8)
    buffer: Bytes = kept[:size]
    return buffer
