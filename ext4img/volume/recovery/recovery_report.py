"""What each part of recovery did. Apart from those parts, which only a dirty volume needs."""

from __future__ import annotations

from typing import NamedTuple

from ext4img.volume.recovery.overlay import Overlay


class Replay(NamedTuple):
    """What replaying the log gave. `overlay` is what the block reader needs, the rest is told.

    `blocks` counts logged blocks that were replayed, `replaced` the different blocks of the volume
    among them, `revoked` those that a revoke record silenced. `end_sequence` is the number that
    the next transaction would have, and that fast commits carry. `torn` says that a transaction
    without its commit block followed; `complete` that nothing was wrong.
    """

    overlay: Overlay
    first_sequence: int
    end_sequence: int
    transactions: int = 0
    blocks: int = 0
    replaced: int = 0
    escaped: int = 0
    revoke_records: int = 0
    revoked: int = 0
    checksum_version: int = 0
    checksums_verified: int = 0
    torn: bool = False
    complete: bool = True


class Orphans(NamedTuple):
    """Inode numbers of what recovery deleted and of what it cut to size."""

    deleted: tuple[int, ...] = ()
    truncated: tuple[int, ...] = ()


class FastCommits(NamedTuple):
    """What a scan found: whole commits, their tags, and the blocks that they give to files.

    `ranges` are pairs of first physical block and end.
    """

    commits: int = 0
    tags: int = 0
    ranges: tuple[tuple[int, int], ...] = ()
