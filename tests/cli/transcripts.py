"""Golden transcripts: what a user types, and what the command answers.

Each file of tests/cli/transcripts is one. Its lines:

    # a comment; `# images: NAME …` says which images of tests/fixtures are there as NAME.img,
    #            with their keys (sample-encrypted.alice.key is there as alice.key)
    $ a command, run by sh in a directory of the transcript's own
    what it writes to standard output; then
    ! what it writes to standard error
    [exit 3] where it ends with anything but 0

`python -m tests.cli.transcripts [NAME…]` runs the commands again and writes down what they say
now; `git diff` shows what has changed. They fix what the output looks like; whether it is true is
judged against the kernel's manifests, in test_against_kernel.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.images import fixture_images

TRANSCRIPTS = Path(__file__).parent / "transcripts"
REPOSITORY = Path(__file__).parent.parent.parent
# Nothing of the surroundings must show: a time zone that is not UTC, and no terminal.
ENVIRONMENT = {"TZ": "America/St_Johns", "LC_ALL": "C.UTF-8", "COLUMNS": "80"}


def names() -> list[str]:
    """The transcripts there are."""
    return sorted(path.stem for path in TRANSCRIPTS.glob("*.txt"))


def read(name: str) -> str:
    """A transcript as it is kept."""
    return (TRANSCRIPTS / f"{name}.txt").read_text(encoding="utf-8")


def environment(directory: Path) -> dict[str, str]:
    """An environment whose PATH leads to this checkout's ext4img, by a script put into `directory`."""
    directory.mkdir(exist_ok=True)
    shim = directory / "ext4img"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ext4img "$@"\n')
    shim.chmod(0o755)
    path = f"{directory}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, **ENVIRONMENT, "PATH": path, "PYTHONPATH": str(REPOSITORY)}


def play(transcript: str, directory: Path) -> str:
    """Run a transcript's commands in an empty directory; the transcript as it comes out now."""
    env = environment(directory / "bin")
    work = directory / "work"
    work.mkdir()
    _lay_out(transcript, work)
    lines: list[str] = []
    for line in transcript.splitlines():
        if line.startswith("#") or (not line and (not lines or lines[-1].startswith("#"))):
            lines.append(line)
        elif line.startswith("$ "):
            lines += [line, *_run(line[2:], work, env)]
    return "\n".join(lines) + "\n"


def _run(command: str, work: Path, env: dict[str, str]) -> Iterator[str]:
    done = subprocess.run(
        command, shell=True, cwd=work, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=120
    )
    yield from _lines(done.stdout)
    yield from (f"! {line}" for line in _lines(done.stderr))
    if done.returncode:
        yield f"[exit {done.returncode}]"
    yield ""


def _lines(raw: bytes) -> list[str]:
    """Lines as a transcript has them: bytes that are no text, and blanks at a line's end, are shown."""
    lines = raw.decode("utf-8", "backslashreplace").split("\n")
    if lines[-1] == "":
        lines.pop()
    escaped = ("".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in line) for line in lines)
    return [re.sub(r"^$|^(?=[$#!\[\\])|(?<= )$", "\\\\", line) for line in escaped]


def _lay_out(transcript: str, work: Path) -> None:
    """The images and keys that a transcript asks for."""
    match = re.search(r"^# images: (.*)$", transcript, re.MULTILINE)
    wanted = match[1].split() if match else []
    for packed in fixture_images():
        if packed.name in wanted:
            packed.unpack(work / f"{packed.name}.img")
            for key in packed.keys:
                (work / key.name.removeprefix(f"{packed.name}.")).write_bytes(key.read_bytes())


def main() -> None:
    """Write transcripts anew."""
    for name in sys.argv[1:] or names():
        with tempfile.TemporaryDirectory(prefix="ext4img-transcript-") as directory:
            played = play(read(name), Path(directory))
        (TRANSCRIPTS / f"{name}.txt").write_text(played, encoding="utf-8")
        print(f"{name}: {played.count(chr(10) + '$ ')} commands")


if __name__ == "__main__":
    main()
