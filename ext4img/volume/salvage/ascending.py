"""Which entries of a damaged extent node to believe."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence


def longest_ascending(spans: Sequence[tuple[int, int]], first: int, end: int) -> list[int]:
    """The positions of the most (start, stop) spans that ascend without overlap between `first` and `end`.

    So one wrong span costs itself, not all that follow it.
    """
    ends: list[int] = []  # of the best chain of each length, the earliest end that it can have
    lasts: list[int] = []  # the position of its last span
    before = [-1] * len(spans)  # the span before each one in the best chain that ends with it
    for position, (start, stop) in enumerate(spans):
        if not first <= start < stop <= end:
            continue
        length = bisect_right(ends, start)
        before[position] = lasts[length - 1] if length else -1
        if length == len(ends):
            ends.append(stop)
            lasts.append(position)
        elif stop < ends[length]:
            ends[length], lasts[length] = stop, position
    chain = []
    position = lasts[-1] if lasts else -1
    while position >= 0:
        chain.append(position)
        position = before[position]
    chain.reverse()
    return chain
