"""Inode numbers: some are kept, the others are assigned in the order of the nodes."""

from __future__ import annotations

from array import array
from itertools import count

from ext4img.errors import BuildError
from ext4img.mkfs.geometry import FIRST_INODE, MAX_INODES
from ext4img.mkfs.inodes import InodeRecords
from ext4img.structs.inode import EXT4_ROOT_INO


def highest_kept_number(inodes: InodeRecords) -> tuple[int, int]:
    """The largest number to be kept, and the index of its inode; (0, 0) if none is kept."""
    highest = max(inodes.wanted, default=0)
    return highest, inodes.wanted.index(highest) if highest else 0


def assign_inode_numbers(inodes: InodeRecords, lost_and_found: int) -> int:
    """Fill `inodes.numbers`, and return the next free number.

    `lost_and_found` is the index of the inode that gets number 11, if that is free. Reserved inodes
    are not among `inodes` yet.
    """
    kept = set(inodes.wanted)
    free = (number for number in count(FIRST_INODE) if number not in kept)
    numbers = inodes.numbers
    for index, wanted in enumerate(inodes.wanted):
        numbers[index] = wanted
    numbers[0] = EXT4_ROOT_INO
    if not numbers[lost_and_found] and FIRST_INODE not in kept:
        numbers[lost_and_found] = next(free)
    for index, wanted in enumerate(numbers):
        if not wanted:
            number = next(free)
            if number > MAX_INODES:
                raise BuildError(f"more than {MAX_INODES} inodes", inodes.show(index))
            numbers[index] = number
    return next(free)


def inodes_by_number(inodes: InodeRecords) -> tuple[array[int], array[int]]:
    """Indexes in the order of the inode numbers, and these numbers."""
    order = array("I", sorted(range(len(inodes)), key=inodes.numbers.__getitem__))
    return order, array("I", [inodes.numbers[index] for index in order])
