"""What a restore takes: members of an archive, or what looks like them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ext4img.archive.entry import Entry


class Restorable(Protocol):
    """What is restored: a member of an archive, or what looks like one. See `Member`."""

    entry: Entry
    offset: int
    stored_bytes: int

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """(offset in the body, at most 1 MiB of it), for reading, until the next is drawn."""
