"""The keys at hand, and the ciphers that they give for an encryption context.

"No key" is an empty keyring: it answers None for every context.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from ext4img.crypto.kdf import DIRHASH_KEY, KEY_IDENTIFIER, Hkdf, key_descriptor
from ext4img.crypto.modes import MODES, Mode
from ext4img.crypto.policy import DESCRIPTOR_SIZE, IDENTIFIER_SIZE, NONCE_SIZE, EncryptionContext, Policy
from ext4img.errors import KeyFormatError, UnsupportedFeatureError

if TYPE_CHECKING:
    from ext4img.crypto.codec import ContentsCipher, NamesCipher
    from ext4img.crypto.data_cipher import DataUnitCipher
    from ext4img.crypto.filekeys import FileKeys
    from ext4img.crypto.name_cipher import PaddedNameCipher

T = TypeVar("T")

MIN_KEY_SIZE: Final = 16
MAX_KEY_SIZE: Final = 64
_KEPT: Final = 256  # ciphers that are kept by inode, and by policy


def _bytes(value: object, what: str) -> bytes:
    """Refuse text: as it has a length, too, hexadecimal digits would pass as a key."""
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"{what} is bytes, not {type(value).__name__}; bytes.fromhex converts hexadecimal digits")
    return bytes(value)


class MasterKey:
    """A master key of 16 to 64 bytes. It never prints itself, and cannot be pickled or copied."""

    __slots__ = ("_hkdf", "_raw", "descriptor", "identifier", "size")

    def __init__(self, raw: bytes) -> None:
        raw = _bytes(raw, "a master key")
        if not MIN_KEY_SIZE <= len(raw) <= MAX_KEY_SIZE:
            raise KeyFormatError(f"a master key has {MIN_KEY_SIZE} to {MAX_KEY_SIZE} bytes, not {len(raw)}")
        self._raw = raw
        self._hkdf = Hkdf(self._raw)
        self.size = len(self._raw)
        """Bytes."""
        self.descriptor = key_descriptor(self._raw)
        """The name that user space tools give the key in version 1 policies; 8 bytes."""
        self.identifier = self._hkdf.derive(KEY_IDENTIFIER, b"", IDENTIFIER_SIZE)
        """The name that the kernel gives the key in version 2 policies; 16 bytes."""

    @property
    def raw(self) -> bytes:
        """The key itself, for the kernel's keyring."""
        return self._raw

    def __repr__(self) -> str:
        return "<MasterKey>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a MasterKey cannot be pickled or copied")

    def suits(self, policy: Policy, mode: Mode) -> bool:
        """Whether it is long enough for a mode's key (version 1) or its strength (version 2)."""
        return self.size >= (mode.key_size if policy.version == 1 else mode.security_strength)

    def contents_keys(self, policy: Policy, fs_uuid: bytes) -> FileKeys[DataUnitCipher]:
        """The ciphers for regular files under the policy."""
        from ext4img.crypto.ciphers import contents_cipher
        from ext4img.crypto.filekeys import FileKeys

        make = contents_cipher(policy.contents)
        return FileKeys(self._raw, self._hkdf, policy, policy.contents, fs_uuid, make)

    def names_keys(self, policy: Policy, fs_uuid: bytes) -> FileKeys[PaddedNameCipher]:
        """The ciphers for directories and symlinks under the policy."""
        from ext4img.crypto.ciphers import names_cipher
        from ext4img.crypto.filekeys import FileKeys

        make = names_cipher(policy.filenames)
        return FileKeys(self._raw, self._hkdf, policy, policy.filenames, fs_uuid, make)

    def dirhash_key(self, nonce: bytes) -> bytes:
        """The SipHash key of an encrypted case-insensitive directory; version 2 policies only."""
        return self._hkdf.derive(DIRHASH_KEY, nonce, 16)


class Keyring:
    """Master keys, found by the key ids of policies. Threads may share it."""

    def __init__(self) -> None:
        self._keys: list[MasterKey] = []
        self._by_id: dict[bytes, MasterKey] = {}
        self._forget()

    def _forget(self) -> None:
        self._contents_keys: dict[tuple[bytes, bytes, int], FileKeys[DataUnitCipher]] = {}
        self._names_keys: dict[tuple[bytes, bytes], FileKeys[PaddedNameCipher]] = {}
        self._contents: dict[tuple[bytes, int, bytes, int], ContentsCipher] = {}
        self._names: dict[tuple[bytes, int, bytes], NamesCipher] = {}

    def __repr__(self) -> str:
        return f"<Keyring, {len(self._keys)} keys>"

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, raw: bytes, descriptor: bytes | None = None) -> MasterKey:
        """Add a key of 16 to 64 bytes. KeyFormatError if it cannot be one.

        Version 2 policies find it by its identifier, version 1 policies by the descriptor that user
        space tools compute, and also by `descriptor` (8 bytes) if one is given: the kernel accepts any
        version 1 descriptor. A key is not added twice.
        """
        if descriptor is not None and len(_bytes(descriptor, "a key descriptor")) != DESCRIPTOR_SIZE:
            raise KeyFormatError(f"a key descriptor has {DESCRIPTOR_SIZE} bytes, not {len(descriptor)}")
        key = MasterKey(raw)
        present = self._by_id.get(key.identifier)
        if present is None:
            self._keys.append(key)
            self._by_id[key.identifier] = key
            self._by_id.setdefault(key.descriptor, key)
        else:
            key = present
        if descriptor is not None and self._by_id.get(descriptor) is not key:
            self._by_id[descriptor] = key
            self._forget()
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
        """The cipher of a regular file's contents; None without the key.

        `fs_uuid` is the superblock's (16 bytes), `block_size` the file system's. UnsupportedFeatureError
        for a policy that the kernel refuses on such a file system.
        """
        where = (context.raw, inode_number, fs_uuid, block_size)
        kept = self._contents.get(where)
        if kept is not None:
            return kept
        policy = context.policy
        place = (context.raw[:-NONCE_SIZE], fs_uuid, block_size)
        keys = self._contents_keys.get(place)
        if keys is None:
            key = self._suitable(policy, policy.contents_mode, block_size)
            if key is None:
                return None
            keys = _keep(self._contents_keys, place, key.contents_keys(policy, fs_uuid))
        from ext4img.crypto.codec import ContentsCipher

        ivs = keys.ivs(context.nonce, inode_number)
        cipher = ContentsCipher(keys.cipher(context.nonce), ivs, policy.data_unit_size(block_size))
        return _keep(self._contents, where, cipher)

    def names_cipher(self, context: EncryptionContext, inode_number: int, fs_uuid: bytes) -> NamesCipher | None:
        """The cipher of a directory's names or of a symlink's target; None without the key.

        The context and number are the directory's or symlink's own.
        """
        where = (context.raw, inode_number, fs_uuid)
        kept = self._names.get(where)
        if kept is not None:
            return kept
        policy = context.policy
        place = (context.raw[:-NONCE_SIZE], fs_uuid)
        keys = self._names_keys.get(place)
        if keys is None:
            key = self._suitable(policy, policy.filenames_mode, None)
            if key is None:
                return None
            keys = _keep(self._names_keys, place, key.names_keys(policy, fs_uuid))
        from ext4img.crypto.codec import NamesCipher

        iv = keys.ivs(context.nonce, inode_number).iv(0)
        return _keep(self._names, where, NamesCipher(keys.cipher(context.nonce), iv, policy.padding))

    def dirhash_key(self, context: EncryptionContext) -> bytes | None:
        """The SipHash key for the names of a case-insensitive directory; None without its key.

        None also for version 1 policies, which have no such key: the kernel refuses such directories.
        """
        key = self.find(context.policy)
        return None if key is None or context.policy.version == 1 else key.dirhash_key(context.nonce)

    def _suitable(self, policy: Policy, mode_number: int, block_size: int | None) -> MasterKey | None:
        """The policy's key, if it is at hand and long enough. UnsupportedFeatureError for the policy."""
        key = self.find(policy)
        if key is None:
            return None
        problem = policy.unsupported(block_size)
        if problem is not None:
            raise UnsupportedFeatureError(f"encryption policy is not supported: {problem}", (problem,))
        return key if key.suits(policy, MODES[mode_number]) else None


def _keep(kept: dict[Any, T], where: object, value: T) -> T:
    if len(kept) >= _KEPT:
        kept.clear()
    kept[where] = value
    return value
