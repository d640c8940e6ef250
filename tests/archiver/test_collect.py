"""Backups of real images: what is in the archive is what the kernel shows without the key."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ext4img
from ext4img import Archive, backup, verify
from ext4img.archive.entry import VERITY, Entry
from ext4img.archive.lustre_encdata import build_encdata, parse_encdata
from ext4img.errors import ArchiveError, NotFoundError
from ext4img.sources import FileSource, Source
from tests.conftest import UnpackedImage
from tests.faulty_source import FaultySource
from tests.manifest import assert_none, clip, disk_bytes
from tools.loop_mount import SBIN, run

SEARCH_PATH = f"{os.environ.get('PATH', '')}:{SBIN}"


@pytest.fixture(scope="module")
def archive(image: UnpackedImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backup") / "backup.tar"
    with ext4img.open(image.path) as fs:
        backup(fs, path)
    return path


def differences(entry: Entry, expected: dict[str, Any]):
    """What a member says other than the manifest."""
    compared: dict[str, tuple[Any, Any]] = {
        "ino": (expected["ino"], entry.inode),
        "generation": (expected["generation"], entry.generation),
        "type": (expected["type"], entry.type),
        "mode": (expected["mode"], entry.mode),
        "uid": (expected["uid"], entry.uid),
        "gid": (expected["gid"], entry.gid),
        "nlink": (expected["nlink"], entry.links),
        "atime_ns": (expected["atime_ns"], entry.atime_ns),
        "mtime_ns": (expected["mtime_ns"], entry.mtime_ns),
        "ctime_ns": (expected["ctime_ns"], entry.ctime_ns),
        "crtime_ns": (expected["crtime_ns"], entry.crtime_ns),
        "name_ct": (expected.get("name_ct"), entry.stored_name.hex() if entry.stored_name is not None else None),
    }
    if not entry.is_link:
        compared["xattrs"] = (expected["xattrs"], {name: value.hex() for name, value in entry.xattrs.items()})
        compared["context"] = (expected.get("context"), entry.context.hex() if entry.context is not None else None)
        if entry.type == "file":
            compared["size"] = (expected["size"], entry.size)
            if "data_segments" in expected:
                size = expected["ciphertext_size"] if expected["encrypted"] else expected["size"]
                compared["segments"] = (clip(expected["data_segments"], size), clip(entry.segments, size))
        if entry.type == "symlink":
            compared["target"] = (disk_bytes(expected.get("nokey_target", expected["target"])), entry.link_target)
        if "rdev" in expected:
            compared["rdev"] = (tuple(expected["rdev"]), entry.rdev)
    unstable = expected.get("unstable", ())
    for what, (wanted, got) in compared.items():
        if wanted != got and what not in unstable:
            yield f"{entry.path!r} {what}: expected {wanted!r:.200}, got {got!r:.200}"


def body_digest(member: Any) -> str:
    digest = hashlib.sha256()
    at = 0
    zeros = bytes(1 << 20)
    for offset, part in [*((o, bytes(p)) for o, p in member.chunks()), (member.entry.body_size, b"")]:
        while at < offset:
            gap = min(offset - at, len(zeros))
            digest.update(zeros[:gap])
            at += gap
        digest.update(part)
        at += len(part)
    return digest.hexdigest()


def test_every_member_is_the_kernels(image: UnpackedImage, archive: Path):
    expected = image.manifest.by_nokey_path
    found = []
    seen = set()
    with Archive(archive) as opened:
        assert str(opened.info.uuid) == image.manifest.head["uuid"]
        for member in opened:
            entry = member.entry
            if entry.type == VERITY:
                continue
            path = b"/" + entry.path if entry.path != b"." else b"/"
            seen.add(path)
            if path not in expected:
                found.append(f"{path!r} should not be there")
                continue
            truth = expected[path]
            found += differences(entry, truth)
            if entry.type == "file" and not entry.is_link and entry.body_size <= 1 << 28:
                digest = truth["ciphertext_sha256"] if truth["encrypted"] else truth["sha256"]
                if body_digest(member) != digest:
                    found.append(f"{path!r}: another body")
    found += [f"{path!r} is missing" for path in sorted(expected.keys() - seen)]
    assert_none(found)


def test_it_verifies(image: UnpackedImage, archive: Path):
    report = verify(archive)
    assert report.intact
    assert not report.incomplete


def test_keys_change_nothing(image: UnpackedImage, archive: Path):
    """The same bytes again, with all keys given."""
    output = io.BytesIO()
    with ext4img.open(image.path) as fs:
        image.manifest.add_keys_to(fs)
        backup(fs, output)
    assert hashlib.sha256(output.getbuffer()).digest() == hashlib.sha256(archive.read_bytes()).digest()


def test_no_key_is_in_it(image: UnpackedImage, archive: Path):
    data = archive.read_bytes()
    for raw, _ in image.manifest.keys:
        assert raw not in data
        assert raw[:16] not in data
        assert raw.hex().encode() not in data


# One image, looked at more closely


@pytest.fixture
def sample(fixture_image: Callable[[str], UnpackedImage]) -> UnpackedImage:
    return fixture_image("sample-encrypted")


def paths_in(data: bytes) -> dict[bytes, Entry]:
    with Archive(io.BytesIO(data)) as opened:
        return {member.entry.path: member.entry for member in opened}


def backed_up(fs: Any, **options: Any) -> bytes:
    output = io.BytesIO()
    backup(fs, output, **options)
    return output.getvalue()


def test_only_some_paths(sample: UnpackedImage):
    """By their no-key names, or with a key by the plain ones: the archive is the same."""
    encrypted = next(
        entry
        for entry in sample.manifest.entries
        if entry["type"] == "dir" and "name_ct" in entry and entry["path"].count("/") > 1
    )
    shown = disk_bytes(encrypted["nokey_path"])
    with ext4img.open(sample.path) as fs:
        without = backed_up(fs, only=[shown])
        whole = paths_in(backed_up(fs))
        assert paths_in(backed_up(fs, only=["/"])).keys() == whole.keys()
        with pytest.raises(NotFoundError):
            backed_up(fs, only=[encrypted["path"]])
        sample.manifest.add_keys_to(fs)
        assert backed_up(fs, only=[encrypted["path"]]) == without
    found = paths_in(without)
    parts = shown[1:].split(b"/")
    above = {b"/".join(parts[:depth]) for depth in range(1, len(parts))} | {b"."}
    below = {path for path in whole if path == shown[1:] or path.startswith(shown[1:] + b"/")}
    assert below
    assert found.keys() == above | below
    with Archive(io.BytesIO(without)) as opened:
        assert opened.info.only == (shown[1:],)
        assert opened.info.policies


def test_several_paths_and_a_file(sample: UnpackedImage):
    encrypted = [entry for entry in sample.manifest.entries if "name_ct" in entry]
    chosen = [entry["nokey_path"] for entry in encrypted if entry["type"] in ("file", "symlink")][:3]
    with ext4img.open(sample.path) as fs:
        found = paths_in(backed_up(fs, only=chosen))
    files = {path for path, entry in found.items() if entry.type != "dir"}
    assert files == {disk_bytes(path)[1:] for path in chosen}


def test_progress_is_told(sample: UnpackedImage):
    calls: list[tuple[int, int | None]] = []
    with ext4img.open(sample.path) as fs:
        data = backed_up(fs, progress=lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1][0] <= len(data)
    assert len({total for _, total in calls}) == 1


def cut(image: UnpackedImage, tmp_path: Path, share: float) -> Path:
    """The image, its end missing."""
    path = tmp_path / "cut.img"
    data = image.path.read_bytes()
    path.write_bytes(data[: int(len(data) * share) // 4096 * 4096])
    return path


def test_a_cut_image_leaves_nothing_behind(fixture_image: Callable[[str], UnpackedImage], tmp_path: Path):
    path = cut(fixture_image("plain-4k"), tmp_path, 0.6)
    target = tmp_path / "backup.tar"
    with pytest.raises(ext4img.Ext4Error), ext4img.open(path) as fs:
        backup(fs, target)
    assert not target.exists()
    assert [found.name for found in tmp_path.iterdir()] == ["cut.img"]


FRAGMENTED = "/extents/extents-360"  # in plain-4k: every second block of 720, in two leaves of an extent tree
BLOCK = 4096
needs_debugfs = pytest.mark.skipif(
    not shutil.which("debugfs", path=SEARCH_PATH), reason="debugfs says which blocks are lost"
)


def saved(image: Source) -> tuple[set[bytes], dict[bytes, tuple[list[tuple[int, int]], bytes]]]:
    """(all paths, of members with unreadable parts those parts and the body) of a backup with checks="report"."""
    with ext4img.open(image, checks="report") as fs:
        data = backed_up(fs)
        assert len(fs.problems) > 0
    report = verify(io.BytesIO(data))
    assert report.intact
    with Archive(io.BytesIO(data)) as opened:
        incomplete = {m.entry.path: (list(m.unreadable), m.read()) for m in opened if m.unreadable}
    assert report.incomplete == len(incomplete)
    return set(paths_in(data)), incomplete


@needs_debugfs
def test_unreadable_blocks_are_recorded(fixture_image: Callable[[str], UnpackedImage]):
    """Bad sectors: the rest is saved, and the archive records just those blocks, which are zeros in it."""
    image = fixture_image("plain-4k")
    script = "".join(f"bmap {FRAGMENTED} {lblk}\n" for lblk in range(720))
    output = run("debugfs", "-f", "-", image.path, stdin=script.encode()).decode()
    pblks = [int(line) for line in output.splitlines() if line.isdigit()]
    assert len(pblks) == 720
    lost = (0, 10, 12, 718)
    with ext4img.open(image.path) as fs:
        whole = set(paths_in(backed_up(fs)))
    with FileSource(image.path) as source:
        paths, incomplete = saved(FaultySource(source, [(pblks[at] * BLOCK, pblks[at] * BLOCK + 512) for at in lost]))
    assert paths == whole
    assert list(incomplete) == [FRAGMENTED[1:].encode()]
    unreadable, body = incomplete[FRAGMENTED[1:].encode()]
    assert unreadable == [(at * BLOCK, BLOCK) for at in lost]
    assert [body[at * BLOCK :][:BLOCK].strip(b"\0") for at in lost] == [b""] * 4
    for at in (2, 14, 716):
        expected = run("debugfs", "-R", f"block_dump {pblks[at]}", image.path).decode()
        assert body[at * BLOCK :][:16].decode() in expected.splitlines()[0]


@needs_debugfs
def test_a_cut_extent_tree_is_recorded(fixture_image: Callable[[str], UnpackedImage], tmp_path: Path):
    """The image ends before a leaf of the tree: all that the leaf leads to is unreadable."""
    image = fixture_image("plain-4k")
    output = run("debugfs", "-R", f"ex {FRAGMENTED}", image.path).decode()
    leaf = re.search(r"(?m)^ 0/ 1 +2/ +2 +(\d+) - +(\d+) +(\d+)", output)
    assert leaf is not None
    first, last, pblk = map(int, leaf.groups())
    cut_image = tmp_path / "cut.img"
    cut_image.write_bytes(image.path.read_bytes()[: pblk * BLOCK])
    with FileSource(cut_image) as source:
        _, incomplete = saved(source)
    assert incomplete[FRAGMENTED[1:].encode()][0] == [(first * BLOCK, (last + 1 - first) * BLOCK)]


def test_an_existing_archive_is_refused_at_once(sample: UnpackedImage, tmp_path: Path):
    target = tmp_path / "backup.tar"
    target.write_bytes(b"precious")
    with ext4img.open(sample.path) as fs:
        with pytest.raises(ArchiveError, match="exists"):
            backup(fs, target)
        assert target.read_bytes() == b"precious"
        backup(fs, target, overwrite=True)
    assert verify(target).intact


def encrypted_roots(image: UnpackedImage) -> dict[bytes, bytes]:
    """Top encrypted directories by path, with the hex of their policies' keys."""
    found = {}
    for entry in image.manifest.entries:
        if entry["type"] == "dir" and entry["encrypted"] and "name_ct" not in entry:
            context = bytes.fromhex(entry["context"])
            found[disk_bytes(entry["path"])[1:]] = context[4:12] if context[0] == 1 else context[8:24]
    return found


def test_encrypted_files_only(fixture_image: Callable[[str], UnpackedImage]):
    image = fixture_image("encrypted-variants")
    with ext4img.open(image.path) as fs:
        whole = paths_in(backed_up(fs))
        found = paths_in(backed_up(fs, encrypted_only=True))
    assert {path for path, entry in whole.items() if entry.context is not None} <= found.keys()
    for path, entry in found.items():
        assert entry.type == "dir" or entry.context is not None or entry.stored_name is not None, path


def test_one_policy_only(fixture_image: Callable[[str], UnpackedImage]):
    image = fixture_image("encrypted-variants")
    roots = encrypted_roots(image)
    assert len(set(roots.values())) > 1
    with ext4img.open(image.path) as fs:
        whole = paths_in(backed_up(fs)).keys()
        for key in set(roots.values()):
            found = paths_in(backed_up(fs, one_policy=key))
            mine = {root for root, id_ in roots.items() if id_ == key}
            below = {path for path in whole if any(path == root or path.startswith(root + b"/") for root in mine)}
            assert below <= found.keys()
            others = roots.keys() - mine
            assert not [path for path in found if any(path == root or path.startswith(root + b"/") for root in others)]


def test_exclude_by_patterns(sample: UnpackedImage):
    """Patterns fit the names as shown, and with the key the plain ones; the archive does not tell them."""
    plain = {disk_bytes(entry["path"])[1:]: entry for entry in sample.manifest.entries if entry["path"] != "/"}
    hidden = next(path for path, entry in plain.items() if "name_ct" in entry and path.isascii())
    name = hidden.rpartition(b"/")[2].decode()
    with ext4img.open(sample.path) as fs:
        whole = backed_up(fs)
        assert len(paths_in(backed_up(fs, exclude=["*"]))) == 1
        assert paths_in(backed_up(fs, exclude=[name])).keys() == paths_in(whole).keys()
        sample.manifest.add_keys_to(fs)
        data = backed_up(fs, exclude=[name])
    assert len(paths_in(data)) < len(paths_in(whole))
    assert name.encode() not in data
    directories = [path for path, entry in plain.items() if entry["type"] == "dir" and not entry["encrypted"]]
    top = next(path for path in directories if any(other.startswith(path + b"/") for other in plain))
    with ext4img.open(sample.path) as fs:
        found = paths_in(backed_up(fs, exclude=[f"/{top.decode()}/*"]))
    assert top in found
    assert not [path for path in found if path.startswith(top + b"/")]


def test_lustres_form(sample: UnpackedImage):
    with ext4img.open(sample.path) as fs:
        plain, data = backed_up(fs), backed_up(fs, encdata=True)
    assert paths_in(plain) == paths_in(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as stock:
        lines = {
            disk_bytes(member.name): member.pax_headers["SCHILY.xattr.security.encdata"].encode()
            for member in stock
            if "SCHILY.xattr.security.encdata" in member.pax_headers
        }
    expected = {
        path: entry
        for path, entry in paths_in(data).items()
        if entry.context is not None and entry.context[0] == 2 and entry.type in ("file", "dir") and not entry.is_link
    }
    assert lines.keys() == expected.keys()
    assert lines
    for path, entry in expected.items():
        facts = parse_encdata(lines[path])
        assert facts.context == entry.context
        assert facts.size == (entry.size if entry.type == "file" else 0)
        assert facts.name == (entry.stored_name or entry.name)


def test_lustres_example():
    """The line of the patch that introduced it (LU-16374), whose parts are ASCII in disguise."""
    line = (
        b"{ encoding: base64url, size: 3012, enc_ctx: YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWZnaGlqa2xtbg, "
        b"enc_name: ZmlsZXdpdGh2ZXJ5bG9uZ25hbWVmaWxld2l0aHZlcnlsb25nbmFtZWZpbGV3aXRodmVyeWxvbmduYW1lZmlsZXdpdGg }"
    )
    facts = parse_encdata(line)
    assert facts.size == 3012
    assert facts.context == b"abcdefghijklmnopqrstuvwxyzabcdefghijklmn"
    assert facts.name.startswith(b"filewithverylongnamefilewith")
    assert build_encdata(facts) == line
