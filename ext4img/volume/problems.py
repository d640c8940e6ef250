"""How strict reading is, and the problems that it has found.

One setting for all checks: `strict` raises at the first problem, `report` notes problems and reads
around them, `off` does not verify checksums, reads around problems and only counts them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from ext4img.errors import ChecksumError, CorruptionError, Place, SourceError

Checks = Literal["strict", "report", "off"]
CHECKS: tuple[str, ...] = get_args(Checks)
MAX_PROBLEMS = 10_000
MAX_REMARKS = 1000  # of them
_REASON_LENGTH = 2000


class Problem(NamedTuple):
    """Damage that did not stop reading, with the words and the place of a CorruptionError.

    A `remark` is no damage: something unusual that ext4 tolerates.
    """

    reason: str
    place: Place
    remark: bool = False

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
        self._remarks = 0
        self.damage = 0
        """How often damage was read around, also in mode `off`, and also damage that is in the list already."""
        self.last: CorruptionError | None = None
        """The damage that was read around last."""
        self._seen: set[Problem] = set()
        # The last range of each kind and inode: its start, its end, its index in the list.
        self._ranges: dict[tuple[str, int | None], tuple[int, int, int]] = {}

    @property
    def verify(self) -> bool:
        """Whether checksums are computed at all."""
        return self.checks != "off"

    @property
    def damages(self) -> int:
        """How many there are, without remarks and those that only say that the image is in use."""
        return sum(not isinstance(problem, SourceInUse) and not problem.remark for problem in self) + self.dropped

    def found(self, error: CorruptionError) -> None:
        """Raise `error` when strict; else note it and return, so that the caller can read around it."""
        if self.checks == "strict":
            raise error
        self.damage += 1
        self.last = error
        if self.checks == "report":
            self.note(error.reason, error.place)

    def found_range(self, what: str, how: str, first: int, end: int, place: Place) -> None:
        """The same for damage of a range, told as "`what` `first` to `end` `how`".

        A range that continues the last one of the same kind in that inode is joined to it: one problem for
        a range, however many pieces it is found in.
        """
        key = (f"{what}{how}", place.inode)
        start, stop, index = self._ranges.get(key, (first, -1, -1))
        joined = start <= first <= stop
        if joined:
            first, end = start, max(end, stop)
        error = CorruptionError(f"{what} {first} to {end} {how}", self[index].place if joined else place)
        if joined and self.checks == "report":
            self.damage += 1
            self.last = error
            self._seen.discard(self[index])
            self[index] = Problem(error.reason, error.place)
            self._seen.add(self[index])
        else:
            index = len(self)
            self.found(error)
        if index < len(self):
            self._ranges[key] = first, end, index

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
        """Keep a problem that never stops reading, whatever the setting is."""
        self._keep(reason, place or Place(), False)

    def remark(self, reason: str, place: Place | None = None) -> None:
        """Keep a remark, whatever the setting is; at most 1,000, so that damage always has room."""
        if self.remarks < MAX_REMARKS:
            self._keep(reason, place or Place(), True)

    @property
    def remarks(self) -> int:
        """How many of the problems are remarks."""
        return self._remarks

    def _keep(self, reason: str, place: Place, remark: bool) -> None:
        if len(reason) > _REASON_LENGTH:  # an image can have paths and names of any length
            reason = f"{reason[: _REASON_LENGTH // 2]}…{reason[-_REASON_LENGTH // 2 :]}"
        self.add(Problem(reason, place, remark))

    def add(self, problem: Problem) -> None:
        """Keep a problem whatever the setting is."""
        if problem in self._seen:
            return
        if len(self) >= MAX_PROBLEMS:
            self.dropped += 1
            return
        self._seen.add(problem)
        self._remarks += problem.remark
        self.append(problem)
