"""`Ext4Path` has the members of pathlib.Path, and they give what pathlib gives."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ext4img
from ext4img.fs.accounts import parse_accounts
from ext4img.fs.pure_path import PureExt4Path
from tests.fs.conftest import needs_e2fsprogs
from tools.loop_mount import run

GUIDE = Path(__file__).parent.parent.parent / "docs" / "library.md"

# Members that write, or that speak of the host; the guide's table names them.
NOT_THERE = {
    "as_uri", "chmod", "copy", "copy_into", "cwd", "expanduser", "from_uri", "full_match", "hardlink_to", "home",
    "info", "is_reserved", "lchmod", "link_to", "mkdir", "move", "move_into", "parser", "rename", "replace", "rmdir",
    "symlink_to", "touch", "unlink", "write_bytes", "write_text",
}  # fmt: skip

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nalice:x:1000:100::/home/alice:/bin/sh\nmalformed\nlate:x:1000:1::/:\n"
GROUP = b"root:x:0:\nusers:x:100:alice\n"

texts = st.lists(
    st.text(st.sampled_from("ab.*-[]Ü "), max_size=6), max_size=4
).map("/".join)  # fmt: skip


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_every_member_is_there_or_in_the_guide():
    missing = public(Path) - public(ext4img.Ext4Path)
    assert missing <= NOT_THERE
    table = GUIDE.read_text(encoding="utf-8")
    unnamed = {name for name in missing if not re.search(rf"`{name}\b", table)}
    assert not unnamed


def answer(path: object, member: str, *arguments: object) -> object:
    """What a member gives, as text; or the kind of its failure."""
    try:
        found = getattr(path, member)
        found = found(*arguments) if callable(found) else found
    except ValueError:
        return ValueError
    if isinstance(found, (str, bool)):
        return found
    return str(found) if isinstance(found, (PureExt4Path, PurePosixPath)) else [str(part) for part in found]


PROPERTIES = ("name", "suffix", "suffixes", "stem", "parent", "parents", "parts", "root", "drive", "anchor")


@given(texts, texts)
def test_text_is_pathlibs(text: str, other: str):
    ours, theirs = PureExt4Path(None, "/" + text), PurePosixPath("/" + text.lstrip("/"))  # type: ignore[arg-type]
    assert str(ours) == ours.as_posix() == theirs.as_posix()
    assert bytes(ours) == bytes(theirs)
    assert ours.is_absolute() == theirs.is_absolute()
    assert ours.absolute() == ours
    for name in PROPERTIES:
        assert answer(ours, name) == answer(theirs, name), name
    for name in ("with_name", "with_stem", "with_suffix", "match", "joinpath", "__truediv__"):
        if name == "match" and not other:
            continue  # an error until 3.12
        if name in ("joinpath", "__truediv__") and other.startswith("//"):
            continue  # exactly two slashes have a meaning of their own in POSIX, and none on an image
        expected = answer(theirs, name, other)
        if isinstance(expected, str) and name.startswith("with_"):
            last = getattr(theirs, name)(other).name
            if last == "." or "/" in last:
                expected = ValueError  # a slip of pathlib until 3.12: such a component does not exist
        assert answer(ours, name, other) == expected, name
    for base in ("/" + other.lstrip("/"), str(theirs.parent), "/"):
        assert ours.is_relative_to(base) == theirs.is_relative_to(base)
        assert answer(ours, "relative_to", base) == answer(theirs, "relative_to", base)
        if ".." not in base:
            up = ours.relative_to(base, walk_up=True)
            assert os.path.normpath(f"{base.rstrip('/')}/{up}") == os.path.normpath(str(theirs))


@given(st.lists(texts, min_size=2))
def test_order_is_pathlibs(found: list[str]):
    ours = sorted(PureExt4Path(None, text) for text in found)  # type: ignore[arg-type]
    theirs = sorted(PurePosixPath("/" + text.lstrip("/")) for text in found)
    assert [str(path) for path in ours] == [str(path) for path in theirs]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("host") / "tree"
    for directory in ("etc", "a/b/c", "a/d", "empty"):
        (root / directory).mkdir(parents=True)
    (root / "etc/passwd").write_bytes(PASSWD)
    (root / "etc/group").write_bytes(GROUP)
    for name in ("a/one", "a/b/two", "a/b/c/three"):
        (root / name).write_text(name)
    os.link(root / "a/one", root / "a/d/again")
    for name, target in (("to-dir", "a/b"), ("to-file", "a/one"), ("dangling", "x"), ("loop", "loop"), ("a/up", "..")):
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(root)  # a socket's path is short
        bound.bind("socket")
        os.chdir(here)
    return root


@pytest.fixture(scope="module")
def fs(host: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ext4img.FileSystem]:
    image = tmp_path_factory.mktemp("image") / "tree.img"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d", host, image, "8M")
    commands = b"mknod block b 7 1\nmknod char c 1 3\nset_inode_field a/one uid 1000\nset_inode_field a/one gid 100\n"
    run("debugfs", "-w", "-f", "-", image, stdin=commands + b"set_inode_field a uid 4711\nset_inode_field a gid 4711\n")
    with ext4img.open(image) as fs:
        yield fs


PATHS = ["", "a", "a/one", "a/d/again", "to-dir", "to-file", "dangling", "loop", "fifo", "socket", "none", "a/one/x"]


@needs_e2fsprogs
@pytest.mark.parametrize("name", PATHS)
def test_kinds_of_files(fs: ext4img.FileSystem, host: Path, name: str):
    ours, theirs = fs.path(name), host / name
    for member in ("is_fifo", "is_socket", "is_block_device", "is_char_device", "is_file", "is_dir", "is_symlink"):
        assert getattr(ours, member)() == getattr(theirs, member)(), member
    assert ours.is_file(follow_symlinks=False) == (theirs.is_file() and not theirs.is_symlink())
    assert ours.is_dir(follow_symlinks=False) == (theirs.is_dir() and not theirs.is_symlink())
    for other in PATHS:
        try:
            same: object = theirs.samefile(host / other)
        except OSError as error:
            same = error.errno
        try:
            found: object = ours.samefile(other)
        except ext4img.PathError as error:
            found = error.errno
        assert found == same, other


@needs_e2fsprogs
def test_devices_and_other_images(fs: ext4img.FileSystem):
    assert fs.path("block").is_block_device()
    assert not fs.path("block").is_char_device()
    assert fs.path("char").is_char_device()
    assert fs.path("/").is_mount()
    assert not fs.path("/a").is_mount()
    assert not fs.path("/a").is_junction()
    assert fs.path("/a").samefile(fs.without_keys().path("/a"))
    with ext4img.open(fs.volume.source) as other:
        assert not fs.path("/a").samefile(other.path("/a"))


@needs_e2fsprogs
@pytest.mark.parametrize("start", ["", "a", "to-dir", "empty", "none", "a/one", "loop"])
@pytest.mark.parametrize("top_down", [True, False])
def test_walk_is_pathlibs(fs: ext4img.FileSystem, host: Path, start: str, top_down: bool):
    """As Path.walk of Python 3.12: os.walk, with links to directories among the other files."""
    errors: list[list[int | None]] = [[], []]
    theirs: dict[str, tuple[list[str], list[str]]] = {}
    for text, directories, others in os.walk(host / start, top_down, lambda error: errors[0].append(error.errno)):
        links = {name for name in directories if (Path(text) / name).is_symlink()}
        shown = "/" + os.path.relpath(text, host).removeprefix(".")
        theirs[shown] = (sorted({*directories} - links), sorted({*others} | links))
    ours: dict[str, tuple[list[str], list[str]]] = {}
    for path, directories, others in fs.path(start).walk(top_down, lambda error: errors[1].append(error.errno)):
        if path != fs.path(start):
            assert (str(path.parent) in ours) == top_down
        if path.name != "lost+found":
            made = {"lost+found", "block", "char"}  # which the host's tree does not have
            ours[str(path)] = (sorted({*directories} - made), sorted({*others} - made))
    assert ours == theirs
    assert errors[0] == errors[1]


@needs_e2fsprogs
def test_walk_with_links_ends(fs: ext4img.FileSystem):
    """`a/up` leads back to the root: pathlib goes round until the links are too many, here each is entered once."""
    found = {
        str(path): (set(directories), set(others)) for path, directories, others in fs.path().walk(follow_symlinks=True)
    }
    assert found["/"][0] == {"a", "empty", "etc", "lost+found", "to-dir"}
    assert "up" in found["/a"][0]
    assert "/a/up" not in found
    assert ("/to-dir" in found) != ("/a/b" in found)
    assert found["/a/d"] == (set(), {"again"})


@needs_e2fsprogs
def test_walk_can_be_pruned(fs: ext4img.FileSystem):
    seen = []
    for path, directories, _ in fs.path("/a").walk():
        seen.append(str(path))
        directories[:] = [name for name in directories if name != "b"]
    assert seen == ["/a", "/a/d"]


@needs_e2fsprogs
def test_owners_are_the_images(fs: ext4img.FileSystem):
    assert (fs.path("/a/one").owner(), fs.path("/a/one").group()) == ("alice", "users")
    assert fs.path("/to-file").owner() == "alice"
    for call in (fs.path("/a").owner, fs.path("/a").group):
        with pytest.raises(KeyError, match="4711"):
            call()
    with pytest.raises(ext4img.NotFoundError):
        fs.path("/none").owner()


def test_owners_without_accounts(sample: ext4img.FileSystem):
    with pytest.raises(KeyError, match="/etc/passwd"):
        sample.path("/").owner()


@given(st.binary())
def test_accounts_may_be_anything(data: bytes):
    for number, name in parse_accounts(data + b"\nx:y:7").items():
        assert number >= 0
        assert name
    assert parse_accounts(PASSWD) == {0: "root", 1000: "alice"}
