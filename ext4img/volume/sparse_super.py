"""Which groups hold copies of superblock and descriptors under sparse_super: 0, 1, and powers of 3, 5 and 7."""

from __future__ import annotations

_BASES = (3, 5, 7)


def is_sparse_group(group: int) -> bool:
    """Whether the group has a copy (kernel: ext4_bg_has_super)."""
    return group <= 1 or any(_is_power(group, base) for base in _BASES)


def sparse_groups(count: int) -> list[int]:
    """The groups below `count` that have a copy, ascending."""
    groups = {group for group in (0, 1) if group < count}
    for base in _BASES:
        power = base
        while power < count:
            groups.add(power)
            power *= base
    return sorted(groups)


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1
