"""Inodes in use that no name leads to, shown in lost+found, as e2fsck connects them there.

Names are lost with directory blocks and with inodes of directories. e2fsck gives what is left names made
of inode numbers (e2fsck/pass3.c, pass4.c). The same names are added to the listing of lost+found here,
so that every reader sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from itertools import compress, count
from typing import Final

from ext4img.errors import CorruptionError, NotFoundError, SourceError
from ext4img.structs.directory import EXT4_FT_DIR, EXT4_TYPE_BY_MODE
from ext4img.structs.fscrypt import FSCRYPT_FNAME_MIN_MSG_LEN
from ext4img.structs.inode import EXT4_EA_INODE_FL, EXT4_ROOT_INO, S_IFMT
from ext4img.volume import checksum
from ext4img.volume.blocks import BlockReader
from ext4img.volume.dir_entry import DirEntry, DirListing
from ext4img.volume.inode import StoredInode
from ext4img.volume.inode_table import InodeTable
from ext4img.volume.mapping import Mapper
from ext4img.volume.problems import Problems
from ext4img.volume.runs import LOST
from ext4img.volume.salvage.inodes import lost_and_found_inode
from ext4img.volume.superblock import Superblock

LOST_AND_FOUND: Final = b"lost+found"
_NAMED, _FILE, _DIRECTORY = range(3)
_PAGE_BITS: Final = 10
_PAGE_MASK: Final = (1 << _PAGE_BITS) - 1
_NUMBERS_TOLD: Final = 8


class NamelessInodes:
    """The entries to add to the listings of lost+found, and of the root if it has no lost+found.

    They are searched for when one of these two is listed for the first time: one pass over the inode tables and
    one over all directories. `list_stored` lists a directory without what is added here.
    """

    def __init__(
        self,
        superblock: Superblock,
        blocks: BlockReader,
        inodes: InodeTable,
        seed: int,
        problems: Problems,
        list_stored: Callable[[StoredInode], DirListing],
    ) -> None:
        self._superblock = superblock
        self._inodes = inodes
        self._seed = seed
        self._problems = problems
        self._list = list_stored
        # Of its own problems nobody is told: whoever reads the file is.
        self._trial = Problems("report")
        self._mapper = Mapper(superblock, blocks, seed, self._trial)
        self._home: tuple[int, bytes] | None = None
        self._added: dict[int, list[DirEntry]] | None = None

    def added_to(self, directory: int) -> list[DirEntry]:
        """The entries to add to the stored ones of a directory."""
        if directory != EXT4_ROOT_INO and directory != self._place()[0]:
            return []
        if directory == EXT4_ROOT_INO and self._place()[0] <= self._superblock.inode_count:
            return []
        if self._added is None:
            self._added = self._search()
        return self._added.get(directory, [])

    def _place(self) -> tuple[int, bytes]:
        """(inode number, name) of lost+found; if there is no such directory, of one that is made up.

        One that is encrypted cannot take other names: e2fsck makes a new one, too. Number 0 if the root itself can
        take none.
        """
        if self._home is None:
            self._home = self._find_place()
        return self._home

    def _find_place(self) -> tuple[int, bytes]:
        if not self._can_take_names(EXT4_ROOT_INO):
            return 0, b""
        listing = self._list(self._inodes[EXT4_ROOT_INO])
        found = dict(zip(listing.names, listing.inodes, strict=True))
        number = found.get(LOST_AND_FOUND, 0)
        if number and self._can_take_names(number):
            return number, LOST_AND_FOUND
        return self._superblock.inode_count + 1, _free_name(LOST_AND_FOUND, found)

    def _can_take_names(self, number: int) -> bool:
        try:
            inode = self._inodes[number]
        except (CorruptionError, SourceError, NotFoundError):
            return False
        return inode.is_dir and not inode.is_encrypted and self._inodes.why_not_named(inode) is None

    def _search(self) -> dict[int, list[DirEntry]]:
        home, name = self._place()
        numbers = sorted(self._nameless())
        if not numbers:
            return {}
        told = ", ".join(map(str, numbers[:_NUMBERS_TOLD])) + (", …" if len(numbers) > _NUMBERS_TOLD else "")
        reason = f"no name leads to inodes {told} ({len(numbers)} in all), which are in use: lost+found shows them"
        self._problems.found(CorruptionError(reason))
        found: dict[int, list[DirEntry]] = {}
        if home > self._superblock.inode_count:
            raw = lost_and_found_inode(self._superblock, home, self._seed)
            self._inodes.overrides = {**self._inodes.overrides, home: raw}
            found[EXT4_ROOT_INO] = [DirEntry(name, home, EXT4_FT_DIR, b"")]
            taken: set[bytes] = set()
        else:
            taken = set(self._list(self._inodes[home]).names)
        found[home] = [
            DirEntry(
                _free_name(b"#%d" % number, taken), number, EXT4_TYPE_BY_MODE[self._inodes[number].mode & S_IFMT], b""
            )
            for number in numbers
        ]
        return found

    def _nameless(self) -> list[int]:
        """The files that no directory names, and the directories above which no other one is."""
        pages = self._in_use()
        root = self._inodes[EXT4_ROOT_INO]
        self._name_below(root, pages)
        tops = self._tops(_numbers(pages, _DIRECTORY), pages)
        files = _numbers(pages, _FILE)
        return [number for number in (*tops, *files) if self._is_worth_showing(self._inodes[number])]

    def _in_use(self) -> dict[int, bytearray]:
        """Whether each inode is a _FILE or _DIRECTORY in use that a name should lead to, in pages by number."""
        pages: dict[int, bytearray] = {}
        for inode in self._inodes.scan():
            if inode.flags & EXT4_EA_INODE_FL or inode.number == self._superblock.journal_inode:
                continue
            if self._inodes.why_not_named(inode) is not None:
                continue
            # e2fsck clears empty files instead (PR_4_ZERO_LEN_INODE).
            if inode.is_file and not inode.sectors and not inode.inline_xattrs:
                continue
            page = pages.get(inode.number >> _PAGE_BITS)
            if page is None:
                page = pages[inode.number >> _PAGE_BITS] = bytearray(1 << _PAGE_BITS)
            page[inode.number & _PAGE_MASK] = _DIRECTORY if inode.is_dir else _FILE
        return pages

    def _name_below(self, top: StoredInode, pages: dict[int, bytearray]) -> None:
        """Mark everything below a directory as _NAMED, and the directory itself."""
        _mark(pages, top.number)
        todo = [top.number]
        replaced: set[int] = set()
        while todo:
            for child in self._children(todo.pop()):
                page = pages.get(child >> _PAGE_BITS)
                kind = page[child & _PAGE_MASK] if page is not None else _NAMED
                if page is not None and kind != _NAMED:
                    page[child & _PAGE_MASK] = _NAMED
                elif child in self._inodes.overrides and child not in replaced:
                    replaced.add(child)  # found again while the directory was listed
                    kind = _DIRECTORY
                if kind == _DIRECTORY:
                    todo.append(child)

    def _tops(self, unconnected: list[int], pages: dict[int, bytearray]) -> list[int]:
        """Of directories that the root does not lead to, those that no other one names.

        Of directories that only name each other in a circle, it is the one with the lowest number. Everything below
        is marked as _NAMED.
        """
        wanted = set(unconnected)
        parents: dict[int, int] = {}
        for number in unconnected:
            for child in wanted.intersection(self._children(number)):
                parents.setdefault(child, number)
        tops: list[int] = []
        for number in unconnected:
            if _kind(pages, number) != _NAMED:
                top = _top_above(number, parents)
                tops.append(top if _kind(pages, top) != _NAMED else number)
                self._name_below(self._inodes[tops[-1]], pages)
        return tops

    def _children(self, number: int) -> list[int]:
        """The inodes that a directory names. Encrypted names that are too short are none: e2fsck clears them."""
        try:
            inode = self._inodes[number]
            listing = self._list(inode)
        except (CorruptionError, SourceError):
            return []  # who lists it is told
        if not inode.is_encrypted:
            return listing.inodes
        return list(compress(listing.inodes, (len(name) >= FSCRYPT_FNAME_MIN_MSG_LEN for name in listing.names)))

    def _is_worth_showing(self, inode: StoredInode) -> bool:
        """Whether an inode is more than garbage: something of it can be read, all of it if its checksum is wrong."""
        damage = self._trial.damage
        if inode.is_symlink and (inode.has_inline_data or self._mapper.is_fast_symlink(inode)):
            return inode.size > 0
        runs = self._mapper.runs(inode)
        if self._superblock.has_metadata_checksums and self._problems.verify and not self._has_checksum(inode):
            return self._trial.damage == damage
        if inode.is_symlink:
            return 0 < inode.size <= self._superblock.block_size and any(run.state != LOST for run in runs)
        if inode.is_file or inode.has_inline_data:
            return not runs or any(run.state != LOST for run in runs)
        if inode.is_dir:
            return any(run.state != LOST for run in runs)
        return inode.size == 0

    def _has_checksum(self, inode: StoredInode) -> bool:
        raw = self._inodes.raw(inode.number)
        seed = checksum.inode_seed(self._seed, inode.number, inode.generation)
        return checksum.inode(seed, raw) == checksum.stored_inode(raw)


def _kind(pages: dict[int, bytearray], number: int) -> int:
    page = pages.get(number >> _PAGE_BITS)
    return _NAMED if page is None else page[number & _PAGE_MASK]


def _numbers(pages: dict[int, bytearray], kind: int) -> list[int]:
    """The inodes of a kind, ascending."""
    return [
        number << _PAGE_BITS | at
        for number, page in sorted(pages.items())
        if kind in page
        for at, found in enumerate(page)
        if found == kind
    ]


def _mark(pages: dict[int, bytearray], number: int) -> None:
    page = pages.get(number >> _PAGE_BITS)
    if page is not None:
        page[number & _PAGE_MASK] = _NAMED


def _top_above(number: int, parents: dict[int, int]) -> int:
    """The directory above which there is none; in a circle the one with the lowest number."""
    way: dict[int, None] = {}
    while number in parents and number not in way:
        way[number] = None
        number = parents[number]
    if number not in way:
        return number
    circle = list(way)
    return min(circle[circle.index(number) :])


def _free_name(name: bytes, taken: Container[bytes]) -> bytes:
    """The name with so many "~" behind it that nothing has it."""
    return next(free for tildes in count() if (free := name + b"~" * tildes) not in taken)
