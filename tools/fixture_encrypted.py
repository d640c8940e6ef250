"""The encrypted fixtures: what is in each image, and why."""

from __future__ import annotations

import hashlib
import os

from tools import kernel_ioctl
from tools.fixture_tree import Tree, lines, noise
from tools.kernel_view import Key

PAD_4, PAD_8, PAD_16, PAD_32 = range(4)
IV_INO_LBLK_64, IV_INO_LBLK_32 = 8, 16


def key(owner: str, version: int, size: int = 64) -> Key:
    """A key for fixtures, never to be used for anything else: it follows from the owner's name."""
    return Key(hashlib.shake_256(f"ext4img fixture key of {owner}".encode()).digest(size), version)


def encrypted_directory(tree: Tree, path: str, owner: Key, flags: int = PAD_32, log2_data_unit_size: int = 0) -> Tree:
    """A new directory under a policy of `owner`'s key."""
    mount = os.fsdecode(tree.root)
    name = kernel_ioctl.add_key(mount, owner.raw, owner.version, owner.descriptor)
    os.makedirs(tree.at(path))
    kernel_ioctl.set_policy(tree.at(path), name, flags=flags, log2_data_unit_size=log2_data_unit_size)
    return tree.below(path)


def contents(tree: Tree, block: int) -> None:
    """Sizes around one block, holes and unwritten extents, which are zeros and never decrypted."""
    here = tree.below("contents")
    for size in (0, 1, 16, block - 1, block, block + 1, 3 * block + 7):
        here.file(f"bytes-{size}.txt", lines(f"bytes {size}", size))
    here.sparse("only hole", 3 * block, {})
    here.sparse("hole first", 4 * block + 10, {3 * block: lines("after a hole", block + 10)})
    here.sparse("hole last", 9 * block + 1, {0: lines("before a hole", block)})
    here.sparse("hole middle", 8 * block, {0: lines("one", block), 7 * block: lines("two", block)})
    here.preallocated("unwritten", 3 * block, {})
    here.preallocated("unwritten middle", 20 * block, {0: lines("head", block), 19 * block: lines("tail", 100)})
    pieces = {2 * i * block: lines(f"extent {i}", block) for i in reversed(range(6))}
    here.sparse("six extents", 12 * block, pieces, sync=True)


def encrypted_names(tree: Tree) -> None:
    """Lengths around each padding, and around the 149 bytes above which the shown name is a hash."""
    here = tree.below("names")
    for length in (1, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 143, 144, 145, 148, 149, 150, 160, 161, 250, 255):
        here.file(f"{length:03d}-{'n' * length}"[-length:] if length < 5 else f"{length:03d}-".ljust(length, "n"))
    here.file("Übung — 文書 🔑.txt", b"not only ASCII\n")
    here.file(b"not-utf8-\xff\xfe", b"x")
    # Equal in the first 149 encrypted bytes and beyond them different: only the hash tells them apart.
    for end in ("one", "two"):
        here.file("s" * 200 + end, end.encode())
    here.below("directory with a long name " + "d" * 200).file("inside", b"inside\n")


def links(tree: Tree) -> None:
    """Encrypted targets in the inode (i_size below 60) and in a block; one file under several names."""
    here = tree.below("links")
    here.file("file", b"one inode, three names\n")
    here.link("second name", "file")
    here.below("elsewhere")
    os.link(here.at("file"), here.at("elsewhere/third name"))
    for length in (1, 15, 16, 17, 31, 32, 40, 41, 56, 57, 58, 100, 1000):
        here.symlink(f"to {length}", "t" * length)
    here.symlink("relative", "../contents/bytes-1.txt")
    here.symlink("dangling", "nowhere")
    here.link("another name of a link", "relative")


def special(tree: Tree) -> None:
    """Only the names of these are encrypted; they have no context."""
    tree.below("special files").special_files()


def attributes(tree: Tree) -> None:
    """Attributes and ACLs are not encrypted; beside them the context may move to a block."""
    here = tree.below("attributes")
    here.file("small", b"x")
    here.xattr("small", user_comment=b"in the clear")
    here.file("large", b"x")
    here.xattr("large", user_large=lines("attribute", 700), trusted_large=b"t" * 50)
    here.file("acl", b"x")
    here.acl("acl")
    here.below("acl directory")
    here.acl("acl directory", "default")
    here.file("owned", b"x", 0o640)
    here.owner("owned", 0x12345678, 70000)
    here.times("owned", 2**32 * 10**9 + 7, 10**18 + 1)


def many(tree: Tree, count: int, length: int) -> None:
    """A hashed directory; without the key its order follows the hash of the ciphertext."""
    here = tree.below("many")
    here.file("first", b"many names\n")
    for i in range(count):
        here.link(f"{i:04d}-{noise(f'name {i}', length).hex()}"[:length], "first")


def everything(tree: Tree, block: int) -> None:
    """One encrypted tree with all of the above."""
    contents(tree, block)
    encrypted_names(tree)
    links(tree)
    special(tree)
    attributes(tree)


ALICE, BOB = key("alice", 2), key("bob", 1)


def sample(tree: Tree) -> None:
    """The demonstration's image: two users' homes, one for each policy version, and plain files."""
    tree.file("README.txt", b"Plain text beside the encrypted homes of alice (v2) and bob (v1).\n")
    etc = tree.below("etc")
    etc.file("hostname", b"sample\n")
    etc.file("passwd", b"alice:x:1000:1000::/home/alice:/bin/sh\nbob:x:1001:1001::/home/bob:/bin/sh\n")
    etc.symlink("alternatives", "../var/alternatives")
    tree.below("var").special_files()
    tree.below("home")
    alice = encrypted_directory(tree, "home/alice", ALICE, PAD_16)
    alice.owner(".", 1000, 1000)
    alice.file("notes.txt", b"Remember the milk.\n", 0o600)
    alice.below("Documents/Taxes/2025").file("return.txt", lines("return", 9000), 0o600)
    alice.below("Documents/Letters").file("Dear Bob.txt", lines("dear bob", 1234), 0o600)
    everything(alice, 4096)
    many(alice, 50, 200)
    bob = encrypted_directory(tree, "home/bob", BOB, PAD_4)
    bob.owner(".", 1001, 1001)
    bob.file("diary.txt", b"Alice writes of taxes again.\n", 0o600)
    everything(bob, 4096)
    # What was moved out of an encrypted directory stays encrypted, below a plain name.
    for name in ("moved.txt", "moved"):
        alice.file(name, lines(name, 5000)) if "." in name else alice.below(name).file("inside", b"moved too\n")
        os.rename(alice.at(name), tree.at(name))


OLD_V1, OLD_V2 = key("old v1", 1), key("old v2", 2)


def old_layout(tree: Tree) -> None:
    """1 KiB blocks, 128-byte inodes (every context in a block), block maps, no checksums."""
    everything(encrypted_directory(tree, "v1", OLD_V1, PAD_8), 1024)
    v2 = encrypted_directory(tree, "v2", OLD_V2, PAD_32)
    contents(v2, 1024)
    links(v2)
    many(v2, 30, 120)


SHORT, SHARED, LONG = key("short", 2, 32), key("shared", 2), key("odd", 2, 47)


def variants(tree: Tree) -> None:
    """Policies with their own rules for IVs, data units and keys; one key under several policies."""
    contents(encrypted_directory(tree, "data-unit-512", SHARED, PAD_16, log2_data_unit_size=9), 4096)
    contents(encrypted_directory(tree, "ino-lblk-64", SHARED, PAD_16 | IV_INO_LBLK_64), 4096)
    links(encrypted_directory(tree, "ino-lblk-64-links", SHARED, PAD_4 | IV_INO_LBLK_64))
    contents(encrypted_directory(tree, "ino-lblk-32", SHARED, PAD_32 | IV_INO_LBLK_32), 4096)
    encrypted_names(encrypted_directory(tree, "short-key", SHORT, PAD_8))
    special(encrypted_directory(tree, "odd-key", LONG, PAD_4))
