"""How strict reading is, and what was passed over.

One setting for all checks: `strict` raises at the first thing that is wrong, `report` notes it
and reads on around it, `off` does not look at checksums and stays silent.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from ext4img.errors import ChecksumError, CorruptionError, Place, SourceError

Checks = Literal["strict", "report", "off"]
CHECKS: tuple[str, ...] = get_args(Checks)
MAX_PROBLEMS = 10_000
_REASON_LENGTH = 2000


class Problem(NamedTuple):
    """Something wrong that was read around: the same words and place as a CorruptionError."""

    reason: str
    place: Place

    def __str__(self) -> str:
        where = str(self.place)
        return f"{self.reason} ({where})" if where else self.reason


class Problems(list[Problem]):
    """The problems of one open volume, each once, in the order met; at most 10,000 are kept.

    `dropped` counts those beyond. `checks` is the setting that decides what `found` does.
    """

    def __init__(self, checks: Checks = "strict") -> None:
        super().__init__()
        if checks not in CHECKS:
            raise ValueError(f"checks is one of {', '.join(CHECKS)}, not {checks!r}")
        self.checks: Checks = checks
        self.dropped = 0
        self._seen: set[Problem] = set()

    @property
    def verify(self) -> bool:
        """Whether checksums are computed at all."""
        return self.checks != "off"

    def found(self, error: CorruptionError) -> None:
        """Raise `error` when strict; else note it, and return to the caller, who reads around it."""
        if self.checks == "strict":
            raise error
        if self.checks == "report":
            self.note(error.reason, error.place)

    def unreadable(self, error: CorruptionError | SourceError, place: Place) -> None:
        """Something that could not be read at all: raised as it is when strict, else noted."""
        if isinstance(error, CorruptionError):
            self.found(error)
        elif self.checks == "strict":
            raise error
        else:
            self.found(CorruptionError(str(error), place))

    def checksum(self, what: str, stored: int, computed: int, place: Place) -> None:
        """A checksum that does not fit."""
        self.found(ChecksumError(f"{what} checksum is {stored:#x}, computed {computed:#x}", place))

    def note(self, reason: str, place: Place | None = None) -> None:
        """Keep a problem whatever the setting: for what is worth saying but stops nothing."""
        if len(reason) > _REASON_LENGTH:  # paths and names are as long as the image likes
            reason = f"{reason[: _REASON_LENGTH // 2]}…{reason[-_REASON_LENGTH // 2 :]}"
        problem = Problem(reason, place or Place())
        if problem in self._seen:
            return
        if len(self) >= MAX_PROBLEMS:
            self.dropped += 1
            return
        self._seen.add(problem)
        self.append(problem)
