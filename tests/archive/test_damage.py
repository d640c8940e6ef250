"""Archives cut short or altered, backups and restores that stop half way.

Never a file that looks whole and is not; always a word about which member it is.
"""

from __future__ import annotations

import errno
import io
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from ext4img import Archive, restore, verify
from ext4img.archive.output import open_output
from ext4img.errors import ArchiveError, Ext4Error, RestoreError, TruncatedArchiveError
from ext4img.restorer import move_staged
from tests.archive.synthetic import KEY, Tree, encrypted_tree
from tests.archive.test_archive import as_file, as_stream
from tests.restorer.test_restore import contents

both = pytest.mark.parametrize("opened", [as_file, as_stream], ids=["file", "stream"])
FLIPS = 100
CUTS = 40


@pytest.fixture(scope="module")
def tree() -> Tree:
    tree = encrypted_tree()
    entry = tree.add(b"sparse", "file", b"", size=1 << 20, body_size=1 << 20, segments=((4096, 4096), (65536, 8192)))
    body = bytes(range(256)) * 48
    tree.members[-1] = (entry, body)
    tree.plain[b"sparse"] = b"".join((bytes(4096), body[:4096], bytes(57344), body[4096:], bytes((1 << 20) - 73728)))
    tree.add(b"wide", "file", b"w", xattrs={f"user.{number:02}": bytes(65536) for number in range(13)})
    return tree


def files_below(root: Path) -> list[bytes]:
    found = []
    for folder, _, names in os.walk(os.fsencode(root)):
        found += [os.path.relpath(os.path.join(folder, name), os.fsencode(root)) for name in names]
    return found


def assert_whole(tree: Tree, root: Path) -> None:
    """Everything under its own name has its right contents."""
    for path in files_below(root):
        if path != b"secret/fifo":
            assert contents(root, path) == tree.plain[path], path


def intact(archive: BinaryIO) -> bool:
    try:
        return verify(archive).intact
    except Ext4Error:
        return False


def judge(tree: Tree, data: bytes, opened: Callable[[bytes], BinaryIO], target: Path) -> str:
    """What became of an altered archive: "refused", or "partly" restored; never complete."""
    try:
        report = restore(opened(data), target, keys=[KEY])
    except Ext4Error:
        if target.exists():
            assert_whole(tree, target)
            if opened is as_stream:
                assert files_below(target) == []
        assert not intact(opened(data))
        return "refused"
    assert_whole(tree, target)
    assert not report.complete
    missing = len(tree.members) - 3 - len(files_below(target))
    assert report.left_out >= missing
    assert report.damaged
    assert all(isinstance(problem, (ArchiveError, RestoreError)) for problem in report.problems)
    assert not intact(opened(data))
    return "partly"


@both
def test_one_bit_flipped(tree: Tree, opened: Callable[[bytes], BinaryIO], tmp_path: Path):
    data = tree.archive()
    chance = random.Random(20261123)
    outcomes = {"refused": 0, "partly": 0}
    positions = [chance.randrange(len(data) * 8) for _ in range(FLIPS)]
    positions += [chance.randrange(len(data) * 8 - 40_000 * 8, len(data) * 8) for _ in range(FLIPS // 5)]
    for number, position in enumerate(positions):
        altered = bytearray(data)
        altered[position // 8] ^= 1 << position % 8
        outcomes[judge(tree, bytes(altered), opened, tmp_path / str(number))] += 1
    # No bit of the archive may be another one without being noticed.


@both
def test_cut_anywhere(tree: Tree, opened: Callable[[bytes], BinaryIO], tmp_path: Path):
    data = tree.archive()
    chance = random.Random(7)
    manifest = data.rindex(b".ext4img/manifest.jsonl")
    cuts = {0, 1, 511, 512, 513, manifest, manifest + 512, manifest + 600, len(data.rstrip(b"\0")) - 1}
    cuts |= {len(data.rstrip(b"\0")) // 512 * 512 + 512, len(data.rstrip(b"\0")) // 512 * 512 + 1024}
    cuts |= {chance.randrange(len(data) // 512) * 512 for _ in range(CUTS // 2)}
    cuts |= {chance.randrange(len(data)) for _ in range(CUTS // 2)}
    for cut in sorted(cuts):
        target = tmp_path / str(cut)
        with pytest.raises(ArchiveError) as caught:
            restore(opened(data[:cut]), target, keys=[KEY])
        if cut > 2048:
            assert isinstance(caught.value, TruncatedArchiveError), cut
        if opened is as_file:
            assert not target.exists()
        elif target.exists():
            assert files_below(target) == []


def test_a_truncated_archive_is_said_to_be_one(tree: Tree):
    data = tree.archive()
    with pytest.raises(TruncatedArchiveError, match="no manifest"):
        verify(io.BytesIO(data[: len(data) // 2]))
    with pytest.raises(TruncatedArchiveError, match="byte offset"):
        verify(as_stream(data[: len(data) // 2]))


def test_verify_names_every_damaged_member(tree: Tree):
    data = bytearray(tree.archive())
    with Archive(io.BytesIO(data)) as archive:
        lines = [line for line in archive.manifest() if line.data_size and not line.path.startswith(b".ext4img")]
        heads = [line for line in archive.manifest() if not line.data_size][3:5]
        members = len(list(archive))
    damaged = [lines[1], lines[3], lines[-2]]
    for line in damaged:
        data[line.data_offset + line.data_size - 1] ^= 4
    for line in heads:
        data[line.header_offset + 700] ^= 1
    report = verify(io.BytesIO(bytes(data)))
    assert not report.intact
    assert report.damaged == 5
    assert report.members == members - 2
    named = {problem.member for problem in report.problems if isinstance(problem, ArchiveError)}
    assert {line.path.decode() for line in damaged} <= named


# Backups that stop half way


def test_an_archive_appears_whole_or_not_at_all(tree: Tree, tmp_path: Path):
    path = tmp_path / "backup.tar"
    with pytest.raises(ZeroDivisionError), open_output(path) as output:
        output.write(b"half an archive")
        assert os.listdir(tmp_path) != ["backup.tar"]
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []
    with open_output(path) as output:
        tree.write(output)
    assert os.listdir(tmp_path) == ["backup.tar"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert verify(path).intact


def test_an_archive_is_not_overwritten_unless_asked(tmp_path: Path):
    path = tmp_path / "backup.tar"
    path.write_bytes(b"precious")
    with pytest.raises(ArchiveError, match="exists"), open_output(path):
        pass
    with pytest.raises(ArchiveError, match="exists"), open_output(tmp_path / "race.tar") as output:
        output.write(b"x")
        (tmp_path / "race.tar").write_bytes(b"somebody else's")
    assert (tmp_path / "race.tar").read_bytes() == b"somebody else's"
    with pytest.raises(RuntimeError), open_output(path, overwrite=True) as output:
        output.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"precious"
    with open_output(path, overwrite=True) as output:
        output.write(b"new")
    assert path.read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == ["backup.tar", "race.tar"]


def test_to_a_place_that_is_not_there(tmp_path: Path):
    with pytest.raises(ArchiveError, match="cannot be written"), open_output(tmp_path / "missing/backup.tar"):
        pass
    with pytest.raises(ArchiveError, match="exists"), open_output(tmp_path, overwrite=True):
        pass


def test_to_a_full_device(tree: Tree):
    with pytest.raises(ArchiveError, match="No space left"), open_output("/dev/full") as output:
        tree.write(output)


class Full(io.RawIOBase):
    """A pipe that breaks after some bytes."""

    def __init__(self, room: int) -> None:
        self._room = room

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        size = len(memoryview(data))  # type: ignore[arg-type]
        if size > self._room:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        self._room -= size
        return size


def test_a_target_that_takes_no_move(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(move_staged, "rename_new", refuse)
    with pytest.raises(RestoreError, match="No space left"):
        restore(as_stream(tree.archive()), tmp_path / "t")
    assert os.listdir(tmp_path / "t") == []


@pytest.mark.parametrize("room", [0, 100, 5000, 100_000])
def test_to_a_pipe_that_breaks(tree: Tree, room: int):
    with pytest.raises(ArchiveError, match="Broken pipe"), open_output(io.BufferedWriter(Full(room), 100)) as output:
        tree.write(output)


# Restores that stop half way


def test_a_restore_that_fails_half_way_leaves_whole_files(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = tree.archive()
    written = 0
    real = os.pwrite

    def pwrite(fd: int, part: bytes, offset: int) -> int:
        nonlocal written
        if written >= allowed:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = real(fd, part[: max(allowed - written, 1)], offset)  # short writes too
        written += count
        return count

    monkeypatch.setattr(os, "pwrite", pwrite)
    for allowed in (0, 1, 100, 8000, 20_000):
        written = 0
        target = tmp_path / str(allowed)
        with pytest.raises(RestoreError, match="No space left"):
            restore(io.BytesIO(data), target, keys=[KEY])
        assert_whole(tree, target)
        assert not [path for path in files_below(target) if path.endswith(b".partial")]


def test_a_target_that_is_deleted(tree: Tree, tmp_path: Path):
    target = tmp_path / "t"

    def progress(done: int, total: int | None) -> None:
        if target.exists() and done > 10_000:
            os.rename(target, tmp_path / "elsewhere")
            subprocess.run(["rm", "-rf", str(tmp_path / "elsewhere")], check=True)

    with pytest.raises(RestoreError):
        restore(io.BytesIO(tree.archive()), target, keys=[KEY], progress=progress)


def test_a_directory_that_is_moved_while_it_is_filled(tmp_path: Path):
    tree = Tree()
    path = b""
    for _ in range(150):
        path += b"/d" if path else b"d"
        tree.add(path, "dir")
    tree.add(path + b"/file", "file", b"x")
    tree.add(b"d/last", "file", b"y")
    target, outside = tmp_path / "t", tmp_path / "outside"
    outside.mkdir()

    def progress(done: int, total: int | None) -> None:
        deep = target / "/".join(["d"] * 60)
        if deep.is_dir() and not list(outside.iterdir()):
            deep.rename(outside / "moved")

    with pytest.raises(RestoreError, match="moved"):
        restore(io.BytesIO(tree.archive()), target, progress=progress)
    assert not (outside / "last").exists()


# Batches are small, so that files get their names while the restore runs: usually a batch is larger than this tree.
SLOWLY = """
import sys, time
from ext4img import restore
from ext4img.restorer import commit_queue
from tests.archive.synthetic import KEY
commit_queue.BATCH_NAMES = 2
restore(sys.argv[1], sys.argv[2], keys=[KEY], progress=lambda done, total: (print(done, flush=True), time.sleep(0.002)))
"""


@pytest.mark.parametrize("stream", [False, True])
def test_killed(tree: Tree, stream: bool, tmp_path: Path):
    """SIGKILL at several points: what is there is whole, and the next run completes it."""
    archive = tmp_path / "a.tar"
    archive.write_bytes(tree.archive())
    source = str(archive)
    complete_files = 0
    for lines in (2, 6, 12):
        target = tmp_path / f"t{lines}"
        if stream:
            source = "/dev/stdin"
        with archive.open("rb") as stdin:
            cat = subprocess.Popen(["cat"], stdin=stdin, stdout=subprocess.PIPE)
            child = subprocess.Popen(
                [sys.executable, "-c", SLOWLY, source, str(target)], stdin=cat.stdout, stdout=subprocess.PIPE
            )
            assert child.stdout is not None
            assert cat.stdout is not None
            for _ in range(lines):
                child.stdout.readline()
            child.send_signal(signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
            child.stdout.close()
            cat.stdout.close()
            cat.wait()
        whole = [path for path in files_below(target) if b".partial" not in path and b".staging" not in path]
        for path in whole:
            if path != b"secret/fifo":
                assert contents(target, path) == tree.plain[path]
                complete_files += 1
        if stream:
            assert whole == []
        report = restore(archive, target, keys=[KEY], resume=True)
        assert report.complete
        assert not [name for name in files_below(target) if name.startswith(b".ext4img")]
    assert stream or complete_files, "no file got its name before a kill"
