"""From the index of a data unit to its IV.

After the kernel's `fscrypt_generate_iv()`: a little-endian 64-bit number, then, for DIRECT_KEY
policies, the file's nonce, then zeros up to the mode's IV size. The number is the data unit's
index in the file; with IV_INO_LBLK_64 the inode number is its upper half; with
IV_INO_LBLK_32 a hash of the inode number is added, modulo 2^32. Names and symlink targets have
index 0.
"""

from __future__ import annotations

from typing import NamedTuple

from ext4img.crypto.policy import Policy
from ext4img.worth_importing_numpy import worth_importing_numpy

_MASK_32 = 0xFFFFFFFF
_MASK_64 = 0xFFFFFFFFFFFFFFFF
_MANY = 32  # From this count on NumPy is quicker than a loop.


class IvScheme(NamedTuple):
    """The IVs of one inode: (`offset` + index) & `mask` as 8 bytes, then `tail`."""

    offset: int
    mask: int
    tail: bytes
    size: int
    """Bytes of an IV: 16 or 32."""

    @classmethod
    def of(cls, policy: Policy, size: int, nonce: bytes, inode_number: int, hashed_inode_number: int) -> IvScheme:
        """The scheme of `policy`. Only IV_INO_LBLK_32 uses the hashed inode number, only _64 the plain one."""
        if policy.is_iv_ino_lblk_64:
            return cls((inode_number & _MASK_32) << 32, _MASK_64, bytes(size - 8), size)
        if policy.is_iv_ino_lblk_32:
            return cls(hashed_inode_number, _MASK_32, bytes(size - 8), size)
        tail = nonce.ljust(size - 8, b"\0") if policy.is_direct_key else bytes(size - 8)
        return cls(0, _MASK_64, tail, size)

    def iv(self, index: int) -> bytes:
        """The IV of the data unit with this index."""
        return ((self.offset + index) & self.mask).to_bytes(8, "little") + self.tail

    def ivs(self, first: int, count: int) -> bytes:
        """The IVs of `count` data units from index `first`, concatenated."""
        if count < _MANY or not worth_importing_numpy(count * 0.2):
            return b"".join([self.iv(index) for index in range(first, first + count)])
        import numpy

        table = numpy.empty((count, self.size // 8), "<u8")
        start = (self.offset + first) & _MASK_64
        table[:, 0] = (numpy.arange(count, dtype="<u8") + numpy.uint64(start)) & numpy.uint64(self.mask)
        table[:, 1:] = numpy.frombuffer(self.tail, "<u8")
        return table.tobytes()
