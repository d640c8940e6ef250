"""On a terminal: names are quoted, columns fill the width, progress is drawn and goes away."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.cli.transcripts import REPOSITORY
from tests.conftest import UnpackedImage


def on_terminal(*arguments: str | Path, stderr: bool = False, columns: int = 80) -> tuple[int, bytes]:
    """Exit code and what stands on a terminal of so many columns (standard error's where asked for)."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ext4img", *(str(argument) for argument in arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "COLUMNS": str(columns), "LC_ALL": "C.UTF-8", "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if stderr else follower,
        stderr=follower if stderr else subprocess.DEVNULL,
    )
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            break
        if not part:
            break
        seen += part
    os.close(leader)
    return process.wait(timeout=60), seen.replace(b"\r\n", b"\n")


def test_names_do_not_reach_the_terminal_raw(fixture_image: Callable[[str], UnpackedImage]):
    for command in (["ls"], ["ls", "-l"], ["find"], ["find", "-l"], ["tree"]):
        code, seen = on_terminal(*command, fixture_image("plain-4k").path, "/names")
        assert code == 0
        text = seen.decode()
        assert text.replace("\n", "").isprintable()
        # With find the quotes begin before the path.
        assert "new'$'\\n''line'$'\\t''tab '$'\\177\\001'" in text
        assert "not-utf8-'$'\\377\\376\\200'" in text


def test_columns_fill_the_width(fixture_image):
    code, seen = on_terminal("ls", fixture_image("plain-4k").path, "/kinds")
    lines = seen.decode().splitlines()
    assert code == 0
    assert len(lines) < 10
    assert all(len(line) <= 80 for line in lines)
    first, second = lines[0].split(), lines[1].split()
    assert first[0] < second[0] < first[1]  # down, and then across


def test_an_archive_is_not_written_to_a_terminal(fixture_image):
    assert on_terminal("backup", fixture_image("plain-4k").path, "-") == (2, b"")


def test_progress_of_a_file_with_an_odd_name(fixture_image, tmp_path: Path):
    image = tmp_path / "a\x1b[5m\nb.img"
    image.symlink_to(fixture_image("plain-4k").path)
    # Wide enough for the name to be there, however long the directory's is.
    code, seen = on_terminal("check", image, stderr=True, columns=400)
    assert code == 0
    assert b"\\x1b[" in seen
    assert b"\x1b[5m" not in seen


def test_progress_is_drawn_and_taken_away(fixture_image, tmp_path: Path):
    code, seen = on_terminal("backup", fixture_image("sample-encrypted").path, tmp_path / "a.tar", stderr=True)
    assert code == 0
    assert b"Backing up" in seen
    code, seen = on_terminal("backup", "--quiet", fixture_image("plain-4k").path, tmp_path / "b.tar", stderr=True)
    assert (code, seen) == (0, b"")
