"""restore and dump as a user has them: what goes wrong, what is said of it, and with which exit code."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ext4img.cli.main import main
from ext4img.cli.output import Output
from ext4img.cli.report_restore import report_restored
from ext4img.restorer.report import RestoreReport
from tests.cli.test_against_kernel import key_options
from tests.conftest import UnpackedImage
from tests.host_tree import ALL_FIELDS, tree_differences
from tests.images import FIXTURES
from tests.manifest import assert_none, disk_bytes
from tools import kernel_ioctl
from tools.loop_mount import loop_mounted

ALICE = ("--key-file", str(FIXTURES / "sample-encrypted.alice.key"))


def run(*arguments: str | Path) -> int:
    return main([os.fspath(argument) for argument in arguments])


@pytest.fixture
def archive(fixture_image: Callable[[str], UnpackedImage], tmp_path: Path) -> Path:
    assert run("backup", fixture_image("sample-encrypted").path, tmp_path / "a.tar") == 0
    return tmp_path / "a.tar"


@pytest.mark.parametrize(
    ("not_set", "as_root", "as_user"),
    [
        ({}, 0, 0),
        ({"device node": 3, "verity": 1}, 0, 0),
        ({"owner": 5}, 1, 0),
        ({"flag i (immutable)": 1, "project": 2, "attribute trusted.x": 1, "attribute security.capability": 1}, 1, 0),
        ({"attribute user.x": 1}, 1, 1),
        ({"attribute system.posix_acl_access": 1, "owner": 2}, 1, 1),
        ({"encryption of a file in a plain directory": 1}, 1, 1),
    ],
)
def test_what_was_not_set(not_set: dict[str, int], as_root: int, as_user: int, monkeypatch, capfd):
    for user, code in ((0, as_root), (1000, as_user)):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        report = RestoreReport(restored={"file": 1})
        report.not_set.update(not_set)
        assert report_restored(report, Output(), "target") == code
        told = capfd.readouterr().err
        assert all(what in told or what in {"device node", "verity"} for what in not_set)
        assert ("only root may set" in told) == (user == 1000 and not not_set.keys().isdisjoint({"owner", "project"}))
        assert ("could not be set" in told) == bool(code)


@pytest.mark.kernel
def test_a_target_without_room_for_attributes(fixture_image, tmp_path: Path, capfd):
    """What the file system refuses is said, and no success."""
    assert run("backup", fixture_image("ext4-inline").path, tmp_path / "a.tar") == 0
    made = tmp_path / "target.img"
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", str(made), "16M"], check=True)
    with loop_mounted(made, "rw,noatime") as mount:
        assert run("restore", tmp_path / "a.tar", Path(mount) / "t", "--only", "inline/huge-attribute") == 1
        assert (Path(mount) / "t/inline/huge-attribute").exists()
    told = capfd.readouterr().err
    assert "2 could not be set: attribute user.huge (1), attribute user.huge_twin (1)" in told
    assert "left out" not in told


def test_a_rehearsal_writes_nothing(archive: Path, tmp_path: Path, capfd):
    assert run("restore", archive, tmp_path / "t", *ALICE, "--dry-run", "--json") == 1
    rehearsed = json.loads(capfd.readouterr().out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar"]
    assert run("restore", archive, tmp_path / "t", *ALICE, "--json") == 1
    assert {**json.loads(capfd.readouterr().out), "unset": None} == {**rehearsed, "unset": None}


def test_what_is_there_is_kept_or_replaced(archive: Path, tmp_path: Path, capfd):
    target = tmp_path / "t"
    assert run("restore", archive, target, "--only", "etc/hostname") == 0
    (target / "etc/hostname").write_text("mine", encoding="ascii")
    for options, code, kept in (
        ([], 1, True),
        (["--update"], 0, True),  # ours is newer
        (["--resume"], 1, True),  # of another size: not what a restore left there
        (["--overwrite"], 0, False),
    ):
        assert run("restore", archive, target, "--only", "etc/hostname", *options) == code, options
        assert ((target / "etc/hostname").read_text(encoding="ascii") == "mine") == kept
    capfd.readouterr()
    assert run("restore", archive, target, "--only", "etc/hostname", "--resume", "--json") == 0
    assert json.loads(capfd.readouterr().out)["kept"] == 1


def secrets() -> list[dict[str, str]]:
    manifest = json.loads((FIXTURES / "unlock-tools.json").read_text(encoding="utf-8"))
    return [secret for secret in manifest["passphrases"] if secret["kind"] != "fscrypt-login"]


def test_passphrases_open_backups(fixture_image, tmp_path: Path, capfd, monkeypatch):
    assert run("backup", fixture_image("unlock-tools").path, tmp_path / "a.tar") == 0
    capfd.readouterr()
    for number, secret in enumerate(secrets()):
        if secret["kind"] == "fscrypt-raw":
            (tmp_path / "protector.key").write_bytes(bytes.fromhex(secret["hex"]))
            options = ["--key-file", str(tmp_path / "protector.key")]
        else:
            monkeypatch.setenv("SECRET", secret["passphrase"])
            options = ["--passphrase-env", "SECRET"]
            if "salt_hex" in secret:
                options += ["--salt", "0x" + secret["salt_hex"]]
        assert run("restore", tmp_path / "a.tar", tmp_path / str(number), *options, "--dry-run", "--json") == 1
        report = json.loads(capfd.readouterr().out)
        assert not any(secret["unlocks"] in problem for problem in report["problems"])
        assert report["no_key"]
    monkeypatch.setenv("SECRET", "no passphrase of anybody")
    assert run("restore", tmp_path / "a.tar", tmp_path / "t", "--passphrase-env", "SECRET") == 5
    assert not (tmp_path / "t").exists()
    assert "no passphrase of anybody" not in capfd.readouterr().err


def test_a_stream_says_nothing_of_its_keys_in_time(archive: Path, tmp_path: Path, monkeypatch):
    command = f'cat {archive} | "$PYTHON" -m ext4img restore - {tmp_path / "t"} --passphrase-env SECRET'
    monkeypatch.setenv("SECRET", "anything")
    monkeypatch.setenv("PYTHON", sys.executable)
    done = subprocess.run(command, shell=True, capture_output=True, check=False, cwd=FIXTURES.parent.parent)
    assert done.returncode == 2
    assert b"has to be a file" in done.stderr
    assert not (tmp_path / "t").exists()


@pytest.mark.kernel
def test_encrypted_again_by_the_kernel(fixture_image, archive: Path, tmp_path: Path, capfd):
    image = fixture_image("sample-encrypted")
    options = key_options(image, tmp_path)
    made = tmp_path / "target.img"
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-O", "encrypt,ea_inode", "-N", "20000", str(made), "96M"]
    subprocess.run(command, check=True)
    with loop_mounted(made, "rw,noatime") as mount:
        # moved.txt was encrypted in a directory that is not: it is restored in plain text, and that is said.
        assert run("restore", archive, Path(mount) / "t", *options, "--encrypt", "--devices") == 1
        assert "encryption of a file in a plain directory (1)" in capfd.readouterr().err
    with loop_mounted(made, "ro,noatime") as mount:
        assert list(tree_differences(Path(mount) / "t", image.manifest)), "the kernel was left with the keys"
        for raw, descriptor in image.manifest.keys:
            kernel_ioctl.add_key(mount, raw, 1 if descriptor else 2, descriptor)
        assert_none(tree_differences(Path(mount) / "t", image.manifest, fields=ALL_FIELDS - {"holes"}))


def test_every_file_comes_out_alone(fixture_image, archive: Path, tmp_path: Path, capfdbinary):
    image = fixture_image("sample-encrypted")
    options = key_options(image, tmp_path)
    wanted = [entry for entry in image.manifest.entries if entry["type"] == "file" and entry["sha256"]]
    capfdbinary.readouterr()
    for entry in wanted:
        assert run("dump", archive, os.fsdecode(disk_bytes(entry["path"])), *options) == 0
        data = capfdbinary.readouterr().out
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"])
    assert len(wanted) > 100


def test_an_altered_file_is_told(archive: Path, capfd):
    capfd.readouterr()
    assert run("dump", archive, "etc/passwd") == 0
    data = bytearray(archive.read_bytes())
    data[data.index(capfd.readouterr().out.encode())] ^= 1
    archive.write_bytes(data)
    assert run("dump", archive, "etc/passwd") == 6
    assert "not those that were written" in capfd.readouterr().err
    assert run("dump", archive, "etc/hostname") == 0
    assert run("restore", archive, archive.parent / "t", "--only", "etc") == 6
    assert "the backup is DAMAGED: 1 member could not be restored" in capfd.readouterr().out
    assert sorted(os.listdir(archive.parent / "t/etc")) == ["alternatives", "hostname"]


@pytest.fixture(params=["tar", "zstd", "store", "tree"])
def carrier(request: pytest.FixtureRequest, fixture_image, tmp_path: Path) -> Path:
    """The sample image's backup in each form that it can be read from."""
    image, path = fixture_image("sample-encrypted").path, tmp_path / "backup"
    options = {"zstd": ["--compress", "zstd"], "store": ["--format", "dir"]}.get(request.param, [])
    if request.param != "tree":
        assert run("backup", image, path, *options) == 0
        return path
    if os.geteuid():
        pytest.skip("only root may set the attributes that the records are in")
    assert run("backup", image, tmp_path / "packed.tar") == 0
    path.mkdir()
    command = ["tar", "--xattrs", "--xattrs-include=*", "-xf", str(tmp_path / "packed.tar"), "-C", str(path)]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("tar or this file system does not keep the attributes")
    return path


def test_each_form_serves_each_command(carrier: Path, fixture_image, archive: Path, tmp_path: Path, capfd):
    image = fixture_image("sample-encrypted")
    options = key_options(image, tmp_path)
    capfd.readouterr()
    assert run("list", carrier) == 0
    listed = capfd.readouterr().out
    assert run("list", archive) == 0
    assert capfd.readouterr().out == listed
    assert run("verify", carrier, "--against", image.path) == 0
    assert run("list", "--info", carrier) == 0
    assert "v2, identifier 279da2f31017fff7da14b6679e23954a" in capfd.readouterr().out
    assert run("dump", carrier, "/home/alice/notes.txt", *options) == 0
    assert capfd.readouterr().out == "Remember the milk.\n"
    assert run("restore", carrier, tmp_path / "t", *options) == 0
    devices = frozenset({"char", "block"})
    assert_none(tree_differences(tmp_path / "t", image.manifest, left_out=devices, fields=frozenset()))
    assert run("restore", carrier, "--image", tmp_path / "new.img") == 0


def test_what_there_is_of_a_cut_archive(archive: Path, tmp_path: Path, capfd):
    cut = tmp_path / "cut.tar"
    cut.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    target = tmp_path / "target"
    assert run("restore", cut, target) == 6
    assert "--salvage" in capfd.readouterr().err
    assert not target.exists() or not list(target.iterdir())
    assert run("restore", "--salvage", cut, target, *ALICE) == 6
    assert "byte offset" in capfd.readouterr().err
    assert list(target.iterdir())
