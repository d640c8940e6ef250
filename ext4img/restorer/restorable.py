"""What a restore takes: members of an archive, or what looks like them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ext4img.archive.entry import Entry


class Restorable(Protocol):
    """What is restored: a member of an archive, or what looks like one. See `Member`."""

    entry: Entry
    data_size: int

    @property
    def position(self) -> int:
        """Where it starts, in bytes of what is restored: for progress."""

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """(offset in the body, at most 1 MiB of it), for reading, until the next is drawn."""
