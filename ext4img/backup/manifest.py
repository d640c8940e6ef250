"""The archive's last member: JSON Lines that say of every member what and where it is.

One object a line, members in the archive's order, then one line that closes the manifest with
their count, the manifest's own offset and the SHA-256 of the lines before. docs/archive-format.md
lists the keys. The writer spools lines, the reader streams them: neither keeps them in memory.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import tempfile
from collections.abc import Iterator
from json.encoder import encode_basestring_ascii
from typing import Any, Final, NamedTuple

from ext4img.backup.entry import Entry, Segments, show
from ext4img.backup.input import Cursor
from ext4img.backup.records import build_filename
from ext4img.errors import AlteredArchiveError, ArchiveError, TruncatedArchiveError
from ext4img.structs.fscrypt import FSCRYPT_SYMLINK_DATA
from ext4img.structs.tar import BLOCK_BYTES

LINE_LIMIT_BYTES: Final = 2 << 20
_SPOOL_BYTES: Final = 1 << 20  # kept in memory; more goes to a temporary file
_CHUNK_BYTES: Final = 256 << 10
_LINES_TOGETHER: Final = 256  # hashed and spooled at once
_TAIL_BYTES: Final = 64 << 10  # the closing line and the zeros after it fit in here
_TARGET_SHOWN_WHOLE: Final = FSCRYPT_SYMLINK_DATA.size + 149  # the shown form of longer ones has a digest in it
_NO_BODY: Final = hashlib.sha256(b"").hexdigest()


class Identity(NamedTuple):
    """What tells an inode from a later state of itself, for incremental backups."""

    generation: int = 0
    size: int = 0
    ctime_ns: int = 0
    version: int = 0


def identity_of(entry: Entry) -> Identity:
    """The identity of an entry's inode; a size only where it is a file's, on its first name."""
    size = entry.size if entry.type == "file" and not entry.is_link else 0
    return Identity(entry.generation, size, entry.ctime_ns, entry.version)


class Elsewhere(NamedTuple):
    """What the manifest has of an entry besides, because an extracted tree may not; see `ManifestLine`."""

    filename: bytes | None = None
    name_hash: bytes | None = None
    symlink: bytes | None = None


NOTHING_ELSEWHERE: Final = Elsewhere()


def elsewhere_of(entry: Entry) -> Elsewhere:
    """What the manifest has to have of an entry."""
    if entry.is_link and entry.stored_name is not None:
        return Elsewhere(build_filename(entry.stored_name), entry.name_hash)
    if entry.stored_target is not None and len(entry.stored_target) > _TARGET_SHOWN_WHOLE:
        return Elsewhere(symlink=entry.stored_target)
    return NOTHING_ELSEWHERE


class ManifestLine(NamedTuple):
    """One member. Sizes and offsets in bytes; digests are SHA-256 in hex.

    `offset` is where its headers start, `head` their digest; `data` is where its stored data
    starts, sparse map included, `size` and `sha256` are theirs. `unreadable` are (offset, length) of the file
    that the source did not give and that hold zeros.

    The rest is for trees that a stock tool extracted, where it may have no place else: `filename`
    and `name_hash`, record and casefold hash of an encrypted hard link's name; `symlink`, the
    stored target of an encrypted symlink that cannot be told from the target that is shown.
    """

    path: bytes
    inode: int
    size: int
    sha256: str
    head: str
    offset: int
    data: int
    identity: Identity | None = None
    filename: bytes | None = None
    name_hash: bytes | None = None
    symlink: bytes | None = None
    unreadable: Segments = ()


class Closing(NamedTuple):
    """The manifest's last line."""

    members: int
    offset: int
    sha256: str
    incomplete: int


def build_line(line: ManifestLine) -> bytes:
    """The line's bytes, newline included."""
    try:
        path = f'"path":{encode_basestring_ascii(line.path.decode())}'
    except UnicodeDecodeError:
        path = f'"path_base64":"{base64.b64encode(line.path).decode()}"'
    text = (
        f'{{{path},"inode":{line.inode},"offset":{line.offset},"head":"{line.head}"'
        f',"data":{line.data},"size":{line.size},"sha256":"{line.sha256}"'
    )
    if line.identity is not None:
        generation, size, ctime_ns, version = line.identity
        text += f',"generation":{generation},"i_size":{size},"ctime_ns":{ctime_ns},"version":{version}'
    if line.filename is not None:
        text += f',"filename":"{base64.b64encode(line.filename).decode()}"'
    if line.name_hash is not None:
        text += f',"hash":"{line.name_hash.hex()}"'
    if line.symlink is not None:
        text += f',"symlink":"{base64.b64encode(line.symlink).decode()}"'
    if line.unreadable:
        text += f',"unreadable":{json.dumps(line.unreadable, separators=(",", ":"))}'
    return text.encode() + b"}\n"


def parse_line(raw: bytes) -> ManifestLine | Closing:
    """A line back. AlteredArchiveError where it is not one."""
    try:
        found = json.loads(raw)
        if not isinstance(found, dict):
            raise TypeError("no object")
        if "members" in found:
            return Closing(
                _whole(found, "members"), _whole(found, "offset"), _digest(found, "sha256"), _whole(found, "incomplete")
            )
        path = found["path"].encode() if "path" in found else base64.b64decode(found["path_base64"], validate=True)
        identity = None
        if "ctime_ns" in found:
            identity = Identity(
                _whole(found, "generation"),
                _whole(found, "i_size"),
                _integer(found, "ctime_ns"),
                _whole(found, "version"),
            )
        filename = base64.b64decode(found["filename"], validate=True) if "filename" in found else None
        name_hash = bytes.fromhex(found["hash"]) if "hash" in found else None
        symlink = base64.b64decode(found["symlink"], validate=True) if "symlink" in found else None
        unreadable = tuple((int(offset), int(length)) for offset, length in found.get("unreadable", ()))
        return ManifestLine(
            path,
            _whole(found, "inode"),
            _whole(found, "size"),
            _digest(found, "sha256"),
            _digest(found, "head"),
            _whole(found, "offset"),
            _whole(found, "data"),
            identity,
            filename,
            name_hash,
            symlink,
            unreadable,
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, binascii.Error) as error:
        raise AlteredArchiveError(f"the manifest has a line that is none: {show(raw[:60])!r} ({error})") from error


class ManifestWriter:
    """Takes lines as members are written, and gives the member's bytes at the end."""

    def __init__(self) -> None:
        self._spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - closed by `close`
        self._pending: list[bytes] = []
        self._hash = hashlib.sha256()
        self._incomplete = 0
        self.members = 0
        self.size = 0

    def add(self, line: ManifestLine) -> None:
        """Note one member."""
        raw = build_line(line)
        self._pending.append(raw)
        if len(self._pending) == _LINES_TOGETHER:
            self._flush()
        self.size += len(raw)
        self.members += 1
        self._incomplete += bool(line.unreadable)

    def finish(self, offset: int) -> Closing:
        """Close the manifest, which will stand at `offset`."""
        self._flush()
        closing = Closing(self.members, offset, self._hash.hexdigest(), self._incomplete)
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
        """The lines added so far, of a manifest that is not finished."""
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
        """Drop the spool."""
        self._spool.close()


def build_closing(closing: Closing) -> bytes:
    """The closing line's bytes."""
    return (json.dumps(closing._asdict(), separators=(",", ":")) + "\n").encode()


class ManifestReader:
    """Streams the lines of a manifest of `size` bytes that starts at the cursor.

    After the last line its closing is checked: count, digest, its own offset. So a caller who
    has read to the end knows the lines to be those that were written.
    """

    def __init__(self, cursor: Cursor, size: int, header_offset: int) -> None:
        self._cursor = cursor
        self.size = self._left = size
        self._offset = header_offset
        self._hash = hashlib.sha256()
        self._members = 0
        self._rest = b""
        self.closing: Closing | None = None

    def __iter__(self) -> Iterator[ManifestLine]:
        for raw in self._lines():
            line = parse_line(raw)
            if isinstance(line, Closing):
                self._close(line, raw)
                return
            self._hash.update(raw)
            self._members += 1
            yield line
        raise TruncatedArchiveError(f"{self._cursor.name}: the manifest ends without its closing line")

    def verify(self) -> Closing:
        """Check digest and count of the whole manifest without parsing every line."""
        last = b""
        for raw in self._lines():
            if last:
                self._hash.update(last)
                self._members += 1
            last = raw
        closing = parse_line(last)
        if not isinstance(closing, Closing):
            raise TruncatedArchiveError(f"{self._cursor.name}: the manifest ends without its closing line")
        self._close(closing, last)
        return closing

    def _lines(self) -> Iterator[bytes]:
        while self._left:
            part = min(self._left, _CHUNK_BYTES)
            lines = (self._rest + self._cursor.read(part, "the manifest")).splitlines(keepends=True)
            self._left -= part
            self._rest = lines.pop() if not lines[-1].endswith(b"\n") else b""
            if len(self._rest) > LINE_LIMIT_BYTES:
                raise AlteredArchiveError(f"the manifest has a line of more than {LINE_LIMIT_BYTES} bytes")
            yield from lines
        if self._rest:
            raise AlteredArchiveError("the manifest's last line does not end")

    def _close(self, closing: Closing, raw: bytes) -> None:
        if raw != build_closing(closing) or self._left or self._rest:
            raise AlteredArchiveError("the manifest's closing line is not as it was written")
        if closing.members != self._members or closing.sha256 != self._hash.hexdigest():
            raise AlteredArchiveError(
                f"the manifest was altered: it has {self._members} members, {closing.members} were written,"
                " and the digest of its lines differs"
                if closing.members == self._members
                else f"the manifest was altered: it has {self._members} members, {closing.members} were written"
            )
        if closing.offset != self._offset:
            raise AlteredArchiveError(f"the manifest was written for byte offset {closing.offset}, not {self._offset}")
        self.closing = closing


def find_manifest(cursor: Cursor, size: int) -> Closing:
    """The closing line of an archive of `size` bytes, from its end; says where the manifest is.

    The cursor must stand where the archive's last `tail_bytes(size)` bytes start.
    """
    tail = cursor.read(tail_bytes(size), "the archive's end").rstrip(b"\0")
    line = tail[tail.rfind(b"\n", 0, -1) + 1 :]
    if tail.endswith(b"}\n") and len(line) < BLOCK_BYTES:
        try:
            closing = parse_line(line)
        except ArchiveError:
            closing = None
        if isinstance(closing, Closing) and closing.offset <= size - BLOCK_BYTES:
            return closing
    raise TruncatedArchiveError(
        f"{cursor.name}: no manifest at its end: the backup was cut short, or is damaged there"
    )


def tail_bytes(size: int) -> int:
    """How much of an archive's end `find_manifest` looks at."""
    return min(size, _TAIL_BYTES)


def _whole(found: dict[str, Any], key: str) -> int:
    value = _integer(found, key)
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{key} is {value}")
    return value


def _integer(found: dict[str, Any], key: str) -> int:
    value = found[key]
    if type(value) is not int:
        raise TypeError(f"{key} is no integer")
    return value


def _digest(found: dict[str, Any], key: str) -> str:
    value = found[key]
    if type(value) is not str or len(value) != len(_NO_BODY):
        raise TypeError(f"{key} is no SHA-256")
    return value
