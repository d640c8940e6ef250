"""Make images that are meant to be hard to read, with the running kernel, and what it shows of them.

    python -m tools.torture_images /tmp/torture [NAME ...] [--seed N]
    EXT4IMG_CORPUS=/tmp/torture python -m pytest tests -k torture/

Unlike the fixtures these are not kept: another seed makes others. Each layout of
tools/torture_layouts.py is filled with random trees (tools/torture_tree.py), plain and below random
encryption policies; nonces, places and the clock are the kernel's. Needs root, loop mounts and a
kernel with ext4 encryption. What is judged is what the kernel shows, not what e2fsck 1.47 says of
it, which takes the kernel's fast symlinks with large attributes for damage.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from random import Random
from typing import Any

from tools import debugfs, kernel_ioctl, kernel_view, torture_tree
from tools.fixture_tree import Tree, lines
from tools.kernel_view import Key
from tools.loop_mount import loop_mounted, run
from tools.torture_layouts import LAYOUTS, Layout

_KEY_SIZES = (32, 33, 47, 48, 63, 64)
_IV_INO_LBLK_FLAGS = (8, 16)


def _policy(tree: Tree, rng: Random, layout: Layout, number: int, block: int) -> tuple[Tree, Key]:
    """A directory under a random policy, and its key."""
    version = rng.choice((1, 2, 2))
    raw = rng.randbytes(64 if version == 1 else rng.choice(_KEY_SIZES))
    key = Key(raw, version, rng.choice((None, rng.randbytes(8))) if version == 1 else None)
    flags = rng.randrange(4)
    unit = 0
    if version == 2:
        special = rng.randrange(3) if "stable_inodes" in layout.mkfs else 2
        if special < 2:
            flags |= _IV_INO_LBLK_FLAGS[special]
        else:
            unit = rng.choice((0, *range(9, block.bit_length())))
    mount = os.fsdecode(tree.root)
    name = kernel_ioctl.add_key(mount, key.raw, key.version, key.descriptor)
    path = tree.at(f"policy {number}: v{version}, flags {flags}, unit {unit}, key {len(raw)}")
    os.mkdir(path)
    kernel_ioctl.set_policy(path, name, flags=flags, log2_data_unit_size=unit)
    return Tree(os.fsdecode(path)), key


def _fill(layout: Layout, tree: Tree, rng: Random, block: int) -> list[Key]:
    keys = []
    if layout.plain:
        layout.plain(tree.below("plain"), rng, block)
    for number in range(layout.policies):
        if layout.encrypted:
            below, key = _policy(tree, rng, layout, number, block)
            layout.encrypted(below, rng, block)
            keys.append(key)
    if keys:
        # What leaves an encrypted directory for a plain one stays encrypted, below a plain name.
        torture_tree.write(below.at("moved out"), lines("moved out", 3 * block))
        os.rename(below.at("moved out"), tree.at("moved out"))
    return keys


def _run_on(image: Path, command: str) -> None:
    try:
        run(*shlex.split(command), image)
    except subprocess.CalledProcessError as error:
        if not (command.startswith("e2fsck -fy") and error.returncode == 1):  # 1: something was changed
            raise


def make(layout: Layout, seed: int, scratch: Path) -> tuple[Path, dict[str, Any]]:
    """The image and its manifest."""
    rng = Random(f"{seed} {layout.name}")
    image = scratch / f"{layout.name}.img"
    options = layout.options
    identity, hash_seed = (uuid.UUID(bytes=rng.randbytes(16)) for _ in range(2))
    run("mke2fs", "-q", "-F", *options, "-U", str(identity), "-E", f"hash_seed={hash_seed}", image, layout.size)
    for command in layout.before:
        _run_on(image, command)
    block = debugfs.superblock_facts(image).block_size
    held: list[int] = []
    with loop_mounted(image, layout.mount_options) as mount:
        keys = _fill(layout, Tree(mount), rng, block)
        numbers = sorted({seen.stat.st_ino for seen in kernel_view.walk(mount)})
    if layout.dirty:
        stopped = image.with_suffix(".stopped")
        with loop_mounted(image, layout.mount_options) as mount:
            for key in keys:
                kernel_ioctl.add_key(mount, key.raw, key.version, key.descriptor)
            try:
                held = layout.dirty(Tree(mount), rng)
                shutil.copyfile(image, stopped)
            finally:
                for fd in held:
                    os.close(fd)
        stopped.replace(image)
    else:
        _change_by_debugfs(image, rng, numbers)
    for command in layout.commands:
        _run_on(image, command)
    about: dict[str, object] = {"seed": seed, "mkfs": options, "commands": [*layout.before, *layout.commands]}
    manifest = kernel_view.manifest(image, keys, **about)
    if layout.dirty:
        _mark_unstable(manifest, image, keys)
    return image, manifest


def _change_by_debugfs(image: Path, rng: Random, numbers: list[int]) -> None:
    """Times that no system call sets: of creation and of change, in all epochs; and projects."""
    requests = []
    for number in rng.sample(numbers, min(len(numbers), 12)):
        requests.append(f"set_inode_field <{number}> projid {rng.choice((1, 70000, 2**32 - 1))}")
        for which in ("crtime", "ctime"):
            requests.append(f"set_inode_field <{number}> {which}_lo {rng.getrandbits(32):#x}")
            extra = rng.randrange(10**9) << 2 | rng.randrange(4)
            requests.append(f"set_inode_field <{number}> {which}_extra {extra:#x}")
    run("debugfs", "-w", "-f", "-", image, stdin="\n".join([*requests, ""]).encode())


def _mark_unstable(manifest: dict[str, Any], image: Path, keys: list[Key]) -> None:
    """Recovery sets some times to its own moment: what differs from a second one is not compared."""
    time.sleep(0.05)
    again = kernel_view.manifest(image, keys)
    for entry, other in zip(manifest["entries"], again["entries"], strict=True):
        if unstable := sorted(key for key in entry if entry[key] != other[key]):
            entry["unstable"] = unstable


def main() -> None:
    """Make the images named, or all."""
    parser = argparse.ArgumentParser(description="Make images that are hard to read, and their manifests.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help="layouts; all without any")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for layout in LAYOUTS:
        if arguments.names and layout.name not in arguments.names:
            continue
        with tempfile.TemporaryDirectory(prefix="ext4img-torture-") as scratch:
            try:
                image, manifest = make(layout, arguments.seed, Path(scratch))
            except Exception as error:
                error.add_note(f"while making {layout.name}")
                raise
            run("cp", "--sparse=always", image, arguments.directory / image.name)
            target = arguments.directory / f"{layout.name}.json"
            target.write_text(kernel_view.dump(manifest), encoding="utf-8")
        print(f"{layout.name}: {len(manifest['entries'])} entries", file=sys.stderr)


if __name__ == "__main__":
    main()
