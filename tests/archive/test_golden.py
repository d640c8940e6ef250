"""Archives of each version of the format: read for ever, and written so to the byte while the version lasts."""

from __future__ import annotations

import hashlib
import io
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

import ext4img
from ext4img import Archive, backup, restore, verify
from ext4img.archive.open_backup import open_backup
from tests.archive.synthetic import plain_tree
from tests.archive.test_archive import same
from tests.conftest import UnpackedImage
from tests.manifest import disk_bytes

GOLDEN = Path(__file__).parent / "golden"
DIRECTORIES = ["ino-lblk-64-links", "odd-key", "short-key"]
DIGESTS = {
    "1-plain": "234b78d379f0fa986c6edadf47ec7590eae2960998ccc743677183643e3a58f4",
    "1-encrypted": "d6955468beb5e265fcc076c41595c8a23b17975931c449856bc14ff8438cdafe",
    "1.1-plain": "3859d60b4331481b48e94c27c0718c8f4a06033c5f04f12902db4ad2c83d84ef",
    "1.1-encrypted": "f31bf8bc3c108b8e284625504c60d2cde8bce51ccc981059ea32268fdefcf689",
    "1-losses": "ca61af53e1cb4808f949a3b8e53fe3ac475deda027061aeef528db98b26d0a10",
}


@pytest.fixture
def golden(tmp_path: Path) -> Callable[[str], Path]:
    def unpack(name: str) -> Path:
        path = tmp_path / f"{name}.tar"
        path.write_bytes(lzma.decompress((GOLDEN / f"{name}.tar.xz").read_bytes()))
        return path

    return unpack


@pytest.fixture
def variants(fixture_image: Callable[[str], UnpackedImage]) -> UnpackedImage:
    return fixture_image("encrypted-variants")


@pytest.mark.parametrize("name", DIGESTS)
def test_it_is_what_it_was(name: str, golden: Callable[[str], Path]):
    report = verify(golden(name))
    assert report.intact
    assert report.digest == DIGESTS[name]


@pytest.mark.parametrize("name", ["1-plain", "1.1-plain"])
def test_the_plain_one_is_read(name: str, golden: Callable[[str], Path]):
    expected = plain_tree().sorted()
    with Archive(golden(name)) as archive:
        for member, (entry, body) in zip(archive, expected, strict=True):
            assert same(member.entry, entry)
            assert b"".join(bytes(part) for _, part in member.chunks()) == body


def test_the_one_with_losses_is_read(golden: Callable[[str], Path]):
    with Archive(golden("1-losses")) as archive:
        assert [(loss.what, loss.path, loss.inode, loss.ranges) for loss in archive.losses] == [
            ("contents", b"big", 17, ((10240, 3072), (17408, 1024))),
            ("entry", b"ghost", 100, ()),
            ("entry", b"gone", 22, ()),
            ("names", b"cut", 13, ()),
            ("names", b"d", 12, ()),
            ("attributes", b"xattr", 16, ()),
        ]


def test_the_encrypted_one_is_restored(golden: Callable[[str], Path], variants: UnpackedImage, tmp_path: Path):
    golden("1-encrypted")
    golden("1.1-encrypted")
    for name in ("1-encrypted", "1-incremental", "1.1-encrypted", "1.1-incremental"):
        target = tmp_path / name
        wanted = {
            path[1:]: entry
            for path, entry in variants.manifest.by_path.items()
            if path.split(b"/")[1].decode() in DIRECTORIES
        }
        with open_backup(golden(name)) as opened:  # type: ignore[attr-defined]
            policies = set(opened.info.policies)
            assert policies
            assert restore(opened, target, keys=variants.manifest.keys).no_key == 0
        for path, entry in wanted.items():
            full = target / path.decode("utf-8", "surrogateescape")
            if entry["type"] == "file":
                assert hashlib.sha256(full.read_bytes()).hexdigest() == entry["sha256"]
            elif entry["type"] == "symlink":
                assert str(full.readlink()) == entry["target"]
            elif entry["type"] == "dir":
                assert full.is_dir()
        assert len(wanted) > 20


def test_it_is_still_written_so(
    golden: Callable[[str], Path], variants: UnpackedImage, monkeypatch: pytest.MonkeyPatch
):
    """As long as the version lasts, the same things give the same bytes."""
    assert plain_tree().archive() == golden("1.1-plain").read_bytes()
    with Archive(golden("1.1-encrypted")) as archive:
        version = archive.info.tool.removeprefix("ext4img ")
        only = archive.info.only
    assert only == tuple(sorted(map(disk_bytes, DIRECTORIES)))
    monkeypatch.setattr(ext4img, "__version__", version)
    with ext4img.open(variants.path) as fs:
        for name, since in (("1.1-encrypted", None), ("1.1-incremental", golden("1.1-encrypted"))):
            output = io.BytesIO()
            backup(fs, output, only=DIRECTORIES, since=since)
            assert output.getvalue() == golden(name).read_bytes()
