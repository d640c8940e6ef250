"""Random encrypted trees: stored names of any bytes, carried hashes, ciphertext; e2fsck, and back again."""

from __future__ import annotations

import random
import stat
import struct
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

import ext4img
from ext4img.mkfs import ENCRYPTION_CONTEXT, Node, Options, plan, write
from ext4img.volume.inode import StoredInode
from ext4img.volume.runs import UNWRITTEN
from ext4img.volume.volume import Volume
from tests.mkfs.judges import assert_clean
from tests.mkfs.samples import CASEFOLD_FL, DIRECTORY, ENCRYPT_FL, FILE, ROOT, context
from tests.mkfs.test_random_trees import SLOW
from tests.mkfs.trees import Contents, Segments, merged

Path_ = tuple[bytes, ...]
# Stored names are any bytes from 16 to 255, NULs and slashes among them.
LENGTH = st.one_of(st.sampled_from([16, 17, 31, 32, 48, 149, 150, 254, 255]), st.integers(16, 255))
COUNT = st.one_of(st.integers(0, 6), st.integers(0, 6), st.integers(0, 300))
MOST_NODES = 600


class Stored(NamedTuple):
    """What a name has to lead to."""

    kind: int
    flags: int
    context: bytes | None
    name_hash: bytes
    size: int
    written: tuple[tuple[int, int], ...]
    unwritten: tuple[tuple[int, int], ...]
    target: bytes


class Grown:
    """Nodes of encrypted directories, and what each has to be when it is read."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.nodes: list[Node] = [ROOT]
        self.expected: dict[Path_, Stored] = {}
        self.contents: dict[int, Contents] = {}
        self.same: dict[Path_, Path_] = {}  # a further name, and its first

    def __repr__(self) -> str:
        return f"Grown of {len(self.nodes)} nodes, blocks of {self.block_size}"


@st.composite
def grown(draw: st.DrawFn) -> Grown:
    found = Grown(draw(st.sampled_from([1024, 2048, 4096, 65536])))
    rng = random.Random(draw(st.integers(0, 1 << 32)))
    flags = draw(st.sampled_from([0x00, 0x02, 0x03, 0x07]))
    for top in range(draw(st.integers(1, 3))):
        casefolded = draw(st.booleans())
        policy = context(flags, (top,), key=top + 1)[:-16]
        _grow(draw, found, rng, (b"top %d" % top,), b"", policy, casefolded, 0)
    return found


def _grow(
    draw: st.DrawFn, found: Grown, rng: random.Random, path: Path_, own: bytes, policy: bytes, fold: bool, depth: int
) -> None:
    """A directory and what is in it."""
    flags = ENCRYPT_FL | (CASEFOLD_FL if fold else 0)
    linear = not fold and draw(st.integers(0, 9)) == 0
    _add(found, Node(path, DIRECTORY, flags=flags, name_hash=own, linear=linear), policy + rng.randbytes(16))
    count, length = draw(COUNT), draw(LENGTH)
    alike = rng.getrandbits(31) << 1
    firsts: list[Node] = []
    for _ in range(count):
        name = rng.randbytes(length if rng.random() < 0.8 else rng.randint(16, 255))
        here = (*path, name)
        if here in found.expected or len(found.nodes) > MOST_NODES:
            continue
        major = alike if rng.random() < 0.2 else rng.getrandbits(31) << 1
        name_hash = struct.pack("<II", major, rng.getrandbits(32)) if fold else b""
        kind = rng.choice(["dir", "file", "file", "file", "symlink", "fifo", "link"])
        if kind == "dir" and depth < 6 and rng.random() < 0.5:
            _grow(draw, found, rng, here, name_hash, policy, fold, depth + 1)
        elif kind == "link" and firsts:
            first = rng.choice(firsts)
            found.nodes.append(Node(here, FILE, link_group=first.link_group, name_hash=name_hash))
            found.expected[here] = found.expected[first.path]._replace(name_hash=name_hash)
            found.same[here] = first.path
        elif kind == "symlink":
            target = rng.randbytes(rng.choice([16, 57, 58, 59, 60, 200, found.block_size - 3 & 0xFF0]))
            stored = struct.pack("<H", len(target)) + target
            node = Node(here, stat.S_IFLNK | 0o777, flags=ENCRYPT_FL, target=stored, name_hash=name_hash)
            _add(found, node, policy + rng.randbytes(16))
        elif kind == "fifo":
            _add(found, Node(here, stat.S_IFIFO | 0o600, name_hash=name_hash), None)
        else:
            firsts.append(_file(found, rng, here, name_hash))
            _add(found, firsts[-1], policy + rng.randbytes(16))


def _file(found: Grown, rng: random.Random, path: Path_, name_hash: bytes) -> Node:
    """Ciphertext in whole blocks, with holes and unwritten ranges between."""
    block = found.block_size
    blocks = rng.choice([0, 1, 1, 2, rng.randint(3, 40)])
    size = max(blocks * block - rng.randrange(block), 0)
    states = [rng.choice("wwuh") for _ in range(blocks)]
    written = merged([(i * block, block) for i, state in enumerate(states) if state == "w"])
    unwritten = merged([(i * block, block) for i, state in enumerate(states) if state == "u"])
    number = len(found.nodes)
    found.contents[number] = Contents(number, written)
    return Node(
        path,
        FILE,
        size=size,
        flags=ENCRYPT_FL,
        segments=written,
        unwritten=unwritten,
        body=number,
        link_group=number,
        name_hash=name_hash,
    )


def _add(found: Grown, node: Node, raw_context: bytes | None) -> None:
    if raw_context is not None:
        node = node._replace(xattrs={ENCRYPTION_CONTEXT: raw_context})
    found.nodes.append(node)
    found.expected[node.path] = Stored(
        stat.S_IFMT(node.mode),
        node.flags,
        raw_context,
        node.name_hash,
        node.size,
        tuple(node.segments or ()),
        tuple(node.unwritten),
        node.target,
    )


def stored_in(volume: Volume, block: int) -> tuple[dict[Path_, Stored], dict[Path_, StoredInode]]:
    """Every path of stored names below the root but lost+found, and what is there."""
    found: dict[Path_, Stored] = {}
    inodes: dict[Path_, StoredInode] = {}
    todo: list[tuple[Path_, int]] = [((), 2)]
    while todo:
        above, number = todo.pop()
        for entry in volume.directory(volume.inode(number)):
            path = (*above, entry.name)
            if path == (b"lost+found",):
                continue
            inode = volume.inode(entry.inode)
            inodes[path] = inode
            if inode.is_dir:
                todo.append((path, entry.inode))
            ranges: dict[bool, Segments] = {False: [], True: []}
            if inode.is_file:
                for run in volume.runs(inode):
                    ranges[run.state == UNWRITTEN].append((run.lblk * block, run.length * block))
            found[path] = Stored(
                stat.S_IFMT(inode.mode),
                inode.flags & (ENCRYPT_FL | CASEFOLD_FL),
                volume.encryption_context(inode),
                entry.hash,
                inode.size if inode.is_file else 0,
                tuple(merged(ranges[False])),
                tuple(merged(ranges[True])),
                volume.symlink_target_stored(inode) if inode.is_symlink else b"",
            )
    return found, inodes


@SLOW
@given(grown())
def test_what_is_stored_comes_back(tree: Grown):
    with TemporaryDirectory(prefix="ext4img-build-") as scratch:
        image = Path(scratch, "i")
        write(plan(tree.nodes, Options(block_size=tree.block_size)), tree.contents.__getitem__, image)
        assert_clean(image)
        with ext4img.open(image) as fs:
            found, inodes = stored_in(fs.volume, tree.block_size)
            assert found.keys() == tree.expected.keys()
            for path, expected in tree.expected.items():
                assert found[path] == expected, path
            for path, first in tree.same.items():
                assert inodes[path].number == inodes[first].number
            for node in tree.nodes:
                if node.body < 0:
                    continue
                contents = tree.contents[node.body]
                stored = fs.volume.contents(inodes[node.path])
                for offset, length in contents.segments:
                    buffer = bytearray(length)
                    assert stored.read_stored_into(offset, memoryview(buffer)) == []
                    assert buffer == contents.read_at(offset, length)
            assert list(fs.problems) == []
