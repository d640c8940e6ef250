"""The descriptors and identifiers by which policies name their keys."""

from __future__ import annotations

import hmac

from ext4img.crypto.kdf import KEY_IDENTIFIER, Hkdf, key_descriptor

DESCRIPTOR_BYTES = 8
"""Size of a version 1 master key descriptor, and of the fscrypt tool's protector descriptors."""

IDENTIFIER_BYTES = 16
"""Size of a version 2 master key identifier."""


def key_identifier(key: bytes) -> bytes:
    """The 16-byte version 2 identifier of `key`, as the kernel computes it."""
    return Hkdf(key).derive(KEY_IDENTIFIER, b"", IDENTIFIER_BYTES)


def names_key(key: bytes, policy_id: bytes) -> bool:
    """Whether `policy_id` (8 or 16 bytes, of a version 1 or 2 policy) names `key`.

    The kernel accepts any version 1 descriptor; the tools whose metadata is read here compute it.
    """
    name = key_identifier(key) if len(policy_id) == IDENTIFIER_BYTES else key_descriptor(key)
    return hmac.compare_digest(name, policy_id)
