"""The names in a directory of the host as they are spelled there.

A file system that folds case, or Unicode's forms, finds what has another spelling too. So whether
a name that is found is the very one can only be seen in the list of them.
"""

from __future__ import annotations

import os
import unicodedata


class ExactNames:
    """The names in an open directory; `add` those that come."""

    def __init__(self, fd: int) -> None:
        self._names = {os.fsencode(name) for name in os.listdir(fd)}
        self._folded: dict[str, bytes] | None = None

    def __contains__(self, name: bytes) -> bool:
        return name in self._names

    def add(self, name: bytes) -> None:
        """Note a name that was made."""
        self._names.add(name)
        if self._folded is not None:
            self._folded.setdefault(_fold(name), name)

    def alike(self, name: bytes) -> bytes | None:
        """A name that differs in case or in Unicode's form only."""
        if self._folded is None:
            self._folded = {_fold(other): other for other in self._names}
        return self._folded.get(_fold(name))


def _fold(name: bytes) -> str:
    return unicodedata.normalize("NFD", os.fsdecode(name)).casefold()
