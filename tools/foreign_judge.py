"""Foreign images against e2fsprogs: `python -m tools.foreign_judge DIR`.

Of each image below DIR, e2fsck replays the journal in a copy, and clears orphans. Where it then
finds the copy sound, debugfs lists it, and ext4img must show the same of the image as it was.
Nothing is compared for images that e2fsck calls damaged, or that are encrypted or too large for
debugfs.

With the journal, e2fsck also mends superblocks, descriptors and journals. Images that needed that
are refused by ext4img's strict reading, rightly; its report mode is compared instead, and what it
shows differently is printed, but is no failure.

The exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ext4img
from ext4img.volume.problems import Checks
from tools import debugfs, debugfs_view
from tools.foreign_images import find_images, unpack

_FIELDS = {
    "ino": "number", "mode": "mode", "uid": "uid", "gid": "gid", "nlink": "links", "size": "size",
    "generation": "generation", "atime_ns": "atime_ns", "mtime_ns": "mtime_ns", "ctime_ns": "ctime_ns",
    "crtime_ns": "crtime_ns",
}  # fmt: skip
CLEAN, RECOVERED, MENDED = "clean", "sound after recovery", "mended by e2fsck"
COMPARED = (CLEAN, RECOVERED, MENDED)
SECONDS = 20.0
MOST_INODES = 3000  # debugfs is started for every file


def judge(image: Path, work: Path) -> tuple[str, list[str]]:
    """(verdict, differences): one of COMPARED where there was something to compare, else why not."""
    copy = work / "replayed"
    shutil.copyfile(image, copy)
    clean = not _run("e2fsck", "-f", "-n", copy).returncode
    _run("e2fsck", "-y", "-E", "journal_only", copy)
    if _run("dumpe2fs", "-h", copy).returncode:
        return "e2fsck finds damage", []
    if debugfs.superblock_facts(copy).has_orphans:
        _run("e2fsck", "-p", copy)
    checked = _run("e2fsck", "-f", "-n", copy)
    if checked.returncode:
        return "e2fsck finds damage", []
    facts = debugfs.superblock_facts(copy)
    if "encrypt" in facts.features:
        return "encrypted", []
    used = checked.stdout.split(" files (")[0].rsplit(" ", 1)[-1].split("/")[0]
    if used.isdigit() and int(used) > MOST_INODES:
        return f"{used} inodes", []
    expected = {entry["path"]: entry for entry in debugfs_view.manifest(copy)["entries"]}
    try:
        return CLEAN if clean else RECOVERED, _compare(image, expected, "strict")
    except ext4img.Ext4Error as error:
        differences = _compare(image, expected, "report")
        return MENDED, [f"refused: {type(error).__name__}: {error}", *differences]


def _compare(image: Path, expected: dict[str, Any], checks: Checks) -> list[str]:
    with ext4img.open(image, checks=checks) as fs:
        return list(_differences(expected, {str(path): inode for path, inode in fs.walk("/")}))


def _differences(expected: dict[str, Any], shown: dict[str, Any]) -> Iterator[str]:
    for path in sorted(set(expected) ^ set(shown)):
        yield f"{path!r} is {'missing' if path in expected else 'too much'}"
    for path, entry in expected.items():
        inode = shown.get(path)
        if inode is None:
            continue
        for key, attribute in _FIELDS.items():
            # debugfs shows no creation time where i_extra_isize is 0; the kernel shows what stands there.
            if entry[key] != getattr(inode, attribute) and entry[key] is not None:
                yield f"{path!r} {key}: {entry[key]} expected, {getattr(inode, attribute)} shown"
        if entry["type"] == "file" and not _same_contents(entry, inode):
            yield f"{path!r}: other contents"
        if entry["type"] == "symlink" and inode.readlink().decode("utf-8", "surrogateescape") != entry["target"]:
            yield f"{path!r}: another target"


def _same_contents(entry: dict[str, Any], inode: ext4img.Inode) -> bool:
    if inode.has_inline_data:
        return True  # debugfs dumps all of i_block, whatever the size is
    with inode.open() as file:
        return bool(hashlib.sha256(file.read()).hexdigest() == entry["sha256"])


def _run(*command: object) -> subprocess.CompletedProcess[str]:
    """What a tool says; one that does not come to an end, as e2fsck on some of its own images, has failed."""
    words = [str(word) for word in command]
    try:
        return subprocess.run(
            words, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL,
            timeout=SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, returncode=8, stdout="", stderr="")


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="python -m tools.foreign_judge", description=__doc__.split("\n")[0])
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    verdicts: Counter[str] = Counter()
    different: Counter[str] = Counter()
    for path in find_images(options.directory):
        with tempfile.TemporaryDirectory(prefix="foreign-") as directory:
            raw = Path(directory) / "image"
            try:
                unpack(path, raw)
                verdict, differences = judge(raw, Path(directory))
            except (ext4img.Ext4Error, OSError, EOFError, ValueError, KeyError) as error:
                verdict, differences = "not judged", [f"{type(error).__name__}: {error}"]
        most = 1 if verdict == MENDED else 0  # its first line says why it was refused
        verdicts[verdict if verdict in COMPARED else "not compared"] += 1
        different[verdict] += len(differences) > most
        print(f"{path.relative_to(options.directory)!s:34} {verdict}", flush=True)
        for difference in differences[:10]:
            print(f"    {difference}")
    for verdict, count in verdicts.items():
        print(f"{count} {verdict}, {different[verdict]} of them differ")
    return 1 if different[CLEAN] or different[RECOVERED] else 0


if __name__ == "__main__":
    sys.exit(main())
