"""Telling many problems: of each kind only the first, and how many more there are.

Problems are of one kind if they differ only in numbers and quoted names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, TypeVar

from ext4img.errors import PathError

TOLD_AS_LINES: Final = 10
TOLD_AS_JSON: Final = 100
_VARYING: Final = re.compile(r"""0x[0-9a-f]+|[0-9]+|b?'(?:[^'\\]|\\.)*'|b?"(?:[^"\\]|\\.)*\"""")

P = TypeVar("P")


class More(NamedTuple):
    """`number` more problems of the kind of `first`, which are not told one by one."""

    first: object
    number: int

    def __str__(self) -> str:
        return f"{self.number} more like this: {self.first}"


def few_of_each(problems: Iterable[P], told: int = TOLD_AS_LINES) -> Iterator[P | More]:
    """The problems in their order, of each kind the first `told`; then a `More` for each kind that has more."""
    counts: dict[str, int] = {}
    firsts: dict[str, P] = {}
    for problem in problems:
        kind = _kind(problem)
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] <= told:
            firsts.setdefault(kind, problem)
            yield problem
    for kind, count in counts.items():
        if count > told:
            yield More(firsts[kind], count - told)


def _kind(problem: object) -> str:
    if isinstance(problem, PathError):
        text = problem.strerror or ""
    else:
        text = str(getattr(problem, "reason", problem))
    return f"{type(problem).__name__}{_VARYING.sub('', text)}"
