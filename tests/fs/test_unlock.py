"""Each passphrase and raw key of a manifest opens its directories straight from the image.

Fixtures: unlock-tools (fscrypt's own metadata, e4crypt), homed (systemd-homed); and $EXT4IMG_CORPUS.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ext4img
from ext4img.unlocking import CostLimits, e4crypt, homed
from ext4img.unlocking import fscrypt_kdf as fscrypt_tool
from tests.conftest import UnpackedImage, _unpack
from tests.images import PackedImage, all_images

VECTORS = json.loads((Path(__file__).parent.parent / "unlocking" / "vectors" / "unlock.json").read_text())
LOGIN = next(tree for tree in VECTORS["fscrypt"] if "links" in tree)
(LOGIN_PASSPHRASE,) = (opens["passphrase"] for opens in LOGIN["opens"])


def has_passphrases(packed: PackedImage) -> bool:
    return bool(json.loads(packed.manifest.read_text(encoding="utf-8")).get("passphrases"))


WITH_PASSPHRASES = [packed for packed in all_images() if has_passphrases(packed)]


@pytest.fixture(scope="module", params=WITH_PASSPHRASES, ids=lambda packed: packed.name)
def unlockable(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnpackedImage]:
    unpacked = _unpack(request.param, tmp_path_factory.mktemp("unlock"))
    yield unpacked
    unpacked.path.unlink()


@pytest.fixture
def login_directory(tmp_path: Path) -> Path:
    """An exported .fscrypt as it is on the root file system: the login protector that the image only links to."""
    directory = tmp_path / "exported"
    (directory / ".fscrypt" / "protectors").mkdir(parents=True)
    for name, data in LOGIN["protectors"].items():
        (directory / ".fscrypt" / "protectors" / name).write_bytes(bytes.fromhex(data))
    return directory


def arguments(secret: dict[str, Any], login: Path) -> dict[str, Any]:
    """What `FileSystem.unlock` takes for a manifest's secret."""
    if "hex" in secret:
        return {"raw_keys": [bytes.fromhex(secret["hex"])]}
    given: dict[str, Any] = {"passphrase": secret["passphrase"]}
    if "salt_hex" in secret:
        given["salts"] = [bytes.fromhex(secret["salt_hex"])]
    if secret["kind"] == "fscrypt-login":
        given["fscrypt_dirs"] = [login]
    return given


def ids(policies: tuple[ext4img.Policy, ...]) -> set[str]:
    return {policy.key_id_hex for policy in policies}


def unlocked_by(secret: dict[str, Any], head: dict[str, Any], own_salt: str) -> set[str]:
    """All that one secret opens: a protector may stand before several policies, the own salt is always tried."""
    same = [
        other
        for other in head["passphrases"]
        if (other.get("passphrase"), other.get("hex")) == (secret.get("passphrase"), secret.get("hex"))
    ]
    return {other["unlocks"] for other in same if other.get("salt_hex") in (None, own_salt, secret.get("salt_hex"))}


def test_each_secret_opens_what_it_should(unlockable: UnpackedImage, login_directory: Path):
    head = unlockable.manifest.head
    for secret in head["passphrases"]:
        with ext4img.open(unlockable.path) as fs:
            opened = fs.unlock(**arguments(secret, login_directory))
            assert ids(opened) == unlocked_by(secret, head, fs.superblock.password_salt.hex()), secret["kind"]
            assert all(fs.keyring.has(policy) for policy in opened)
            assert not fs.problems


def test_directories_open_with_all_secrets(unlockable: UnpackedImage, login_directory: Path):
    """Names and contents are then the manifest's: below each policy's root, one file at least is read."""
    head = unlockable.manifest.head
    with ext4img.open(unlockable.path) as fs:
        for secret in head["passphrases"]:
            fs.unlock(**arguments(secret, login_directory))
        opened = {secret["unlocks"] for secret in head["passphrases"]}
        read = set()
        for entry in unlockable.manifest.entries:
            context = bytes.fromhex(entry.get("context", ""))
            name = (context[4:12] if context[:1] == b"\1" else context[8:24]).hex()
            if name in opened and entry["type"] == "file" and entry["sha256"] and name not in read:
                data = fs.path(entry["path"]).read_bytes()
                assert hashlib.sha256(data).hexdigest() == entry["sha256"]
                read.add(name)
        assert read == opened


def test_a_second_time_hashes_nothing(
    unlockable: UnpackedImage, login_directory: Path, monkeypatch: pytest.MonkeyPatch
):
    with ext4img.open(unlockable.path) as fs:
        secrets = unlockable.manifest.head["passphrases"]
        first = [fs.unlock(**arguments(secret, login_directory)) for secret in secrets]
        for module, function in ((fscrypt_tool, "hash_passphrase"), (e4crypt, "derive_key"), (homed, "open_slot")):
            monkeypatch.setattr(module, function, None)
        monkeypatch.setattr("ext4img.unlocking.protector_keys.hash_passphrase", None)
        monkeypatch.setattr("ext4img.unlocking.unlocker.derive_key", None)
        assert [fs.unlock(**arguments(secret, login_directory)) for secret in secrets] == first


def test_wrong_secrets_open_nothing(unlockable: UnpackedImage, login_directory: Path):
    with ext4img.open(unlockable.path) as fs:
        for secret in unlockable.manifest.head["passphrases"]:
            wrong = arguments(secret, login_directory)
            if "passphrase" in wrong:
                wrong["passphrase"] += "x"
            else:
                wrong["raw_keys"] = [bytes(32)]
            with pytest.raises(ext4img.WrongKeyError, match="nothing was opened"):
                fs.unlock(**wrong)
        assert not len(fs.keyring)
        assert not any(map(fs.keyring.has, fs.policies()))


def test_a_right_secret_does_not_make_a_wrong_one_right(unlockable: UnpackedImage, login_directory: Path):
    with ext4img.open(unlockable.path) as fs:
        for secret in unlockable.manifest.head["passphrases"]:
            fs.unlock(**arguments(secret, login_directory))
        with pytest.raises(ext4img.WrongKeyError):
            fs.unlock("not this one", raw_keys=[b"!" * 32])


def test_one_hash_a_protector_for_a_wrong_passphrase(
    fixture_image: Callable[[str], UnpackedImage], monkeypatch: pytest.MonkeyPatch
):
    """Two policies stand behind one custom passphrase, a third behind another: two hashes in all."""
    hashed = []
    genuine = fscrypt_tool.hash_passphrase

    def counting(passphrase: bytes, *rest: Any) -> bytes:
        hashed.append(passphrase)
        return genuine(passphrase, *rest)

    monkeypatch.setattr("ext4img.unlocking.protector_keys.hash_passphrase", counting)
    with ext4img.open(fixture_image("unlock-tools").path) as fs:
        with pytest.raises(ext4img.WrongKeyError) as caught:
            fs.unlock("wrong")
        assert hashed == [b"wrong"] * 2
        with pytest.raises(ext4img.WrongKeyError):
            fs.unlock("wrong", salts=["s:other"])
        assert len(hashed) == 2
    message = str(caught.value)
    assert "wrong passphrase for protector 42b7ea7d2f504277 (custom passphrase 'alpha')" in message
    assert "(raw key 'beta') needs a 32-byte key file, and none was given" in message
    assert "its .fscrypt is needed too" in message
    assert "e4crypt makes of the passphrase and 1 salt" in message
    assert 'wrong"' not in message


def test_the_login_protector_is_elsewhere(fixture_image: Callable[[str], UnpackedImage], login_directory: Path):
    """It is found in a host directory or its parent, an open image, or an image by its path."""
    image = fixture_image("unlock-tools").path
    login_policy = LOGIN["opens"][0]["policy"]
    with ext4img.open(image) as fs:
        with pytest.raises(ext4img.Ext4Error, match="its .fscrypt is needed too"):
            fs.unlock(LOGIN_PASSPHRASE)
        assert ids(fs.unlock(LOGIN_PASSPHRASE, fscrypt_dirs=[login_directory])) == {login_policy}
    with ext4img.open(image) as fs:
        assert ids(fs.unlock(LOGIN_PASSPHRASE, fscrypt_dirs=[login_directory / ".fscrypt"])) == {login_policy}
        with pytest.raises(ext4img.NotFoundError):
            fs.unlock(LOGIN_PASSPHRASE, fscrypt_dirs=[login_directory.parent])
        assert fs.path("/login/note.txt").read_text() == "written in login\n"


@pytest.mark.parametrize("is_open", [True, False])
def test_the_login_protector_is_on_another_image(
    fixture_image: Callable[[str], UnpackedImage],
    login_directory: Path,
    image_of: Callable[..., Path],
    is_open: bool,
):
    other = image_of(login_directory, size="2M")
    with ext4img.open(fixture_image("unlock-tools").path) as fs, ext4img.open(other) as root:
        opened = fs.unlock(LOGIN_PASSPHRASE, fscrypt_dirs=[root if is_open else other])
        assert ids(opened) == {LOGIN["opens"][0]["policy"]}
        assert root.path("/").exists()  # it is not closed: it was not opened here


def test_one_of_several_opens(fixture_image: Callable[[str], UnpackedImage]):
    """A passphrase and raw keys in one call: what any of them opens."""
    with ext4img.open(fixture_image("unlock-tools").path) as fs:
        opened = fs.unlock("correct horse\nsecond line", raw_keys=[b"K" * 32, bytes(32)])
        assert len(opened) == 3
        assert fs.path("/v1 under the same protector/note.txt").read_text().startswith("written in v1")
        locked = next(path for path in fs.path("/login").iterdir() if path.is_file())
        with pytest.raises(ext4img.NoKeyError):
            locked.read_bytes()


def test_modes_are_the_contexts(fixture_image: Callable[[str], UnpackedImage]):
    """The metadata of this policy says Adiantum; the directory was made with AES."""
    with ext4img.open(fixture_image("unlock-tools").path) as fs:
        (policy,) = (policy for policy in fs.unlock("correct horse") if policy.version == 1)
        assert (policy.contents_mode_name, policy.filenames_mode_name) == ("AES-256-XTS", "AES-256-CTS")


def test_e4crypt_salts(fixture_image: Callable[[str], UnpackedImage]):
    """The superblock's salt needs no word; another one is given as the tool's option -S has it."""
    with ext4img.open(fixture_image("unlock-tools").path) as fs:
        assert ids(fs.unlock("hunter2")) == {"5d19254b6541ef7a"}
        assert ids(fs.unlock(b"hunter2\n", salts=["s:saltsalt"])) == {"5d19254b6541ef7a", "93b0c3616d598eb6"}
        with pytest.raises(ext4img.KeyFormatError):
            fs.unlock("hunter2", salts=["/mnt"])


def test_what_is_no_secret(fixture_image: Callable[[str], UnpackedImage]):
    with ext4img.open(fixture_image("unlock-tools").path) as fs:
        for bad in ({}, {"raw_keys": [b"short"]}, {"passphrase": "x" * 70_000}, {"passphrase": "\ud800"}):
            with pytest.raises(ext4img.KeyFormatError):
                fs.unlock(**bad)
    with ext4img.open(fixture_image("plain-4k").path) as fs, pytest.raises(ext4img.WrongKeyError, match="encrypted"):
        fs.unlock("anything")
    untold = pytest.raises(ext4img.WrongKeyError, match="no metadata of fscrypt, e4crypt or systemd-homed")
    with ext4img.open(fixture_image("sample-encrypted").path) as fs, untold:
        fs.unlock("anything")


def test_costs_are_bounded(fixture_image: Callable[[str], UnpackedImage]):
    with ext4img.open(fixture_image("unlock-tools").path) as fs:
        with pytest.raises(ext4img.LimitError, match="above the limit of 1 KiB"):
            fs.unlock("correct horse", limits=CostLimits(memory_kib=1))
        assert len(fs.unlock("correct horse")) == 2


def test_protectors_are_described(fixture_image: Callable[[str], UnpackedImage], login_directory: Path):
    with ext4img.open(fixture_image("unlock-tools").path) as fs:
        known = {policy.key_id_hex: protectors for policy, protectors in fs.protectors().items()}
        (custom,) = known["420e2390fa4e6008a607099711e41690"]
        assert (custom.descriptor, custom.kind, custom.name) == ("42b7ea7d2f504277", "custom passphrase", "alpha")
        assert custom.costs is not None
        assert (custom.costs.time, custom.costs.memory_kib, custom.costs.lanes) == (1, 31204, 2)
        assert custom.where == "/.fscrypt/protectors/42b7ea7d2f504277"
        assert known["64f8433a2e0c37b7"] == (custom,)
        assert {p.kind for p in known["c81e3cca4423357e4d795aea6d8d76d6"]} == {"custom passphrase", "raw key"}
        (linked,) = known[LOGIN["opens"][0]["policy"]]
        assert (linked.kind, linked.problem) == ("", "it is on the file system once mounted at '/'")
        assert known["5d19254b6541ef7a"] == ()
        ((login,),) = [
            p for k, p in fs.protectors([login_directory]).items() if k.key_id_hex == "7d52c1634407a3e6b1fb24c79281094d"
        ]
        assert (login.kind, login.uid, login.problem) == ("login passphrase", 4242, "")
        assert login.where.startswith(str(login_directory))
        assert not fs.problems
    with ext4img.open(fixture_image("homed").path) as fs:
        ((first, second),) = fs.protectors().values()
        assert {first.kind, second.kind} == {"systemd-homed password"}
        assert (first.name, second.name) == ("trusted.fscrypt_slot0", "trusted.fscrypt_slot1")


def test_nothing_shows_secrets(fixture_image: Callable[[str], UnpackedImage], login_directory: Path):
    with ext4img.open(fixture_image("unlock-tools").path) as fs:
        fs.unlock("correct horse", raw_keys=[b"K" * 32])
        with pytest.raises(ext4img.WrongKeyError) as caught:
            fs.unlock("a secret of mine", fscrypt_dirs=[login_directory])
        shown = [repr(fs), repr(fs._unlocker), repr(fs.keyring), repr(vars(fs._unlocker)), str(caught.value)]
        for text in shown:
            assert "secret of mine" not in text
            assert "correct horse" not in text
            assert "KKKK" not in text
