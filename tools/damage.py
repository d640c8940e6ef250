"""Damage in one place of an image, and what is saved in spite of it: `python -m tools.damage IMAGE …`.

One structure is destroyed at a time (zeros, garbage, or a sector that cannot be read), and the
image is read with checks="report". The table says what became of every path, with its attributes
and contents: shown as before; lost, but the inode as before by its number (where a directory
went); shown in part; or gone. Of what does not depend on the destroyed structure nothing may be
missing. --summary adds the images up, one row for each structure and way.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ext4img
from ext4img.sources import BytesSource, Source
from ext4img.structs.directory import EXT4_DIR_ENTRY
from ext4img.structs.superblock import SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE
from ext4img.volume.check import run_check
from ext4img.volume.inode import StoredInode
from ext4img.volume.runs import WRITTEN
from ext4img.volume.volume import Volume

HOW = ("zeros", "garbage", "unreadable")
DirListing = dict[bytes, tuple[int, str]]
"""Path → inode number, digest of all that is shown there."""


@dataclass(frozen=True)
class Place:
    """What is destroyed, and the inodes and (directory, name) pairs that depend on it alone."""

    what: str
    offset: int
    size: int
    inodes: frozenset[int] = frozenset()
    names: frozenset[tuple[int, bytes]] = frozenset()

    def depends(self, listing: DirListing) -> set[bytes]:
        """Paths that may be lost: of the inodes and names concerned, and what is below them."""
        number_of = {path: number for path, (number, _) in listing.items()}
        lost: set[bytes] = set()
        for path in sorted(listing):
            parent, _, name = path.rpartition(b"/")
            by_name = (number_of.get(parent or b"/", 0), name) in self.names
            below = parent in lost and parent != b""
            if number_of[path] in self.inodes or by_name or below:
                lost.add(path)
        return lost


@dataclass(frozen=True)
class Result:
    """What became of one image with one damage."""

    place: Place
    how: str
    names: int
    dependent: int
    lost: tuple[bytes, ...]  # independent paths that are missing or shown differently
    dependent_same: int
    problems: tuple[str, ...]
    error: str = ""
    by_number: int = 0  # paths that are missing, of inodes that are as before
    in_part: int = 0  # paths that are there, with something else to be seen
    named: bool = False  # some problem names the place: its block, its inode, its structure

    @property
    def whole(self) -> int:
        """Paths shown as before."""
        return 0 if self.error else self.names - self.dependent - len(self.lost) + self.dependent_same

    @property
    def saved(self) -> bool:
        """Whether all that does not depend on the place is shown as before, and something is reported."""
        silent = not self.problems and self.dependent_same < self.dependent
        by_design = self.place.what == "data block" and self.how != "unreadable"  # contents have no checksums
        return not self.error and not self.lost and (not silent or by_design)


class UnreadableSource(Source):
    """Bytes, of which one range cannot be read."""

    def __init__(self, data: bytes | bytearray, start: int, end: int) -> None:
        self._inner = BytesSource(data)
        self._start, self._end = start, end
        self.name, self.size = "image with a bad sector", len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        if offset < self._end and self._start < offset + length:
            raise ext4img.SourceError(errno.EIO, f"Input/output error at byte offset {offset:#x}", self.name)
        return self._inner.read_at(offset, length)


def listing_of(fs: ext4img.FileSystem) -> DirListing:
    """All that is shown of an image."""
    contents: dict[int, str] = {}
    return {bytes(path): (inode.number, digest_of(inode, contents)) for path, inode in fs.walk("/")}


def digest_of(inode: ext4img.Inode, contents: dict[int, str]) -> str:
    """Of all that is shown of an inode; `contents` keeps those that were read, by number."""
    digest = hashlib.sha256()
    for part in (inode.fields[1:5], inode.links, inode.mtime_ns, inode.ctime_ns, inode.rdev, inode.flags):
        digest.update(repr(part).encode())
    for read in (inode.xattrs, inode.readlink, lambda: _contents(inode, contents)):
        try:
            digest.update(repr(read()).encode("utf-8", "surrogateescape"))
        except ext4img.Ext4Error as error:
            digest.update(type(error).__name__.encode())
    return digest.hexdigest()


def _contents(inode: ext4img.Inode, known: dict[int, str]) -> str:
    if inode.number not in known:
        digest = hashlib.sha256()
        with inode.open_ciphertext() as file:
            for offset, length in file.segments():
                digest.update(repr((offset, length)).encode() + file.pread(offset, length))
        known[inode.number] = digest.hexdigest()
    return known[inode.number]


def places(data: bytes | bytearray) -> Iterator[Place]:
    """One place of every kind that the image has; the inode table's first block as well, with the root."""
    volume = Volume(BytesSource(data))
    superblock, size = volume.superblock, volume.block_size
    inodes = list(volume.inodes.scan())
    yield Place("primary superblock", SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE)
    last = superblock.group_count - 1
    for group in dict.fromkeys((0, last)):
        within = group % (size // superblock.descriptor_size)
        at = volume.groups.block_of(group) * size + within * superblock.descriptor_size
        yield Place(f"descriptor of group {group}", at, superblock.descriptor_size)
    table = volume.inodes.place
    blocks = {inode.number: table(inode.number).block or 0 for inode in inodes}
    root_block = blocks[2]
    files = [inode for inode in inodes if inode.is_file and inode.number >= superblock.first_inode]
    other = next((blocks[inode.number] for inode in reversed(files) if blocks[inode.number] != root_block), None)
    for what, block in (("inode table block with the root", root_block), ("inode table block", other)):
        if block is not None:
            concerned = frozenset(number for number, where in blocks.items() if where == block)
            yield Place(what, block * size, size, concerned | {2} if block == root_block else concerned)
    yield from _directory_place(volume, inodes, data)
    trees = ((inode, sorted(volume.mapping(inode).tree_blocks)) for inode in files)
    inode_tree = next(((inode, tree) for inode, tree in trees if tree), None)
    if inode_tree:
        inode, tree = inode_tree
        yield Place("extent or indirect block", tree[-1] * size, size, frozenset({inode.number}))
    for inode in files:
        written = [run for run in volume.runs(inode) if run.state == WRITTEN]
        if written and inode.size > size:
            yield Place("data block", written[0].pblk * size, size, frozenset({inode.number}))
            break


def _directory_place(volume: Volume, inodes: Iterable[StoredInode], data: bytes | bytearray) -> Iterator[Place]:
    """The last block of the directory with most names, and those in it."""
    size = volume.block_size
    directories = [inode for inode in inodes if inode.is_dir and inode.number != 2 and not inode.has_inline_data]
    if not directories:
        return
    largest = max(directories, key=lambda inode: (len(volume.directory(inode)), inode.size))
    run = [run for run in volume.runs(largest) if run.state == WRITTEN][-1]
    block = run.pblk + run.length - 1
    names = set()
    entries = bytes(data[block * size : (block + 1) * size])
    offset = 0
    while offset + EXT4_DIR_ENTRY.size <= size:
        number, rec_len, name_len, _ = EXT4_DIR_ENTRY.unpack_tuple(entries, offset)
        start = offset + EXT4_DIR_ENTRY.size
        if number:
            names.add((largest.number, entries[start : start + name_len]))
        offset += max(rec_len, 12)
    yield Place("directory block", block * size, size, frozenset({largest.number}), frozenset(names))


def damaged(data: bytes | bytearray, place: Place, how: str) -> Source:
    """The image with this place destroyed."""
    if how == "unreadable":
        start = place.offset // 512 * 512
        return UnreadableSource(data, start, max(place.offset + place.size, start + 512))
    copy = bytearray(data)
    filler = bytes(place.size) if how == "zeros" else b"\xa5" * place.size
    copy[place.offset : place.offset + place.size] = filler
    return BytesSource(copy)


def try_damage(data: bytes | bytearray, sound: DirListing, place: Place, how: str) -> Result:
    """Read the image with this place destroyed, and compare."""
    dependent = place.depends(sound)
    told: dict[str, Any] = {"place": place, "how": how, "names": len(sound), "dependent": len(dependent)}
    try:
        with ext4img.open(damaged(data, place, how), checks="report") as fs:
            shown = listing_of(fs)
            missing = [sound[path] for path in sound if path not in shown]
            by_number = sum(_is_as_before(fs, *seen) for seen in missing)
            run_check(fs.volume)
            problems = tuple(str(problem) for problem in fs.problems)
            named = any(_names(problem, place, fs.block_size) for problem in fs.problems)
    except ext4img.Ext4Error as error:
        lost = tuple(sorted(set(sound) - dependent))
        return Result(**told, lost=lost, dependent_same=0, problems=(), error=f"{type(error).__name__}: {error}")
    same = {path for path, seen in sound.items() if shown.get(path) == seen}
    lost = tuple(sorted(set(sound) - dependent - same))
    in_part = len(sound) - len(same) - len(missing)
    return Result(
        **told, lost=lost, dependent_same=len(dependent & same), problems=problems, by_number=by_number,
        in_part=in_part, named=named,
    )  # fmt: skip


def _is_as_before(fs: ext4img.FileSystem, number: int, digest: str) -> bool:
    try:
        return digest_of(fs.inode(number), {}) == digest
    except ext4img.Ext4Error:
        return False


def _names(problem: ext4img.Problem, place: Place, block_size: int) -> bool:
    """Whether a problem says where the damage is: by inode, by block, or by byte offset."""
    where = problem.place
    spoken_of = {int(number) for number in re.findall(r"\binode (\d+)", problem.reason)}
    return (
        not spoken_of.isdisjoint(place.inodes)
        or where.block == place.offset // block_size
        or where.inode in place.inodes
        or f"{place.offset:#x}" in problem.reason
        or (where.offset is not None and 0 <= where.offset - place.offset < place.size)
    )


def results(data: bytes | bytearray) -> Iterator[Result]:
    """All places, destroyed in all ways, one at a time."""
    with ext4img.open(data) as fs:
        sound = listing_of(fs)
    for place in places(data):
        for how in HOW:
            yield try_damage(data, sound, place, how)


_HEADS = ("destroyed", "how", "names", "as before", "by inode number alone", "in part", "lost", "damage named")
_SUMMARY_HEADS = (*_HEADS[:2], "images", *_HEADS[2:-1], "named where it shows")


def _row(result: Result) -> tuple[str, ...]:
    gone = result.names - result.whole - result.by_number - result.in_part
    named = result.error.partition(":")[0] or ("yes" if result.named else "no")
    numbers = (result.names, result.whole, result.by_number, result.in_part, gone)
    return (result.place.what, result.how, *map(str, numbers), named)


def _summary(found: Sequence[Result]) -> Iterator[tuple[str, ...]]:
    """One row for each structure and way of destruction, over all images."""
    kinds = dict.fromkeys((re.sub(r" of group [1-9]\d*", " of the last group", r.place.what), r.how) for r in found)
    for what, how in kinds:
        same = [
            r
            for r in found
            if r.how == how and re.sub(r" of group [1-9]\d*", " of the last group", r.place.what) == what
        ]
        rows = [_row(result)[2:7] for result in same if not result.error]
        sums = [str(sum(int(row[column]) for row in rows)) for column in range(5)]
        showing = [result for result in same if not result.error and result.whole < result.names]
        named = f"{sum(result.named for result in showing)} of {len(showing)}"
        refused = sum(bool(result.error) for result in same)
        yield (what, how, str(len(same)), *sums, named + (f"; {refused} refused" if refused else ""))


def _print(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    for row in (heads, ("---", "---", *["---:"] * (len(heads) - 3), "---"), *rows):
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def main() -> int:
    """See the module's text; 1 where something was lost that need not be."""
    from tools.fuzz.__main__ import FIXTURES, load_image

    parser = argparse.ArgumentParser(prog="python -m tools.damage", description=__doc__.split("\n")[0])
    parser.add_argument("images", nargs="*", type=Path, help="raw images, or .img.xz (default: tests/fixtures)")
    parser.add_argument("--problems", action="store_true", help="print what was reported")
    parser.add_argument("--summary", action="store_true", help="one table for all images")
    options = parser.parse_args()
    every: list[Result] = []
    for path in options.images or sorted(FIXTURES.glob("*.img.xz")):
        found = list(results(load_image(path)))
        every += found
        if not options.summary:
            print(f"{path.name.partition('.img')[0]}\n")
            _print(_HEADS, map(_row, found))
        for result in found if options.problems else ():
            print(f"{result.place.what}, {result.how}: {result.error}")
            for problem in result.problems[:20]:
                print(f"    {problem}")
    if options.summary:
        _print(_SUMMARY_HEADS, _summary(every))
    return 0 if all(result.saved for result in every) else 1


if __name__ == "__main__":
    sys.exit(main())
