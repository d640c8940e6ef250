"""restore and dump as a user has them: what goes wrong, what is said of it, and with which exit code."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ext4img.archive import key_check
from ext4img.archive.damaged_reader import undamaged_members
from ext4img.cli.main import main
from ext4img.cli.output import Output
from ext4img.cli.report_restore import report_restored
from ext4img.restorer.report import RestoreReport
from tests.archive.synthetic import KEY, encrypted_tree, v1_context_of
from tests.cli.test_against_kernel import key_options
from tests.conftest import UnpackedImage
from tests.host_tree import ALL_FIELDS, tree_differences
from tests.images import FIXTURES
from tests.manifest import assert_none, disk_bytes
from tools import kernel_ioctl
from tools.loop_mount import loop_mounted
from tools.loop_mount import run as run_tool

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
        message = capfd.readouterr().err
        assert all(what in message or what in {"device node", "verity"} for what in not_set)
        assert ("only root may set" in message) == (
            user == 1000 and not not_set.keys().isdisjoint({"owner", "project"})
        )
        assert ("could not be set" in message) == bool(code)


@pytest.mark.kernel
def test_a_target_without_room_for_attributes(fixture_image, tmp_path: Path, capfd):
    """What the file system refuses is said, and no success."""
    assert run("backup", fixture_image("ext4-inline").path, tmp_path / "a.tar") == 0
    made = tmp_path / "target.img"
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", str(made), "16M"], check=True)
    with loop_mounted(made, "rw,noatime") as mount:
        assert run("restore", tmp_path / "a.tar", Path(mount) / "t", "--only", "inline/huge-attribute") == 1
        assert (Path(mount) / "t/inline/huge-attribute").exists()
    message = capfd.readouterr().err
    assert "2 could not be set: attribute user.huge (1), attribute user.huge_twin (1)" in message
    assert "left out" not in message


def test_a_dry_run_writes_nothing(archive: Path, tmp_path: Path, capfd):
    assert run("restore", archive, tmp_path / "t", *ALICE, "--dry-run", "--json") == 1
    predicted = json.loads(capfd.readouterr().out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar"]
    assert run("restore", archive, tmp_path / "t", *ALICE, "--json") == 1
    assert {**json.loads(capfd.readouterr().out), "unset": None} == {**predicted, "unset": None}


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
    assert b"must be seekable" in done.stderr
    assert not (tmp_path / "t").exists()


@pytest.mark.kernel
def test_encrypted_again_by_the_kernel(fixture_image, archive: Path, tmp_path: Path, capfd):
    image = fixture_image("sample-encrypted")
    options = key_options(image, tmp_path)
    made = tmp_path / "target.img"
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-O", "encrypt,ea_inode", "-N", "20000", str(made), "96M"]
    subprocess.run(command, check=True)
    with loop_mounted(made, "rw,noatime") as mount:
        # moved.txt is encrypted, in a directory that is not.
        assert run("restore", archive, Path(mount) / "t", *options, "--encrypt", "--devices") == 0
        assert not capfd.readouterr().err
    with loop_mounted(made, "ro,noatime") as mount:
        with pytest.raises(OSError) as caught:  # else the kernel was left with the keys, or it is not encrypted
            (Path(mount) / "t/moved.txt").read_bytes()
        assert caught.value.errno == errno.ENOKEY
        for raw, descriptor in image.manifest.keys:
            kernel_ioctl.add_key(mount, raw, 1 if descriptor else 2, descriptor)
        assert_none(tree_differences(Path(mount) / "t", image.manifest, fields=ALL_FIELDS - {"holes"}))


def test_every_file_comes_out_alone(fixture_image, archive: Path, tmp_path: Path, capfdbinary):
    image = fixture_image("sample-encrypted")
    options = key_options(image, tmp_path)
    wanted = [entry for entry in image.manifest.entries if entry["type"] == "file" and entry["sha256"]]
    assert len(wanted) > 100
    random.Random(5).shuffle(wanted)
    # A run spends nearly all of its time on trying the keys, so most files share one.
    for batch in (*([entry] for entry in wanted[:6]), wanted):
        capfdbinary.readouterr()
        assert run("dump", archive, *(os.fsdecode(disk_bytes(entry["path"])) for entry in batch), *options) == 0
        rest = capfdbinary.readouterr().out
        for entry in batch:
            data, rest = rest[: entry["size"]], rest[entry["size"] :]
            assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"]), entry["path"]
        assert not rest


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


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make device nodes")
@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["restore", "dry run"])
def test_names_of_a_device_that_is_not_made(dry_run: list[str], tmp_path: Path, capfd):
    """Neither of its names is counted as restored, whichever is asked for; and that is no failure."""
    tree = tmp_path / "tree"
    tree.mkdir()
    os.mknod(tree / "a", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.link(tree / "a", tree / "b")
    run_tool("mke2fs", "-q", "-t", "ext4", "-d", tree, tmp_path / "disk.img", "8M")
    assert run("backup", tmp_path / "disk.img", tmp_path / "a.tar") == 0
    capfd.readouterr()
    for number, (only, count) in enumerate(((["--only", "b"], 1), (["--only", "a"], 1), (["--only", "/"], 2))):
        target = tmp_path / str(number)
        assert run("restore", tmp_path / "a.tar", target, *only, "--json", *dry_run) == 0
        printed = capfd.readouterr()
        report = json.loads(printed.out)
        assert (report["restored"].keys() - {"dir"}, report["unset"]) == (set(), {"device node": count})
        assert "--devices makes them" in printed.err
        assert set(os.listdir(target) if target.exists() else ()) <= {"lost+found"}
    assert run("restore", tmp_path / "a.tar", tmp_path / "t", "--only", "b", "--devices", "--json") == 0
    assert json.loads(capfd.readouterr().out)["restored"] == {"char": 1}
    assert os.stat(tmp_path / "t/b").st_rdev == os.makedev(1, 3)


def test_each_key_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A key that no policy names is tried on the members of the backup: that reads it."""
    (tmp_path / "a.tar").write_bytes(encrypted_tree(context=v1_context_of(b"ext4img!")).archive())
    (tmp_path / "master.key").write_bytes(KEY)
    reads = 0

    def counted(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        return undamaged_members(*arguments)

    monkeypatch.setattr(key_check, "undamaged_members", counted)
    assert run("restore", tmp_path / "a.tar", tmp_path / "t", "--key-file", tmp_path / "master.key") == 0
    assert (tmp_path / "t/secret/small").read_bytes() == b"hi"
    assert reads == 1
    assert run("dump", tmp_path / "a.tar", "secret/small", "--key-file", tmp_path / "master.key") == 0
    assert reads == 2


def test_words_of_overwrite(archive: Path, tmp_path: Path, capfd):
    """restic's words; without one it is "always", and the next argument is not taken for one."""
    target = tmp_path / "t"
    only = ["--only", "etc/hostname"]
    file = target / "etc/hostname"
    assert run("restore", archive, target, *only) == 0
    original, status = file.read_bytes(), file.stat()
    same_size, other_size = b"x" * len(original), b"other"

    def outcome(data: bytes, mtime_ns: int, *options: str) -> tuple[int, bool]:
        file.write_bytes(data)
        os.utime(file, ns=(mtime_ns, mtime_ns))
        code = run("restore", *options, archive, target, *only)
        return code, file.read_bytes() == original

    then = status.st_mtime_ns
    assert outcome(other_size, then, "--overwrite=never") == (1, False)
    assert outcome(other_size, then, "--overwrite") == (0, True)
    assert outcome(other_size, then + 1, "--overwrite=always") == (0, True)
    assert outcome(other_size, then, "--overwrite=if-newer") == (0, False)
    assert outcome(other_size, then - 1, "--overwrite=if-newer") == (0, True)
    assert outcome(other_size, then - 1, "--update") == (0, True)
    assert outcome(other_size, then, "--update") == (0, False)
    assert outcome(same_size, then, "--overwrite=if-changed") == (0, False)
    assert outcome(same_size, then + 1, "--overwrite=if-changed") == (0, True)
    assert outcome(other_size, then, "--overwrite=if-changed") == (0, True)
    capfd.readouterr()
    assert run("restore", archive, target, "--overwrite=sometimes") == 2
    assert "'sometimes' is not one of" in capfd.readouterr().err
    assert run("restore", archive, "--image", tmp_path / "new.img", "--overwrite=if-newer") == 2
    assert run("backup", archive, tmp_path / "b.tar", "--overwrite=always") == 2
