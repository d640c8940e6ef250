"""The keys at hand, and the ciphers they give for an encryption context.

"No key" is an empty keyring: every question to it is answered with None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from ext4img.crypto.iv import IvScheme
from ext4img.crypto.kdf import (
    DIRECT_KEY,
    DIRHASH_KEY,
    INODE_HASH_KEY,
    IV_INO_LBLK_32_KEY,
    IV_INO_LBLK_64_KEY,
    KEY_IDENTIFIER,
    PER_FILE_KEY,
    Hkdf,
    derive_v1,
    key_descriptor,
)
from ext4img.crypto.modes import Mode
from ext4img.crypto.policy import DESCRIPTOR_SIZE, IDENTIFIER_SIZE, EncryptionContext, Policy
from ext4img.crypto.siphash import siphash24
from ext4img.errors import KeyFormatError, UnsupportedFeatureError

if TYPE_CHECKING:
    from ext4img.crypto.codec import ContentsCipher, NamesCipher

T = TypeVar("T")

MIN_KEY_SIZE: Final = 16
MAX_KEY_SIZE: Final = 64
_KEPT: Final = 256  # Ciphers of so many inodes are kept.


class MasterKey:
    """A master key of 16 to 64 bytes. It never prints itself, and is not to be pickled or copied."""

    __slots__ = ("_hkdf", "_raw", "descriptor", "identifier", "size")

    def __init__(self, raw: bytes) -> None:
        if not MIN_KEY_SIZE <= len(raw) <= MAX_KEY_SIZE:
            raise KeyFormatError(f"a master key has {MIN_KEY_SIZE} to {MAX_KEY_SIZE} bytes, not {len(raw)}")
        self._raw = bytes(raw)
        self._hkdf = Hkdf(self._raw)
        self.size = len(self._raw)
        """Bytes."""
        self.descriptor = key_descriptor(self._raw)
        """What user space tools call the key in version 1 policies; 8 bytes."""
        self.identifier = self._hkdf.derive(KEY_IDENTIFIER, b"", IDENTIFIER_SIZE)
        """What the kernel calls the key in version 2 policies; 16 bytes."""

    def __repr__(self) -> str:
        return "<MasterKey>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a MasterKey is not to be pickled or copied")

    def suits(self, policy: Policy, mode: Mode) -> bool:
        """Whether it is long enough for a mode: for its key (version 1), for its strength (version 2)."""
        return self.size >= (mode.key_size if policy.version == 1 else mode.security_strength)

    def cipher_key(self, policy: Policy, mode: Mode, nonce: bytes, fs_uuid: bytes) -> bytes:
        """The key that `mode` runs under: of one file, or of all files where the policy says so."""
        if policy.version == 1:
            return self._raw[: mode.key_size] if policy.is_direct_key else derive_v1(self._raw, nonce, mode.key_size)
        number = bytes((mode.number,))
        if policy.is_direct_key:
            return self._hkdf.derive(DIRECT_KEY, number, mode.key_size)
        if policy.is_iv_ino_lblk_64:
            return self._hkdf.derive(IV_INO_LBLK_64_KEY, number + fs_uuid, mode.key_size)
        if policy.is_iv_ino_lblk_32:
            return self._hkdf.derive(IV_INO_LBLK_32_KEY, number + fs_uuid, mode.key_size)
        return self._hkdf.derive(PER_FILE_KEY, nonce, mode.key_size)

    def dirhash_key(self, nonce: bytes) -> bytes:
        """The SipHash key of an encrypted case-insensitive directory; version 2 policies only."""
        return self._hkdf.derive(DIRHASH_KEY, nonce, 16)

    def hash_inode_number(self, inode_number: int) -> int:
        """What IV_INO_LBLK_32 adds to the indices of an inode's data units; 32 bits."""
        key = self._hkdf.derive(INODE_HASH_KEY, b"", 16)
        return siphash24(key, inode_number.to_bytes(8, "little")) & 0xFFFFFFFF


class Keyring:
    """Master keys, found by what policies call them."""

    def __init__(self) -> None:
        self._by_id: dict[bytes, MasterKey] = {}
        self._keys: list[MasterKey] = []
        self._contents: dict[tuple[bytes, int, bytes, int], ContentsCipher] = {}
        self._names: dict[tuple[bytes, int, bytes], NamesCipher] = {}
        # Ciphers of keys that many files share: DIRECT_KEY and IV_INO_LBLK_* policies.
        self._shared: dict[tuple[Policy, bytes, int, object], Any] = {}

    def __repr__(self) -> str:
        return f"<Keyring, {len(self._keys)} keys>"

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, raw: bytes, descriptor: bytes | None = None) -> MasterKey:
        """Take in a key of 16 to 64 bytes; KeyFormatError where it cannot be one.

        It serves version 2 policies by its identifier, version 1 policies by the descriptor that
        user space tools compute, and by `descriptor` (8 bytes) where one is given: the kernel
        lets v1 descriptors be anything. A key known already is not taken in twice.
        """
        if descriptor is not None and len(descriptor) != DESCRIPTOR_SIZE:
            raise KeyFormatError(f"a key descriptor has {DESCRIPTOR_SIZE} bytes, not {len(descriptor)}")
        key = MasterKey(raw)
        known = self._by_id.get(key.identifier)
        if known is None:
            self._keys.append(key)
            self._by_id[key.identifier] = key
            self._by_id.setdefault(key.descriptor, key)
        else:
            key = known
        if descriptor is not None and self._by_id.get(descriptor) is not key:
            self._by_id[descriptor] = key
            self._contents.clear()
            self._names.clear()
            self._shared.clear()
        return key

    def find(self, policy: Policy) -> MasterKey | None:
        """The key that the policy names."""
        return self._by_id.get(policy.key_id)

    def has(self, policy: Policy) -> bool:
        """Whether contents and names under the policy can be decrypted."""
        key = self.find(policy)
        if key is None or policy.unsupported() is not None:
            return False
        return key.suits(policy, policy.contents) and key.suits(policy, policy.filenames)

    def contents_cipher(
        self, context: EncryptionContext, inode_number: int, fs_uuid: bytes, block_size: int
    ) -> ContentsCipher | None:
        """The cipher of a regular file's contents; None where no key fits.

        `fs_uuid` is the superblock's (16 bytes), `block_size` the file system's. A policy that the
        kernel refuses on such a file system is UnsupportedFeatureError.
        """
        where = (context.raw, inode_number, fs_uuid, block_size)
        kept = self._contents.get(where)
        if kept is not None:
            return kept
        policy = context.policy
        key = self.find(policy)
        if key is None:
            return None
        _require_supported(policy, block_size)
        if not key.suits(policy, policy.contents):
            return None
        from ext4img.crypto.ciphers import unit_cipher
        from ext4img.crypto.codec import ContentsCipher

        cipher = self._cipher(unit_cipher, key, policy, policy.contents, context.nonce, fs_uuid)
        ivs = _ivs(key, policy, policy.contents, context.nonce, inode_number)
        kept = ContentsCipher(cipher, ivs, policy.data_unit_size(block_size))
        return _keep(self._contents, where, kept)

    def names_cipher(self, context: EncryptionContext, inode_number: int, fs_uuid: bytes) -> NamesCipher | None:
        """The cipher of a directory's names or of a symlink's target; None where no key fits.

        The context and number are the directory's or symlink's own.
        """
        where = (context.raw, inode_number, fs_uuid)
        kept = self._names.get(where)
        if kept is not None:
            return kept
        policy = context.policy
        key = self.find(policy)
        if key is None:
            return None
        _require_supported(policy)
        if not key.suits(policy, policy.filenames):
            return None
        from ext4img.crypto.ciphers import message_cipher
        from ext4img.crypto.codec import NamesCipher

        cipher = self._cipher(message_cipher, key, policy, policy.filenames, context.nonce, fs_uuid)
        ivs = _ivs(key, policy, policy.filenames, context.nonce, inode_number)
        return _keep(self._names, where, NamesCipher(cipher, ivs.iv(0), policy.padding))

    def dirhash_key(self, context: EncryptionContext) -> bytes | None:
        """The SipHash key for the names of a case-insensitive directory; None without its key.

        Also None under version 1, which has no such key (the kernel refuses such directories).
        """
        key = self.find(context.policy)
        return None if key is None or context.policy.version == 1 else key.dirhash_key(context.nonce)

    def _cipher(
        self,
        make: Callable[[Mode, bytes], T],
        key: MasterKey,
        policy: Policy,
        mode: Mode,
        nonce: bytes,
        fs_uuid: bytes,
    ) -> T:
        if not (policy.is_direct_key or policy.needs_inode_number):
            return make(mode, key.cipher_key(policy, mode, nonce, fs_uuid))
        where = (policy, fs_uuid, mode.number, make)
        kept: T | None = self._shared.get(where)
        if kept is None:
            kept = _keep(self._shared, where, make(mode, key.cipher_key(policy, mode, nonce, fs_uuid)))
        return kept


def _ivs(key: MasterKey, policy: Policy, mode: Mode, nonce: bytes, inode_number: int) -> IvScheme:
    hashed = key.hash_inode_number(inode_number) if policy.is_iv_ino_lblk_32 else 0
    return IvScheme.of(policy, mode.iv_size, nonce, inode_number, hashed)


def _keep(kept: dict[Any, T], where: object, value: T) -> T:
    if len(kept) >= _KEPT:
        kept.clear()
    kept[where] = value
    return value


def _require_supported(policy: Policy, block_size: int | None = None) -> None:
    problem = policy.unsupported(block_size)
    if problem is not None:
        raise UnsupportedFeatureError(f"encryption policy is not supported: {problem}", (problem,))
