"""From ranges of bytes to runs of blocks, for files with holes or unwritten parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ext4img.errors import BuildError
from ext4img.mkfs.nodes import Node, show_path
from ext4img.structs.extent import EXT_MAX_BLOCKS
from ext4img.structs.inode import EXT4_ENCRYPT_FL, EXT4_VERITY_FL


class LogicalRun(NamedTuple):
    """`length` blocks of a file from `lblk` on that need to be allocated."""

    lblk: int
    length: int
    unwritten: bool


def file_runs(node: Node, block_size: int) -> tuple[tuple[LogicalRun, ...], int]:
    """The runs of a file with holes or unwritten parts, and the byte where its contents end.

    BuildError for contents out of range, or for ciphertext that does not fill its blocks.
    """
    encrypted = bool(node.flags & EXT4_ENCRYPT_FL)
    segments = node.segments
    if segments is None:
        segments = ((0, -(-node.size // block_size) * block_size if encrypted else node.size),)
    written = _in_blocks(node, segments, block_size, aligned=encrypted)
    end = max((offset + length for offset, length in segments if length), default=0)
    if end > -(-node.size // block_size) * block_size and not node.flags & EXT4_VERITY_FL:
        raise BuildError(f"contents reach byte {end}, past its size of {node.size}", show_path(node.path))
    return _merged(written, _in_blocks(node, node.unwritten, block_size)), end


def _in_blocks(
    node: Node, ranges: Iterable[tuple[int, int]], block_size: int, *, aligned: bool = False
) -> list[tuple[int, int]]:
    """Ranges of bytes as sorted, disjoint ranges of blocks (first, end)."""
    blocks: list[tuple[int, int]] = []
    for offset, length in sorted(ranges):
        if offset < 0 or length < 0 or offset + length > EXT_MAX_BLOCKS * block_size:
            raise BuildError(f"contents of {length} bytes at {offset} are out of range", show_path(node.path))
        if aligned and (offset % block_size or length % block_size):
            raise BuildError(
                f"encrypted contents of {length} bytes at {offset} do not fill blocks of {block_size} bytes",
                show_path(node.path),
            )
        if not length:
            continue
        first, end = offset // block_size, -(-(offset + length) // block_size)
        if blocks and first <= blocks[-1][1]:
            blocks[-1] = (blocks[-1][0], max(end, blocks[-1][1]))
        else:
            blocks.append((first, end))
    return blocks


def _merged(written: list[tuple[int, int]], unwritten: list[tuple[int, int]]) -> tuple[LogicalRun, ...]:
    """Written and unwritten ranges of blocks, in order; blocks in both are written."""
    runs = [LogicalRun(first, end - first, False) for first, end in written]
    position = 0
    for first, end in unwritten:
        at = first
        while at < end:
            while position < len(written) and written[position][1] <= at:
                position += 1
            if position < len(written) and written[position][0] <= at:
                at = written[position][1]
                continue
            stop = min(end, written[position][0]) if position < len(written) else end
            runs.append(LogicalRun(at, stop - at, True))
            at = stop
    return tuple(sorted(runs))
