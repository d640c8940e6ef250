"""Parts of a file that its source did not give: taken out of what is data, and told."""

from __future__ import annotations

from typing import Final

from ext4img.archive.entry import Segments

_TOLD: Final = 4


def subtract_unreadable(segments: Segments, lost: Segments, block_size: int) -> Segments:
    """Segments less the blocks of which all that is data was lost: they are to be holes.

    A hole reads as zeros even where the key of an encrypted file is at hand, which makes noise of a
    block of zeros. `segments` ascend and do not overlap; `lost` may be in any order.
    """
    holes = _blocks(lost, block_size)
    left: list[tuple[int, int]] = []
    position = 0
    for start, length in segments:
        end, at = start + length, start
        while position < len(holes) and holes[position][0] < end:
            first, beyond = holes[position]
            # The last block of a segment may be a part of one only.
            stop = end if beyond >= end else beyond // block_size * block_size
            if stop > max(first, at):
                if first > at:
                    left.append((at, first - at))
                at = stop
            if beyond > end:
                break  # the next segment may lie in it, too
            position += 1
        if at < end:
            left.append((at, end - at))
    return tuple(left)


def _blocks(lost: Segments, block_size: int) -> list[tuple[int, int]]:
    """(first byte of the first whole block, end) of what was lost, in order, neighbours made one."""
    joined: list[tuple[int, int]] = []
    for offset, length in sorted(lost):
        if joined and offset <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], offset + length)
        else:
            joined.append((offset, offset + length))
    return [(-(-first // block_size) * block_size, beyond) for first, beyond in joined]


def describe(lost: Segments) -> str:
    """The ranges for people, the first few of them."""
    told = ", ".join(f"{length} bytes at {offset}" for offset, length in lost[:_TOLD])
    more = len(lost) - _TOLD
    return told if more <= 0 else f"{told} and {more} more ranges"
