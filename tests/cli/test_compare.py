"""`verify --against`: what an administrator asks after a restore. Is it what I backed up?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ext4img.cli.main import main
from tests.cli.transcripts import REPOSITORY


@pytest.mark.parametrize("make", ["restore --image", "copy", "copy --keep-inodes"])
def test_a_new_image_is_the_same(make: str, fixture_image, tmp_path: Path, capfd):
    image, archive, new = str(fixture_image("plain-4k").path), str(tmp_path / "a.tar"), str(tmp_path / "new.img")
    assert main(["backup", image, archive]) == 0
    from_image = ["copy", image, new, *make.split()[1:]]
    assert main(["restore", archive, "--image", new] if make == "restore --image" else from_image) == 0
    capfd.readouterr()
    assert main(["verify", archive, "--against", new]) == 0
    out = capfd.readouterr().out.splitlines()
    assert out[1].startswith(f"{archive}: the same as {new}, but for what a rebuild changes: 1 directory size")
    assert ("inode numbers" in out[1]) == (make != "copy --keep-inodes")
    with open(new, "r+b") as file:
        file.write(b"boot")  # what ext4 does not use is no part of it
    assert main(["verify", archive, "--against", new, "--json"]) == 0
    intact, comparison = (json.loads(line) for line in capfd.readouterr().out.splitlines())
    assert intact["intact"]
    assert comparison["different"] == 0
    assert comparison["rebuilt"]["directory size"] == 1


def test_a_stream_is_compared_while_it_is_read(fixture_image, tmp_path: Path):
    image, archive = fixture_image("plain-4k").path, tmp_path / "a.tar"
    assert main(["backup", str(image), str(archive)]) == 0
    command = [sys.executable, "-m", "ext4img", "verify", "-", "--against", str(image)]

    def verified(data: bytes) -> tuple[int, bytes, bytes]:
        done = subprocess.run(command, input=data, cwd=REPOSITORY, capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr

    data = bytearray(archive.read_bytes())
    code, out, err = verified(bytes(data))
    assert (code, err) == (0, b"")
    assert out.splitlines()[1] == b"<stdin>: identical to " + str(image).encode()
    data[len(data) // 2] ^= 1
    code, out, err = verified(bytes(data))
    assert code == 6  # it is damaged: then nothing is said of differences
    assert b"identical" not in out
