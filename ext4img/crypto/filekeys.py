"""One master key under one policy and mode: from a file's nonce to its cipher and IVs.

Everything that the files share is computed once; each further file costs one derivation and one
cipher.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from ext4img.crypto.iv import IvScheme
from ext4img.crypto.kdf import (
    DIRECT_KEY,
    INODE_HASH_KEY,
    IV_INO_LBLK_32_KEY,
    IV_INO_LBLK_64_KEY,
    PER_FILE_KEY,
    Hkdf,
    derive_v1,
)
from ext4img.crypto.modes import Mode
from ext4img.crypto.policy import Policy
from ext4img.names.siphash import siphash24

T = TypeVar("T")


class FileKeys(Generic[T]):
    """Ciphers of one mode for the files under one policy; `make` builds one from its key.

    `raw` and `hkdf` are the master key's; `fs_uuid` is the superblock's, 16 bytes.
    """

    __slots__ = ("_hash_key", "_hkdf", "_ivs", "_make", "_raw", "_shared", "mode", "policy")

    def __init__(
        self, raw: bytes, hkdf: Hkdf, policy: Policy, mode: Mode, fs_uuid: bytes, make: Callable[[bytes], T]
    ) -> None:
        self._raw = raw
        self._hkdf = hkdf
        self._make = make
        self.policy = policy
        self.mode = mode
        shared = self._shared_key(fs_uuid)
        self._shared = None if shared is None else make(shared)
        self._hash_key = hkdf.derive(INODE_HASH_KEY, b"", 16) if policy.is_iv_ino_lblk_32 else b""
        own_ivs = policy.is_direct_key or policy.needs_inode_number
        self._ivs = None if own_ivs else IvScheme.of(policy, mode.iv_size, b"", 0, 0)

    def __repr__(self) -> str:
        return f"<FileKeys of {self.mode.name}>"

    def cipher(self, nonce: bytes) -> T:
        """The cipher of the file with this nonce; one for all files if the policy makes them share a key."""
        if self._shared is not None:
            return self._shared
        if self.policy.version == 1:
            return self._make(derive_v1(self._raw, nonce, self.mode.key_size))
        return self._make(self._hkdf.derive(PER_FILE_KEY, nonce, self.mode.key_size))

    def ivs(self, nonce: bytes, inode_number: int) -> IvScheme:
        """The IVs of the file with this nonce and inode number."""
        if self._ivs is not None:
            return self._ivs
        hashed = 0
        if self.policy.is_iv_ino_lblk_32:
            hashed = siphash24(self._hash_key, inode_number.to_bytes(8, "little")) & 0xFFFFFFFF
        return IvScheme.of(self.policy, self.mode.iv_size, nonce, inode_number, hashed)

    def _shared_key(self, fs_uuid: bytes) -> bytes | None:
        policy, number = self.policy, bytes((self.mode.number,))
        if policy.is_direct_key:
            if policy.version == 1:
                return self._raw[: self.mode.key_size]
            return self._hkdf.derive(DIRECT_KEY, number, self.mode.key_size)
        if policy.is_iv_ino_lblk_64:
            return self._hkdf.derive(IV_INO_LBLK_64_KEY, number + fs_uuid, self.mode.key_size)
        if policy.is_iv_ino_lblk_32:
            return self._hkdf.derive(IV_INO_LBLK_32_KEY, number + fs_uuid, self.mode.key_size)
        return None
