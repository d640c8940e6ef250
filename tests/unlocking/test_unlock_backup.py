"""Passphrases open a backup by what is in it, as they open the image it was made of."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ext4img
from ext4img import Archive, backup, restore
from ext4img.archive.unlock import unlock
from ext4img.errors import ArchiveError, Ext4Error
from ext4img.unlocking import ProtectorKeys
from tests.archive.synthetic import encrypted_tree, plain_tree
from tests.archive.test_archive import as_stream
from tests.conftest import UnpackedImage


def open_with(source: Any, secret: dict[str, Any], protectors: ProtectorKeys) -> tuple[bytes, ...]:
    if "hex" in secret:
        return unlock(source, raw_keys=[bytes.fromhex(secret["hex"])], protectors=protectors)
    salts = [bytes.fromhex(secret["salt_hex"])] if "salt_hex" in secret else []
    return unlock(source, secret["passphrase"], salts=salts, protectors=protectors)


def test_each_secret_of_the_corpus(image: UnpackedImage, tmp_path: Path):
    head = image.manifest.head
    secrets = head.get("passphrases") or []
    if not secrets:
        pytest.skip("no passphrases were used")
    with ext4img.open(image.path) as fs:
        backup(fs, tmp_path / "a.tar")
    masters = {bytes.fromhex(key["hex"]) for key in head["keys"]}
    protectors = ProtectorKeys()
    with Archive(tmp_path / "a.tar") as archive:
        for secret in secrets:
            if secret["kind"] == "fscrypt-login":  # its protector is on another file system
                continue
            keys = open_with(archive, secret, protectors)
            assert set(keys) <= masters
            wanted = next(
                bytes.fromhex(key["hex"])
                for key in head["keys"]
                if secret["unlocks"] in (key.get("descriptor"), key.get("identifier"))
            )
            assert wanted in keys
        report = restore(archive, tmp_path / "t", keys=keys)
        assert report.restored["dir"]


@pytest.mark.parametrize("make", [plain_tree, encrypted_tree])
def test_without_metadata_it_is_said_so(make: Callable[[], Any]):
    with Archive(io.BytesIO(make().archive())) as archive, pytest.raises(Ext4Error, match="nothing was opened"):
        unlock(archive, "passphrase")


def test_a_stream_is_refused():
    with Archive(as_stream(plain_tree().archive())) as archive, pytest.raises(ArchiveError, match="stream"):
        unlock(archive, "passphrase")
