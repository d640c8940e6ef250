"""Encryption policies, and the context that ties a policy to an inode.

The rules are those of the kernel's `fs/crypto/policy.c` (`fscrypt_supported_policy`); the bytes are
Records of `structs/fscrypt.py`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from ext4img.crypto.modes import MODES, PAIRS_V1, PAIRS_V2, Mode, mode_name
from ext4img.errors import CorruptionError, Place, UnsupportedFeatureError
from ext4img.structs.fscrypt import FSCRYPT_CONTEXT_V1, FSCRYPT_CONTEXT_V2

# FSCRYPT_POLICY_FLAG_*; the two lowest bits are the padding.
PAD_MASK: Final = 0x03
DIRECT_KEY: Final = 0x04
IV_INO_LBLK_64: Final = 0x08
IV_INO_LBLK_32: Final = 0x10
FLAG_NAMES: Final = {DIRECT_KEY: "DIRECT_KEY", IV_INO_LBLK_64: "IV_INO_LBLK_64", IV_INO_LBLK_32: "IV_INO_LBLK_32"}

NONCE_SIZE: Final = 16
DESCRIPTOR_SIZE: Final = 8
IDENTIFIER_SIZE: Final = 16
MIN_LOG2_DATA_UNIT_SIZE: Final = 9  # SECTOR_SHIFT
MAX_LOG2_DATA_UNIT_SIZE: Final = 16  # the largest ext4 block

_CONTEXT_SIZES = {1: FSCRYPT_CONTEXT_V1.size, 2: FSCRYPT_CONTEXT_V2.size}


class Policy(NamedTuple):
    """The encryption settings that all files below an encrypted directory share. Hashable.

    `key_id` is the 8-byte master key descriptor of a version 1 policy, the 16-byte master key
    identifier of a version 2 policy. `flags` are the raw flags, padding included.
    `log2_data_unit_size` 0 means the block size; `reserved` are the context's reserved bytes.
    """

    version: int
    contents_mode: int
    filenames_mode: int
    flags: int
    key_id: bytes
    log2_data_unit_size: int = 0
    reserved: bytes = bytes(3)

    @property
    def padding(self) -> int:
        """Names are padded with NUL to a multiple of this many bytes: 4, 8, 16 or 32."""
        return 4 << (self.flags & PAD_MASK)

    @property
    def is_direct_key(self) -> bool:
        """The file's nonce goes into the IVs; files share one key."""
        return bool(self.flags & DIRECT_KEY)

    @property
    def is_iv_ino_lblk_64(self) -> bool:
        """The inode number is the upper half of 64-bit IVs; keys depend on the file system's UUID."""
        return bool(self.flags & IV_INO_LBLK_64)

    @property
    def is_iv_ino_lblk_32(self) -> bool:
        """The hashed inode number is added to 32-bit IVs; keys depend on the file system's UUID."""
        return bool(self.flags & IV_INO_LBLK_32)

    @property
    def needs_inode_number(self) -> bool:
        """Ciphertext is valid for one inode number on a file system of one UUID only."""
        return bool(self.flags & (IV_INO_LBLK_64 | IV_INO_LBLK_32))

    @property
    def key_id_hex(self) -> str:
        """The key's descriptor or identifier, as fscrypt and fscryptctl write it."""
        return self.key_id.hex()

    @property
    def contents_mode_name(self) -> str:
        """As fscryptctl prints it, for instance "AES-256-XTS"."""
        return mode_name(self.contents_mode, self.version)

    @property
    def filenames_mode_name(self) -> str:
        """As fscryptctl prints it, for instance "AES-256-CTS"."""
        return mode_name(self.filenames_mode, self.version)

    @property
    def flag_names(self) -> tuple[str, ...]:
        """For instance ("PAD_32", "DIRECT_KEY"); unknown bits in hexadecimal."""
        names = [f"PAD_{self.padding}"]
        names += [name for bit, name in FLAG_NAMES.items() if self.flags & bit]
        unknown = self.flags & ~(PAD_MASK | DIRECT_KEY | IV_INO_LBLK_64 | IV_INO_LBLK_32)
        if unknown:
            names.append(f"{unknown:#x}")
        return tuple(names)

    @property
    def contents(self) -> Mode:
        """The contents' mode; only of a supported policy."""
        return MODES[self.contents_mode]

    @property
    def filenames(self) -> Mode:
        """The names' mode; only of a supported policy."""
        return MODES[self.filenames_mode]

    def data_unit_size(self, block_size: int) -> int:
        """Bytes of contents under one IV, on a file system of `block_size`."""
        return 1 << self.log2_data_unit_size if self.log2_data_unit_size else block_size

    def unsupported(self, block_size: int | None = None) -> str | None:
        """Why the kernel refuses this policy; None if it accepts it.

        Rules that depend on the file system are checked only if its `block_size` in bytes is given.
        """
        pair = (self.contents_mode, self.filenames_mode)
        if self.version not in (1, 2):
            return f"policy version {self.version}"
        if pair not in (PAIRS_V1 if self.version == 1 else PAIRS_V2):
            return f"{self.contents_mode_name} contents with {self.filenames_mode_name} names"
        known = PAD_MASK | DIRECT_KEY | (0 if self.version == 1 else IV_INO_LBLK_64 | IV_INO_LBLK_32)
        if self.flags & ~known:
            return f"flags {self.flags & ~known:#x} with policy version {self.version}"
        if self.is_direct_key + self.is_iv_ino_lblk_64 + self.is_iv_ino_lblk_32 > 1:
            return " with ".join(self.flag_names[1:])
        # DIRECT_KEY: one cipher for both, and an IV large enough for an index and the nonce.
        if self.is_direct_key and (pair[0] != pair[1] or self.contents.iv_size < 8 + NONCE_SIZE):
            return f"DIRECT_KEY with {self.contents_mode_name}"
        if self.needs_inode_number and self.contents_mode != 1:
            return f"{self.flag_names[1]} with {self.contents_mode_name}"
        if any(self.reserved):
            return f"reserved bytes {self.reserved.hex()}"
        return self._unsupported_data_unit(block_size)

    def _unsupported_data_unit(self, block_size: int | None) -> str | None:
        log2 = self.log2_data_unit_size
        if not log2:
            return None
        if self.version == 1 or not MIN_LOG2_DATA_UNIT_SIZE <= log2 <= MAX_LOG2_DATA_UNIT_SIZE:
            return f"log2_data_unit_size {log2}"
        if block_size is not None and 1 << log2 > block_size:
            return f"data units of {1 << log2} bytes in blocks of {block_size}"
        if block_size is not None and 1 << log2 < block_size and self.needs_inode_number:
            return f"{self.flag_names[1]} with data units of {1 << log2} bytes in blocks of {block_size}"
        return None

    def describe(self) -> str:
        """One line for a reader."""
        kind = "descriptor" if self.version == 1 else "identifier"
        text = f"v{self.version}, {kind} {self.key_id_hex}, {self.contents_mode_name} contents, "
        text += f"{self.filenames_mode_name} names, {', '.join(self.flag_names)}"
        if self.log2_data_unit_size:
            text += f", data units of {1 << self.log2_data_unit_size} bytes"
        return text


class EncryptionContext(NamedTuple):
    """One inode's encryption: its policy, which others share, and its own nonce."""

    policy: Policy
    nonce: bytes
    raw: bytes
    """The 28 or 40 bytes of the inode's xattr."""


def parse_context(raw: bytes, *, place: Place | None = None, supported_only: bool = True) -> EncryptionContext:
    """The context from its bytes on disk (the version byte is 1 or 2, and not the ioctl's 0).

    CorruptionError if length and version contradict each other, UnsupportedFeatureError for an
    unknown version or a policy that the kernel refuses. With `supported_only` false such a policy is
    returned: it can still be shown and copied without its key.
    """
    version = raw[0] if raw else 0
    if version not in _CONTEXT_SIZES:
        if version > max(_CONTEXT_SIZES):
            name = f"fscrypt context version {version}"
            raise UnsupportedFeatureError(f"{name} is not known{_where(place)}", (name,))
        raise CorruptionError(
            f"encryption context of {len(raw)} bytes with version {version}", _place(place, "version")
        )
    if len(raw) != _CONTEXT_SIZES[version]:
        raise CorruptionError(
            f"encryption context of version {version} has {len(raw)} bytes, not {_CONTEXT_SIZES[version]}",
            _place(place, None),
        )
    policy, problem = _policy(bytes(raw[:-NONCE_SIZE]))
    if problem is not None and supported_only:
        raise UnsupportedFeatureError(f"encryption policy is not supported: {problem}{_where(place)}", (problem,))
    return EncryptionContext(policy, bytes(raw[-NONCE_SIZE:]), bytes(raw))


# Contexts of one tree differ in their nonces only, so each policy is parsed once.
@lru_cache(maxsize=256)
def _policy(head: bytes) -> tuple[Policy, str | None]:
    padded = head + bytes(NONCE_SIZE)
    if head[0] == 1:
        v1 = FSCRYPT_CONTEXT_V1.unpack(padded)
        policy = Policy(
            1, v1.contents_encryption_mode, v1.filenames_encryption_mode, v1.flags, v1.master_key_descriptor
        )
    else:
        v2 = FSCRYPT_CONTEXT_V2.unpack(padded)
        policy = Policy(
            2,
            v2.contents_encryption_mode,
            v2.filenames_encryption_mode,
            v2.flags,
            v2.master_key_identifier,
            v2.log2_data_unit_size,
            v2.reserved,
        )
    return policy, policy.unsupported()


def build_context(policy: Policy, nonce: bytes) -> bytes:
    """The bytes of a context: the inverse of `parse_context`."""
    common = {
        "version": policy.version,
        "contents_encryption_mode": policy.contents_mode,
        "filenames_encryption_mode": policy.filenames_mode,
        "flags": policy.flags,
        "nonce": nonce,
    }
    if policy.version == 1:
        return FSCRYPT_CONTEXT_V1.build(common | {"master_key_descriptor": policy.key_id})
    extra = {
        "log2_data_unit_size": policy.log2_data_unit_size,
        "reserved": policy.reserved,
        "master_key_identifier": policy.key_id,
    }
    return FSCRYPT_CONTEXT_V2.build(common | extra)


def _place(place: Place | None, field: str | None) -> Place:
    at = place or Place()
    return Place(at.inode, at.block, at.offset, "fscrypt_context", field)


def _where(place: Place | None) -> str:
    return f" ({place})" if place else ""
