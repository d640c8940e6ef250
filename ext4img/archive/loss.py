"""What a backup lacks of the image: recorded when the backup is made, told by every command that reads it.

docs/archive-format.md ("Losses") lists the keys of a line.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple, cast, get_args

from ext4img.archive.entry import ROOT, Segments
from ext4img.archive.json_fields import FIELD_ERRORS, bytes_field, get_bytes, get_unsigned, shown_line
from ext4img.archive.member_paths import archive_path, tree_path
from ext4img.errors import AlteredArchiveError
from ext4img.names.paths import decode_path

LossKind = Literal["entry", "names", "attributes", "verity", "contents"]
LOSS_START: Final = b'{"lost":'
MAX_LOSSES_KEPT: Final = 10_000
_MAX_REASON: Final = 2000
_MAX_RANGES_TOLD: Final = 4
_SPOOL_BYTES: Final = 1 << 20
_TEXTS: Final = {
    "entry": "is missing from the backup",
    "names": "names in this directory are missing from the backup",
    "attributes": "attributes are missing from the backup",
    "verity": "its Merkle tree is missing from the backup",
    "contents": "contents are missing from the backup",
}


class Loss(NamedTuple):
    """A part of the image that reading had to leave out.

    `what` is missing at the tree path `path`: the "entry" itself, "names" in a directory, "attributes", the
    Merkle tree of a "verity" file, or "contents", the (offset, length) `ranges` of a file. `inode` is its
    number on the image, `reason` says what was damaged.
    """

    what: LossKind
    path: bytes
    inode: int
    reason: str
    ranges: Segments = ()

    @property
    def text(self) -> str:
        """What is missing, and why, without the path."""
        return f"{_TEXTS[self.what]}: {self.reason}"

    def __str__(self) -> str:
        return f"{decode_path(self.path)!r}: {self.text}"


def unreadable_contents(path: bytes, inode: int, ranges: Segments) -> Loss:
    """The loss of a member's unreadable ranges."""
    return Loss("contents", path, inode, describe(ranges), ranges)


def describe(lost: Segments) -> str:
    """Ranges for people, only the first few of them."""
    told = ", ".join(f"{length} bytes at {offset}" for offset, length in lost[:_MAX_RANGES_TOLD])
    more = len(lost) - _MAX_RANGES_TOLD
    return told if more <= 0 else f"{told} and {more} more ranges"


def build_loss(loss: Loss) -> bytes:
    """The line of a loss, newline included. Ranges of contents are in the line of their member instead."""
    reason = loss.reason
    if len(reason) > _MAX_REASON:
        reason = f"{reason[: _MAX_REASON // 2]}…{reason[-_MAX_REASON // 2 :]}"
    found = {"lost": loss.what, **bytes_field("path", archive_path(loss.path)), "inode": loss.inode, "reason": reason}
    return json.dumps(found, separators=(",", ":")).encode() + b"\n"


def parse_loss(raw: bytes) -> Loss:
    """Parse a line that begins with `LOSS_START`. AlteredArchiveError if it is malformed."""
    try:
        found: dict[str, Any] = json.loads(raw)
        what = found["lost"]
        if what not in get_args(LossKind):
            raise ValueError(f"lost is {str(what)[:40]!r}")
        path = get_bytes(found, "path")
        if path != ROOT:
            path = tree_path(path, directory=False)
        return Loss(cast("LossKind", what), path, get_unsigned(found, "inode"), str(found["reason"])[: _MAX_REASON + 1])
    except FIELD_ERRORS as error:
        raise AlteredArchiveError(f"malformed line of a loss: {shown_line(raw)!r} ({error})") from error


class LossLines:
    """The lines of losses while a backup is written: they follow the lines of all members."""

    def __init__(self) -> None:
        self._spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - closed by `close`
        self.count = 0

    def add(self, loss: Loss) -> int:
        """Add a loss; returns the bytes of its line."""
        raw = build_loss(loss)
        self._spool.write(raw)
        self.count += 1
        return len(raw)

    def lines(self) -> Iterator[bytes]:
        """All lines, newlines included."""
        self._spool.seek(0)
        return iter(self._spool)

    def close(self) -> None:
        """Delete the spool."""
        self._spool.close()


class Losses(list[Loss]):
    """The losses of a backup that is read, at most 10,000 of them; `total` counts all."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def add(self, loss: Loss) -> None:
        """Count one more, and keep it if there is room."""
        self.total += 1
        if len(self) < MAX_LOSSES_KEPT:
            self.append(loss)
