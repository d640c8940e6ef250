"""What GNU tar, bsdtar and Python's tarfile make of an archive: listed and extracted without a word."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ext4img.archive.entry import VERITY, Entry
from ext4img.archive.entry_codec import records_of
from ext4img.archive.member_paths import archive_path
from tests.archive.synthetic import Tree, encrypted_tree, plain_tree

TARS = ["tar", "bsdtar"]
trees = pytest.mark.parametrize("make", [plain_tree, encrypted_tree], ids=["plain", "encrypted"])
locales = pytest.mark.parametrize("locale", ["C", "C.UTF-8"])


def need(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")


def run(*arguments: str | Path, locale: str = "C.UTF-8") -> bytes:
    environment = {**os.environ, "LC_ALL": locale}
    done = subprocess.run([str(a) for a in arguments], capture_output=True, env=environment, check=False)
    assert not done.stderr, done.stderr.decode("utf-8", "replace")
    assert done.returncode == 0
    return done.stdout


def written(make: Callable[[], Tree], path: Path) -> Tree:
    tree = make()
    path.write_bytes(tree.archive())
    return tree


@pytest.mark.parametrize("tool", TARS)
@locales
@trees
def test_listed_without_a_warning(make: Callable[[], Tree], tool: str, locale: str, tmp_path: Path):
    need(tool)
    tree = written(make, tmp_path / "a.tar")
    lines = run(tool, "-tvf", tmp_path / "a.tar", locale=locale).splitlines()
    own = [line for line in lines if b" .ext4img/" in line]
    assert len(lines) - len(own) == len([entry for entry, _ in tree.members if entry.type != VERITY])


def expected_body(entry: Entry, body: bytes) -> bytes:
    whole = bytearray(entry.body_size)
    at = 0
    for offset, length in entry.segments:
        whole[offset : offset + length] = body[at : at + length]
        at += length
    return bytes(whole)


def compare_extracted(tree: Tree, root: Path, *, attributes: bool) -> None:
    """The extracted tree holds what the entries say, as far as this user may set it."""
    for entry, body in tree.members:
        if entry.type == VERITY or (entry.type in ("char", "block") and os.geteuid()):
            continue
        path = os.path.join(os.fsencode(root), archive_path(entry.path))
        status = os.lstat(path)
        if entry.type == "file" and entry.body_size < 1 << 20 and not entry.is_link:
            with open(path, "rb") as file:
                assert file.read() == expected_body(entry, body), entry.path
        elif entry.type == "file" and not entry.is_link:
            assert status.st_size == entry.body_size
            assert status.st_blocks * 512 <= entry.data_bytes + 8192, "the holes are gone"
        elif entry.type == "symlink":
            assert os.readlink(path) == entry.link_target
        if entry.is_link:
            first = os.lstat(os.path.join(os.fsencode(root), archive_path(entry.link_target)))
            assert (first.st_dev, first.st_ino) == (status.st_dev, status.st_ino)
            continue
        if entry.type != "socket" and os.geteuid() == 0:
            assert stat.S_IFMT(status.st_mode) == stat.S_IFMT(entry.mode)
            assert (status.st_uid, status.st_gid) == (entry.uid, entry.gid)
        if entry.type != "dir" and entry.mtime_ns >= 0:  # libarchive 3.6 has negative fractions wrong
            assert status.st_mtime_ns == entry.mtime_ns
        if attributes:
            found = {name: os.getxattr(path, name, follow_symlinks=False) for name in records_of(entry)}
            assert found == records_of(entry), entry.path


@pytest.mark.parametrize("tool", TARS)
@trees
def test_extracted(make: Callable[[], Tree], tool: str, tmp_path: Path):
    need(tool)
    tree = make()
    # Of the others one warns of times before 1970, one of attributes that the host has no room for.
    left_out = {b"old", b"wide"}
    tree.members = [member for member in tree.members if member[0].path not in left_out]
    (tmp_path / "a.tar").write_bytes(tree.archive())
    root = tmp_path / "root"
    root.mkdir()
    is_root = os.geteuid() == 0
    options = ["--xattrs", "--xattrs-include=*"] if tool == "tar" and is_root else []
    if not is_root:
        options += ["--exclude=a/character", "--exclude=a/disk"]
        if tool == "bsdtar":
            options += ["--no-xattrs"]
    run(tool, *options, "-xpf", tmp_path / "a.tar", "-C", root)
    compare_extracted(tree, root, attributes=is_root)
    if make is plain_tree:
        number = next(entry.inode for entry, _ in tree.members if entry.type == VERITY)
        assert (root / f".ext4img/verity/{number}").read_bytes() == b"m" * 4096 + bytes(4096) + b"m" * 4096


@trees
def test_tarfile_reads_it(make: Callable[[], Tree], tmp_path: Path):
    tree = written(make, tmp_path / "a.tar")
    bodies = {archive_path(entry.path): (entry, body) for entry, body in tree.members if entry.type != VERITY}
    with tarfile.open(tmp_path / "a.tar") as archive:
        for member in archive:
            name = member.name.encode("utf-8", "surrogateescape")
            if name.startswith(b".ext4img/"):
                continue
            entry, body = bodies.pop(name)
            assert member.mode == stat.S_IMODE(entry.mode)
            assert (member.uid, member.gid) == (entry.uid, entry.gid)
            if entry.type in ("file", "symlink", "dir") and not entry.is_link:
                assert member.size == entry.body_size
            if member.isreg() and entry.body_size < 1 << 20:
                file = archive.extractfile(member)
                assert file is not None
                assert file.read() == expected_body(entry, body)
            if entry.is_link or entry.type == "symlink":
                assert member.linkname.encode("utf-8", "surrogateescape") == entry.link_target
            records = {
                key.removeprefix("SCHILY.xattr."): value.encode("utf-8", "surrogateescape")
                for key, value in member.pax_headers.items()
                if key.startswith("SCHILY.xattr.trusted.ext4img.")
            }
            assert records == records_of(entry)
    assert not bodies


def test_any_tool_can_follow_the_pipe(tmp_path: Path):
    """The archive needs no seeking to be read: it goes through a pipe."""
    need("tar")
    tree = plain_tree()
    done = subprocess.run(["tar", "-tf", "-"], input=tree.archive(), capture_output=True, check=True)
    assert not done.stderr
    assert len(done.stdout.splitlines()) > len(tree.members)
