"""How strict reading is, and the problems that it has found.

One setting for all checks: `strict` raises at the first problem, `report` notes problems and reads
around them, `off` does not verify checksums and notes nothing.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from ext4img.errors import ChecksumError, CorruptionError, Place, SourceError

Checks = Literal["strict", "report", "off"]
CHECKS: tuple[str, ...] = get_args(Checks)
MAX_PROBLEMS = 10_000
_REASON_LENGTH = 2000


class Problem(NamedTuple):
    """Damage that did not stop reading, with the words and the place of a CorruptionError."""

    reason: str
    place: Place

    def __str__(self) -> str:
        where = str(self.place)
        return f"{self.reason} ({where})" if where else self.reason


class SourceInUse(Problem):
    """Others can write to the image, or did while it was read: what was read may be a mixture of old and new."""

    __slots__ = ()


class Problems(list[Problem]):
    """The problems of one open volume, each once, in the order of discovery; at most 10,000 are kept.

    `dropped` counts the rest. `checks` is the setting, which decides what `found` does.
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

    @property
    def damages(self) -> int:
        """How many there are, without those that only say that the image is in use."""
        return sum(not isinstance(problem, SourceInUse) for problem in self) + self.dropped

    def found(self, error: CorruptionError) -> None:
        """Raise `error` when strict; else note it and return, so that the caller can read around it."""
        if self.checks == "strict":
            raise error
        if self.checks == "report":
            self.note(error.reason, error.place)

    def unreadable(self, error: CorruptionError | SourceError, place: Place) -> None:
        """Raise a read error as it is when strict; else note it."""
        if isinstance(error, CorruptionError):
            self.found(error)
        elif self.checks == "strict":
            raise error
        else:
            self.found(CorruptionError(str(error), place))

    def checksum(self, what: str, stored: int, computed: int, place: Place) -> None:
        """Raise or note a wrong checksum."""
        self.found(ChecksumError(f"{what} checksum is {stored:#x}, computed {computed:#x}", place))

    def note(self, reason: str, place: Place | None = None) -> None:
        """Keep a problem whatever the setting is: a remark that never stops reading."""
        if len(reason) > _REASON_LENGTH:  # an image can have paths and names of any length
            reason = f"{reason[: _REASON_LENGTH // 2]}…{reason[-_REASON_LENGTH // 2 :]}"
        self.add(Problem(reason, place or Place()))

    def add(self, problem: Problem) -> None:
        """Keep a problem whatever the setting is."""
        if problem in self._seen:
            return
        if len(self) >= MAX_PROBLEMS:
            self.dropped += 1
            return
        self._seen.add(problem)
        self.append(problem)
