"""Keys: how they are found, derived, refused, and that they never show."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import traceback

import pytest
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ext4img.crypto.kdf import Hkdf, key_descriptor
from ext4img.crypto.keyring import Keyring, MasterKey
from ext4img.crypto.policy import EncryptionContext, Policy, build_context, parse_context
from ext4img.errors import KeyFormatError, UnsupportedFeatureError

UUID = bytes(range(16))


def context(policy: Policy, nonce: bytes | None = None) -> EncryptionContext:
    return parse_context(build_context(policy, nonce or os.urandom(16)), supported_only=False)


@pytest.mark.parametrize("size", [16, 32, 33, 64])
def test_hkdf_is_the_librarys(size: int):
    raw, info = os.urandom(size), os.urandom(16)
    for length in (16, 32, 64):
        theirs = HKDF(SHA512(), length, None, b"fscrypt\0\x02" + info).derive(raw)
        assert Hkdf(raw).derive(b"\x02", info, length) == theirs


def test_identifiers():
    """The key of 64 times 0x2a, as the tools of google/fscrypt name it."""
    key = MasterKey(b"\x2a" * 64)
    assert key.descriptor.hex() == "8290608a029c5aae"
    assert key.identifier.hex() == "2139f52bf8386ee99845818ac7e91c4a"
    assert key_descriptor(b"x") == hashlib.sha512(hashlib.sha512(b"x").digest()).digest()[:8]


def test_keys_never_show():
    raw = b"secret!!" * 8
    keyring = Keyring()
    key = keyring.add(raw)
    policy = Policy(2, 1, 4, 0, key.identifier)
    things = [
        key,
        keyring,
        key._hkdf,
        keyring.contents_cipher(context(policy), 1, UUID, 4096),
        keyring.names_cipher(context(policy), 1, UUID),
        key.contents_keys(policy, UUID),
        key.names_keys(policy, UUID),
    ]
    for thing in things:
        shown = f"{thing!r} {thing!s}"
        assert "secret" not in shown
        assert raw.hex() not in shown
        assert not hasattr(thing, "__dict__") or thing is keyring
    assert repr(key) == repr(MasterKey(os.urandom(16))) == "<MasterKey>"
    for copier in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            copier(key)
    with pytest.raises(TypeError):
        pickle.dumps(keyring)


@pytest.mark.parametrize("size", [0, 15, 65])
def test_no_key_at_all(size: int):
    with pytest.raises(KeyFormatError, match=f"not {size}") as caught:
        Keyring().add(b"\xa7" * size)
    assert "a7" not in "".join(traceback.format_exception(caught.value)).replace('b"\\xa7" * size', "")


def test_wrong_descriptor():
    with pytest.raises(KeyFormatError, match="8 bytes, not 16"):
        Keyring().add(os.urandom(64), bytes(16))


def test_text_is_not_taken_for_a_key():
    """64 hexadecimal digits are as long as a key."""
    with pytest.raises(TypeError, match="fromhex"):
        Keyring().add("ab" * 32)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="fromhex"):
        Keyring().add(bytes(64), descriptor="01234567")  # type: ignore[arg-type]


def test_empty_keyring():
    keyring = Keyring()
    policy = Policy(2, 1, 4, 0, bytes(16))
    assert not len(keyring)
    assert not keyring.has(policy)
    assert keyring.find(policy) is None
    assert keyring.contents_cipher(context(policy), 1, UUID, 4096) is None
    assert keyring.names_cipher(context(policy), 1, UUID) is None
    assert keyring.dirhash_key(context(policy)) is None


def test_version_2_by_identifier():
    keyring = Keyring()
    raw = os.urandom(32)  # shorter than the key of XTS, but strong enough for it
    key = keyring.add(raw)
    assert keyring.add(raw) is key
    assert len(keyring) == 1
    policy = Policy(2, 1, 4, 0, key.identifier)
    assert keyring.has(policy)
    assert keyring.contents_cipher(context(policy), 1, UUID, 4096) is not None
    assert keyring.names_cipher(context(policy), 1, UUID) is not None
    assert not keyring.has(Policy(2, 1, 4, 0, bytes(16)))


def test_version_1_by_descriptor():
    keyring = Keyring()
    raw = os.urandom(64)
    key = keyring.add(raw)
    derived, given = Policy(1, 1, 4, 0, key.descriptor), Policy(1, 1, 4, 0, b"whatever")
    assert keyring.has(derived)
    assert not keyring.has(given)
    assert keyring.add(raw, b"whatever") is key
    assert keyring.has(derived)
    assert keyring.has(given)
    assert keyring.dirhash_key(context(given)) is None


def test_another_key_for_a_descriptor():
    keyring = Keyring()
    policy = Policy(1, 1, 4, 0, b"whatever")
    where = context(policy)
    found = []
    for raw in (bytes(64), bytes(range(64))):
        keyring.add(raw, b"whatever")
        cipher = keyring.names_cipher(where, 1, UUID)
        assert cipher is not None
        found.append(cipher.encrypt([b"name"]))
    assert found[0] != found[1]


def test_short_keys():
    keyring = Keyring()
    key = keyring.add(os.urandom(32))
    v1 = Policy(1, 1, 4, 0, key.descriptor)
    assert not keyring.has(v1)  # version 1 needs as many bytes as XTS has
    assert keyring.contents_cipher(context(v1), 1, UUID, 4096) is None
    assert keyring.names_cipher(context(v1), 1, UUID) is not None
    short = keyring.add(os.urandom(16))
    assert not keyring.has(Policy(2, 1, 4, 0, short.identifier))
    assert keyring.has(Policy(2, 5, 6, 0, short.identifier))
    assert keyring.has(Policy(2, 7, 8, 0, short.identifier))  # SM4 has 128 bits of strength


def test_keys_that_are_longer_than_needed():
    """Version 1 takes the first bytes of the master key; version 2 all of it."""
    nonce, raw = os.urandom(16), os.urandom(64)
    names = []
    for size in (16, 64):
        keyring = Keyring()
        keyring.add(raw[:size], b"whatever")
        cipher = keyring.names_cipher(context(Policy(1, 5, 6, 0, b"whatever"), nonce), 1, UUID)
        assert cipher is not None
        names.append(cipher.encrypt([b"name"]))
    assert names[0] == names[1]


def test_unsupported_policies_are_refused():
    keyring = Keyring()
    key = keyring.add(os.urandom(64))
    bad = context(Policy(2, 1, 9, 0, key.identifier))
    assert not keyring.has(bad.policy)
    with pytest.raises(UnsupportedFeatureError, match="AES-256-XTS contents with Adiantum names"):
        keyring.names_cipher(bad, 1, UUID)
    small = context(Policy(2, 1, 4, 0x10, key.identifier, 9))
    with pytest.raises(UnsupportedFeatureError, match="data units of 512"):
        keyring.contents_cipher(small, 1, UUID, 4096)


def test_what_the_ciphers_depend_on():
    """Per-file keys on the nonce; IV_INO_LBLK_* on inode number and UUID; DIRECT_KEY on the nonce again."""
    keyring = Keyring()
    key = keyring.add(os.urandom(64))
    first, second = b"\1" * 16, b"\2" * 16

    def encrypted(policy: Policy, nonce: bytes, inode: int, uuid: bytes) -> bytes:
        cipher = keyring.contents_cipher(context(policy, nonce), inode, uuid, 4096)
        assert cipher is not None
        return cipher.encrypt(bytes(4096), 3)

    per_file = Policy(2, 1, 4, 0, key.identifier)
    direct = Policy(2, 9, 9, 4, key.identifier)
    for policy in (per_file, direct):
        assert encrypted(policy, first, 1, UUID) == encrypted(policy, first, 2, bytes(16))
        assert encrypted(policy, first, 1, UUID) != encrypted(policy, second, 1, UUID)
    for flag in (8, 16):
        policy = Policy(2, 1, 4, flag, key.identifier)
        assert encrypted(policy, first, 1, UUID) == encrypted(policy, second, 1, UUID)
        assert encrypted(policy, first, 1, UUID) != encrypted(policy, first, 2, UUID)
        assert encrypted(policy, first, 1, UUID) != encrypted(policy, first, 1, bytes(16))


def test_ciphers_are_kept():
    keyring = Keyring()
    policy = Policy(2, 1, 4, 0, keyring.add(os.urandom(64)).identifier)
    where = context(policy)
    assert keyring.names_cipher(where, 1, UUID) is keyring.names_cipher(where, 1, UUID)
    assert keyring.contents_cipher(where, 1, UUID, 4096) is keyring.contents_cipher(where, 1, UUID, 4096)
    for _ in range(600):  # but not without bound
        assert keyring.names_cipher(context(policy), 1, UUID) is not None
    assert len(keyring._names) <= 256
