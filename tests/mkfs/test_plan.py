"""The plan: plain data that can be shown; the same input gives the same bytes; little memory for each node."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from ext4img.mkfs import Node, Options, plan, write
from ext4img.mkfs.options import DEFAULT_FEATURES
from tests.mkfs.judges import assert_clean, head
from tests.mkfs.samples import DIRECTORY, FILE, ROOT, Repeated, build

FIXED = UUID("0e9b6e1c-74a5-4d0b-8f8e-5a3a6f2f9f11")
TREE = [
    ROOT,
    Node((b"d",), DIRECTORY),
    *(Node((b"d", b"file %d" % n), FILE, size=n * 10) for n in range(1000)),
    Node((b"l",), 0o120777, target=b"x" * 100),
]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path):
    options = Options(uuid=FIXED, created_s=5)
    for name in ("a", "b"):
        build(tmp_path / name, TREE, options)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_two_file_systems_are_not_the_same_by_chance():
    first, second = plan([ROOT]), plan([ROOT])
    assert first.uuid != second.uuid
    assert first.options.hash_seed != second.options.hash_seed
    assert plan([ROOT], Options(uuid=FIXED)).options.hash_seed == plan([ROOT], Options(uuid=FIXED)).options.hash_seed


def test_the_superblock_says_what_was_chosen(tmp_path: Path):
    options = Options(
        uuid=FIXED,
        label="sixteen letters!",
        size=300 << 20,
        hash_seed=bytes(range(16)),
        hash_version="tea",
        reserved_percent=1,
        journal_size=16 << 20,
        created_s=1_700_000_000,
    )
    build(tmp_path / "i", TREE, options)
    assert_clean(tmp_path / "i")
    shown = head(tmp_path / "i")
    assert shown["Filesystem UUID"] == str(FIXED)
    assert shown["Filesystem volume name"] == "sixteen letters!"
    assert shown["Directory Hash Seed"] == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert shown["Default directory hash"] == "tea"
    assert shown["Reserved block count"] == "768"
    assert shown["Total journal blocks"] == "4096"
    assert shown["Filesystem features"].split() == list(DEFAULT_FEATURES.names)
    assert shown["Filesystem created"].startswith("Tue Nov 14")


def test_the_plan_can_be_shown():
    made = plan(TREE, Options(uuid=FIXED, size=64 << 20))
    summary = json.loads(json.dumps(made.summary()))
    assert summary["uuid"] == str(FIXED)
    assert summary["size"] == 64 << 20
    lines = list(made.lines())
    assert "groups: 1" in lines
    places = [line.split(":")[0] for line in lines if line[0].isdigit()]
    starts = [int(place.split("-")[0]) for place in places]
    assert starts == sorted(starts)
    covered = sum(int(place.split("-")[-1]) - start + 1 for place, start in zip(places, starts, strict=True))
    assert covered == made.geometry.block_count - made.free_blocks
    text = "\n".join(lines)
    assert "head of group 0" in text
    assert "file of inode 14 '/d/file 1' from block 0" in text
    assert "journal of inode 8" in text


def test_written_blocks_are_ascending_and_where_the_plan_says():
    from ext4img.mkfs.write import chunks

    made = plan(TREE, Options(uuid=FIXED, size=64 << 20, created_s=5))
    end = 0
    used = 0
    for offset, chunk in chunks(made, lambda _: Repeated()):
        assert offset >= end
        end = offset + (chunk * 4096 if isinstance(chunk, int) else len(chunk))
        used += end - offset
    assert used == (made.geometry.block_count - made.free_blocks) * 4096


def test_memory_for_each_node():
    """Counted, not measured: at most 350 bytes a node stay, so 200,000 take 70 MB."""
    count = 20_000

    def nodes() -> Iterator[Node]:
        yield ROOT
        for number in range(count):
            if not number % 50:
                yield Node((b"directory %d" % number,), DIRECTORY)
            path = (b"directory %d" % (number // 50 * 50), b"a file of some name %d" % number)
            yield Node(path, FILE, 1000, 1000, number, 10**18 + number, 10**18, 10**18, 10**18, body=number)

    plan([ROOT])  # what is imported and cached on the way
    tracemalloc.start()
    try:
        made = plan(nodes())
        current, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(made.tree.inodes) > count
    assert current / count < 350
    assert peak / count < 450


def test_reads_are_as_many_as_files(tmp_path: Path):
    calls = 0

    class Counted(Repeated):
        def read_at(self, offset: int, length: int) -> bytes:
            nonlocal calls
            calls += 1
            return super().read_at(offset, length)

    write(plan(TREE), lambda _: Counted(), tmp_path / "i")
    assert calls == 999  # one of the 1,000 is empty
