"""The fixture of key metadata: what fscrypt and e4crypt leave on an image, with directories that it opens.

The files of `.fscrypt` are those that the real fscrypt wrote for throw-away keys (tests/crypto/vectors);
the kernel names the keys in them by itself when it makes the directories. The e4crypt keys' descriptors
are those that the real e4crypt printed for the same passphrase and salts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ext4img.unlocking import Secrets, open_policy
from ext4img.unlocking.e4crypt import derive_key, parse_salt
from tools.fixture_encrypted import PAD_4, PAD_16, PAD_32, encrypted_directory, key
from tools.fixture_tree import Tree
from tools.kernel_view import Key

VECTORS = Path(__file__).parent.parent / "tests" / "unlocking" / "vectors" / "unlock.json"
SUPERBLOCK_SALT = "00112233-4455-6677-8899-aabbccddeeff"
E4CRYPT_PASSPHRASE = "hunter2"

_document: dict[str, Any] = json.loads(VECTORS.read_text(encoding="utf-8"))
CUSTOM_AND_RAW, TWO_PROTECTORS, LOGIN = _document["fscrypt"][:3]
# The directory, the tree of metadata, and the number of the policy in what the tree says it opens.
DIRECTORIES = [
    ("custom", CUSTOM_AND_RAW, 0),
    ("raw", CUSTOM_AND_RAW, 1),
    ("v1 under the same protector", CUSTOM_AND_RAW, 2),
    ("two protectors", TWO_PROTECTORS, 2),
    ("login", LOGIN, 0),
]


def _policy_key(tree: dict[str, Any], opens: dict[str, str]) -> Key:
    def reader(kind: str) -> Any:
        return lambda name: bytes.fromhex(tree[kind][name]) if name in tree[kind] else None

    raw_keys = (bytes.fromhex(opens["raw_key"]),) if "raw_key" in opens else ()
    passphrases = (opens["passphrase"].encode(),) if "passphrase" in opens else ()
    policy_id = bytes.fromhex(opens["policy"])
    opened = open_policy(policy_id, reader("policies"), reader("protectors"), Secrets(passphrases, raw_keys))
    return Key(opened.key, 1 if len(policy_id) == 8 else 2)


KEYS = {name.replace(" ", "-"): _policy_key(tree, tree["opens"][number]) for name, tree, number in DIRECTORIES}
KEYS["e4crypt"] = Key(derive_key(E4CRYPT_PASSPHRASE.encode(), parse_salt(SUPERBLOCK_SALT)), 1)
KEYS["e4crypt-salt"] = Key(derive_key(E4CRYPT_PASSPHRASE.encode(), parse_salt("s:saltsalt")), 1)
KEYS["no-metadata"] = key("nobody", 2)


def passphrases() -> list[dict[str, str]]:
    """What opens which policy, for the manifest."""
    told: list[dict[str, str]] = []
    for tree in (CUSTOM_AND_RAW, TWO_PROTECTORS, LOGIN):
        used = {tree["opens"][number]["policy"] for _, of, number in DIRECTORIES if of is tree}
        for opens in tree["opens"]:
            if opens["policy"] in used:
                kind = "fscrypt-raw" if "raw_key" in opens else "fscrypt-login" if tree is LOGIN else "fscrypt-custom"
                secret = {"hex": opens["raw_key"]} if "raw_key" in opens else {"passphrase": opens["passphrase"]}
                told.append({"kind": kind, **secret, "unlocks": opens["policy"], "protector": opens["protector"]})
    for salt, descriptor in ((parse_salt(SUPERBLOCK_SALT), "5d19254b6541ef7a"), (b"saltsalt", "93b0c3616d598eb6")):
        e4crypt = {"kind": "e4crypt", "passphrase": E4CRYPT_PASSPHRASE, "salt_hex": salt.hex()}
        told.append({**e4crypt, "unlocks": descriptor})
    return told


def fill(tree: Tree) -> None:
    """`.fscrypt` and a directory for each policy in it, but not the login protector itself."""
    metadata = tree.below(".fscrypt")
    policies, protectors = metadata.below("policies"), metadata.below("protectors")
    for name, of, number in DIRECTORIES:
        opens = of["opens"][number]
        policies.file(opens["policy"], bytes.fromhex(of["policies"][opens["policy"]]), 0o600)
        for protector, data in (of["links"] if of is LOGIN else of["protectors"]).items():
            protectors.file(protector, bytes.fromhex(data), 0o600)
        _directory(tree, name, KEYS[name.replace(" ", "-")], PAD_32)
    protectors.file(".tmp1234", b"left by a crash", 0o600)
    _directory(tree, "e4crypt", KEYS["e4crypt"], PAD_4)
    _directory(tree, "e4crypt salt", KEYS["e4crypt-salt"], PAD_16)
    _directory(tree, "no metadata", KEYS["no-metadata"], PAD_32)


def _directory(tree: Tree, name: str, owner: Key, flags: int) -> None:
    encrypted = encrypted_directory(tree, name, owner, flags)
    encrypted.file("note.txt", f"written in {name}\n".encode())
    encrypted.below("below").symlink("link", "../note.txt")
