"""Contents and names under one inode's key: a cipher, and the IVs of its policy.

The keyring makes these objects; they turn the bytes on disk into plaintext, and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ext4img.crypto.iv import IvScheme
from ext4img.errors import CorruptionError
from ext4img.names.nokey import encrypted_length
from ext4img.structs.directory import EXT4_NAME_LEN

if TYPE_CHECKING:
    from ext4img.crypto.data_cipher import Buffer, DataUnitCipher
    from ext4img.crypto.name_cipher import PaddedNameCipher


class ContentsCipher:
    """One file's contents. Threads may share it.

    `data_unit_size` is in bytes; all lengths must be multiples of it, and `first_data_unit` counts
    data units from the start of the file (not file system blocks).
    """

    __slots__ = ("_cipher", "_ivs", "data_unit_size")

    def __init__(self, cipher: DataUnitCipher, ivs: IvScheme, data_unit_size: int) -> None:
        self._cipher = cipher
        self._ivs = ivs
        self.data_unit_size = data_unit_size

    def __repr__(self) -> str:
        return f"<ContentsCipher, data units of {self.data_unit_size} bytes>"

    def encrypt(self, data: Buffer, first_data_unit: int) -> bytes:
        """The ciphertext of whole data units."""
        return self._cipher.encrypt(data, self.data_unit_size, self._ivs_of(data, first_data_unit))

    def decrypt(self, data: Buffer, first_data_unit: int) -> bytes:
        """The plaintext of whole data units. Holes and unwritten extents must not be decrypted."""
        return self._cipher.decrypt(data, self.data_unit_size, self._ivs_of(data, first_data_unit))

    def encrypt_into(self, data: Buffer, first_data_unit: int, out: Buffer) -> None:
        """As `encrypt`, into a writable buffer of the same length, which may be `data` itself."""
        self._cipher.encrypt_into(data, self.data_unit_size, self._ivs_of(data, first_data_unit), out)

    def decrypt_into(self, data: Buffer, first_data_unit: int, out: Buffer) -> None:
        """As `decrypt`, into a writable buffer of the same length, which may be `data` itself."""
        self._cipher.decrypt_into(data, self.data_unit_size, self._ivs_of(data, first_data_unit), out)

    def _ivs_of(self, data: Buffer, first_data_unit: int) -> bytes:
        count, rest = divmod(len(data), self.data_unit_size)
        if rest:
            raise CorruptionError(
                f"{len(data)} bytes of contents are not a multiple of the data unit, {self.data_unit_size} bytes"
            )
        return self._ivs.ivs(first_data_unit, count)


class NamesCipher:
    """The names of one directory, or the target of one symlink. Threads may share it."""

    __slots__ = ("_cipher", "_iv", "padding")

    def __init__(self, cipher: PaddedNameCipher, iv: bytes, padding: int) -> None:
        self._cipher = cipher
        self._iv = iv
        self.padding = padding

    def __repr__(self) -> str:
        return f"<NamesCipher, padding {self.padding}>"

    def encrypt(self, names: Sequence[bytes], max_length: int = EXT4_NAME_LEN) -> list[bytes]:
        """The names as directory entries hold them, padded.

        For a symlink's target `max_length` is the block size less 3. A name above it is
        CorruptionError.
        """
        return self._cipher.encrypt_names([self._pad(name, max_length) for name in names], self._iv)

    def decrypt(self, names: Sequence[bytes]) -> list[bytes]:
        """The plaintext names, each up to its first NUL, as the kernel has them."""
        # partition() is quicker than split() or find() and a slice.
        return [raw.partition(b"\0")[0] for raw in self._cipher.decrypt_names(names, self._iv)]

    def encrypt_raw(self, padded: Sequence[bytes]) -> list[bytes]:
        """The same for names that are already padded."""
        return self._cipher.encrypt_names(padded, self._iv)

    def decrypt_raw(self, names: Sequence[bytes]) -> list[bytes]:
        """Names with their padding, by which `names.nokey.is_padded_name` recognises a wrong key."""
        return self._cipher.decrypt_names(names, self._iv)

    def _pad(self, name: bytes, max_length: int) -> bytes:
        if len(name) > max_length:
            raise CorruptionError(f"name of {len(name)} bytes, at most {max_length} are possible")
        return name.ljust(encrypted_length(len(name), self.padding, max_length), b"\0")
