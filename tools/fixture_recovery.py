"""Make the images of tests/fixtures that need recovery, with the running kernel, and their manifests.

    python -m tools.fixture_recovery [NAME ...]

Needs root and a kernel with ext4. Recovery sets some times to the moment of the mount; it is done
twice here, and what differs is noted as `unstable` in the manifest.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from tools import debugfs, kernel_view
from tools.fixture_tree import Tree, lines
from tools.loop_mount import loop_mounted, replay_journal, run
from tools.make_fixtures import Recipe, store

_held_open: list[int] = []


def _sync(tree: Tree, path: str) -> None:
    descriptor = os.open(tree.at(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fast_commits_before(tree: Tree) -> None:
    here = tree.below("fast")
    for name in ("cut", "emptied", "grows", "linked", "moved", "overwritten", "punched", "removed", "replaced"):
        here.file(name, lines(name, 9000))
    big = tree.below("indexed")
    for number in range(60):
        big.file(f"there-before-{number:03d}", b"")
    tree.below("inline").file("a", b"a")
    tree.below("leaves-its-inode").file("a", b"a")
    tree.below("becomes-indexed").file("first", b"first")


def _fast_commits(tree: Tree) -> None:
    """Nothing but what fast commits can tell: regular files and their names. A full commit ends it."""
    here, big = tree.below("fast"), tree.below("indexed")
    here.file("new", lines("new", 5000))
    _sync(here, "new")
    os.truncate(here.at("cut"), 1500)
    os.truncate(here.at("emptied"), 0)
    with open(here.at("grows"), "ab") as file:
        file.write(lines("grown", 20_000))
    _sync(here, "grows")
    os.link(here.at("linked"), here.at("second-name"))
    os.rename(here.at("moved"), big.at("moved-here"))
    os.rename(here.at("replaced"), here.at("removed"))
    _sync(here, "second-name")
    for number in range(50):  # the directory's leaves are split in the replay, and a block becomes an index
        big.file(f"one-of-many-with-a-long-name-{number:03d}", lines(f"many {number}", 37 * number))
        tree.below("becomes-indexed").file(f"name-of-some-length-{number:02d}")
    tree.below("inline").file("bb", b"bb")
    tree.below("inline").file("a-name-that-does-not-fit-into-the-inode-as-it-is", b"c")
    for number in range(6):
        tree.below("leaves-its-inode").file(f"name-of-forty-bytes-or-nearly-so-{number:06d}", b"x")
    os.unlink(big.at("there-before-007"))
    here.sparse("fragmented", 60 * 2048, {at * 2048: lines("fragment", 1024) for at in reversed(range(60))})
    _sync(here, "fragmented")
    with open(here.at("overwritten"), "r+b") as file:
        file.seek(3000)
        file.write(lines("over", 2000))
    os.unlink(here.at("punched"))
    _sync(here, "overwritten")


def _orphans_before(tree: Tree) -> None:
    for name in ("open", "open-in-blocks", "stays"):
        tree.file(name, lines(name, 30_000))
    tree.below("directory")


def _orphans(tree: Tree) -> None:
    """Unlinked while open; the descriptors stay open until the copy has been made."""
    for name in ("open", "open-in-blocks"):
        _held_open.append(os.open(tree.at(name), os.O_RDONLY))
        os.unlink(tree.at(name))
    _held_open.append(os.open(tree.at("directory"), os.O_RDONLY))
    os.rmdir(tree.at("directory"))
    tree.file("after", b"after")
    _sync(tree, ".")  # a full commit, which nothing has yet written to its place


RECIPES = [
    Recipe(
        "ext4-fast-commit",
        "fast commits: files made, written, cut, linked, renamed, removed; directories that grow and leave their inode",
        "8M",
        "-t ext4 -b 1024 -I 256 -N 512 -O fast_commit,inline_data -J size=1,fast_commit_size=256",
        _fast_commits_before,
        mount_options="rw,noatime,commit=300",
        stops_dirty=_fast_commits,
    ),
    Recipe(
        "ext4-orphans",
        "files and a directory that were unlinked while open, in an orphan file",
        "4M",
        "-t ext4 -b 1024 -N 128 -O orphan_file -J size=1",
        _orphans_before,
        mount_options="rw,noatime,commit=300",
        stops_dirty=_orphans,
    ),
]


def _stopped(recipe: Recipe, image: Path) -> Path:
    """A copy of the image while it is mounted and changed."""
    stopped = image.with_suffix(".stopped")
    with loop_mounted(image, recipe.mount_options) as mount:
        recipe.fill(Tree(mount))
    with loop_mounted(image, recipe.mount_options) as mount:
        assert recipe.stops_dirty is not None
        recipe.stops_dirty(Tree(mount))
        shutil.copyfile(image, stopped)
        while _held_open:
            os.close(_held_open.pop())
    return stopped.replace(image)


def _cut(image: Path) -> Path:
    """Truncates that were begun: i_size is the new one, the blocks are still there (debugfs)."""
    with loop_mounted(image, "rw,noatime") as mount:
        tree = Tree(mount)
        tree.file("whole", lines("whole", 20_000))
        tree.sparse("tree", 400 * 2048, {at * 2048: lines("tree", 1024) for at in reversed(range(400))}, sync=True)
        tree.file("to-nothing", lines("to nothing", 50_000))
        tree.file("in-blocks", lines("in blocks", 300_000))
        numbers = {name: os.stat(tree.at(name)).st_ino for name in ("tree", "to-nothing", "in-blocks")}
    chain = [*numbers.values(), 0]
    requests = [f"set_super_value last_orphan {chain[0]}"]
    for (name, number), following in zip(numbers.items(), chain[1:], strict=True):
        size = {"tree": 100 * 2048 + 100, "to-nothing": 0, "in-blocks": 12 * 1024 + 300}[name]
        requests += [f"set_inode_field <{number}> size {size}", f"set_inode_field <{number}> dtime @{following}"]
    run("debugfs", "-w", "-f", "-", image, stdin="\n".join([*requests, ""]).encode())
    return image


CUTS = [
    Recipe(
        "ext4-cut",
        "truncates that were begun, in the orphan list: extents in a tree, and to nothing (sizes set by debugfs)",
        "4M",
        "-t ext4 -b 1024 -N 128 -O ^resize_inode -J size=1",
        lambda tree: None,
    ),
    Recipe(
        "ext3-cut",
        "the same with block maps, without checksums",
        "4M",
        "-t ext3 -b 1024 -I 128 -N 128 -O ^resize_inode -J size=1",
        lambda tree: None,
    ),
]


def make(recipe: Recipe, scratch: Path) -> tuple[Path, dict[str, Any]]:
    """The image and its manifest."""
    image = scratch / f"{recipe.name}.img"
    options = [*recipe.mkfs.split(), "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0"]
    run("mke2fs", "-q", "-F", *options, image, recipe.size)
    image = _stopped(recipe, image) if recipe.stops_dirty else _cut(image)
    about: dict[str, object] = {"exercises": recipe.exercises, "mkfs": options}
    first, second = (_recovered_manifest(image, scratch, about) for _ in range(2))
    for entry, again in zip(first["entries"], second["entries"], strict=True):
        unstable = sorted(key for key in entry if entry[key] != again[key])
        if unstable:
            entry["unstable"] = unstable
    return image, first


def _recovered_manifest(image: Path, scratch: Path, about: dict[str, object]) -> dict[str, Any]:
    """The kernel's view after recovery, with what is told of the image as it was before."""
    time.sleep(0.05)  # so that times set by the recovery differ
    if "needs_recovery" in debugfs.superblock_facts(image).features:
        return kernel_view.manifest(image, (), **about)
    copy = scratch / "recovered" / image.name
    copy.parent.mkdir(exist_ok=True)
    shutil.copyfile(image, copy)
    replay_journal(copy)
    return kernel_view.manifest(copy, (), **about) | kernel_view.head(image, about)


def main() -> None:
    """Make the fixtures named, or all."""
    parser = argparse.ArgumentParser(description="Make the images of tests/fixtures that need recovery.")
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names
    for recipe in [*RECIPES, *CUTS]:
        if names and recipe.name not in names:
            continue
        with tempfile.TemporaryDirectory(prefix="ext4img-fixture-") as scratch:
            store(recipe, *make(recipe, Path(scratch)))


if __name__ == "__main__":
    main()
