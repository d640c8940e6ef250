"""How the fscrypt tool wraps keys: passphrase → wrapping key → protector key → policy key.

Written from the description of the format (google/fscrypt, crypto/crypto.go and its tests):

- wrapping key: the 32 bytes of a raw key, or Argon2id (version 0x13, no secret, no associated data)
  of the passphrase and the protector's salt, 32 bytes;
- wrapping: HKDF-SHA256 of the wrapping key, no salt, no info, 64 bytes: cipher key and MAC key;
  AES-256-CTR with the stored IV as first counter block; HMAC-SHA256 over IV and ciphertext.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from ext4img.errors import LimitError, UnsupportedFeatureError, WrongKeyError
from ext4img.interruption import computed
from ext4img.unlocking.fscrypt_metadata import INTERNAL_KEY_BYTES, HashingCosts, WrappedKey

_GIB_IN_KIB = 1 << 20


@dataclass(frozen=True, slots=True)
class CostLimits:
    """Bounds on what hashing passphrases may cost: the costs are stored on the image and not trusted.

    `memory_kib` bounds the memory of one hash, `work_kib` its memory times passes, and
    `total_work_kib` the sum over all hashes of one `ProtectorKeys`. None means no limit. fscrypt itself
    calibrates to at most 128 MiB and about a second, which is 1 to 3 GiB of work; 8 GiB take 10 s on
    a slow machine, and the default total a few minutes.
    """

    memory_kib: int | None = 1 * _GIB_IN_KIB
    work_kib: int | None = 8 * _GIB_IN_KIB
    total_work_kib: int | None = 128 * _GIB_IN_KIB

    def check(self, costs: HashingCosts, spent_kib: int = 0) -> None:
        """LimitError if a hash of `costs`, after `spent_kib` of work, would exceed a bound."""
        for what, value, limit in (
            ("memory", costs.memory_kib, self.memory_kib),
            ("work (memory times passes)", costs.work_kib, self.work_kib),
            ("total work of all passphrase hashes", spent_kib + costs.work_kib, self.total_work_kib),
        ):
            if limit is not None and value > limit:
                raise LimitError(
                    f"hashing the passphrase (Argon2id, {costs.time} passes over {costs.memory_kib} KiB) "
                    f"needs {what} of {value} KiB, above the limit of {limit} KiB"
                )


DEFAULT_LIMITS = CostLimits()
NO_LIMITS = CostLimits(None, None, None)


def hash_passphrase(passphrase: bytes, salt: bytes, costs: HashingCosts, limits: CostLimits = DEFAULT_LIMITS) -> bytes:
    """The 32-byte wrapping key of a passphrase: about a second of CPU by fscrypt's calibration.

    LimitError if `costs` exceed `limits`, before anything is computed, or the memory that is available.
    """
    limits.check(costs)
    from cryptography.exceptions import InternalError, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    try:
        hashing = Argon2id(
            salt=salt,
            length=INTERNAL_KEY_BYTES,
            iterations=costs.time,
            lanes=costs.lanes,
            memory_cost=costs.memory_kib,
        )
        return computed(lambda: hashing.derive(passphrase))
    except UnsupportedAlgorithm:
        raise UnsupportedFeatureError(
            "this build of cryptography has no Argon2id (it needs OpenSSL 3.2)", ("Argon2id",)
        ) from None
    except (MemoryError, InternalError):
        raise LimitError(
            f"hashing the passphrase needs {costs.memory_kib} KiB of memory, more than is available"
        ) from None


def unwrap(wrapping_key: bytes, wrapped: WrappedKey) -> bytes:
    """The key inside `wrapped`. WrongKeyError if `wrapping_key` (32 bytes) did not wrap it."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    stretched = HKDF(SHA256(), length=2 * INTERNAL_KEY_BYTES, salt=None, info=b"").derive(wrapping_key)
    cipher_key, mac_key = stretched[:INTERNAL_KEY_BYTES], stretched[INTERNAL_KEY_BYTES:]
    expected = hmac.digest(mac_key, wrapped.iv + wrapped.encrypted_key, hashlib.sha256)
    # The MAC comes first, so that nothing is decrypted unless the holder of the key wrote it.
    if not hmac.compare_digest(expected, wrapped.hmac):
        raise WrongKeyError("the key or passphrase does not open this wrapped key")
    decryptor = Cipher(algorithms.AES(cipher_key), modes.CTR(wrapped.iv)).decryptor()
    return decryptor.update(wrapped.encrypted_key) + decryptor.finalize()
