"""What each part of recovery did: a module of its own, because only a dirty volume needs those parts."""

from __future__ import annotations

from typing import NamedTuple

from ext4img.volume.recovery.overlay import Overlay


class Replay(NamedTuple):
    """The result of replaying the log: the `overlay` for the block reader, and figures to report.

    `blocks` counts the logged blocks that were replayed, `replaced` the different blocks of the volume
    among them, `revoked` those that a revoke record cancelled. `end_sequence` is the number that the
    next transaction would have, and that fast commits have. `torn` means that a transaction without
    its commit block follows, `complete` that there was no damage. `last_commit_s` is the time of the
    last commit in seconds since 1970; 0 without one.
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
    last_commit_s: int = 0


class Orphans(NamedTuple):
    """The numbers of the inodes that recovery deleted, and of those that it truncated."""

    deleted: tuple[int, ...] = ()
    truncated: tuple[int, ...] = ()


class FastCommits(NamedTuple):
    """The result of a scan: complete commits, their tags, and the blocks that they give to files.

    `ranges` are pairs of first physical block and end.
    """

    commits: int = 0
    tags: int = 0
    ranges: tuple[tuple[int, int], ...] = ()
