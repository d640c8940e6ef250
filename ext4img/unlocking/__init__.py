"""From what a user knows or holds to a master key: passphrases, key files, recovery codes.

Metadata goes in as bytes or through readers, keys come out as bytes. Nothing here reads an image or
a backup: `fs.unlock` and `archive.unlock` supply what `unlocker` asks for.

unlocker         all three tools in turn, for an image or a backup; secrets: what is tried
fscrypt_policy   the fscrypt tool: from a policy through its protectors to the key
fscrypt_kdf      its Argon2id hash, cost limits and key wrapping; protector_keys: opened protectors
fscrypt_metadata its files, parsed from protobuf; metadata_dirs: where they are searched for
e4crypt, homed   the two other tools
keyfile          a master key as bytes, in hexadecimal, or as a recovery_code
passphrase       from typed text to the bytes that are hashed
key_id           descriptors and identifiers: does a policy ask for this key?
"""

from ext4img.unlocking.fscrypt_kdf import DEFAULT_LIMITS, NO_LIMITS, CostLimits
from ext4img.unlocking.fscrypt_policy import OpenedPolicy, open_policies, open_policy
from ext4img.unlocking.keyfile import parse_key
from ext4img.unlocking.passphrase import passphrase_bytes
from ext4img.unlocking.protector_keys import ProtectorKeys
from ext4img.unlocking.secrets import Secrets

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
