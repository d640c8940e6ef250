"""`Ext4Path` beside pathlib: the same tree on the host, and on an image that mke2fs made of it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import ext4img
from tests.conftest import UnpackedImage
from tools.loop_mount import loop_mounted

FILES = {
    "README": b"read me\n",
    "a/one.txt": b"1\n",
    "a/two.py": b"2\n",
    "a/.hidden": b"h",
    "a/b/one.txt": b"11",
    "a/b/c/three.tar.gz": b"gz",
    "a/b/c/[odd] *name?": b"odd",
    "Übung/文書.txt": "ä\r\nö\n".encode(),
    "empty": b"",
}
LINKS = {
    "to-file": "a/one.txt",
    "to-dir": "a/b",
    "a/up": "..",
    "a/b/sideways": "../../Übung",
    "dangling": "nowhere/at/all",
    "loop-1": "loop-2",
    "loop-2": "loop-1",
    "self": "self",
    "below-file": "README/x",
    "with-slash": "a/",
    "file-with-slash": "README/",
    "dots": "./a/../a/./b/../one.txt",
    "beyond": "../" * 60 + "a/one.txt",
}


def make_tree(root: Path) -> None:
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
    # link-40 is followed through 40 links, link-41 through one too many (path_resolution(7)).
    (root / "link-1").symlink_to("README")
    for number in range(2, 43):
        (root / f"link-{number}").symlink_to(f"link-{number - 1}")
    (root / "dir-link-1").symlink_to("a")
    for number in range(2, 43):
        (root / f"dir-link-{number}").symlink_to(f"dir-link-{number - 1}")
    os.mkfifo(root / "fifo")
    (root / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"x")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("host") / "tree"
    root.mkdir()
    make_tree(root)
    return root


@pytest.fixture(scope="module")
def fs(host: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ext4img.FileSystem]:
    from tools.loop_mount import SBIN, run

    if not shutil.which("mke2fs", path=f"/bin:/usr/bin:{SBIN}"):
        pytest.skip("mke2fs is not installed")
    image = tmp_path_factory.mktemp("image") / "tree.img"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d", host, image, "8M")
    with ext4img.open(image) as fs:
        yield fs


def every_path() -> list[str]:
    names = [*FILES, *LINKS, "fifo", "", ".", "a", "a/b/c", "nothing", "README/below", "a/../README", "a/./one.txt"]
    names += ["to-dir/one.txt", "to-dir/..", "to-dir/../one.txt", "a/up/a/up/README", "a/b/sideways/文書.txt"]
    names += ["dangling/x", "loop-1/x", "fifo/x", "with-slash/one.txt", "//a///one.txt", "a/b/c/../../one.txt"]
    names += [f"link-{number}" for number in (1, 39, 40, 41, 42)]
    names += [f"dir-link-{number}/one.txt" for number in (1, 39, 40, 41, 42)]
    names += ["x" * 255, "x" * 256, os.fsdecode(b"not-utf8-\xff")]
    # ".." beyond the root stays there on the image; on the host it goes on.
    return [name for name in names if name != "beyond"]


def outcome(call: Callable[[], object]) -> object:
    """What a call gives, or the kind of its failure: the number of an OSError."""
    try:
        return call()
    except OSError as error:
        return error.errno


@pytest.mark.parametrize("name", every_path(), ids=lambda name: name[:40] or "(root)")
def test_what_a_path_leads_to(fs: ext4img.FileSystem, host: Path, name: str):
    """The same answers as the kernel's for the host's tree, and the same errors."""
    ours, theirs = fs.path(name), host / name.lstrip("/")

    def kind(mode: int) -> int:
        return stat.S_IFMT(mode)

    if len(theirs.name) > 255:
        # ENAMETOOLONG in the kernel: a name that can't be is one that is not there.
        assert not ours.exists()
        return
    assert outcome(lambda: kind(ours.stat().st_mode)) == outcome(lambda: kind(os.stat(theirs).st_mode))
    assert outcome(lambda: kind(ours.lstat().st_mode)) == outcome(lambda: kind(os.lstat(theirs).st_mode))
    assert ours.exists() == os.path.exists(theirs)
    assert ours.exists(follow_symlinks=False) == os.path.lexists(theirs)
    assert ours.is_dir() == os.path.isdir(theirs)
    assert ours.is_file() == os.path.isfile(theirs)
    assert ours.is_symlink() == os.path.islink(theirs)
    assert outcome(ours.readlink) == outcome(lambda: os.readlink(theirs))
    if not theirs.is_fifo():
        assert outcome(ours.read_bytes) == outcome(theirs.read_bytes)
        assert outcome(lambda: ours.read_text(errors="replace")) == outcome(
            lambda: theirs.read_text("utf-8", errors="replace")
        )
    listed = outcome(lambda: {path.name for path in ours.iterdir()} - {"lost+found"})
    assert listed == outcome(lambda: set(os.listdir(theirs)))
    if name.startswith(("link-4", "dir-link-4")):
        return  # os.path.realpath counts no links
    real = outcome(lambda: str(ours.resolve()))
    there = outcome(lambda: "/" + os.path.relpath(os.path.realpath(theirs, strict=True), os.path.realpath(host)))
    assert real == (there if there != "/." else "/")


def test_beyond_the_root(fs: ext4img.FileSystem):
    """ ".." of the root is the root."""
    assert fs.path("../../a/../../a/one.txt").read_bytes() == b"1\n"
    assert fs.path("beyond").read_bytes() == b"1\n"
    assert str(fs.path("beyond").resolve()) == "/a/one.txt"
    assert fs.path("/..").inode.number == 2


def test_a_trailing_slash(fs: ext4img.FileSystem):
    """Asks for a directory; `Ext4Path` drops it, as pathlib does, a link's target keeps it."""
    assert str(fs.path("README/")) == "/README"
    with pytest.raises(ext4img.NotDirectoryError):
        fs.resolve("/README/")
    assert fs.resolve("/to-dir/", follow=False)[0].is_dir
    with pytest.raises(ext4img.NotDirectoryError):
        fs.path("file-with-slash").read_bytes()


def test_errors_are_the_builtin_ones(fs: ext4img.FileSystem):
    for name, kind in (
        ("nothing", FileNotFoundError),
        ("README/x", NotADirectoryError),
        ("a", IsADirectoryError),
    ):
        with pytest.raises(kind) as caught:
            fs.path(name).read_bytes()
        assert isinstance(caught.value, ext4img.Ext4Error)
        assert caught.value.filename == f"/{name}"
    with pytest.raises(ext4img.SymlinkLoopError):
        fs.path("self").stat()
    with pytest.raises(ext4img.NotFoundError):
        fs.path("a\0b").stat()


PATTERNS = ["*", "*.txt", "a/*", "*/*.txt", "a/b/*/*", "**/*.txt", "**/one.*", "a/**/*.gz", "to-dir/*", "[RU]*"]
PATTERNS += ["a/.*", "a/?ne.txt", "nothing/*", "README/*", "**/c/*", "*/b", "**/b/**/*.gz", "a/b/c/[[]odd[]]*"]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("start", ["", "a", "to-dir", "README", "nothing"])
def test_globs(fs: ext4img.FileSystem, host: Path, start: str, pattern: str):
    ours = {str(path) for path in fs.path(start).glob(pattern) if "lost+found" not in str(path)}
    theirs = {"/" + str(path.relative_to(host)) for path in (host / start).glob(pattern)}
    assert ours == theirs
    assert {str(path) for path in fs.path(start).rglob("*.txt")} == {
        "/" + str(path.relative_to(host)) for path in (host / start).rglob("*.txt")
    }


def test_patterns_that_are_none(fs: ext4img.FileSystem):
    for pattern in ("", "/absolute"):
        with pytest.raises(ValueError, match="pattern"):
            list(fs.path().glob(pattern))


@pytest.mark.parametrize(
    "text",
    ["/", "/a", "/a/b.txt", "/a/b.tar.gz", "/a/name.", "/a/no", "/.hidden", "/a/.hidden.txt", "/a/b c", "/ä/ö.ü"],
)
def test_names_of_paths(fs: ext4img.FileSystem, text: str):
    ours, theirs = fs.path(text), PurePosixPath(text)
    assert str(ours) == str(theirs)
    assert ours.parts == theirs.parts
    assert ours.name == theirs.name
    if not text.endswith("."):  # Python 3.14 gives such a name the suffix "."
        assert (ours.suffix, ours.stem) == (theirs.suffix, theirs.stem)
    assert str(ours.parent) == str(theirs.parent)
    assert [str(parent) for parent in ours.parents] == [str(parent) for parent in theirs.parents]
    for other in ("x", "x/y", "/abs", "", ".", "../z"):
        assert str(ours / other) == str(theirs / other)
        assert ours.joinpath(other, "more") == fs.path(str(theirs.joinpath(other, "more")))
    for other in ("/", "/a", "/a/b", "/x"):
        assert ours.is_relative_to(other) == theirs.is_relative_to(other)
        same(ours.relative_to, theirs.relative_to, other)
    for name in ("x", "..", "a.b.c", "", "/", ".", "a/b"):
        same(ours.with_name, theirs.with_name, name)
    if not text.endswith("."):
        for suffix in ("", ".x", ".tar.gz", ".", "x"):
            same(ours.with_suffix, theirs.with_suffix, suffix)
    assert ours.match("*.txt") == theirs.match("*.txt")


def same(ours: Callable[[str], object], theirs: Callable[[str], object], argument: str) -> None:
    """The same answer, or ValueError from both."""
    answers: list[str | None] = []
    for call in (ours, theirs):
        try:
            answers.append(str(call(argument)))
        except ValueError:
            answers.append(None)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("text", ["/a/\0", "/\ud800", "/README\0"])
def test_what_can_be_no_name_is_not_there(fs: ext4img.FileSystem, text: str):
    path = fs.path(text)
    assert not path.exists()
    assert not path.is_file()
    assert not path.is_symlink()
    with pytest.raises(FileNotFoundError):
        path.stat()
    with pytest.raises(FileNotFoundError):
        list(fs.walk(path))


def test_open_takes_what_pathlib_takes(fs: ext4img.FileSystem, host: Path):
    for where in (fs.path("/a/one.txt"), host / "a/one.txt"):
        with where.open("r", -1, "latin-1") as text:
            assert text.encoding == "latin-1"
        with where.open("rb", buffering=0) as file:
            assert file.read(1) == b"1"
        with pytest.raises(ValueError, match="encoding"):
            where.open("rb", encoding="utf-8")  # type: ignore[call-overload]


def test_paths_as_keys_and_bytes(fs: ext4img.FileSystem):
    path = fs.path("/a/one.txt")
    assert (
        path
        == fs.path(b"a/one.txt")
        == fs.path(PurePosixPath("a/one.txt"))
        == fs.path(path)
        == fs.path("/a") / "one.txt"
    )
    assert len({path, fs.path("a//one.txt"), fs.path("./a/one.txt")}) == 1
    assert path != "/a/one.txt"
    assert path != fs.without_keys().path("/a/one.txt")
    assert fs.path("/a") / fs.path("/README") == fs.path("README")
    assert fs.path("/a") < fs.path("/b") >= fs.path("/b")
    with pytest.raises(TypeError):
        path < "/b"  # noqa: B015
    assert sorted([fs.path("/b"), fs.path("/a/z"), fs.path("/a")]) == [fs.path("/a"), fs.path("/a/z"), fs.path("/b")]
    odd = fs.path(b"not-utf8-\xff")
    assert bytes(odd) == b"/not-utf8-\xff"
    assert odd.read_bytes() == b"x"
    assert odd in set(fs.path().iterdir())
    assert repr(path) == "Ext4Path('/a/one.txt')"


def test_a_path_is_not_taken_for_the_hosts(fs: ext4img.FileSystem):
    calls: list[Any] = [open, os.stat, os.listdir, os.fspath, Path]
    for call in calls:
        with pytest.raises(TypeError):
            call(fs.path("/etc/passwd"))


def test_the_docstrings_tree(tmp_path: Path, image_of: Callable[..., Path]):
    """What `Ext4Path` says of itself."""
    source = tmp_path / "source"
    for directory in ("home/alice", "home/bob", "usr/etc"):
        (source / directory).mkdir(parents=True)
    (source / "home/alice/notes.txt").write_text("Remember the milk.\n")
    (source / "etc").symlink_to("usr/etc")
    with ext4img.open(image_of(source)) as fs:
        root = fs.path()
        home = root / "home"
        assert sorted(p.name for p in home.iterdir()) == ["alice", "bob"]
        assert (home / "alice/notes.txt").read_text() == "Remember the milk.\n"
        assert [str(path) for path in home.glob("*/*.txt")] == ["/home/alice/notes.txt"]
        assert fs.path("/etc").readlink() == "usr/etc"
        assert [str(path) for path, inode in fs.walk("/home") if inode.is_file] == ["/home/alice/notes.txt"]
        assert ext4img.Ext4Path.__doc__ is not None
        assert '(home / "alice/notes.txt").read_text()' in ext4img.Ext4Path.__doc__


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["plain-4k", "ext2-1k", "sample-encrypted", "ext4-bigalloc", "ext4-inline"])
def test_stat_is_the_kernels(name: str, fixture_image: Callable[[str], UnpackedImage]):
    image = fixture_image(name)
    fields = [field for field in dir(os.stat_result) if field.startswith("st_")]
    with loop_mounted(image.path, "ro,noatime") as mount, ext4img.open(image.path) as fs:
        for path, _ in fs.walk():
            theirs, ours = os.lstat(mount.encode() + bytes(path)), path.lstat()
            for field in fields:
                if field not in ("st_dev", "st_atime", "st_mtime", "st_ctime"):
                    assert getattr(ours, field) == getattr(theirs, field), (path, field)
            for field in ("st_atime", "st_mtime", "st_ctime"):
                assert getattr(ours, field) == pytest.approx(getattr(theirs, field))
