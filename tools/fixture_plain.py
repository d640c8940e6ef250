"""The unencrypted fixtures: what is in each image, and why.

Every file is there because a reader has got it wrong somewhere, or because it stands at the edge
of a format decision (59 and 60 bytes of symlink, 12 and 13 direct blocks, four and five extents).
"""

from __future__ import annotations

import os
import stat

from tools import kernel_ioctl
from tools.fixture_tree import Tree, lines, noise

SECOND_NS = 1_000_000_000
APPEND_FL, NODUMP_FL, IMMUTABLE_FL, NOATIME_FL = 0x20, 0x40, 0x10, 0x80
TOPDIR_FL = 0x20000


def names(tree: Tree) -> None:
    """Names at the edges of what a directory entry can hold."""
    here = tree.below("names")
    here.file("a")  # shortest
    here.file("x" * 255)  # longest
    here.file("ä" * 127)  # longest in two-byte characters, 254 bytes
    here.file(b"not-utf8-\xff\xfe\x80")  # any byte but NUL and / is a name
    here.file("new\nline\ttab \x7f\x01")
    here.file(" leading and trailing ")
    here.file("-dash")
    here.file("%3D=equals")  # pax escapes these two in attribute keys
    here.file("back\\slash")
    here.file("...")  # not "." nor ".."
    here.below("directory")
    deep = here
    for depth in range(12):
        deep = deep.below(f"{depth:02d}-" + "deep" * 20)  # the path is longer than a name may be
    deep.file("leaf", b"at the end of a long path\n")


def kinds(tree: Tree) -> None:
    """Each type, links, modes, owners."""
    here = tree.below("kinds")
    here.special_files()
    here.file("empty")
    here.file("setuid", b"#!/bin/sh\n", 0o4755)
    here.file("setgid", b"#!/bin/sh\n", 0o2755)
    here.file("no-permissions", b"nobody may read this\n", 0)
    here.below("sticky")
    os.chmod(here.at("sticky"), 0o1777)
    here.file("three-names", b"one inode, three names\n")
    here.link("second-name", "three-names")
    here.below("elsewhere").file("other", b"x")
    os.link(here.at("three-names"), here.at("elsewhere/third-name"))
    os.mknod(here.at("linked-fifo"), 0o600 | stat.S_IFIFO)
    here.link("linked-fifo-again", "linked-fifo")
    # Owners are 32 bits in two halves.
    for uid, gid in ((65534, 65535), (65536, 65537), (0x12345678, 0x87654321), (0xFFFFFFFE, 1)):
        here.file(f"owner-{uid}", b"owned\n")
        here.owner(f"owner-{uid}", uid, gid)


def symlinks(tree: Tree) -> None:
    """In the inode below 60 bytes, in a block from there on."""
    here = tree.below("symlinks")
    for length in (1, 59, 60, 61, 1000):
        here.symlink(f"length-{length}", "t" * length)
    here.symlink("relative", "../kinds/three-names")
    here.symlink("absolute", "/kinds/three-names")
    here.symlink("to-directory", "../kinds")
    here.symlink("dangling", "nowhere/at/all")
    here.symlink("loop-a", "loop-b")
    here.symlink("loop-b", "loop-a")
    here.symlink("not-utf8", b"\xc3\x28\xff")
    here.symlink("owned", "../kinds")
    here.owner("owned", 1000, 70000)
    here.link("hard-link-to-symlink", "relative")


def long_symlink(tree: Tree) -> None:
    """The longest target that one block takes."""
    tree.below("symlinks").symlink("length-4095", "/".join(["s" * 15] * 256)[:4095])


def attributes(tree: Tree, large: bool = True) -> None:
    """Attributes in the inode's slack and in a block of their own, ACLs, capabilities."""
    here = tree.below("attributes")
    here.file("in-inode", b"x")
    here.xattr("in-inode", user_comment=b"small", trusted_overlay=b"y", security_demo=b"label\0")
    here.file("in-block", b"x")
    here.xattr("in-block", user_large=lines("attribute", 600), user_small=b"1")
    here.file("empty-value", b"x")
    here.xattr("empty-value", user_empty=b"")
    here.file("binary-value", b"x")
    here.xattr("binary-value", user_binary=bytes(range(64)))
    here.file("same-block-1", b"x")  # the kernel shares one attribute block between equal sets
    here.file("same-block-2", b"x")
    for name in ("same-block-1", "same-block-2"):
        here.xattr(name, user_shared=lines("shared", 500))
    if large:
        here.file("many", b"x")
        for i in range(12):
            here.xattr("many", **{f"user_attribute{i:02d}{'n' * i}": noise(f"xattr {i}", i * 9)})
    here.file("acl", b"x")
    here.acl("acl")
    here.below("acl-default")
    here.acl("acl-default")
    here.acl("acl-default", "default")
    here.file("acl-default/inherits", b"x")
    here.file("capability", b"x", 0o755)
    # VFS_CAP_REVISION_2 with CAP_NET_RAW permitted and effective (linux/capability.h)
    here.xattr("capability", security_capability=bytes.fromhex("0100000200200000000000000000000000000000"))
    here.symlink("symlink", "in-inode")
    here.xattr("symlink", trusted_note=b"only trusted and security attributes stick to symlinks")


def times(tree: Tree) -> None:
    """Seconds are signed 32 bits and two epoch bits; nanoseconds are 30 bits."""
    here = tree.below("times")
    moments = {
        "1901": -(2**31) * SECOND_NS,
        "before-1970": -1 * SECOND_NS,
        "1970": 0,
        "2038-last": (2**31 - 1) * SECOND_NS + 999_999_999,
        "2038-first": 2**31 * SECOND_NS,
        "2106": 2**32 * SECOND_NS + 1,
        "2446": (2**34 - 2**31 - 1) * SECOND_NS,
    }
    for name, moment_ns in moments.items():
        here.file(name, b"x")
        here.times(name, moment_ns, moment_ns)
    here.symlink("symlink", "1970")
    here.times("symlink", 123_456_789, 987_654_321 * SECOND_NS)
    here.below("directory")
    here.times("directory", 1, 2)


def flags(tree: Tree, block: int) -> None:
    """Inode flags; the immutable and append-only ones would hinder the rest, so they come last."""
    here = tree.below("flags")
    inode_flags = {"nodump": NODUMP_FL, "noatime": NOATIME_FL, "append": APPEND_FL, "immutable": IMMUTABLE_FL}
    for name, flag in inode_flags.items():
        here.file(name, lines(name, block))
        kernel_ioctl.set_flags(here.at(name), flag)
    here.below("topdir")
    kernel_ioctl.set_flags(here.at("topdir"), TOPDIR_FL)


def sizes(tree: Tree, block: int) -> None:
    """Sizes around one block, holes in each place, blocks that are allocated and never written."""
    here = tree.below("sizes")
    for size in (1, block - 1, block, block + 1, 3 * block + 7, 12 * block, 13 * block):
        here.file(f"bytes-{size}", lines(f"bytes {size}", size))
    here.sparse("only-hole", 5 * block, {})
    here.sparse("hole-first", 4 * block + 10, {3 * block: lines("after a hole", block + 10)})
    here.sparse("hole-last", 9 * block + 1, {0: lines("before a hole", block)})
    here.sparse("hole-middle", 8 * block, {0: lines("one", block), 7 * block: lines("two", block)})
    here.sparse("ends-in-block", 2 * block + 100, {2 * block: b"short tail"})


def extents(tree: Tree, block: int) -> None:
    """Extent trees from the four that fit into the inode to one with an index level."""
    here = tree.below("extents")
    for count in (1, 4, 5, 360):
        # Every other block, from the end backwards: none of them can join its neighbour.
        pieces = {2 * i * block: lines(f"extent {i}", block) for i in reversed(range(count))}
        here.sparse(f"extents-{count}", (2 * count) * block, pieces, sync=count <= 5)
    here.preallocated("unwritten", 6 * block, {})
    here.preallocated("unwritten-middle", 40 * block, {0: lines("head", block), 39 * block: lines("tail", block)})
    # Allocated beyond the end: fallocate with FALLOC_FL_KEEP_SIZE.
    here.file("beyond-the-end", lines("beyond", block + 5))
    with kernel_ioctl.opened(here.at("beyond-the-end"), os.O_RDWR) as fd:
        kernel_ioctl.allocate_beyond(fd, 0, 8 * block)
    # Logical block numbers near the limit of 32 bits.
    here.sparse("huge", (2**32 - 2) * block if block == 4096 else 2**40, {2**39: lines("far", block), 0: b"near"})


def indirect(tree: Tree, block: int) -> None:
    """The block map's levels: 12 direct blocks, then one, two and three levels of pointers."""
    here = tree.below("indirect")
    per_block = block // 4
    first = {"single": 12, "double": 12 + per_block, "triple": 12 + per_block + per_block**2}
    for name, lblk in first.items():
        # The last block before the level, its first, and one further in.
        places = (lblk - 1, lblk, lblk + 1, lblk + per_block + 3)
        here.sparse(name, (lblk + per_block + 4) * block, {p * block: lines(f"{name} {p}", block) for p in places})
    here.file("contiguous", lines("contiguous", (12 + per_block + 5) * block))


def many_names(tree: Tree, count: int, length: int, name: str = "many") -> None:
    """A hashed directory: long names fill its leaves fast. All are links to one file."""
    here = tree.below(name)
    here.file("first", b"many names\n")
    for i in range(count):
        here.link(f"{i:04d}-{noise(f'name {i}', length).hex()}"[:length], "first")


def plain_4k(tree: Tree) -> None:
    """Everything that a default ext4 can hold."""
    names(tree)
    kinds(tree)
    symlinks(tree)
    long_symlink(tree)
    attributes(tree)
    times(tree)
    sizes(tree, 4096)
    extents(tree, 4096)
    many_names(tree, 45, 200)
    flags(tree, 4096)


def ext2_1k(tree: Tree) -> None:
    """Block maps, 128-byte inodes (no creation time, no nanoseconds), a two-level hashed directory."""
    kinds(tree)
    symlinks(tree)
    attributes(tree, large=False)
    sizes(tree, 1024)
    indirect(tree, 1024)
    many_names(tree, 380, 250)


def inline_data(tree: Tree) -> None:
    """Files and directories that live in the inode, and those just too big for it."""
    here = tree.below("inline")
    for size in (0, 1, 59, 60, 61, 100, 150, 160, 161, 200):
        here.file(f"bytes-{size}", lines(f"inline {size}", size))
    here.file("with-attributes", lines("inline and attributes", 40))
    here.xattr("with-attributes", user_small=b"1", user_large=lines("large", 700))
    here.sparse("hole", 50, {})
    here.file("grown", b"small at first")
    with open(here.at("grown"), "ab") as file:
        file.write(lines("grown", 5000))
    for count in (0, 1, 3, 8):
        directory = here.below(f"directory-{count}")
        for i in range(count):
            directory.file(f"entry-{i}", b"x")
    # An attribute too large for a block lies in an inode of its own (ea_inode).
    here.file("huge-attribute", b"x")
    here.xattr("huge-attribute", user_huge=lines("huge", 20_000), user_huge_twin=lines("huge", 20_000))
    symlinks(tree)


def odd_layout(tree: Tree) -> None:
    """The layout is the point; the tree is spread over the block groups."""
    for i in range(6):
        here = tree.below(f"group-{i}")
        kernel_ioctl.set_flags(here.at("."), TOPDIR_FL)
        here.below("sub").file("file", lines(f"group {i}", 3000 + i))
    kinds(tree)
    sizes(tree, 1024)
    extents(tree, 1024)  # 84 extents a block: the tree gets two index levels
    attributes(tree, large=False)


def bigalloc(tree: Tree) -> None:
    """Clusters of several blocks: allocation is by the cluster, mapping still by the block."""
    sizes(tree, 1024)
    here = tree.below("clusters")
    here.sparse("every-fifth", 60 * 1024, {i * 5120: lines(f"piece {i}", 1024) for i in range(12)})
    here.preallocated("unwritten", 20 * 1024, {5 * 1024: lines("inside a cluster", 1024)})


def journaled(tree: Tree) -> None:
    """What is only in the log when the machine stops: new files, removed ones, changed attributes."""
    here = tree.below("journal")
    for i in range(8):
        here.file(f"new-{i}", lines(f"new {i}", 700 * i))
    here.symlink("symlink", "new-1")
    here.below("directory").file("inside", b"inside\n")
    os.rename(here.at("new-2"), here.at("directory/renamed"))
    os.unlink(here.at("new-3"))
    here.xattr("new-4", user_late=b"set in the log")
    os.chmod(here.at("new-5"), 0o600)
    here.link("new-6-again", "new-6")


def ext4_64k(tree: Tree) -> None:
    """Made on the host and copied in by mke2fs -d: what that carries of all the kinds."""
    here = tree.below("sizes")
    for size in (0, 1, 65535, 65536, 65537, 200_000):
        here.file(f"bytes-{size}", lines(f"bytes {size}", size))
    here.sparse("hole", 4 * 65536, {0: lines("one", 65536), 3 * 65536: lines("two", 65536)})
    tree.below("symlinks").symlink("fast", "t" * 59)
    tree.below("symlinks").symlink("slow", "t" * 60)
    many = tree.below("many")  # more than one block of entries: rec_len does not fit into 16 bits as it stands
    for i in range(300):
        many.file(f"{i:03d}-".ljust(220, "n") if i >= 15 else f"{i:03d}")
    for name in ("fifo", "char"):
        kind = stat.S_IFIFO if name == "fifo" else stat.S_IFCHR
        os.mknod(tree.at(name), 0o600 | kind, os.makedev(300, 70000))
    tree.file("owned", b"x", 0o4711)
    tree.owner("owned", 0x12345678, 70000)
    tree.times("owned", 2**32 * SECOND_NS, 10**18 + 5)
