"""Trees that nobody would make on purpose: names of random bytes, files that were cut, punched and shifted.

All that happens follows from the seed of a `random.Random`, but for what the kernel chooses. What a
file system can't do (attributes that find no place, ranges that an encrypted file can't shift) is
tried and left.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

from tools import kernel_ioctl
from tools.fixture_tree import ACL_GROUP, ACL_GROUP_OBJ, ACL_MASK, ACL_OTHER, ACL_USER, ACL_USER_OBJ, Tree

KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE = 1, 2, 8, 16, 32
RENAME_EXCHANGE, RENAME_WHITEOUT = 2, 4
SECOND_NS = 1_000_000_000
# Seconds around the ends of the epochs that two bits beside a signed 32-bit word tell apart.
_MOMENTS = [-(2**31), -1, 0, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 2**31, 2**33, 2**34 - 2**31 - 1]
_IDS = [0, 1, 1000, 65535, 65536, 70000, 2**31 - 1, 2**31, 2**32 - 2]
_DEVICES = [(0, 0), (1, 3), (255, 255), (8, 256), (256, 0), (4095, 1048575), (259, 70000)]
# fs.h: sync, immutable, append-only, no dump, no atime, dirsync, topdir (all but the last two for files).
_FILE_FLAGS, _DIRECTORY_FLAGS = (0x8, 0x10, 0x20, 0x40, 0x80), (0x8, 0x10, 0x20, 0x40, 0x80, 0x10000, 0x20000)
_TRIED_AND_LEFT = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSPC, errno.ERANGE, errno.EPERM, errno.E2BIG)
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def tried(*errnos: int) -> Iterator[None]:
    """What this file system or policy can't do is left."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errnos or _TRIED_AND_LEFT):
            raise


def _checked(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """The system call, which os.posix_fallocate is not: it knows modes."""
    _checked(_libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


def rename_with(old: bytes, new: bytes, flags: int) -> None:
    """renameat2(2) of absolute paths: exchange the two, or leave a whiteout (character device 0:0) behind."""
    _checked(_libc.renameat2(-100, old, -100, new, flags))


def random_name(rng: Random, length: int) -> bytes:
    """A name of `length` bytes of any value that a name may hold."""
    name = rng.randbytes(length).replace(b"/", b"_").replace(b"\0", b"\n")
    return name if name not in (b".", b"..") else b"-" * length


def names(tree: Tree, rng: Random, every: int = 1) -> None:
    """A name of each length from 1 to 255 bytes, of each kind of inode and of links to others."""
    here = tree.below("names")
    files: list[bytes] = []
    for length in range(1, 256, every):
        name = random_name(rng, length)
        kind = rng.randrange(8)
        if kind == 0:
            os.mkdir(here.at(name), rng.randrange(0o1000))
        elif kind == 1:
            here.symlink(name, random_name(rng, rng.randint(1, 200)))
        elif kind == 2:
            node = rng.choice((stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK))
            os.mknod(here.at(name), node | rng.randrange(0o10000), os.makedev(*rng.choice(_DEVICES)))
        elif kind == 3 and files:
            here.link(name, rng.choice(files))
        else:
            write(here.at(name), rng.randbytes(rng.choice((0, 1, 15, 16, 17, 100))))
            files.append(name)


def write(path: bytes, data: bytes) -> None:
    """A file written in one go; unlike `Tree.file` names need not be text."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def busy(tree: Tree, rng: Random, count: int, length: int | None = None) -> None:
    """A directory of `count` names, of which a third is removed and half of that made again."""
    here = tree.below("busy")
    for i in range(3):
        write(here.at(b"first %d" % i), b"%d" % i)
    made = []
    for i in range(count):
        name = b"%d-" % i + random_name(rng, rng.randint(1, 200) if length is None else length - 8)
        os.link(here.at(b"first %d" % (i % 3)), here.at(name))
        made.append(name)
    gone = rng.sample(made, count // 3)
    for name in gone:
        os.unlink(here.at(name))
    for name in gone[::2]:
        os.link(here.at("first 0"), here.at(name[::-1]))


def contents(tree: Tree, rng: Random, block: int, count: int) -> None:
    """Files after some random operations each; now and then written out, so that extents stay apart."""
    here = tree.below("contents")
    for i in range(count):
        fd = os.open(here.at(b"worked on %d" % i), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            reach = block << rng.choice((0, 2, 4, 6))
            for _ in range(rng.randint(1, 12)):
                with tried():
                    _work_on(fd, rng, block, reach)
        finally:
            os.close(fd)


def _work_on(fd: int, rng: Random, block: int, reach: int) -> None:
    offset, length = rng.randrange(reach), rng.randint(1, reach)
    aligned = offset // block * block, -(-length // block) * block
    chosen: Callable[[], object] = rng.choice(
        (
            lambda: os.pwrite(fd, rng.randbytes(min(length, 5 * block)), offset),
            lambda: os.pwrite(fd, rng.randbytes(block), aligned[0]),
            lambda: os.pwrite(fd, b"far", offset * 40),
            lambda: os.ftruncate(fd, offset),
            lambda: os.ftruncate(fd, os.fstat(fd).st_size + length),
            lambda: fallocate(fd, 0, offset, length),
            lambda: fallocate(fd, KEEP_SIZE, offset, length),
            lambda: fallocate(fd, KEEP_SIZE | PUNCH_HOLE, offset, length),
            lambda: fallocate(fd, ZERO_RANGE, offset, length),
            lambda: fallocate(fd, ZERO_RANGE | KEEP_SIZE, offset, length),
            lambda: fallocate(fd, COLLAPSE_RANGE, *aligned),
            lambda: fallocate(fd, INSERT_RANGE, *aligned),
            lambda: os.fsync(fd),
        )
    )
    chosen()


def fragmented(tree: Tree, block: int, count: int) -> None:
    """As many extents as blocks: an extent tree of several levels, or a block map with gaps."""
    fd = os.open(tree.at("fragmented"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        for i in reversed(range(count)):
            os.pwrite(fd, b"%-16d" % i * (block // 16), 3 * i * block)
    finally:
        os.close(fd)


def symlinks(tree: Tree, rng: Random, block: int) -> None:
    """Targets of every length around what fits into the inode, and around a block."""
    here = tree.below("symlinks")
    ends = sorted({length for end in (block, 4096) for length in range(end - 6, end + 1)})
    for length in [*range(1, 66), 100, 255, 256, 500, 999, *ends]:
        with tried(errno.ENAMETOOLONG):
            here.symlink(b"to %d" % length, random_name(rng, length))


def attributes(tree: Tree, rng: Random, count: int, largest: int) -> None:
    """Files, directories and links with random attributes and ACLs: in the inode, in a block, in other inodes."""
    here = tree.below("attributes")
    for i in range(count):
        name = b"attributes %d" % i
        kind = rng.choice(("file", "file", "dir", "symlink"))
        if kind == "file":
            write(here.at(name), rng.randbytes(rng.randrange(200)))
        elif kind == "dir":
            os.mkdir(here.at(name))
        else:
            here.symlink(name, "t" * rng.choice((5, 59, 70)))
        for _ in range(rng.randrange(14)):
            spaces = (b"trusted.", b"security.") if kind == "symlink" else (b"user.", b"trusted.", b"security.")
            attribute = rng.choice(spaces) + bytes(
                rng.randrange(33, 256) for _ in range(rng.randint(1, rng.choice((8, 40, 240))))
            )
            value = rng.randbytes(rng.randrange(rng.choice((1, 20, 100, largest))) if rng.randrange(9) else 0)
            with tried():
                os.setxattr(here.at(name), attribute, value, follow_symlinks=False)
            if rng.randrange(4) == 0:
                with tried(errno.ENODATA):
                    os.removexattr(here.at(name), attribute, follow_symlinks=False)
        if kind != "symlink" and rng.randrange(3) == 0:
            with tried():
                os.setxattr(here.at(name), "system.posix_acl_access", _acl(rng))
            if kind == "dir":
                with tried():
                    os.setxattr(here.at(name), "system.posix_acl_default", _acl(rng))
                write(here.at(name + b"/inherits"), b"x")


def _acl(rng: Random) -> bytes:
    def named(tag: int) -> list[tuple[int, int, int]]:
        return [(tag, rng.randrange(8), number) for number in sorted(rng.sample(_IDS, rng.randrange(5)))]

    entries = [(ACL_USER_OBJ, rng.randrange(8), -1), *named(ACL_USER), (ACL_GROUP_OBJ, rng.randrange(8), -1)]
    entries += [*named(ACL_GROUP), (ACL_MASK, rng.randrange(8), -1), (ACL_OTHER, rng.randrange(8), -1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", t, p, n & 0xFFFFFFFF) for t, p, n in entries)


def inodes(tree: Tree, rng: Random, count: int) -> None:
    """Owners, modes, times, devices and flags of all sizes; flags last, as some stop the rest."""
    here = tree.below("inodes")
    for i in range(count):
        path = here.at(b"inode %d" % i)
        kind = rng.choice((stat.S_IFREG, stat.S_IFREG, stat.S_IFDIR, stat.S_IFCHR, stat.S_IFBLK))
        if kind == stat.S_IFDIR:
            os.mkdir(path)
        else:
            os.mknod(path, kind | 0o600, os.makedev(rng.choice((rng.randrange(4096), 8)), rng.randrange(1 << 20)))
        if kind == stat.S_IFREG:
            write(path, rng.randbytes(rng.randrange(9)))
        os.chown(path, rng.choice(_IDS), rng.choice(_IDS))
        os.chmod(path, rng.randrange(0o10000))
        atime, mtime = (
            rng.choice(_MOMENTS) * SECOND_NS + rng.choice((0, 1, 999_999_999, rng.randrange(SECOND_NS))) for _ in "am"
        )
        os.utime(path, ns=(atime, mtime))
        if kind in (stat.S_IFREG, stat.S_IFDIR):
            for flag in rng.sample(_DIRECTORY_FLAGS if kind == stat.S_IFDIR else _FILE_FLAGS, rng.randrange(3)):
                with tried():
                    kernel_ioctl.set_flags(path, flag)


def moves(tree: Tree, rng: Random) -> None:
    """Links and renames across the directories of one policy; exchanges, whiteouts, what came from outside."""
    left, right = tree.below("left"), tree.below("right")
    for i in range(12):
        write(left.at(b"left %d" % i), rng.randbytes(700))
        os.link(left.at(b"left %d" % i), right.at(b"also here %d" % i))
    os.rename(left.at("left 0"), right.at(random_name(rng, 255)))
    os.rename(left.at("left 1"), right.at("also here 2"))
    left.below("moves").file("inside", b"in a directory that moves\n")
    os.rename(left.at("moves"), right.at("has moved"))
    left.below("exchanged").file("was left", b"left")
    right.symlink("exchanged", "was right")
    rename_with(left.at("exchanged"), right.at("exchanged"), RENAME_EXCHANGE)
    with tried():
        rename_with(left.at("left 3"), right.at("leaves a whiteout"), RENAME_WHITEOUT)
    with tried(errno.EXDEV, *_TRIED_AND_LEFT):
        nameless = os.open(left.at("."), os.O_TMPFILE | os.O_RDWR, 0o600)
        try:
            os.write(nameless, b"made without a name\n")
            os.link(b"/proc/self/fd/%d" % nameless, right.at("named later"), follow_symlinks=True)
        finally:
            os.close(nameless)


def deep(tree: Tree, rng: Random, levels: int) -> None:
    """A path much longer than PATH_MAX."""
    fd = os.open(tree.below("deep").at("."), os.O_RDONLY | os.O_DIRECTORY)
    for level in range(levels):
        name = b"%d " % level + random_name(rng, rng.randint(1, 240))
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    leaf = os.open("leaf", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd)
    os.write(leaf, b"at the end\n")
    os.close(leaf)
    os.close(fd)


def everything(tree: Tree, rng: Random, block: int, largest: int | None = None) -> None:
    """One tree with all of the above; `largest` bounds the attributes' values, by default to a block."""
    names(tree, rng)
    contents(tree, rng, block, 40)
    fragmented(tree, block, 60)
    symlinks(tree, rng, block)
    attributes(tree, rng, 40, largest or block)
    moves(tree, rng)
    deep(tree, rng, 30)
    inodes(tree, rng, 40)
