"""Unreadable parts of a file: they are subtracted from its segments."""

from __future__ import annotations

from ext4img.archive.entry import Segments
from ext4img.archive.loss import describe

__all__ = ["describe", "subtract_unreadable"]


def subtract_unreadable(segments: Segments, lost: Segments, block_size: int) -> Segments:
    """The segments without the blocks whose data is lost entirely: those become holes.

    A hole of an encrypted file reads as zeros, also with its key, which would turn a block of zeros
    into noise. `segments` must be ascending and disjoint; `lost` may be in any order.
    """
    holes = _blocks(lost, block_size)
    left: list[tuple[int, int]] = []
    position = 0
    for start, length in segments:
        end, at = start + length, start
        while position < len(holes) and holes[position][0] < end:
            first, beyond = holes[position]
            # The last block of a segment may be incomplete.
            stop = end if beyond >= end else beyond // block_size * block_size
            if stop > max(first, at):
                if first > at:
                    left.append((at, first - at))
                at = stop
            if beyond > end:
                break  # the next segment may overlap it, too
            position += 1
        if at < end:
            left.append((at, end - at))
    return tuple(left)


def _blocks(lost: Segments, block_size: int) -> list[tuple[int, int]]:
    """(first byte of the first whole block, end) of the lost ranges, ascending, neighbours merged."""
    joined: list[tuple[int, int]] = []
    for offset, length in sorted(lost):
        if joined and offset <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], offset + length)
        else:
            joined.append((offset, offset + length))
    return [(-(-first // block_size) * block_size, beyond) for first, beyond in joined]
