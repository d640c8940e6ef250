"""How a restore is to be done, and what it does with names that exist already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ext4img.archive.path_filter import SelectedPath

Missing = Literal["skip", "ciphertext"]
"""What becomes of an encrypted entry without a key."""

Overwrite = Literal["never", "always", "if-newer", "if-changed"]
"""What becomes of a name that exists in the target. Directories are never replaced, but merged.

"never": it stays, and the entry is reported as left out. "always": it is replaced. "if-newer": it
is replaced if the entry's mtime is later than its own; else it is kept. "if-changed": it is kept
if it has the entry's type and mtime (to the nanosecond) and, of a file, its size, of a symlink,
its target, of a device, its numbers; else it is replaced. Contents are not compared. What is kept
keeps its attributes, too.
"""


def parse_overwrite(value: Overwrite | bool) -> Overwrite:
    """True is "always", False is "never"; ValueError for an unknown word."""
    if isinstance(value, bool):
        return "always" if value else "never"
    if value not in get_args(Overwrite):
        raise ValueError(f"overwrite is one of {', '.join(get_args(Overwrite))}, not {value!r}")
    return value


def parse_missing(value: Missing) -> Missing:
    """ValueError for an unknown word."""
    if value not in get_args(Missing):
        raise ValueError(f"missing is one of {', '.join(get_args(Missing))}, not {value!r}")
    return value


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """See `restore` and `extract`."""

    missing: Missing = "skip"
    overwrite: Overwrite = "never"
    only: Sequence[SelectedPath] = ()
    resume: bool = False
    devices: bool = False
    encrypt: bool = False
    salvage: bool = False
    """Take a stream that ends too early for complete."""
    skip_damaged: bool = False
    """Skip damaged members and go on. Only for sources whose members are verified one by one."""

    @property
    def replaces(self) -> bool:
        """Whether anything that exists may be replaced."""
        return self.overwrite != "never"

    @property
    def merges_attributes(self) -> bool:
        """Whether directories that exist already get the attributes of the backup's."""
        return self.replaces or self.resume
