"""The keys of opened protectors: a passphrase is hashed once for each protector, however many policies use it."""

from __future__ import annotations

import errno
import hashlib
import hmac
import os

from ext4img.crypto.kdf import key_descriptor
from ext4img.errors import CorruptionError, LimitError, NoKeyError, WrongKeyError
from ext4img.unlocking.fscrypt_kdf import DEFAULT_LIMITS, CostLimits, hash_passphrase, unwrap
from ext4img.unlocking.fscrypt_metadata import ProtectorData, ProtectorSource
from ext4img.unlocking.secrets import Secrets


class ProtectorKeys:
    """The keys of the protectors opened so far, and the secrets that failed on a protector.

    It keeps no passphrase: it remembers a failure by a digest under a random key of its own.
    `limits` bounds each hash and the work of all hashes together. One user of it at a time.
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
        """Whether `open` needs no secret for this protector."""
        return protector in self._keys

    def open(self, protector: ProtectorData, secrets: Secrets) -> bytes:
        """The 32-byte key of `protector`.

        NoKeyError if no secret of its kind is given, WrongKeyError if none opens it, LimitError if
        its hash costs too much, CorruptionError if it holds the key of another protector.
        """
        if protector in self._keys:
            return self._keys[protector]
        candidates = secrets.for_source(protector.source)
        if not candidates:
            wanted = "a 32-byte key file" if protector.source is ProtectorSource.RAW_KEY else "a passphrase"
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
        what = "key" if protector.source is ProtectorSource.RAW_KEY else "passphrase"
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
