"""The interface of the ciphers for contents: many data units of one size, each under its own IV."""

from __future__ import annotations

from abc import ABC, abstractmethod

Buffer = bytes | bytearray | memoryview


class DataUnitCipher(ABC):
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
        self._run_into(data, unit_size, ivs, True, memoryview(out))

    def decrypt_into(self, data: Buffer, unit_size: int, ivs: bytes, out: Buffer) -> None:
        """As `decrypt`, into a writable buffer of the same length (it may be the same memory)."""
        self._run_into(data, unit_size, ivs, False, memoryview(out))

    @abstractmethod
    def _run(self, data: Buffer, unit_size: int, ivs: bytes, encrypting: bool) -> bytes:
        """Either way, the result as new bytes."""

    @abstractmethod
    def _run_into(self, data: Buffer, unit_size: int, ivs: bytes, encrypting: bool, out: memoryview) -> None:
        """Either way, the result into `out`."""
