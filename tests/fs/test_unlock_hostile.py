"""Key metadata that someone has put onto an image, or into a host directory, to mislead its reader."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import ext4img
from tests.conftest import UnpackedImage
from tests.fs.conftest import Altered

VECTORS = json.loads((Path(__file__).parent.parent / "unlocking" / "vectors" / "unlock.json").read_text())
CUSTOM, LOGIN = VECTORS["fscrypt"][0], VECTORS["fscrypt"][2]
POLICY, PROTECTOR = "420e2390fa4e6008a607099711e41690", "42b7ea7d2f504277"
PASSPHRASE = "correct horse"
NUMBER_OPENED = 2


def opened(image: Path) -> int:
    with ext4img.open(image) as fs:
        return len(fs.unlock(PASSPHRASE))


def refusal(image: Path) -> str:
    with ext4img.open(image) as fs:
        with pytest.raises(ext4img.Ext4Error) as caught:
            fs.unlock(PASSPHRASE)
        assert not len(fs.keyring)
        told = {protector.problem for protectors in fs.protectors().values() for protector in protectors}
        assert any(told)
        return str(caught.value)


@pytest.mark.parametrize(
    "target", ["elsewhere", "/elsewhere", "./sub/../elsewhere", "/../elsewhere/", "sub/../../elsewhere"]
)
def test_the_base_may_be_a_link(altered: Altered, target: str):
    """Relative or absolute within the image; ".." ends at the root."""
    requests = ("mkdir elsewhere", "unlink elsewhere", "ln .fscrypt elsewhere", "unlink .fscrypt", "mkdir sub")
    assert opened(altered("unlock-tools", *requests, f"symlink .fscrypt {target}")) == NUMBER_OPENED


@pytest.mark.parametrize(
    ("requests", "reason"),
    [
        (["symlink elsewhere .fscrypt-moved", "symlink .fscrypt elsewhere"], "must be a plain directory"),
        (["symlink .fscrypt nowhere"], "leads to nothing"),
        (["symlink .fscrypt .fscrypt"], "must be a plain directory"),
        (["symlink .fscrypt custom"], "encrypted"),
        (["mkdir s", "symlink s/in ../.fscrypt-moved", "symlink .fscrypt s/in"], "must be a plain directory"),
        (["symlink .fscrypt .fscrypt-moved/policies/" + POLICY], "not a file"),
        (["mknod .fscrypt p"], "not a fifo"),
        (["ln custom .fscrypt"], "encrypted"),
    ],
)
def test_a_base_that_is_none(altered: Altered, requests: list[str], reason: str):
    image = altered("unlock-tools", "ln .fscrypt .fscrypt-moved", "unlink .fscrypt", *requests)
    assert reason in refusal(image)


@pytest.mark.parametrize("kind", ["policies", "protectors"])
def test_nothing_else_may_be_a_link(altered: Altered, kind: str):
    moved = [f"ln .fscrypt/{kind} moved", f"unlink .fscrypt/{kind}", f"symlink .fscrypt/{kind} /moved"]
    assert "must be a plain directory" in refusal(altered("unlock-tools", *moved))
    name = {"policies": POLICY, "protectors": PROTECTOR}[kind]
    file = f".fscrypt/{kind}/{name}"
    image = altered("unlock-tools", f"ln {file} moved", f"unlink {file}", f"symlink {file} /moved")
    with ext4img.open(image) as fs:
        (problems,) = [
            {protector.problem for protector in protectors}
            for policy, protectors in fs.protectors().items()
            if policy.key_id_hex == POLICY
        ]
        (problem,) = problems
        assert "is a symlink" in problem


def test_metadata_is_small_and_regular(altered: Altered, tmp_path: Path):
    big = tmp_path / "big"
    big.write_bytes(bytes.fromhex(CUSTOM["policies"][POLICY]).ljust(16_385, b"\0"))
    where = f".fscrypt/policies/{POLICY}"
    for replacement, reason in (
        (f"write {big} {where}", "16385 bytes, more than the 16384"),
        (f"mkdir {where}", "is a dir"),
        (f"cd .fscrypt/policies\nmknod {POLICY} p", "is a fifo"),
    ):
        image = altered("unlock-tools", f"unlink {where}", replacement)
        with ext4img.open(image) as fs:
            assert [policy.key_id_hex for policy in fs.unlock(PASSPHRASE)] == ["64f8433a2e0c37b7"]
            assert reason in str(list(fs.problems))


def test_a_damaged_policy_costs_itself(altered: Altered, tmp_path: Path):
    (tmp_path / "noise").write_bytes(os.urandom(100))
    where = f".fscrypt/policies/{POLICY}"
    image = altered("unlock-tools", f"unlink {where}", f"write {tmp_path / 'noise'} {where}")
    with ext4img.open(image) as fs:
        assert [policy.key_id_hex for policy in fs.unlock(PASSPHRASE)] == ["64f8433a2e0c37b7"]
        assert POLICY in str(list(fs.problems))


def test_a_protector_that_asks_for_the_moon(altered: Altered, tmp_path: Path):
    """time=0xffffffff and memory=0xffffffff KiB are valid for the tool; here the hash is not begun."""
    original = bytes.fromhex(CUSTOM["protectors"][PROTECTOR])
    costs = bytes.fromhex("08" + "10" + "01" + "18" + "e4f301" + "20" + "02")[1:]
    assert costs in original
    dear = b"\x10\xff\xff\xff\xff\x0f\x18\xff\xff\xff\xff\x0f\x20\x02"
    at = original.index(costs) - 1
    changed = original[:at] + bytes((len(dear),)) + dear + original[at + 1 + len(costs) :]
    (tmp_path / "dear").write_bytes(changed)
    where = f".fscrypt/protectors/{PROTECTOR}"
    image = altered("unlock-tools", f"unlink {where}", f"write {tmp_path / 'dear'} {where}")
    assert "Argon2id, 4294967295 passes over 4294967295 KiB" in refusal(image)


def test_link_files_are_not_followed(altered: Altered, tmp_path: Path):
    """Neither into the host's file system nor into the image's."""
    (tmp_path / "link").write_text(f"PATH={tmp_path}\n")
    where = f".fscrypt/protectors/{PROTECTOR}"
    image = altered("unlock-tools", f"unlink {where}", f"write {tmp_path / 'link'} {where}.link")
    (tmp_path / ".fscrypt/protectors").mkdir(parents=True)
    (tmp_path / where).write_bytes(bytes.fromhex(CUSTOM["protectors"][PROTECTOR]))
    with ext4img.open(image) as fs:
        with pytest.raises(ext4img.Ext4Error, match="its .fscrypt is needed too"):
            fs.unlock(PASSPHRASE)
        assert len(fs.unlock(PASSPHRASE, fscrypt_dirs=[tmp_path])) == NUMBER_OPENED


@pytest.mark.parametrize("what", ["link", "fifo", "directory", "linked directory", "big", "unreadable"])
def test_a_host_directory_that_misleads(fixture_image: Callable[[str], UnpackedImage], tmp_path: Path, what: str):
    (name, data), *_ = LOGIN["protectors"].items()
    secret = LOGIN["opens"][0]["passphrase"]
    protectors = tmp_path / ".fscrypt" / "protectors"
    protectors.mkdir(parents=True)
    file = protectors / name
    genuine = tmp_path / "genuine"
    genuine.write_bytes(bytes.fromhex(data))
    if what == "link":
        file.symlink_to(genuine)
    elif what == "fifo":
        os.mkfifo(file)
    elif what == "directory":
        file.mkdir()
    elif what == "big":
        file.write_bytes(bytes(16_385))
    elif what == "linked directory":
        protectors.rmdir()
        (tmp_path / "moved").mkdir()
        (tmp_path / "moved" / name).write_bytes(bytes.fromhex(data))
        protectors.symlink_to(tmp_path / "moved")
    elif os.geteuid() == 0:
        pytest.skip("root reads everything")
    else:
        file.write_bytes(bytes.fromhex(data))
        file.chmod(0)
    with ext4img.open(fixture_image("unlock-tools").path) as fs, pytest.raises(ext4img.Ext4Error) as caught:
        fs.unlock(secret, fscrypt_dirs=[tmp_path])
    assert str(file) in str(caught.value)


def test_homes_beyond_the_bound(fixture_image: Callable[[str], UnpackedImage], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ext4img.unlocking.unlocker.MAX_HOMES", 0)
    refused = pytest.raises(ext4img.LimitError, match="1 home directories of systemd-homed: only 0 were tried")
    with ext4img.open(fixture_image("homed").path) as fs, refused:
        fs.unlock("correct horse battery")
