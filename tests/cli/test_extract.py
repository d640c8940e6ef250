"""What extract and restore put on the host, against the kernel's manifest; and what they do not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ext4img.cli.main import main
from tests.cli.test_against_kernel import key_options
from tests.conftest import UnpackedImage
from tests.host_tree import tree_differences
from tests.manifest import Manifest, assert_none

IS_ROOT = os.geteuid() == 0
FIELDS = frozenset({"mode", "holes"} | ({"owner"} if IS_ROOT else set()))


def run(*arguments: str | Path) -> int:
    return main([os.fspath(argument) for argument in arguments])


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """A directory that can be removed afterwards, although immutable files were extracted into it."""
    yield tmp_path / "out"
    subprocess.run(["chattr", "-R", "-f", "-i", "-a", str(tmp_path)], check=False, capture_output=True)


def time_differences(root: Path, manifest: Manifest) -> Iterator[str]:
    for path, entry in manifest.by_path.items():
        try:
            status = os.lstat(os.fsencode(root) + path)
        except OSError:  # missing, or of a length that the host does not take
            continue
        for key in ("atime_ns", "mtime_ns"):
            if key not in entry.get("unstable", ()) and entry[key] != getattr(status, f"st_{key}"):
                yield f"{path!r} {key}: expected {entry[key]}, got {getattr(status, f'st_{key}')}"


@pytest.mark.parametrize("name", ["sample-encrypted", "plain-4k", "ext2-1k", "ext4-inline", "ext4-dirty"])
@pytest.mark.skipif(IS_ROOT and shutil.which("chattr") is None, reason="what is extracted could not be removed")
def test_the_whole_tree(name: str, fixture_image: Callable[[str], UnpackedImage], tmp_path: Path, target: Path):
    image = fixture_image(name)
    devices = ["--devices"] if IS_ROOT else []
    code = run("extract", image.path, "/", target, *key_options(image, tmp_path), *devices, "--quiet")
    left_out = frozenset() if IS_ROOT else frozenset({"char", "block"})
    differences = list(time_differences(target, image.manifest))  # before anything is read
    differences += list(tree_differences(target, image.manifest, left_out=left_out, fields=FIELDS))
    # Names and sizes that this host's file system does not accept are reported, and nothing else is missing.
    allowed = ("is missing",) if code == 1 else ()
    assert_none(line for line in differences if not line.endswith(allowed))


def test_without_the_key_nothing_encrypted_is_written(fixture_image, tmp_path: Path, capfd):
    image = fixture_image("sample-encrypted")
    assert run("extract", image.path, "/home", "/etc/hostname", tmp_path / "out", "--json") == 1
    printed = capfd.readouterr()
    report = json.loads(printed.out)
    assert report["restored"] == {"dir": 1, "file": 1}
    assert report["left_out"] == report["no_key"] > 0
    assert "left out: home/alice: Required key not available" in printed.err
    assert sorted(os.listdir(tmp_path / "out")) == ["home", "hostname"]
    assert os.listdir(tmp_path / "out/home") == []


def test_ciphertext_needs_no_key(fixture_image, tmp_path: Path):
    image = fixture_image("sample-encrypted")
    assert run("extract", image.path, "/home/alice", tmp_path / "out", "--ciphertext") == 0
    entries = {entry["nokey_path"]: entry for entry in image.manifest.entries if "nokey_path" in entry}
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    for path in files:
        entry = entries["/home/" + path.relative_to(tmp_path / "out").as_posix()]
        assert path.stat().st_size == entry["ciphertext_size"]


def test_what_is_there_is_left_alone(fixture_image, tmp_path: Path):
    image = fixture_image("sample-encrypted")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/hostname").write_text("mine", encoding="ascii")
    assert run("extract", image.path, "/etc/hostname", tmp_path / "out") == 1
    assert (tmp_path / "out/hostname").read_text(encoding="ascii") == "mine"
    assert run("extract", image.path, "/etc/hostname", tmp_path / "out", "--overwrite") == 0
    assert (tmp_path / "out/hostname").read_text(encoding="ascii") != "mine"


def test_words_of_overwrite(fixture_image, tmp_path: Path):
    image, out = fixture_image("sample-encrypted").path, tmp_path / "out"
    file = out / "hostname"
    assert run("extract", image, "/etc/hostname", out) == 0
    original, then = file.read_bytes(), file.stat().st_mtime_ns
    for options, mtime_ns, code, replaced in (
        (["--overwrite=never"], then, 1, False),
        (["--overwrite=if-newer"], then, 0, False),
        (["--update"], then, 0, False),
        (["--update"], then - 1, 0, True),
        (["--overwrite=if-changed"], then, 0, False),
        (["--overwrite=if-changed"], then - 1, 0, True),
        (["--overwrite"], then, 0, True),
    ):
        file.write_bytes(b"x" * len(original))
        os.utime(file, ns=(mtime_ns, mtime_ns))
        assert run("extract", *options, image, "/etc/hostname", out) == code, options
        assert (file.read_bytes() == original) == replaced, options


def test_links_on_the_host_are_not_followed(fixture_image, tmp_path: Path):
    image = fixture_image("sample-encrypted")
    (tmp_path / "victim").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/etc").symlink_to(tmp_path / "victim")
    assert run("extract", image.path, "/etc", tmp_path / "out") == 1
    assert os.listdir(tmp_path / "victim") == []


def test_one_inode_by_its_number(fixture_image, tmp_path: Path):
    image = fixture_image("sample-encrypted")
    entry = next(entry for entry in image.manifest.entries if entry["path"] == "/etc/hostname")
    assert run("extract", image.path, f"<{entry['ino']}>", tmp_path / "out") == 0
    assert (tmp_path / f"out/inode-{entry['ino']}").stat().st_size == entry["size"]


def test_records_are_saved_all_or_none(fixture_image, tmp_path: Path):
    image = fixture_image("sample-encrypted")
    options = key_options(image, tmp_path)
    target = tmp_path / "records"
    assert run("metadata", image.path, "/home/alice/notes.txt", "--save", target, *options) == 0
    assert {path.name: path.read_bytes()[:2] for path in target.iterdir()} == {
        "metadata.e5": b"e5",
        "filename.ef": b"ef",
    }
    assert run("metadata", image.path, "/home/alice/notes.txt", "--save", target, *options) == 8
    assert run("metadata", image.path, "/etc/hostname", "--save", tmp_path / "none") == 7
    assert not (tmp_path / "none").exists()
