"""Opened protectors: one passphrase hash a protector, however many policies it protects."""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
from dataclasses import dataclass, field

from ext4img.crypto.kdf import key_descriptor
from ext4img.errors import CorruptionError, KeyFormatError, LimitError, NoKeyError, WrongKeyError
from ext4img.unlocking.fscrypt_kdf import DEFAULT_LIMITS, CostLimits, hash_passphrase, unwrap
from ext4img.unlocking.fscrypt_metadata import INTERNAL_KEY_BYTES, ProtectorData, Source


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the user gave: passphrases as bytes (see `passphrase_bytes`), and 32-byte raw keys.

    Passphrases are tried on passphrase protectors, login or custom, raw keys on raw-key protectors.
    KeyFormatError for a raw key of another length.
    """

    passphrases: tuple[bytes, ...] = field(default=(), repr=False)
    raw_keys: tuple[bytes, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for raw_key in self.raw_keys:
            if not isinstance(raw_key, bytes | bytearray | memoryview):
                raise KeyFormatError(f"a raw-key protector's key is bytes, not {type(raw_key).__name__}")
            if len(raw_key) != INTERNAL_KEY_BYTES:
                raise KeyFormatError(f"a raw-key protector's key has {INTERNAL_KEY_BYTES} bytes, not {len(raw_key)}")

    def for_source(self, source: Source) -> tuple[bytes, ...]:
        """Those that a protector of `source` could be opened with."""
        return self.raw_keys if source is Source.RAW_KEY else self.passphrases


class ProtectorKeys:
    """The keys of the protectors opened so far, and which secrets are known not to open one.

    No passphrase is kept: a failure is remembered by a digest under a random key of this object.
    `limits` bound each hash and the work of all together. One user of it at a time.
    """

    __slots__ = ("_digest_key", "_failed", "_keys", "_spent_kib", "limits")

    def __init__(self, limits: CostLimits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self._keys: dict[ProtectorData, bytes] = {}
        self._failed: set[tuple[ProtectorData, bytes]] = set()
        self._spent_kib = 0
        self._digest_key = os.urandom(32)

    def __repr__(self) -> str:
        return f"<ProtectorKeys: {len(self._keys)} opened>"

    def is_open(self, protector: ProtectorData) -> bool:
        """Whether `open` would answer without any secret."""
        return protector in self._keys

    def open(self, protector: ProtectorData, secrets: Secrets) -> bytes:
        """The 32-byte key of `protector`.

        NoKeyError where no secret of its kind is given, WrongKeyError where none opens it, LimitError
        where its hash costs too much, CorruptionError where the key that it holds is not its own.
        """
        if protector in self._keys:
            return self._keys[protector]
        candidates = secrets.for_source(protector.source)
        if not candidates:
            wanted = "a 32-byte key file" if protector.source is Source.RAW_KEY else "a passphrase"
            raise NoKeyError(errno.ENOKEY, f"{protector.describe()} needs {wanted}, and none was given")
        for secret in candidates:
            attempt = (protector, hashlib.blake2b(secret, key=self._digest_key).digest())
            if attempt in self._failed:
                continue
            wrapping_key = self._wrapping_key(protector, secret)
            try:
                key = unwrap(wrapping_key, protector.wrapped_key)
            except WrongKeyError:
                self._failed.add(attempt)
                continue
            if not hmac.compare_digest(key_descriptor(key).hex(), protector.descriptor):
                raise CorruptionError(f"{protector.describe()} holds the key of another protector")
            self._keys[protector] = key
            return key
        what = "key" if protector.source is Source.RAW_KEY else "passphrase"
        raise WrongKeyError(f"wrong {what} for {protector.describe()}")

    def _wrapping_key(self, protector: ProtectorData, secret: bytes) -> bytes:
        if protector.costs is None:
            return secret
        try:
            self.limits.check(protector.costs, self._spent_kib)
            self._spent_kib += protector.costs.work_kib
            return hash_passphrase(secret, protector.salt, protector.costs, self.limits)
        except LimitError as error:
            raise LimitError(f"{protector.describe()}: {error}") from None
