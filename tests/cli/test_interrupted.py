"""A reader that goes away, Ctrl-C, a full disk: few words, and nothing left behind."""

from __future__ import annotations

import hashlib
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.transcripts import REPOSITORY
from tests.conftest import UnpackedImage
from tools import signal_trials
from tools.loop_mount import SBIN

COMMAND = [sys.executable, "-m", "ext4img"]


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A shell's background job ignores SIGINT, and its children inherit that."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def started(*arguments: str | Path, stdout: Any, stdin: int | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, *(str(argument) for argument in arguments)],
        cwd=REPOSITORY,
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("command", [["ls", "-R"], ["find"], ["find", "--json"], ["cat"], ["tree"]])
def test_a_reader_that_goes_away(command: list[str], fixture_image: Callable[[str], UnpackedImage]):
    read_end, write_end = os.pipe()
    os.close(read_end)
    paths = ["/extents/extents-360"] if command == ["cat"] else ["/"]
    process = started(*command, fixture_image("plain-4k").path, *paths, stdout=write_end)
    os.close(write_end)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (141, b"")


def test_closed_streams(fixture_image, tmp_path: Path):
    """Not a message into the archive, nor an image in the place of standard output."""
    image = fixture_image("plain-4k").path

    def run(line: str) -> tuple[int, bytes]:
        command = f"exec {sys.executable} -m ext4img {line}"
        done = subprocess.run(["sh", "-c", command, "sh", image], cwd=REPOSITORY, capture_output=True, check=False)
        return done.returncode, done.stdout + done.stderr

    unwritable = b"cannot write standard output: Bad file descriptor"
    assert run('ls "$1" >&-') == (8, b"ext4img ls: " + unwritable + b"\n")
    assert run("ls missing.img 2>&-") == (8, b"")
    assert run('ls "$1" /missing >&- 2>&- <&-') == (7, b"")
    code, said = run("list - <&-")
    assert code == 8
    assert b"Bad file descriptor" in said
    assert image.read_bytes()[1080:1082] == b"\x53\xef"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is not there")
def test_no_room_for_the_output(fixture_image):
    with open("/dev/full", "wb") as full:
        process = started("find", fixture_image("plain-4k").path, stdout=full)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 8
    assert said == b"ext4img find: cannot write standard output: No space left on device\n"


def held_up(fixture_image, tmp_path: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """A restore whose input stops coming in the middle of the archive."""
    archive = tmp_path / "backup.tar"
    subprocess.run(
        [*COMMAND, "backup", str(fixture_image("sample-encrypted").path), str(archive), "--quiet"],
        cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    target = tmp_path / "restored"
    process = started("restore", "-", target, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stdin is not None
    process.stdin.write(archive.read_bytes()[:300_000])
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while not has_files(target) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert has_files(target)  # it has begun to write
    assert process.poll() is None
    return process, target


def has_files(directory: Path) -> bool:
    return any(path.is_file() for path in directory.rglob("*"))


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, b"interrupted"), (signal.SIGTERM, 143, b"terminated")]
)
def test_a_restore_that_is_stopped(number: int, code: int, word: bytes, fixture_image, tmp_path: Path):
    process, target = held_up(fixture_image, tmp_path)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert said == b"ext4img restore: " + word + b"\n"
    assert not target.exists() or not os.listdir(target)


def test_a_backup_that_is_stopped(fixture_image, tmp_path: Path):
    """Stopped while it waits for the reader of a fifo, with an archive in the same folder untouched."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = started("backup", fixture_image("plain-4k").path, fifo, stdout=subprocess.DEVNULL)
    with open(fifo, "rb") as reader:
        assert reader.read(512)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == b"ext4img backup: interrupted\n"
    assert os.listdir(tmp_path) == ["fifo"]


def test_an_archive_whose_reader_goes_away(fixture_image):
    read_end, write_end = os.pipe()
    process = started("backup", fixture_image("plain-4k").path, "-", stdout=write_end)
    os.close(write_end)
    os.close(read_end)
    _, said = process.communicate(timeout=60)
    # Not quiet: a backup that nobody has is a failure.
    assert process.returncode == 8
    assert b"cannot be written: Broken pipe" in said


def test_a_backup_whose_fifo_has_no_reader(fixture_image, tmp_path: Path):
    """Opening it waits for one."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = started("backup", fixture_image("plain-4k").path, fifo, stdout=subprocess.DEVNULL)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (143, b"ext4img backup: terminated\n")
    assert os.listdir(tmp_path) == ["fifo"]


def test_an_ignored_hangup_stays_ignored(fixture_image, tmp_path: Path):
    """As nohup has it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = started("backup", fixture_image("plain-4k").path, fifo, stdout=subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGHUP, before)
    with open(fifo, "rb") as reader:
        assert reader.read(512)
        process.send_signal(signal.SIGHUP)
        assert hashlib.file_digest(reader, "sha256")
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, b"")


def test_a_prompt_that_is_interrupted_gives_the_terminal_its_echo_back(fixture_image):
    command = [sys.executable, "-m", "ext4img", "keys", "--unlock", str(fixture_image("homed").path)]
    pid, leader = pty.fork()
    if pid == 0:
        os.chdir(REPOSITORY)
        os.execv(command[0], command)
    seen = b""
    while b"Passphrase: " not in seen:
        seen += os.read(leader, 4096)
    assert not termios.tcgetattr(leader)[3] & termios.ECHO
    os.write(leader, b"\x03")  # Ctrl-C
    while b"interrupted\r\n" not in seen:
        seen += os.read(leader, 4096)
    echo = termios.tcgetattr(leader)[3] & termios.ECHO
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    os.close(leader)
    assert echo
    assert b"Traceback" not in seen


@pytest.mark.skipif(shutil.which("mke2fs", path=f"{os.environ['PATH']}:{SBIN}") is None, reason="no mke2fs here")
def test_signals_at_random_moments(tmp_path: Path):
    """A few of `python -m tools.signal_trials`, which has hundreds: in the middle of each command that writes."""
    signal_trials.prepare(tmp_path, files=100, large=2 << 20)
    told = []
    for number, (name, trial) in enumerate(signal_trials.TRIALS.items()):
        which = (signal.SIGINT, signal.SIGTERM)[number % 2]
        done, found, _ = signal_trials.one_round(trial, tmp_path, which, random.Random(number).uniform(0.1, 0.6))
        assert not found, (name, which, found)
        told.append(done)
    assert any(done.signal is not None for done in told)
