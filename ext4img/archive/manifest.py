"""The manifest, the archive's last member: JSON Lines with place, size and digest of every member.

It has one line a member (`manifest_line`), in the archive's order, then a closing line with their
count, the manifest's own offset and the SHA-256 of the lines before. The writer spools lines, the
reader streams them: neither keeps them in memory.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Final

from ext4img.archive.entry import ROOT
from ext4img.archive.input import Cursor
from ext4img.archive.loss import LOSS_START, Loss, Losses, LossLines, parse_loss, unreadable_contents
from ext4img.archive.manifest_line import (
    LINE_LIMIT_BYTES,
    Closing,
    ManifestLine,
    build_closing,
    build_line,
    parse_line,
)
from ext4img.archive.member_paths import is_control, tree_path
from ext4img.archive.tar_header import padding
from ext4img.errors import AlteredArchiveError, ArchiveError, TruncatedArchiveError
from ext4img.structs.tar import BLOCK_BYTES

MAX_CHAIN_ARCHIVES: Final = 500  # that an incremental archive may be based on
_SPOOL_BYTES: Final = 1 << 20  # in memory; a larger manifest is spooled to a temporary file
_CHUNK_BYTES: Final = 256 << 10
_LINES_PER_FLUSH: Final = 256  # hashed and spooled together
_TAIL_BYTES: Final = 64 << 10  # room for the closing line and the zeros after it
_MAX_CLOSING_BYTES: Final = 48 << 10
_END_LIMIT_BYTES: Final = 1 << 20  # of zeros after the manifest


class ManifestWriter:
    """Collects the lines while members are written, then gives the manifest's bytes."""

    def __init__(self) -> None:
        self._spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - closed by `close`
        self._pending: list[bytes] = []
        self._hash = hashlib.sha256()
        self._incomplete = 0
        self._losses = LossLines()
        self.members = 0
        self.size = 0

    def add(self, line: ManifestLine) -> None:
        """Add the line of one member."""
        raw = build_line(line)
        self._pending.append(raw)
        if len(self._pending) == _LINES_PER_FLUSH:
            self._flush()
        self.size += len(raw)
        self.members += 1
        self._incomplete += bool(line.unreadable)

    def add_loss(self, loss: Loss) -> None:
        """Add the line of a loss; it follows the lines of all members."""
        self.size += self._losses.add(loss)

    def finish(
        self, offset: int, chain: tuple[str, ...] = (), last_write_s: int | None = None, changed: bool = False
    ) -> Closing:
        """Add the lines of losses and the closing line. `offset` is where the manifest's header will be."""
        for raw_loss in self._losses.lines():
            self._pending.append(raw_loss)
            if len(self._pending) == _LINES_PER_FLUSH:
                self._flush()
        self._flush()
        losses = self._losses.count
        self.members += losses
        digest = self._hash.hexdigest()
        closing = Closing(self.members, offset, digest, self._incomplete, chain, losses, last_write_s, changed)
        raw = build_closing(closing)
        self._spool.write(raw)
        self.size += len(raw)
        return closing

    def chunks(self) -> Iterator[bytes]:
        """The finished manifest's bytes."""
        self._spool.seek(0)
        while chunk := self._spool.read(_CHUNK_BYTES):
            yield chunk

    def lines(self) -> Iterator[ManifestLine]:
        """The lines added so far. Only before `finish`."""
        self._flush()
        self._spool.seek(0)
        for raw in self._spool:
            line = parse_line(raw)
            if isinstance(line, ManifestLine):
                yield line

    def _flush(self) -> None:
        raw = b"".join(self._pending)
        self._pending.clear()
        self._hash.update(raw)
        self._spool.write(raw)

    def close(self) -> None:
        """Delete the spools."""
        self._spool.close()
        self._losses.close()


class ManifestReader:
    """Streams the lines of a manifest of `size` bytes that starts at the cursor.

    After the last line the closing line is checked: count, digest, the manifest's own offset. A
    caller that has read to the end therefore knows that the lines are those that were written.
    AlteredArchiveError if one is not, TruncatedArchiveError without a closing line.

    `losses` are complete then, with the unreadable ranges of members among them. `on_loss` gets each one.
    """

    def __init__(
        self, cursor: Cursor, size: int, header_offset: int, on_loss: Callable[[Loss], None] | None = None
    ) -> None:
        self.losses = Losses()
        self._on_loss = on_loss
        self._loss_lines = 0
        self._cursor = cursor
        self.size = self._remaining = size
        self._offset = header_offset
        self._hash = hashlib.sha256()
        self._members = 0
        self.closing: Closing | None = None

    def __iter__(self) -> Iterator[ManifestLine]:
        for raw in self.raw():
            yield parse_member(raw)

    def raw(self) -> Iterator[bytes]:
        """The same lines unparsed, without their newlines."""
        for lines, last in self._lines():
            yield from lines
            if last:
                closing = parse_line(last)
                if not isinstance(closing, Closing):
                    break
                self._close(closing, last)
                return
        raise TruncatedArchiveError(f"{self._cursor.name}: the manifest ends without its closing line")

    def verify(self) -> Closing:
        """Check digest and count of the whole manifest without parsing its lines; return the closing line."""
        last = b""
        for _, end in self._lines():
            last = end
        closing = parse_line(last) if last else None
        if not isinstance(closing, Closing):
            raise TruncatedArchiveError(f"{self._cursor.name}: the manifest ends without its closing line")
        self._close(closing, last)
        return closing

    def _lines(self) -> Iterator[tuple[list[bytes], bytes]]:
        """(lines of members, added to the digest; the closing line once it is reached, else b"")."""
        rest = b""
        while self._remaining:
            part = min(self._remaining, _CHUNK_BYTES)
            data = rest + self._cursor.read(part, "the manifest")
            self._remaining -= part
            end = data.rfind(b"\n") + 1  # of the last complete line
            rest = data[end:]
            if len(rest) > LINE_LIMIT_BYTES:
                raise AlteredArchiveError(f"the manifest has a line of more than {LINE_LIMIT_BYTES} bytes")
            last = b""
            if not self._remaining:
                if rest:
                    raise AlteredArchiveError("the manifest's last line has no newline")
                start = data.rfind(b"\n", 0, -1) + 1
                data, last = data[:start], data[start:]
            elif rest:
                data = data[:end]
            self._hash.update(data)
            lines = data.split(b"\n")
            lines.pop()
            self._members += len(lines)
            if b'"unreadable":' in data:
                self._find_unreadable(lines)
            if self._loss_lines or (lines and lines[-1].startswith(LOSS_START)):
                lines = self._without_losses(lines)
            yield lines, last

    def _find_unreadable(self, lines: list[bytes]) -> None:
        """Add the losses that are in the lines of members."""
        for raw in lines:
            if b'"unreadable":' in raw and not raw.startswith(LOSS_START):
                line = parse_member(raw)
                if line.unreadable:
                    path = line.path if line.path == ROOT or is_control(line.path) else tree_path(line.path, False)
                    self._add_loss(unreadable_contents(path, line.inode, line.unreadable))

    def _without_losses(self, lines: list[bytes]) -> list[bytes]:
        """The lines of members; those of losses are added to `losses`. Only losses may follow a loss."""
        members: list[bytes] = []
        for raw in lines:
            if raw.startswith(LOSS_START):
                self._loss_lines += 1
                self._add_loss(parse_loss(raw))
            elif self._loss_lines:
                raise AlteredArchiveError("the manifest has a member's line after the losses")
            else:
                members.append(raw)
        return members

    def _add_loss(self, loss: Loss) -> None:
        self.losses.add(loss)
        if self._on_loss is not None:
            self._on_loss(loss)

    def _close(self, closing: Closing, raw: bytes) -> None:
        if raw != build_closing(closing):
            raise AlteredArchiveError("the manifest's closing line is not the one that was written")
        if closing.members != self._members or closing.sha256 != self._hash.hexdigest():
            raise AlteredArchiveError(
                "the manifest was altered: the digest of its lines differs"
                if closing.members == self._members
                else f"the manifest was altered: it has {self._members} members, {closing.members} were written"
            )
        if closing.losses != self._loss_lines:
            raise AlteredArchiveError(f"the manifest has {self._loss_lines} losses, {closing.losses} were written")
        if closing.manifest_offset != self._offset:
            raise AlteredArchiveError(
                f"the manifest was written for byte offset {closing.manifest_offset}, not {self._offset}"
            )
        self.closing = closing


def parse_member(raw: bytes) -> ManifestLine:
    """Parse the line of a member. AlteredArchiveError if it is a closing line."""
    line = parse_line(raw)
    if isinstance(line, Closing):
        raise AlteredArchiveError("the manifest continues after its closing line")
    return line


def find_manifest(cursor: Cursor, size: int) -> Closing:
    """The closing line of an archive of `size` bytes, found from its end; it has the manifest's offset.

    The cursor must be where the archive's last `tail_bytes(size)` bytes start. TruncatedArchiveError
    if the archive does not end with a manifest.
    """
    tail = cursor.read(tail_bytes(size), "the archive's end").rstrip(b"\0")
    line = tail[tail.rfind(b"\n", 0, -1) + 1 :]
    if tail.endswith(b"}\n") and len(line) <= _MAX_CLOSING_BYTES:
        try:
            closing = parse_line(line)
        except ArchiveError:
            closing = None
        if isinstance(closing, Closing) and closing.manifest_offset <= size - BLOCK_BYTES:
            return closing
    raise TruncatedArchiveError(f"{cursor.name}: no manifest at its end: the backup was cut short, or is damaged there")


def tail_bytes(size: int) -> int:
    """How many bytes of an archive's end `find_manifest` reads."""
    return min(size, _TAIL_BYTES)


def check_end(cursor: Cursor, manifest_size: int) -> None:
    """Check that only zeros follow the manifest: its padding, two blocks at least, then the archive's end."""
    minimum = padding(manifest_size) + 2 * BLOCK_BYTES
    zeros = cursor.read(minimum, "the zeros at the archive's end")
    rest = cursor.read_rest(_END_LIMIT_BYTES)
    if zeros.strip(b"\0") or rest.strip(b"\0") or len(rest) == _END_LIMIT_BYTES:
        raise AlteredArchiveError("the manifest is not the end of the archive")
