"""Inodes without a name are shown in lost+found, as e2fsck connects them: the same paths, the same contents."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import ext4img
from ext4img.cli.main import main
from ext4img.structs.directory import EXT4_DIR_ENTRY
from tests.conftest import UnpackedImage
from tests.hostile.editing import EditedImage
from tools.loop_mount import loop_mounted, run

Fixture = Callable[[str], UnpackedImage]
UNLINKED = (
    *("file", "small", "empty", "sparse", "holes", "edir", "dir", "fast", "slow", "fifo", "dev", "two", "two2"),
    *("xattr-block", "xattr-inode", "xattr-value", "unwritten"),
)


def fill(directory: str, value_size: int) -> None:
    """Every type of file, small and large, with attributes in the inode, in a block and in an inode of their own."""
    top = Path(directory)
    for name in ("file", "two", "dir/f", "dir/sub/g", "stays/f"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(os.urandom(3000))
    (top / "small").write_bytes(b"inline")
    os.link(top / "two", top / "two2")
    (top / "dir/sub/deep").mkdir()
    (top / "edir").mkdir()
    for name, size in (("empty", 0), ("sparse", 100_000)):
        (top / name).touch()
        os.truncate(top / name, size)
    with (top / "holes").open("wb") as file:
        file.seek(50_000)
        file.write(b"end")
    os.symlink("target", top / "fast")
    os.symlink("x" * 200, top / "slow")
    os.mkfifo(top / "fifo")
    os.mknod(top / "dev", 0o020644, os.makedev(1, 3))
    for name, size in (("xattr-inode", 1), ("xattr-block", 600), ("xattr-value", value_size)):
        (top / name).touch()
        os.setxattr(top / name, "user.a", b"v" * size)
    with (top / "unwritten").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 20_000)


def make(path: Path, *options: str, lost_and_found: bool = True) -> Path:
    """An image in which the names of UNLINKED are gone."""
    run("mke2fs", "-q", "-b", "1024", *options, "-F", path, "16M")
    with loop_mounted(path, "rw") as directory:
        fill(directory, 3000 if "inline_data,ea_inode" in options else 300)
        if not lost_and_found:
            os.rmdir(os.path.join(directory, "lost+found"))
    run("debugfs", "-w", "-f", "-", path, stdin="".join(f"unlink {name}\n" for name in UNLINKED).encode())
    return path


def shown(fs: ext4img.FileSystem) -> dict[str, object]:
    """What is at each path: the contents, the target, or the type."""
    found: dict[str, object] = {}
    for path, inode in fs.walk():
        if inode.is_file:
            found[str(path)] = inode.size, inode.read_bytes(), inode.xattrs()
        else:
            found[str(path)] = inode.readlink() if inode.is_symlink else inode.mode
    return found


def repaired(image: Path, copy: Path) -> Path:
    shutil.copy(image, copy)
    with pytest.raises(Exception, match="exit status 1"):
        run("e2fsck", "-fy", copy)  # 1: errors corrected
    return copy


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("options", "lost_and_found"),
    [
        (("-t", "ext4", "-O", "inline_data,ea_inode"), True),
        (("-t", "ext4"), False),
        (("-t", "ext4", "-O", "^metadata_csum"), True),
        (("-t", "ext2", "-I", "128"), False),
    ],
    ids=["inline", "ext4", "no-checksums", "ext2"],
)
def test_the_paths_and_contents_of_e2fsck(options: tuple[str, ...], lost_and_found: bool, tmp_path: Path):
    image = make(tmp_path / "image", *options, lost_and_found=lost_and_found)
    with ext4img.open(repaired(image, tmp_path / "repaired")) as fs:
        expected = shown(fs)
    assert len([path for path in expected if path.startswith("/lost+found/#")]) > 10
    with ext4img.open(image, checks="report") as fs:
        got = shown(fs)
        assert sorted(got) == sorted(expected)
        if not lost_and_found:
            expected["/"] = got["/"]
        assert got == expected
        assert any("no name leads to" in problem.reason for problem in fs.problems)
        for path in got:
            assert fs.path(path).inode.number, path
    with ext4img.open(image) as fs:
        assert not [path for path in shown(fs) if path.startswith("/lost+found/")]


@pytest.mark.kernel
def test_backup_and_copy_have_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    image = make(tmp_path / "image", "-t", "ext4")
    with ext4img.open(repaired(image, tmp_path / "repaired")) as fs:
        expected = {path: what for path, what in shown(fs).items() if "#" in path}
    assert main(["copy", "-q", "--checks", "report", str(image), str(tmp_path / "copy")]) == 1
    assert main(["backup", "-q", "--checks", "report", str(image), str(tmp_path / "archive")]) == 1
    assert main(["restore", "-q", str(tmp_path / "archive"), "--image", str(tmp_path / "rebuilt")]) == 0
    for made in ("copy", "rebuilt"):
        run("e2fsck", "-fn", tmp_path / made)
        with ext4img.open(tmp_path / made) as fs:
            assert {path: what for path, what in shown(fs).items() if "#" in path} == expected
    assert main(["extract", "-q", "--checks", "report", "--devices", str(image), "/", str(tmp_path / "out")]) == 1
    extracted = {f"/{path.relative_to(tmp_path / 'out')}" for path in (tmp_path / "out").rglob("*") if "#" in str(path)}
    assert extracted == expected.keys()
    for words in (["ls"], ["ls", "-l"], ["find"], ["tree"]):
        capfd.readouterr()
        assert main([*words, "--checks", "report", str(image), "/lost+found"]) == 1
        told = capfd.readouterr().out
        assert [path for path in expected if path.count("/") == 2 and path.rpartition("/")[2] not in told] == []
    assert main(["check", str(image)]) == 4
    assert "lost+found" not in capfd.readouterr().out  # it tells what is stored


@pytest.mark.kernel
def test_names_that_are_taken(tmp_path: Path):
    path = tmp_path / "image"
    run("mke2fs", "-q", "-t", "ext4", "-b", "1024", "-F", path, "8M")
    with loop_mounted(path, "rw") as directory:
        (Path(directory) / "file").write_bytes(b"precious")
        number = os.stat(f"{directory}/file").st_ino
        (Path(directory) / f"lost+found/#{number}").write_bytes(b"older")
    run("debugfs", "-w", "-R", "unlink file", path)
    with ext4img.open(path, checks="report") as fs:
        assert fs.path(f"/lost+found/#{number}").read_bytes() == b"older"
        assert fs.path(f"/lost+found/#{number}~").read_bytes() == b"precious"
    # A file is in the place of the directory, which e2fsck moves away.
    run("debugfs", "-w", "-f", "-", path, stdin=f"unlink lost+found\nln <{number}> lost+found\n".encode())
    with ext4img.open(path, checks="report") as fs:
        assert fs.path("/lost+found").read_bytes() == b"precious"
        assert sorted(map(str, fs.path("/lost+found~").iterdir())) == ["/lost+found~/#11"]


@pytest.mark.kernel
def test_directories_in_a_circle(tmp_path: Path):
    """Nothing leads to them, so one of them has to begin; what hangs on them keeps its name."""
    path = tmp_path / "image"
    run("mke2fs", "-q", "-t", "ext4", "-b", "1024", "-F", path, "8M")
    with loop_mounted(path, "rw") as directory:
        (Path(directory) / "before").mkdir()
        (Path(directory) / "a/b/c").mkdir(parents=True)
        (Path(directory) / "a/b/file").write_bytes(b"precious")
        numbers = {name: os.stat(os.path.join(directory, name)).st_ino for name in ("before", "a", "a/b", "a/b/c")}
    commands = ["unlink a", "unlink before", f"ln <{numbers['a']}> a/b/c/back", f"ln <{numbers['before']}> a/b/before"]
    run("debugfs", "-w", "-f", "-", path, stdin="\n".join([*commands[2:], *commands[:2]]).encode())
    top = min(numbers["a"], numbers["a/b"], numbers["a/b/c"])
    with ext4img.open(path, checks="report") as fs:
        names = [str(path) for path in fs.path("/lost+found").iterdir()]
        assert names == [f"/lost+found/#{top}"]
        found = [str(path) for path, _ in fs.walk()]
        assert len([path for path in found if path.endswith("/file")]) == 1
        assert len([path for path in found if path.endswith("/before")]) == 1
        assert any("is reached twice" in problem.reason for problem in fs.problems)


@pytest.mark.kernel
def test_without_keys(fixture_image: Fixture, tmp_path: Path):
    """Encrypted files whose names are lost: as ciphertext, with their contexts, and their keys open them again."""
    packed = fixture_image("sample-encrypted")
    image = tmp_path / "image"
    image.write_bytes(packed.path.read_bytes())
    key = bytes.fromhex((Path(__file__).parent.parent / "fixtures/sample-encrypted.alice.key").read_text())
    with ext4img.open(image) as fs:
        fs.add_key(key)
        home = next(path for path, inode in fs.walk() if inode.is_dir and inode.is_encrypted and fs.has_key(inode))
        contents = {
            child.inode.number: (child.inode.type, child.inode.read_bytes() if child.inode.is_file else b"")
            for child in home.iterdir()
            if child.inode.sectors or not child.inode.is_file
        }
        blocks = [block for run_ in home.inode.runs() for block in range(run_.pblk, run_.pblk + run_.length)]
        size = fs.block_size
    with image.open("r+b") as file:
        for block in blocks:
            file.seek(block * size)
            file.write(bytes(size))
    assert len(contents) > 2
    assert main(["backup", "-q", "--checks", "report", str(image), str(tmp_path / "archive")]) == 1
    assert (
        main(["restore", "-q", str(tmp_path / "archive"), "--image", str(tmp_path / "rebuilt")]) == 1
    )  # names are lost
    run("e2fsck", "-fn", tmp_path / "rebuilt")
    with ext4img.open(image, checks="report") as fs, ext4img.open(tmp_path / "rebuilt") as rebuilt:
        fs.add_key(key)
        rebuilt.add_key(key)
        for number, (kind, data) in contents.items():
            for system in (fs, rebuilt):
                inode = system.path(f"/lost+found/#{number}").inode
                assert inode.type == kind
                assert not inode.is_file or inode.read_bytes() == data
    with closing(ext4img.open_backup(tmp_path / "archive")) as backup:
        member = backup.member(f"lost+found/#{min(contents)}".encode())
        assert member.entry.stored_name is None
        assert member.entry.context is not None


@pytest.mark.parametrize(
    "name", ["plain-4k", "ext2-1k", "ext4-inline", "ext4-dirty", "ext4-fast-commit", "ext4-orphans"]
)
def test_sound_images_have_none(fixture_image: Fixture, name: str):
    path = fixture_image(name).path
    with ext4img.open(path) as strict, ext4img.open(path, checks="report") as report:
        assert list(report.paths()) == list(strict.paths())
        assert report.problems == strict.problems


def test_garbage_is_not_shown(fixture_image: Fixture):
    """A block of the inode table that was overwritten: what e2fsck clears is no file."""
    image = EditedImage(fixture_image("ext2-1k").path.read_bytes())
    used = {inode.number for inode in image.volume.inodes.scan()}
    free = next(
        number
        for number in range(200, image.volume.superblock.inode_count)
        if not used & set(range(number, number + 20))
    )
    place = image.volume.inodes.place(free).offset or 0
    image.write(place, b"\xa5" * image.volume.superblock.inode_size * 16)
    with ext4img.open(bytes(image), checks="report") as fs:
        assert not [path for path in fs.paths() if "#" in path]


def test_an_encrypted_name_that_is_too_short(fixture_image: Fixture):
    """No name can be made of it, so e2fsck clears it and connects its inode by the number."""
    image = EditedImage(fixture_image("sample-encrypted").path.read_bytes())
    volume = image.volume
    directory = next(inode for inode in volume.inodes.scan() if inode.is_dir and inode.is_encrypted)
    site = image.site("directory block", directory.number)
    entry = next(entry for entry in volume.directory(directory) if volume.inode(entry.inode).sectors)
    at = bytes(image).index(entry.name, site.offset) - EXT4_DIR_ENTRY.size
    image.write(at + EXT4_DIR_ENTRY.offset_of("name_len"), b"\x08", site)
    with ext4img.open(bytes(image), checks="report") as fs:
        assert [str(path) for path in fs.path("/lost+found").iterdir()] == [f"/lost+found/#{entry.inode}"]
