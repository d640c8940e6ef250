"""Every vector of xfstests' reference program: vectors/fscrypt.jsonl."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from ext4img.crypto.keyring import Keyring, MasterKey
from ext4img.crypto.policy import EncryptionContext, Policy, build_context, parse_context

VECTORS: list[dict[str, Any]] = [
    json.loads(line) for line in (Path(__file__).parent / "vectors" / "fscrypt.jsonl").read_text().splitlines()
]
FLAGS = {"per_file": 0, "direct_key": 4, "iv_ino_lblk_64": 8, "iv_ino_lblk_32": 16}
PADDING = {4: 0, 8: 1, 16: 2, 32: 3}
PAIRS = {1: (1, 4), 4: (1, 4), 5: (5, 6), 6: (5, 6), 9: (9, 9), 10: (1, 10)}


def name_of(vector: dict[str, Any]) -> str:
    if vector["kind"] == "key_identifier":
        return "identifier"
    return f"{vector['cipher']}-v{vector['policy_version']}-{vector['scheme']}"


def context_of(vector: dict[str, Any], key: MasterKey) -> EncryptionContext:
    version = vector["policy_version"]
    contents, names = PAIRS[vector["mode"]]
    flags = FLAGS[vector["scheme"]] | PADDING[vector.get("padding", 4)]
    policy = Policy(version, contents, names, flags, key.descriptor if version == 1 else key.identifier)
    return parse_context(build_context(policy, bytes.fromhex(vector["nonce"])))


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["kind"] == "key_identifier"], ids=name_of)
def test_key_identifier(vector: dict[str, Any]):
    assert MasterKey(bytes.fromhex(vector["master_key"])).identifier.hex() == vector["identifier"]


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["kind"] == "contents"], ids=name_of)
def test_contents(vector: dict[str, Any]):
    keyring = Keyring()
    context = context_of(vector, keyring.add(bytes.fromhex(vector["master_key"])))
    uuid, size = bytes.fromhex(vector["fs_uuid"]), vector["data_unit_size"]
    cipher = keyring.contents_cipher(context, vector["inode"], uuid, size)
    assert cipher is not None
    assert cipher.data_unit_size == size
    plaintext, ciphertext = b64decode(vector["plaintext"]), b64decode(vector["ciphertext"])
    index = vector["data_unit_index"]
    assert cipher.encrypt(plaintext, index) == ciphertext
    assert cipher.decrypt(ciphertext, index) == plaintext


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["kind"] == "filename"], ids=name_of)
def test_filename(vector: dict[str, Any]):
    keyring = Keyring()
    context = context_of(vector, keyring.add(bytes.fromhex(vector["master_key"])))
    cipher = keyring.names_cipher(context, vector["inode"], bytes.fromhex(vector["fs_uuid"]))
    assert cipher is not None
    plaintext, ciphertext = b64decode(vector["plaintext"]), b64decode(vector["ciphertext"])
    assert cipher.encrypt([plaintext]) == [ciphertext]
    assert cipher.decrypt([ciphertext]) == [plaintext]
    assert cipher.encrypt_raw(cipher.decrypt_raw([ciphertext])) == [ciphertext]


def test_all_modes_and_schemes_are_there():
    seen = {(v["mode"], v["policy_version"], v["scheme"]) for v in VECTORS if "mode" in v}
    assert {mode for mode, _, _ in seen} == {1, 4, 5, 6, 9, 10}
    assert {scheme for _, _, scheme in seen} == set(FLAGS)
    assert {version for _, version, _ in seen} == {1, 2}
