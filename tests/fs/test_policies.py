"""Which policies an image uses, and which keys open them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable

import pytest

import ext4img
from ext4img.crypto.keyring import Keyring
from ext4img.crypto.policy import parse_context
from ext4img.fs.policies import _bits_of_evidence, key_opens_names
from tests.conftest import UnpackedImage


def key(number: int) -> bytes:
    return hashlib.sha512(b"a key of nobody %d" % number).digest()


def test_every_policy_is_counted(image: UnpackedImage):
    """By inode, as the manifest has them; without any key."""
    counted: dict[ext4img.Policy, Counter[str]] = {}
    seen = set()
    for entry in image.manifest.entries:
        if entry["encrypted"] and entry["ino"] not in seen:
            seen.add(entry["ino"])
            policy = parse_context(bytes.fromhex(entry["context"])).policy
            counts = counted.setdefault(policy, Counter())
            counts[entry["type"]] += 1
            counts["bytes"] += entry["size"] if entry["type"] == "file" else 0
    with ext4img.open(image.path) as fs:
        used = fs.policies()
        assert used.keys() == counted.keys()
        for policy, use in used.items():
            expected = counted[policy]
            assert (use.files, use.directories, use.symlinks) == (
                expected["file"],
                expected["dir"],
                expected["symlink"],
            )
            assert use.bytes == expected["bytes"]
            assert not fs.keyring.has(policy)


def test_each_key_opens_its_policies(image: UnpackedImage):
    keys = image.manifest.head["keys"]
    for entry in keys:
        named = {other.get("descriptor") or other["identifier"] for other in keys if other["hex"] == entry["hex"]}
        with ext4img.open(image.path) as fs:
            descriptor = entry.get("descriptor")
            opened = fs.add_key(bytes.fromhex(entry["hex"]), bytes.fromhex(descriptor) if descriptor else None)
            ids = {policy.key_id_hex for policy in opened}
            assert entry.get("descriptor", entry.get("identifier")) in ids
            assert ids <= named
            assert all(fs.keyring.has(policy) for policy in opened)


def test_keys_of_nobody_open_nothing(image: UnpackedImage):
    with ext4img.open(image.path) as fs:
        for number in range(20):
            with pytest.raises(ext4img.WrongKeyError, match="opens nothing"):
                fs.add_key(key(number))
        assert not len(fs.keyring)


@pytest.mark.parametrize("name", ["sample-encrypted", "encrypted-old-layout", "unlock-tools", "homed"])
def test_a_version_1_key_is_known_by_what_it_decrypts(name: str, fixture_image: Callable[[str], UnpackedImage]):
    """Descriptors may be anything: the names have to tell. Few and short ones do, and no wrong key passes."""
    image = fixture_image(name)
    right = {
        entry["descriptor"]: bytes.fromhex(entry["hex"])
        for entry in image.manifest.head["keys"]
        if "descriptor" in entry
    }
    with ext4img.open(image.path) as fs:
        tried = 0
        for policy, use in fs.policies().items():
            if policy.version != 1:
                continue
            tried += 1
            keyring = Keyring()
            keyring.add(right[policy.key_id_hex], policy.key_id)
            assert key_opens_names(fs.volume, use, keyring)
            for number in range(300):
                keyring = Keyring()
                keyring.add(key(number), policy.key_id)
                assert not key_opens_names(fs.volume, use, keyring)
        assert tried


@pytest.mark.parametrize(
    ("raw", "enough"),
    [
        (b"a".ljust(16, b"\0"), True),
        (b"sixteen letters!", True),
        (b"thirteen_byte\0\0\0", True),
        ("zwölf Boxkämpf".encode().ljust(16, b"\0"), True),
        (bytes(range(0x80, 0x90)), False),
        (bytes(range(0x80, 0x8E)) + b"\0\0", False),
        (b"ctrl\x07 character", False),
    ],
)
def test_evidence(raw: bytes, enough: bool):
    assert (_bits_of_evidence(raw) >= 20) == enough
