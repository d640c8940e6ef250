"""Unlocking against what the real tools wrote; the origin of each vector stands in vectors/unlock.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ext4img.crypto.kdf import key_descriptor
from ext4img.errors import CorruptionError, LimitError, NotFoundError, WrongKeyError
from ext4img.unlocking import e4crypt, homed
from ext4img.unlocking.fscrypt_kdf import hash_passphrase
from ext4img.unlocking.fscrypt_metadata import HashingCosts, ProtectorSource, parse_policy, parse_protector
from ext4img.unlocking.fscrypt_policy import open_policies, open_policy
from ext4img.unlocking.key_id import key_identifier, names_key
from ext4img.unlocking.protector_keys import ProtectorKeys
from ext4img.unlocking.recovery_code import format_recovery_code, parse_recovery_code
from ext4img.unlocking.secrets import Secrets

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "unlock.json").read_text())
OPENS = [(tree, opens) for tree in VECTORS["fscrypt"] for opens in tree["opens"]]


def reader(files: dict[str, str]) -> Callable[[str], bytes | None]:
    return lambda name: bytes.fromhex(files[name]) if name in files else None


def secrets_of(opens: dict[str, str]) -> Secrets:
    if "raw_key" in opens:
        return Secrets(raw_keys=(bytes.fromhex(opens["raw_key"]),))
    if "passphrase_hex" in opens:
        return Secrets(passphrases=(bytes.fromhex(opens["passphrase_hex"]),))
    return Secrets(passphrases=(opens["passphrase"].encode(),))


@pytest.mark.parametrize(("tree", "opens"), OPENS, ids=[opens["policy"] for _, opens in OPENS])
def test_fscrypt_policies_open(tree, opens):
    policy_id = bytes.fromhex(opens["policy"])
    keys = ProtectorKeys()
    opened = open_policy(policy_id, reader(tree["policies"]), reader(tree["protectors"]), secrets_of(opens), keys)
    assert opened.protector.descriptor == opens["protector"]
    assert names_key(opened.key, policy_id)
    assert opened.problems == ()
    if opens["policy"] in tree["policy_keys"]:
        assert opened.key.hex() == tree["policy_keys"][opens["policy"]]
    if opens["protector"] in tree["protector_keys"]:
        # Opened already: no secret is needed, and none is kept to do it again.
        assert keys.open(opened.protector, Secrets()).hex() == tree["protector_keys"][opens["protector"]]


@pytest.mark.parametrize(("tree", "opens"), OPENS, ids=[opens["policy"] for _, opens in OPENS])
def test_fscrypt_policies_stay_shut(tree, opens):
    wrong = Secrets(passphrases=(b"Correct horse",), raw_keys=(bytes(32),))
    with pytest.raises(WrongKeyError, match=opens["protector"]):
        open_policy(bytes.fromhex(opens["policy"]), reader(tree["policies"]), reader(tree["protectors"]), wrong)


def test_a_linked_login_protector():
    tree = next(tree for tree in VECTORS["fscrypt"] if "links" in tree)
    (opens,) = tree["opens"]
    policy_id, secrets = bytes.fromhex(opens["policy"]), secrets_of(opens)
    with pytest.raises(NotFoundError, match=r"once mounted at '/': its \.fscrypt is needed too"):
        open_policy(policy_id, reader(tree["policies"]), reader(tree["links"]), secrets)
    both = reader(tree["links"] | tree["protectors"])
    opened = open_policy(policy_id, reader(tree["policies"]), both, secrets)
    assert (opened.protector.source, opened.protector.uid) == (ProtectorSource.PAM_PASSPHRASE, 4242)


def test_all_policies_of_a_file_system_at_once():
    tree = VECTORS["fscrypt"][1]
    passphrases = tuple(opens["passphrase"].encode() for opens in tree["opens"] if "passphrase" in opens)
    policy_ids = [bytes.fromhex(name) for name in tree["policies"]]
    opened, failed = open_policies(
        policy_ids, reader(tree["policies"]), reader(tree["protectors"]), Secrets(passphrases=passphrases)
    )
    expected = {opens["policy"] for opens in tree["opens"] if "passphrase" in opens}
    assert {each.policy_id.hex() for each in opened} == expected
    assert {policy_id.hex() for policy_id in failed} == set(tree["policies"]) - expected


def test_what_the_files_say():
    tree = VECTORS["fscrypt"][0]
    protector = parse_protector(bytes.fromhex(tree["protectors"]["42b7ea7d2f504277"]))
    assert (protector.name, protector.source) == ("alpha", ProtectorSource.CUSTOM_PASSPHRASE)
    assert protector.costs == HashingCosts(1, 31204, 2, False)
    policy = parse_policy(bytes.fromhex(tree["policies"]["64f8433a2e0c37b7"]))
    options = policy.options
    assert (options.padding, options.contents_mode, options.filenames_mode, options.policy_version) == (32, 9, 9, 1)
    assert [slot.protector_descriptor for slot in policy.slots] == ["42b7ea7d2f504277"]


@pytest.mark.parametrize(("passes", "memory_kib", "lanes", "digest"), VECTORS["argon2id"]["cases"])
def test_argon2id(passes, memory_kib, lanes, digest):
    costs = HashingCosts(passes, memory_kib, lanes, truncation_fixed=False)
    assert hash_passphrase(b"password", b"a" * 16, costs).hex() == digest


def test_key_names():
    vector = VECTORS["key_ids"]
    key = bytes.fromhex(vector["key"])
    assert key_descriptor(key).hex() == vector["descriptor"]
    assert key_identifier(key).hex() == vector["identifier"]


def test_recovery_code():
    vector = VECTORS["recovery"]
    assert parse_recovery_code(vector["code"]).hex() == vector["key"]
    assert format_recovery_code(bytes.fromhex(vector["key"])) == vector["code"]


@pytest.mark.parametrize(
    "case", VECTORS["e4crypt"]["cases"], ids=lambda case: f"{case['salt'][:40]}-{case['descriptor']}"
)
def test_e4crypt(case):
    key = e4crypt.derive_key(case["passphrase"].encode(), e4crypt.parse_salt(case["salt"]))
    assert key_descriptor(key).hex() == case["descriptor"]
    if "key" in case:
        assert key.hex() == case["key"]


def homed_vector() -> tuple[dict[str, bytes], bytes, list[bytes]]:
    vector = VECTORS["homed"]
    return (
        {name: value.encode() for name, value in vector["xattrs"].items()},
        bytes.fromhex(vector["descriptor"]),
        [password.encode() for password in vector["passwords"]],
    )


def test_homed_passwords_open_the_same_key():
    xattrs, descriptor, passwords = homed_vector()
    first, second = (homed.open_home(xattrs, descriptor, [password]) for password in passwords)
    assert first == second
    assert len(first) == 64
    assert key_descriptor(first) == descriptor == bytes.fromhex(VECTORS["homed"]["context"])[4:12]


def test_homed_wrong_password_and_damage():
    xattrs, descriptor, passwords = homed_vector()
    with pytest.raises(WrongKeyError):
        homed.open_home(xattrs, descriptor, [b"correct horse"])
    with pytest.raises(NotFoundError):
        homed.open_home(
            {"user.note": b"", "trusted.fscrypt_slotX": b"", "trusted.fscrypt_slot": b""}, descriptor, passwords
        )
    damaged = xattrs | {"trusted.fscrypt_slot0": b"no slot"}
    assert key_descriptor(homed.open_home(damaged, descriptor, passwords)) == descriptor
    with pytest.raises(CorruptionError, match=r"trusted\.fscrypt_slot0"):
        homed.open_home(damaged, descriptor, passwords[:1])
    with pytest.raises(LimitError):
        homed.open_home({f"trusted.fscrypt_slot{n}": b"" for n in range(65)}, descriptor, passwords)


@pytest.mark.parametrize(
    "value", [b"", b":", b"====:", b"!!!:AAAA", b"AAAA:" + b"A" * 2000, b"A" * 4000 + b":" + b"A" * 64]
)
def test_homed_damaged_slots(value):
    with pytest.raises(CorruptionError, match=r"trusted\.fscrypt_slot7"):
        homed.parse_slot("trusted.fscrypt_slot7", value)
