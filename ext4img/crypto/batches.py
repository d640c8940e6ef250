"""The base of ciphers that process many data units at once in NumPy, and their buffers."""

from __future__ import annotations

import threading
from abc import abstractmethod
from typing import Any, Final

import numpy
from numpy.typing import NDArray

from ext4img.crypto.data_cipher import Buffer, DataUnitCipher

Bytes = NDArray[numpy.uint8]

RESULT_BYTES: Final = 1 << 22
SCRATCH_BYTES: Final = 1 << 18


class BatchCipher(DataUnitCipher):
    """A DataUnitCipher by batches of `batch_bytes`.

    Larger batches cost fewer calls; the data of smaller ones stays in the cache between the passes.
    """

    __slots__ = ()
    batch_bytes = 1 << 20

    def _run(self, data: Buffer, unit_size: int, ivs: bytes, encrypting: bool) -> bytes:
        # By way of a kept buffer, so that only the result is fresh memory.
        pieces = []
        step = max(RESULT_BYTES // unit_size, 1)
        view = memoryview(data)
        for first in range(0, len(data) // unit_size, step):
            piece = view[first * unit_size : (first + step) * unit_size]
            out = scratch("result", len(piece))
            last = first + len(piece) // unit_size
            self._run_into(piece, unit_size, ivs[first * self.iv_size : last * self.iv_size], encrypting, out.data)
            pieces.append(out.tobytes())
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _run_into(self, data: Buffer, unit_size: int, ivs: bytes, encrypting: bool, out: memoryview) -> None:
        step = max(self.batch_bytes // unit_size, 1)
        size = self.iv_size
        source, target = numpy.frombuffer(data, numpy.uint8), numpy.frombuffer(out, numpy.uint8)
        for first in range(0, len(source) // unit_size, step):
            last = min(first + step, len(source) // unit_size)
            piece = slice(first * unit_size, last * unit_size)
            self._batch(source[piece], unit_size, ivs[first * size : last * size], encrypting, target[piece])

    @abstractmethod
    def _batch(self, data: Bytes, unit_size: int, ivs: bytes, encrypting: bool, out: Bytes) -> None:
        """Encrypt or decrypt some units at once, from `data` to `out`."""


class _Scratch(threading.local):
    buffers: dict[str, Any]

    def __init__(self) -> None:
        self.buffers = {}


_scratch = _Scratch()


def scratch(name: str, size: int) -> Bytes:
    """A buffer of `size` bytes of this thread, kept for reuse under its name; its contents are undefined.

    The page faults of fresh memory cost more than the ciphers.
    """
    kept = _scratch.buffers.get(name)
    if kept is None or len(kept) < size:
        kept = _scratch.buffers[name] = numpy.empty(max(size, SCRATCH_BYTES), numpy.uint8)
    buffer: Bytes = kept[:size]
    return buffer
