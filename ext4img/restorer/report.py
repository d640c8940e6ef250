"""What a restore did, and did not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ext4img.errors import ArchiveError, Ext4Error, NoKeyError
from ext4img.restorer.attributes import Unset

PROBLEMS_KEPT: Final = 10_000


@dataclass(slots=True)
class RestoreReport:
    """What a restore did.

    `restored` counts by type ("file", "dir", …, and "link" for further names). `problems` are the
    entries that are not there, at most 10,000 of them; `left_out` counts all. `unset` counts
    attributes that the target or the lack of rights refused.
    """

    restored: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    left_out: int = 0
    problems: list[Ext4Error] = field(default_factory=list)
    unset: Unset = field(default_factory=Unset)
    no_key: int = 0
    """How many of those left out are so for want of a key."""
    damaged: int = 0
    """How many of those left out are so because the archive is damaged there."""
    kept: int = 0
    """What was there already and stays: with `resume`, or with overwrite="newer"."""

    @property
    def complete(self) -> bool:
        """Whether every entry was restored."""
        return not self.left_out

    def leave_out(self, problem: Ext4Error) -> None:
        """Note an entry that is not restored, and why."""
        self.left_out += 1
        self.no_key += isinstance(problem, NoKeyError)
        self.damaged += isinstance(problem, ArchiveError)
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(problem)
