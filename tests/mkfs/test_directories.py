"""Directories of every size: lists, hash trees of one to three levels, colliding hashes."""

from __future__ import annotations

import os
import random
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import ext4img
from ext4img.mkfs import Node, Options
from ext4img.names.casefold import fold
from ext4img.names.dirhash import dirhashes
from tests.mkfs.judges import assert_clean, debugfs
from tests.mkfs.samples import (
    CASEFOLD_FL,
    CREATED_S,
    DIRECTORY,
    ENCRYPT_FL,
    FILE,
    INDEX_FL,
    ROOT,
    build,
    encrypted_directory,
)
from tools.loop_mount import loop_mounted

SEED = bytes(range(16))
VERSIONS = [(name, unsigned) for name in ("legacy", "half_md4", "tea") for unsigned in (False, True)]


def names_of(count: int, length: int, seed: int = 1) -> list[bytes]:
    rng = random.Random(seed)
    alphabet = bytes(byte for byte in range(1, 256) if byte != 0x2F)
    found = {bytes(rng.choices(alphabet, k=length)) for _ in range(count)}
    return sorted(found)


def directory_of(names: list[bytes], flags: int = 0) -> Iterator[Node]:
    """One directory "d" whose entries are names of one device node each."""
    yield ROOT
    yield Node((b"d",), DIRECTORY, flags=flags)
    yield Node((b"d", names[0]), 0o020644, rdev=(1, 3), link_group=1)
    for position, name in enumerate(names[1:], 1):
        yield Node((b"d", name), 0o020644, rdev=(1, 3), link_group=1 + position // 60000)


def listed(image: Path) -> list[bytes]:
    with ext4img.open(image) as fs:
        return [entry.name for entry in fs.volume.directory(fs.path("/d").inode)]


def levels_in(image: Path, path: str = "/d") -> int | None:
    """Levels of the hash tree below its root, as debugfs sees it; None for a list."""
    dump = debugfs(image, f"htree_dump {path}")
    found = re.search(r"Indirect levels: (\d+)", dump)
    assert "error" not in dump.lower(), dump[:2000]
    return int(found.group(1)) if found else None


@pytest.mark.parametrize(("version", "unsigned"), VERSIONS)
@pytest.mark.parametrize("checksums", [True, False], ids=["crc", "no-crc"])
def test_hash_trees_of_every_version(version: str, unsigned: bool, checksums: bool, tmp_path: Path):
    names = names_of(500, 40)
    options = Options(
        block_size=1024,
        hash_version=version,
        hash_unsigned=unsigned,
        hash_seed=SEED,
        features=() if checksums else ("^metadata_csum",),
        created_s=CREATED_S,
    )
    build(tmp_path / "i", directory_of(names), options)
    assert_clean(tmp_path / "i")
    assert levels_in(tmp_path / "i") == 0
    assert sorted(listed(tmp_path / "i")) == names


@pytest.mark.parametrize(
    ("count", "block_size", "features", "levels"),
    [
        (2, 4096, (), None),  # one block
        (15, 4096, (), None),  # 4,012 of 4,084 bytes
        (16, 4096, (), 0),
        (1500, 1024, (), 1),  # 500 leaves, 123 of which a root can name
        (50_000, 1024, (), 2),  # 16,667 leaves, 123 times 126 of which two levels can
        (3000, 1024, ("^dir_index",), None),
        (5000, 65536, (), 0),
    ],
)
def test_levels(count: int, block_size: int, features: tuple[str, ...], levels: int | None, tmp_path: Path):
    names = names_of(count, 255)
    made = build(
        tmp_path / "i", directory_of(names), Options(block_size=block_size, features=features, created_s=CREATED_S)
    )
    assert_clean(tmp_path / "i")
    assert levels_in(tmp_path / "i") == levels
    assert ("large_dir" in made.features.names) == (levels == 2)
    if block_size <= 4096:
        assert sorted(listed(tmp_path / "i")) == names


@pytest.mark.kernel
@pytest.mark.parametrize(("count", "length"), [(20, 200), (3000, 100), (50_000, 255)])
def test_the_kernel_finds_every_name_through_the_index(count: int, length: int, tmp_path: Path):
    names = names_of(count, length)
    build(tmp_path / "i", directory_of(names), Options(block_size=1024, created_s=CREATED_S))
    with loop_mounted(tmp_path / "i") as mount:
        fd = os.open(os.path.join(mount, "d"), os.O_RDONLY)
        try:
            for name in names:
                os.stat(name, dir_fd=fd, follow_symlinks=False)
            with pytest.raises(FileNotFoundError):
                os.stat(b"is not there", dir_fd=fd)
            assert sorted(map(os.fsencode, os.listdir(fd))) == names
        finally:
            os.close(fd)


def names_with_a_pair() -> Iterator[list[bytes]]:
    """Names of 255 bytes, of which a leaf of 1,024 bytes takes three; the third and fourth by half_md4 are equal."""
    names = [b"%0255d" % number for number in range(150_000)]
    hashes = dirhashes(names, 1, struct.unpack("<IIII", SEED))
    by_hash: dict[int, list[bytes]] = {}
    for name, (major, _) in zip(names, hashes, strict=True):
        by_hash.setdefault(major, []).append(name)
    order = sorted(by_hash)
    for position, major in enumerate(order):
        if len(by_hash[major]) == 2 and 2 <= position < len(order) - 30:
            around = [*order[position - 2 : position], *order[position + 1 : position + 30]]
            yield sorted([*by_hash[major], *(by_hash[other][0] for other in around)])


@pytest.mark.kernel
def test_equal_hashes_across_the_end_of_a_leaf(tmp_path: Path):
    for number, names in enumerate(names_with_a_pair()):
        image = tmp_path / f"i{number}"
        made = build(image, directory_of(names), Options(block_size=1024, hash_seed=SEED, created_s=CREATED_S))
        [directory] = (d for d in made.tree.directories if made.tree.inodes.names[d.index] == b"d")
        assert [value & 1 for value in directory.layout.leaf_hashes or ()][:3] == [0, 1, 0]
        assert_clean(image)
        with loop_mounted(image) as mount:
            for name in names:
                os.stat(os.path.join(mount.encode(), b"d", name))
    assert number >= 2


def test_hashes_that_names_carry(tmp_path: Path):
    """Encrypted and case-insensitive: the index follows the carried hashes, be they all alike."""
    rng = random.Random(3)
    nodes = [ROOT, encrypted_directory((b"d",), flags=ENCRYPT_FL | CASEFOLD_FL)]
    names = names_of(400, 48)
    carried = {}
    for position, name in enumerate(names):
        major = 0x1234 << 1 if position < 60 else rng.getrandbits(32) & ~1
        carried[name] = struct.pack("<II", major, rng.getrandbits(32))
        nodes.append(Node((b"d", name), 0o010644, name_hash=carried[name]))
    build(tmp_path / "i", nodes, Options(block_size=1024, created_s=CREATED_S))
    assert_clean(tmp_path / "i")
    assert levels_in(tmp_path / "i") == 0
    with ext4img.open(tmp_path / "i") as fs:
        entries = fs.volume.directory(fs.path("/d").inode)
        assert {entry.name: entry.hash for entry in entries} == carried


UNICODE_NAMES = [
    f"{word} {number}".encode()
    for number in range(60)
    for word in ("Straße", "ÅNGSTRÖM", "ﬁn", "Ǆ", "Ἀθῆναι", "한국어", "ÏSTANBUL", "e\u0301", "plain ASCII")
]


@pytest.mark.parametrize("folding", [True, False], ids=["hashed", "listed"])
def test_case_insensitive_directories(folding: bool, tmp_path: Path):
    """Hashed over the folded name where the folding is given: e2fsck folds by its own tables."""
    names = sorted({*UNICODE_NAMES, b"\xff not UTF-8 \xfe"})
    made = build(
        tmp_path / "i",
        directory_of(names, CASEFOLD_FL),
        Options(block_size=1024, created_s=CREATED_S),
        fold=fold if folding else None,
    )
    assert "casefold" in made.features.names
    assert_clean(tmp_path / "i")
    with ext4img.open(tmp_path / "i") as fs:
        assert bool(fs.path("/d").inode.flags & INDEX_FL) == folding
    assert sorted(listed(tmp_path / "i")) == names


def test_an_unhashed_encrypted_directory_stays_a_list(tmp_path: Path):
    """Without the key the kernel shows names of a list without their hash, so it must stay one."""
    for count in (3, 300):
        image = tmp_path / f"i{count}"
        nodes = [ROOT, encrypted_directory((b"d",), linear=True)]
        nodes += [Node((b"d", name), 0o010644) for name in names_of(count, 32)]
        build(image, nodes, Options(block_size=1024, created_s=CREATED_S))
        assert_clean(image)
        with ext4img.open(image) as fs:
            inode = fs.path("/d").inode
            assert inode.size > 1024
            assert not inode.flags & INDEX_FL
            assert {path.name[:10] for path in fs.path("/d").iterdir()} == {"A" * 10}


def test_lost_and_found_is_made_or_taken_over(tmp_path: Path):
    build(tmp_path / "made", [ROOT])
    nodes = [
        Node((), DIRECTORY),
        Node((b"lost+found",), 0o040711, uid=5, mtime_ns=7),
        Node((b"lost+found", b"#77"), FILE, size=5),
    ]
    build(tmp_path / "taken", nodes)
    for name, mode in (("made", 0o040700), ("taken", 0o040711)):
        assert_clean(tmp_path / name)
        with ext4img.open(tmp_path / name) as fs:
            inode = fs.path("/lost+found").inode
            assert (inode.mode, inode.size, inode.number) == (mode, 16384, 11)


def test_what_is_called_lost_and_found_stays_what_it_is(tmp_path: Path):
    """e2fsck wants a directory of that name only when it has something to put there."""
    build(tmp_path / "i", [ROOT, Node((b"lost+found",), FILE, size=5)])
    assert_clean(tmp_path / "i")
    with ext4img.open(tmp_path / "i") as fs:
        assert fs.path("/lost+found").read_bytes() == b"01234"


@pytest.mark.kernel
def test_more_than_65000_subdirectories(tmp_path: Path):
    count = 65_100
    nodes = [ROOT, Node((b"d",), DIRECTORY)]
    nodes += [Node((b"d", b"%x" % number), DIRECTORY) for number in range(count)]
    build(tmp_path / "i", nodes, Options(block_size=1024, features=("inline_data",), created_s=CREATED_S))
    assert_clean(tmp_path / "i")
    with loop_mounted(tmp_path / "i") as mount:
        status = os.stat(os.path.join(mount, "d"))
        assert status.st_nlink == 1
        assert len(os.listdir(os.path.join(mount, "d"))) == count
