"""`make demo`: backup and restore of the encrypted sample image that belongs to the tests.

It runs the `ext4img` command: backup without a key, verify, list, restore with the keys. Then it
compares each restored file with the digest that the Linux kernel gave for it.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures"
SAMPLE = "sample-encrypted"
SHOWN_LINES = 12


def ext4img(*arguments: str | Path) -> None:
    """Run the command, and show it with the first lines of its output."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ {shlex.join(['ext4img', *words])}", flush=True)
    command = [str(Path(sys.executable).with_name("ext4img")), *words]
    pipe, same = subprocess.PIPE, subprocess.STDOUT
    done = subprocess.run(command, stdout=pipe, stderr=same, text=True, errors="backslashreplace", check=False)
    lines = done.stdout.splitlines()
    print("\n".join(line[:160] for line in lines[:SHOWN_LINES]))
    if len(lines) > SHOWN_LINES:
        print(f"… {len(lines) - SHOWN_LINES} more lines")
    if done.returncode:
        sys.exit(f"ext4img ended with {done.returncode}")


def differences(restored: Path, entries: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """The number of files and links compared, and those that differ from the manifest."""
    compared, wrong = 0, []
    for entry in entries:
        if entry["type"] not in ("file", "symlink"):
            continue
        compared += 1
        path = os.fsencode(restored) + entry["path"].encode("utf-8", "surrogateescape")
        try:
            if entry["type"] == "file":
                with open(path, "rb") as file:
                    same = hashlib.file_digest(file, "sha256").hexdigest() == entry["sha256"]
            else:
                same = os.readlink(path) == entry["target"].encode("utf-8", "surrogateescape")
        except OSError as error:
            wrong.append(f"{entry['path']!r}: {error}")
            continue
        if not same:
            wrong.append(f"{entry['path']!r} differs")
    return compared, wrong


def main() -> None:
    """Run the demonstration in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="ext4img-demo-") as scratch:
        os.chdir(scratch)
        with lzma.open(FIXTURES / f"{SAMPLE}.img.xz") as packed, open("sample.img", "wb") as image:
            shutil.copyfileobj(packed, image)
        keys = sorted(FIXTURES.glob(f"{SAMPLE}.*.key"))
        for key in keys:
            shutil.copy(key, key.name.removeprefix(f"{SAMPLE}."))
        arguments = [word for key in keys for word in ("--key-file", key.name.removeprefix(f"{SAMPLE}."))]

        print("sample.img holds the encrypted home directories of alice and bob. Without a key they look like this:")
        ext4img("info", "sample.img")
        ext4img("ls", "sample.img", "/home/alice")
        print("\nThe backup needs no key:")
        ext4img("backup", "sample.img", "backup.tar")
        ext4img("verify", "backup.tar")
        ext4img("list", "backup.tar")
        print("\nThe restore uses the keys:")
        ext4img("restore", "backup.tar", "restored", *arguments)

        manifest = json.loads((FIXTURES / f"{SAMPLE}.json").read_text(encoding="utf-8"))
        compared, wrong = differences(Path("restored").resolve(), manifest["entries"])
        notes = Path("restored/home/alice/notes.txt")
        print(f"\n$ cat {notes}\n{notes.read_text(encoding='utf-8') if notes.exists() else '(missing)'}")
        if wrong:
            print("\n".join(wrong[:SHOWN_LINES]))
            sys.exit(f"{len(wrong)} of {compared} restored files and links differ from the kernel's manifest")
        print(f"All {compared} restored files and links match the digests and targets recorded by the Linux kernel.")


if __name__ == "__main__":
    main()
