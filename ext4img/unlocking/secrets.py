"""`Secrets`: the passphrases and raw protector keys that a user gave for one attempt to unlock."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from ext4img.errors import KeyFormatError
from ext4img.unlocking.fscrypt_metadata import INTERNAL_KEY_BYTES, ProtectorSource
from ext4img.unlocking.passphrase import passphrase_bytes


@dataclass(frozen=True, slots=True)
class Secrets:
    """Passphrases as bytes (see `passphrase_bytes`), and 32-byte keys of raw-key protectors.

    Passphrases are tried on passphrase protectors, login or custom, and raw keys on raw-key
    protectors. `e4crypt_lines` are the forms in which e4crypt may have read the passphrase: its line
    ends at LF alone, the other tools' line at CR too. KeyFormatError for a raw key of another length.
    """

    passphrases: tuple[bytes, ...] = field(default=(), repr=False)
    raw_keys: tuple[bytes, ...] = field(default=(), repr=False)
    e4crypt_lines: tuple[bytes, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for raw_key in self.raw_keys:
            if not isinstance(raw_key, bytes | bytearray | memoryview):
                raise KeyFormatError(f"a raw-key protector's key is bytes, not {type(raw_key).__name__}")
            if len(raw_key) != INTERNAL_KEY_BYTES:
                raise KeyFormatError(f"a raw-key protector's key has {INTERNAL_KEY_BYTES} bytes, not {len(raw_key)}")

    @classmethod
    def of(cls, passphrase: str | bytes | None, raw_keys: Iterable[bytes] = ()) -> Secrets:
        """The secrets of one call. KeyFormatError if there is none, or one that cannot be a secret."""
        keys = tuple(raw_keys)
        if passphrase is None:
            if not keys:
                raise KeyFormatError("neither a passphrase nor a raw key was given")
            return cls(raw_keys=keys)
        line = passphrase_bytes(passphrase)
        typed = passphrase.encode("utf-8", "surrogateescape") if isinstance(passphrase, str) else bytes(passphrase)
        return cls((line,), keys, tuple(dict.fromkeys((typed.split(b"\n", 1)[0], line))))

    def for_source(self, source: ProtectorSource) -> tuple[bytes, ...]:
        """The secrets that could open a protector of this source."""
        return self.raw_keys if source is ProtectorSource.RAW_KEY else self.passphrases

    def digest(self, key: bytes) -> bytes:
        """A digest of all secrets under `key`: recognises them again without keeping them."""
        digest = hashlib.blake2b(key=key)
        for group in (self.passphrases, self.raw_keys, self.e4crypt_lines):
            digest.update(len(group).to_bytes(8, "big"))
            for secret in group:
                digest.update(len(secret).to_bytes(8, "big") + secret)
        return digest.digest()
