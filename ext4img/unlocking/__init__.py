"""From what a user remembers to a master key: passphrases, key files, recovery codes.

Pure functions: metadata goes in as bytes or through reader callables, keys come out as bytes.

- `fscrypt_open.open_policy`: the fscrypt tool's policies and protectors, all steps in one;
- `e4crypt.derive_key`, `homed.open_home`: the two other tools that keep their metadata on the image;
- `keyfile.parse_key`: a master key as it is, in hexadecimal, or as a recovery code;
- `passphrase.passphrase_bytes`: what was typed, as the bytes that get hashed.
"""

from ext4img.unlocking.fscrypt_kdf import DEFAULT_LIMITS, NO_LIMITS, CostLimits
from ext4img.unlocking.fscrypt_policy import OpenedPolicy, open_policies, open_policy
from ext4img.unlocking.keyfile import parse_key
from ext4img.unlocking.passphrase import passphrase_bytes
from ext4img.unlocking.protector_keys import ProtectorKeys, Secrets

__all__ = [
    "DEFAULT_LIMITS",
    "NO_LIMITS",
    "CostLimits",
    "OpenedPolicy",
    "ProtectorKeys",
    "Secrets",
    "open_policies",
    "open_policy",
    "parse_key",
    "passphrase_bytes",
]
