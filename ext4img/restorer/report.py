"""What a restore did, and what it could not do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from ext4img.archive.loss import Losses
from ext4img.errors import ArchiveError, Ext4Error, NoKeyError

MAX_PROBLEMS: Final = 10_000
_MAX_KINDS: Final = 64
_THE_REST: Final = "further attributes"


class NotSet(Counter[str]):
    """How often each kind of thing could not be set: "owner", "attribute security.capability", …

    It holds at most 64 kinds, since images and archives may have any number of attribute names.
    """

    def add(self, what: str) -> None:
        """Count one more."""
        self[what if what in self or len(self) < _MAX_KINDS else _THE_REST] += 1


@dataclass(slots=True)
class RestoreReport:
    """What a restore or an extraction did.

    `restored` counts by type ("file", "dir", …, and "link" for further names). `problems` says of
    entries that were left out why, of at most 10,000 of them; `left_out` counts them all.
    `not_set` counts attributes that the target, or the user's rights, did not allow.
    """

    restored: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    left_out: int = 0
    problems: list[Ext4Error] = field(default_factory=list)
    not_set: NotSet = field(default_factory=NotSet)
    no_key: int = 0
    """How many entries were left out because no key decrypts them."""
    damaged: int = 0
    """How many entries were left out because the archive is damaged there."""
    losses: Losses = field(default_factory=Losses)
    """What the backup lacks, of what was to be restored: the image could not be read there when it was made."""
    kept: int = 0
    """How many names existed already and were kept: with `resume`, or by `overwrite`."""
    changes: tuple[str, ...] = ()
    """Why it may be a mixture of old and new: the image changed while it was read, or could."""

    kept_directories: int = 0
    """How many directories existed, and kept a mode, owner, ACL or attributes other than the backup's."""

    @property
    def complete(self) -> bool:
        """Whether every entry was restored, and the backup had all of it."""
        return not self.left_out and not self.losses

    def skip(self, problem: Ext4Error) -> None:
        """Count an entry that is left out, and why."""
        self.left_out += 1
        self.no_key += isinstance(problem, NoKeyError)
        self.damaged += isinstance(problem, ArchiveError)
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)

    def count(self, kind: str) -> None:
        """Count an entry that was restored."""
        self.restored[kind] = self.restored.get(kind, 0) + 1

    def revoke(self, kind: str, problem: Ext4Error) -> None:
        """An entry that was counted as restored could not stay, or not get its name."""
        self._discount(kind)
        self.skip(problem)

    def revoke_below(self, kind: str) -> None:
        """The same of something in a directory that was revoked, which is the reason."""
        self._discount(kind)
        self.left_out += 1

    def keep(self, kind: str) -> None:
        """An entry that was counted as restored is not needed: what exists is kept."""
        self._discount(kind)
        self.kept += 1

    def _discount(self, kind: str) -> None:
        self.restored[kind] = self.restored.get(kind, 0) - 1
        if self.restored[kind] <= 0:
            del self.restored[kind]
