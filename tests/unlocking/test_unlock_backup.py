"""Passphrases open a backup by what is in it, as they open the image it was made of."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ext4img
from ext4img import Archive, backup, restore
from ext4img.archive.entry import Entry
from ext4img.archive.unlock import BackupMetadata, BackupUnlocker, unlock
from ext4img.errors import ArchiveError, CorruptionError, Ext4Error, KeyFormatError, WrongKeyError
from tests.archive.synthetic import encrypted_tree, plain_tree
from tests.archive.test_archive import as_stream
from tests.conftest import UnpackedImage
from tests.fs.conftest import needs_e2fsprogs
from tests.unlocking.test_vectors import VECTORS
from tools.loop_mount import run

CUSTOM_POLICY = "420e2390fa4e6008a607099711e41690"
LOGIN = next(tree for tree in VECTORS["fscrypt"] if "links" in tree)


def backup_of(image: UnpackedImage, directory: Path) -> Path:
    with ext4img.open(image.path) as fs:
        backup(fs, directory / "a.tar")
    return directory / "a.tar"


def open_with(unlocker: BackupUnlocker, secret: dict[str, Any]) -> tuple[bytes, ...]:
    if "hex" in secret:
        return unlocker.unlock(raw_keys=[bytes.fromhex(secret["hex"])])
    salts = [bytes.fromhex(secret["salt_hex"])] if "salt_hex" in secret else []
    return unlocker.unlock(secret["passphrase"], salts=salts)


def test_each_secret_of_the_corpus(image: UnpackedImage, tmp_path: Path):
    head = image.manifest.head
    secrets = head.get("passphrases") or []
    if not secrets:
        pytest.skip("no passphrases were used")
    masters = {bytes.fromhex(key["hex"]) for key in head["keys"]}
    with Archive(backup_of(image, tmp_path)) as archive:
        unlocker = BackupUnlocker(archive)
        for secret in secrets:
            if secret["kind"] == "fscrypt-login":  # its protector is on another file system
                continue
            keys = open_with(unlocker, secret)
            assert set(keys) <= masters
            wanted = next(
                bytes.fromhex(key["hex"])
                for key in head["keys"]
                if secret["unlocks"] in (key.get("descriptor"), key.get("identifier"))
            )
            assert wanted in keys
        report = restore(archive, tmp_path / "t", keys=keys)
        assert report.restored["dir"]


@pytest.mark.parametrize("name", ["unlock-tools", "homed"])
def test_a_second_time_hashes_nothing(
    fixture_image: Callable[[str], UnpackedImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    image = fixture_image(name)
    secrets = [secret for secret in image.manifest.head["passphrases"] or () if secret["kind"] != "fscrypt-login"]
    with Archive(backup_of(image, tmp_path)) as archive:
        unlocker = BackupUnlocker(archive)
        first = [open_with(unlocker, secret) for secret in secrets]
        monkeypatch.setattr("ext4img.unlocking.protector_keys.hash_passphrase", None)
        monkeypatch.setattr("ext4img.unlocking.unlocker.derive_key", None)
        monkeypatch.setattr("ext4img.unlocking.unlocker.open_home", None)
        assert [open_with(unlocker, secret) for secret in secrets] == first


def test_a_backup_says_what_an_image_says(fixture_image: Callable[[str], UnpackedImage], tmp_path: Path):
    """The same metadata, the same answers: keys and policies, failures, and their words."""
    image = fixture_image("unlock-tools")
    with ext4img.open(image.path) as fs, Archive(backup_of(image, tmp_path)) as archive:
        for arguments in ({"passphrase": "correct horse"}, {"passphrase": "hunter2", "salts": ["s:saltsalt"]}):
            keys = unlock(archive, **arguments)
            assert set(keys.policies) == set(fs.unlock(**arguments))
            assert not keys.problems
            assert repr(keys) == f"<UnlockedKeys: {len(keys)} keys>"
        for wrong in ({"passphrase": "wrong"}, {"raw_keys": [bytes(32)]}, {}, {"passphrase": "x", "salts": ["y"]}):
            with pytest.raises(Ext4Error) as of_image:
                fs.unlock(**wrong)
            with pytest.raises(type(of_image.value)) as of_backup:
                unlock(archive, **wrong)
            if "salts" in wrong or not wrong:
                assert str(of_backup.value) == str(of_image.value)
            else:
                assert reasons(of_backup.value) == reasons(of_image.value)
    with pytest.raises(KeyFormatError), Archive(io.BytesIO(plain_tree().archive())) as archive:
        unlock(archive)


def reasons(error: Ext4Error) -> set[str]:
    return set(str(error).partition(": ")[2].split("; "))


@needs_e2fsprogs
def test_the_login_protector_is_elsewhere(fixture_image: Callable[[str], UnpackedImage], tmp_path: Path):
    """An open image or a host directory has it; without either the error names the file system that is missing."""
    exported = tmp_path / "exported" / ".fscrypt" / "protectors"
    exported.mkdir(parents=True)
    for name, data in LOGIN["protectors"].items():
        (exported / name).write_bytes(bytes.fromhex(data))
    (opens,) = LOGIN["opens"]
    with Archive(backup_of(fixture_image("unlock-tools"), tmp_path)) as archive:
        with pytest.raises(Ext4Error, match="its .fscrypt is needed too"):
            unlock(archive, opens["passphrase"])
        run("mke2fs", "-q", "-F", "-t", "ext4", "-d", tmp_path / "exported", tmp_path / "root.img", "8M")
        with ext4img.open(tmp_path / "root.img") as root:
            for place in (tmp_path / "exported", root):
                (policy,) = unlock(archive, opens["passphrase"], fscrypt_dirs=[place]).policies
                assert policy.key_id_hex == opens["policy"]


def test_damaged_metadata_is_reported(fixture_image: Callable[[str], UnpackedImage], tmp_path: Path):
    """One bit of a policy file: the policy is not opened, others under the same passphrase are."""
    path = backup_of(fixture_image("unlock-tools"), tmp_path)
    with Archive(path) as archive:
        wanted = b".fscrypt/policies/" + CUSTOM_POLICY.encode()
        line = next(line for line in archive.manifest() if line.path == wanted)
    damaged = bytearray(path.read_bytes())
    damaged[line.data_offset] ^= 1
    path.write_bytes(damaged)
    with Archive(path) as archive:
        keys = unlock(archive, "correct horse")
    assert [policy.key_id_hex for policy in keys.policies] == ["64f8433a2e0c37b7"]
    (problem,) = keys.problems
    assert wanted.decode() in str(problem)


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ({"path": ".fscrypt", "type": "fifo"}, ".fscrypt: must be a plain directory, not a fifo"),
        ({"path": ".fscrypt/policies", "type": "symlink", "link_target": b"/x"}, "not a symlink"),
        ({"path": f".fscrypt/policies/{CUSTOM_POLICY}", "type": "dir"}, "is a dir: fscrypt metadata must be"),
    ],
)
def test_metadata_that_breaks_the_rules(member: dict[str, Any], reason: str):
    """As on an image; see tests/fs/test_unlock_hostile.py."""

    class Source:
        info = None

        def members(self) -> list[Any]:
            entries = [Entry(b".", "dir", 0), Entry(b".aaa", "file", 0)]
            parents = member["path"].split("/")[:-1]
            entries += [Entry("/".join(parents[: n + 1]).encode(), "dir", 0) for n in range(len(parents))]
            entries.append(Entry(**{"mode": 0, **member, "path": member["path"].encode()}))
            return [type("Member", (), {"entry": entry}) for entry in entries]

    metadata = BackupMetadata(Source())  # type: ignore[arg-type]
    with pytest.raises(CorruptionError, match=reason):
        metadata.find("policies", CUSTOM_POLICY)
    with pytest.raises(CorruptionError, match="cannot name"):
        metadata.find("policies", "../x")


def test_without_metadata_the_error_says_so():
    for tree, reason in (
        (encrypted_tree(), "there is no metadata of fscrypt, e4crypt or systemd-homed"),
        (plain_tree(), "nothing is encrypted in this backup"),
    ):
        with Archive(io.BytesIO(tree.archive())) as archive, pytest.raises(WrongKeyError, match=reason):
            unlock(archive, "passphrase")


def test_a_stream_is_refused():
    with Archive(as_stream(plain_tree().archive())) as archive, pytest.raises(ArchiveError, match="stream"):
        unlock(archive, "passphrase")
