"""The file systems of tools/torture_images.py: how each is made, filled, changed and stopped."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from tools import kernel_ioctl, torture_tree
from tools.fixture_tree import Tree, lines
from tools.torture_tree import everything

Filling = Callable[[Tree, Random, int], None]


@dataclass(frozen=True)
class Layout:
    """A file system: mke2fs' options, what to put into it, what to do to it afterwards.

    `plain` fills a directory, `encrypted` one under each of `policies` random policies. The commands
    run with the image's path behind them, those of `before` ahead of the first mount. `dirty` is
    done last; the image is copied while it is mounted and the descriptors that it gives are open.
    """

    name: str
    size: str
    mkfs: str
    plain: Filling | None = None
    policies: int = 0
    encrypted: Filling | None = None
    before: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    mount_options: str = "rw"
    dirty: Callable[[Tree, Random], list[int]] | None = None

    @property
    def options(self) -> list[str]:
        """The arguments of mke2fs."""
        words = self.mkfs.split()
        if "-t" not in words:
            words = ["-t", "ext4", *words]
        if self.policies and "-O" in words:  # of several -O only the last counts
            words[words.index("-O") + 1] += ",encrypt"
        elif self.policies:
            words += ["-O", "encrypt"]
        return words


def large_attributes(tree: Tree, rng: Random, block: int) -> None:
    """Values that need inodes of their own."""
    torture_tree.attributes(tree, rng, 60, 60_000)
    torture_tree.contents(tree, rng, block, 60)
    torture_tree.symlinks(tree, rng, block)


def small(tree: Tree, rng: Random, block: int) -> None:
    """Some of everything."""
    torture_tree.names(tree, rng, every=9)
    torture_tree.contents(tree, rng, block, 30)
    torture_tree.symlinks(tree, rng, block)
    torture_tree.moves(tree, rng)


def busy(tree: Tree, rng: Random, block: int) -> None:
    """One directory of ten thousand names."""
    torture_tree.busy(tree, rng, 10_000)


def busy_long(tree: Tree, rng: Random, block: int) -> None:
    """Names that fill their blocks, so that the index gets two levels."""
    torture_tree.busy(tree, rng, 3_000, 255)


def busy_few(tree: Tree, rng: Random, block: int) -> None:
    """A hashed directory, and one that is none yet."""
    torture_tree.busy(tree, rng, 400)
    torture_tree.names(tree, rng, every=2)


def contents(tree: Tree, rng: Random, block: int) -> None:
    """Files alone."""
    torture_tree.contents(tree, rng, block, 150)
    torture_tree.fragmented(tree, block, 900)


def inodes(tree: Tree, rng: Random, block: int) -> None:
    """Owners, times, flags and attributes alone."""
    torture_tree.inodes(tree, rng, 250)
    torture_tree.attributes(tree, rng, 80, block)


def _trees(tree: Tree) -> Iterator[Tree]:
    """What was filled: the directories at the root."""
    for entry in sorted(os.scandir(tree.root), key=lambda entry: entry.name):
        if entry.is_dir() and entry.name != b"lost+found":
            yield Tree(os.fsdecode(entry.path))


def some_changes(tree: Tree, rng: Random) -> list[int]:
    """In every tree: files made, cut, punched, renamed, removed, and some removed while open."""
    held = []
    for here in _trees(tree):
        late = here.below("late")
        for i in range(25):
            torture_tree.write(late.at(torture_tree.random_name(rng, rng.randint(1, 255))), rng.randbytes(40 * i))
        torture_tree.contents(late, rng, 1024, 25)
        torture_tree.symlinks(late.below("links"), rng, 1024)
        os.rename(late.at("contents"), here.at("late contents"))
        for i, name in enumerate(sorted(os.listdir(here.at("late contents")))):
            path = here.at(b"late contents/" + name)
            if i % 5 == 0:
                held.append(os.open(path, os.O_RDWR))
            if i % 5 in (0, 1):
                os.unlink(path)
            if i % 5 == 2:
                os.truncate(path, rng.randrange(3000))
        held.append(os.open(late.at("."), os.O_TMPFILE | os.O_RDWR, 0o600))
        os.write(held[-1], b"never had a name\n")
    _commit(tree)
    return held


def fast_changes(tree: Tree, rng: Random) -> list[int]:
    """Changes as fast commits have them: regular files, each written out by itself."""
    for here in _trees(tree):
        for i in range(40):
            path = here.at(torture_tree.random_name(rng, rng.randint(1, 255)))
            torture_tree.write(path, rng.randbytes(rng.choice((0, 10, 5000))))
            fd = os.open(path, os.O_RDWR)
            os.fsync(fd)
            if i % 3 == 0:
                os.link(path, here.at(b"link %d" % i))
            if i % 4 == 1:
                os.rename(path, here.at(b"renamed %d" % i))
            if i % 5 == 2:
                os.ftruncate(fd, rng.randrange(3000))
            if i % 7 == 3:
                torture_tree.fallocate(fd, torture_tree.KEEP_SIZE, 8192, 100_000)
            os.fsync(fd)
            os.close(fd)
    return []


def looks_like_a_log(tree: Tree, rng: Random) -> list[int]:
    """Journaled data that begin as the log's own blocks do, and blocks that are revoked and used again."""
    here = tree.below("escaped")
    for i in range(20):
        head = struct.pack(">III", 0xC03B3998, rng.randint(1, 6), rng.randrange(40))
        torture_tree.write(here.at(b"like a log %d" % i), (head + rng.randbytes(1012)) * rng.randint(1, 5))
    torture_tree.write(here.at("freed"), lines("freed", 20_000))
    _commit(tree)
    os.unlink(here.at("freed"))
    torture_tree.write(here.at("again"), lines("again", 20_000))
    return some_changes(tree, rng)


def _commit(tree: Tree) -> None:
    with kernel_ioctl.opened(tree.root, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)


_UNSIGNED = "debugfs -w -R 'ssv flags 2'"
_LATE = "rw,commit=300"


def _of(name: str, size: str, mkfs: str, *commands: str, fill: Filling = everything) -> Layout:
    return Layout(name, size, mkfs, fill, commands=commands)


def _after(name: str, size: str, mkfs: str, *commands: str) -> Layout:
    return Layout(name, size, mkfs, everything, 1, small, commands=commands)


def _encrypted(name: str, size: str, mkfs: str, policies: int, fill: Filling, *before: str) -> Layout:
    return Layout(name, size, mkfs, None, policies, fill, before=before)


def _dirty(
    name: str,
    mkfs: str,
    policies: int = 0,
    *before: str,
    fill: Filling = small,
    changes: Callable[[Tree, Random], list[int]] = some_changes,
    mount: str = _LATE,
) -> Layout:
    return Layout(name, "64M", mkfs, fill, policies, small, before=before, mount_options=mount, dirty=changes)


LAYOUTS = [
    # Block and inode sizes, groups, features.
    _of("plain-1k-128", "24M", "-b 1024 -I 128 -N 3000"),
    _of("plain-1k-1024", "24M", "-b 1024 -I 1024 -N 3000"),
    _of("plain-2k-2048", "40M", "-b 2048 -I 2048 -N 3000"),
    _of("plain-4k-4096", "48M", "-b 4096 -I 4096 -N 3000 -O mmp", "tune2fs -O project,quota"),
    _of("plain-ext2", "24M", "-t ext2 -b 1024 -N 3000"),
    _of("plain-ext3-2k", "32M", "-t ext3 -b 2048 -I 512 -N 3000"),
    _of("plain-no-csum", "24M", "-b 1024 -g 1024 -N 3000 -O ^metadata_csum,uninit_bg,^64bit,^flex_bg"),
    _of("plain-no-filetype", "24M", "-b 1024 -N 3000 -O ^filetype,^dir_index,sparse_super2"),
    _of("plain-inline", "24M", "-b 1024 -I 1024 -N 3000 -O inline_data,ea_inode"),
    _of("plain-inline-4k", "32M", "-b 4096 -I 512 -N 3000 -O inline_data,^metadata_csum"),
    _of("plain-ea-inode", "40M", "-b 1024 -N 3000 -O ea_inode,^has_journal", fill=large_attributes),
    _of("plain-bigalloc", "48M", "-b 1024 -C 16384 -N 3000 -O bigalloc,^resize_inode"),
    _of("plain-busy", "24M", "-b 1024 -N 200", fill=busy_long),
    _of("plain-contents", "64M", "-b 1024 -N 400", fill=contents),
    _of("plain-inodes", "16M", "-b 4096 -N 600", "tune2fs -O project,quota", fill=inodes),
    # Identities, sizes and journals that changed since.
    _after("after-uuid", "24M", "-b 1024 -N 3000 -O metadata_csum_seed", "tune2fs -U random"),
    _after("after-shrink", "64M", "-b 1024 -N 6000", "e2fsck -fy", "resize2fs -M"),
    _after("after-grow", "20M", "-b 1024 -g 2048 -N 3000", "e2fsck -fy", "truncate -s 53M", "resize2fs"),
    _after("after-grow-meta-bg", "20M", "-b 1024 -g 1024 -N 3000 -O meta_bg,^resize_inode",
           "e2fsck -fy", "truncate -s 41M", "resize2fs"),
    # tune2fs 1.47 leaves some directory blocks without a checksum, until e2fsck -D.
    _after("after-64bit", "32M", "-b 1024 -N 3000 -O ^64bit,^metadata_csum",
           "e2fsck -fy", "resize2fs -b", "tune2fs -O metadata_csum", "e2fsck -fyD"),
    _after("after-no-journal", "24M", "-b 2048 -N 3000", "tune2fs -O ^has_journal", "tune2fs -O ^dir_index"),
    _of("after-inode-size", "24M", "-b 1024 -I 128 -N 3000 -O ^flex_bg,^metadata_csum",
        "e2fsck -fy", "tune2fs -I 512"),
    Layout("after-e2fsck", "24M", "-b 1024 -N 3000", busy_few, 2, busy_few, commands=("e2fsck -fyD",)),
    # Encrypted trees over layouts.
    Layout("crypt-1k", "56M", "-b 1024 -N 6000 -O stable_inodes", None, 4, everything,
           commands=("tune2fs -O project,quota",)),
    _encrypted("crypt-2k", "64M", "-b 2048 -I 512 -N 6000 -O stable_inodes,^64bit", 4, everything),
    _encrypted("crypt-4k", "96M", "-b 4096 -N 6000 -O stable_inodes", 4, everything),
    _encrypted("crypt-4k-4096", "128M", "-b 4096 -I 4096 -N 6000 -O stable_inodes", 3, everything),
    _encrypted("crypt-1k-128", "40M", "-b 1024 -I 128 -N 5000 -O ^metadata_csum", 3, everything),
    _encrypted("crypt-ext3", "40M", "-t ext3 -b 1024 -I 256 -N 5000", 3, everything),
    _encrypted("crypt-inline", "40M", "-b 1024 -I 512 -N 5000 -O inline_data,ea_inode", 3, everything),
    _encrypted("crypt-ea-inode", "48M", "-b 2048 -N 3000 -O ea_inode,^has_journal", 2, large_attributes),
    _encrypted("crypt-bigalloc", "64M", "-b 2048 -C 32768 -N 4000 -O bigalloc,^resize_inode", 2, everything),
    _encrypted("crypt-meta-bg", "40M", "-b 1024 -g 512 -I 512 -N 5000 -O meta_bg,^resize_inode", 3, everything),
    _encrypted("crypt-contents", "96M", "-b 1024 -N 2000 -O stable_inodes", 4, contents),
    # Directories, whose hashes the names without keys show.
    _encrypted("crypt-no-index", "24M", "-b 1024 -N 3000 -O ^dir_index", 2, busy_few),
    _encrypted("crypt-legacy", "32M", "-b 1024 -N 3000", 2, busy_few, "tune2fs -E hash_alg=legacy"),
    _encrypted("crypt-legacy-unsigned", "32M", "-b 4096 -N 3000", 2, busy_few,
               "tune2fs -E hash_alg=legacy", _UNSIGNED),
    _encrypted("crypt-tea-unsigned", "32M", "-b 1024 -N 3000", 2, busy_few, "tune2fs -E hash_alg=tea", _UNSIGNED),
    _encrypted("crypt-half-md4-unsigned", "32M", "-b 2048 -N 3000", 2, busy_few, _UNSIGNED),
    _encrypted("crypt-busy", "32M", "-b 4096 -N 200", 1, busy),
    _encrypted("crypt-busy-1k", "32M", "-b 1024 -N 200", 1, busy_long),
    # Stopped while mounted.
    _dirty("dirty-plain", "-b 1024 -N 4000", fill=everything),
    _dirty("dirty-ext3", "-t ext3 -b 1024 -N 4000", fill=everything),
    _dirty("dirty-orphan-file", "-b 2048 -N 4000 -O orphan_file,inline_data", fill=everything),
    _dirty("dirty-data-journal", "-b 1024 -N 4000 -J size=8", changes=looks_like_a_log, mount=f"{_LATE},data=journal"),
    _dirty("dirty-fast-commit", "-b 1024 -N 3000 -O fast_commit", changes=fast_changes),
    _dirty("dirty-crypt", "-b 1024 -N 5000 -O stable_inodes,orphan_file", 3),
    _dirty("dirty-crypt-4k", "-b 4096 -N 5000 -O stable_inodes", 3,
           mount=f"{_LATE},journal_async_commit,data=writeback"),
    _dirty("dirty-crypt-seed", "-b 2048 -N 5000 -O metadata_csum_seed", 2, "tune2fs -U random"),
    _dirty("dirty-crypt-fast-commit", "-b 1024 -N 3000 -O fast_commit", 2, changes=fast_changes),
]  # fmt: skip
