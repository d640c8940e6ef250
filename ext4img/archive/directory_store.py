"""Read a directory store: a backup with each body in a file of its own, and one file of JSON Lines.

It is for tools that deduplicate or transfer files: an unchanged file stays an unchanged file. A
store has `backup.json` (as in an archive), `entries.jsonl` (`directory_store_line`), the bodies
below `tree/` under their names in an archive, and verity trees below `verity/` under inode numbers.
Holes are holes on the host. Owners, modes, times and attributes are in `entries.jsonl` only.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO, Final, Self

from ext4img.archive.backup_info import INFO_LIMIT_BYTES, BackupInfo
from ext4img.archive.body import CHUNK_BYTES, digest_of, join_chunks
from ext4img.archive.directory_store_line import LINE_LIMIT_BYTES, DirectoryStoreLine, parse_store_line
from ext4img.archive.entry import VERITY, Entry
from ext4img.archive.loss import LOSS_START, Losses, parse_loss, unreadable_contents
from ext4img.archive.manifest_line import Closing, build_closing, parse_line
from ext4img.archive.member_paths import archive_path
from ext4img.archive.tree_order import TreeOrder
from ext4img.errors import (
    AlteredArchiveError,
    ArchiveError,
    NotFoundError,
    TruncatedArchiveError,
)
from ext4img.hostfs.safe_dir import SafeDir
from ext4img.names.paths import decode_path
from ext4img.structs.inode import EXT4_VERITY_FL

INFO: Final = b"backup.json"
LINES: Final = b"entries.jsonl"
TREE: Final = b"tree"
VERITY_DIRECTORY: Final = b"verity"
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class DirectoryStoreMember:
    """One entry of a store; see `BackupMember`."""

    def __init__(self, line: DirectoryStoreLine, offset: int, store: DirectoryStore) -> None:
        self.entry = line.entry
        self.position = offset
        self.data_size = line.entry.data_bytes
        self.unreadable = line.unreadable
        self._sha256 = line.sha256
        self._store = store

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """See `BackupMember`. AlteredArchiveError if the data is not what was written."""
        entry = self.entry
        if not entry.body_size:
            return
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(CHUNK_BYTES))
        fd = self._store.open_body(entry)
        try:
            if os.fstat(fd).st_size != entry.body_size:
                raise AlteredArchiveError("its body does not have the size that was written", entry.shown)
            for start, length in entry.segments:
                end = start + length
                for offset in range(start, end, CHUNK_BYTES):
                    part = buffer[: min(CHUNK_BYTES, end - offset)]
                    if os.preadv(fd, [part], offset) != len(part):
                        raise AlteredArchiveError("its body got shorter while it was read", entry.shown)
                    digest.update(part)
                    yield offset, part.toreadonly()
        finally:
            os.close(fd)
        if digest.hexdigest() != self._sha256:
            raise AlteredArchiveError("its contents are not those that were written", entry.shown)

    def read_digest(self) -> str:
        """See `BackupMember`."""
        if not self._sha256:
            return digest_of(self.chunks())
        for _ in self.chunks():
            pass
        return self._sha256

    def read(self) -> bytes:
        """See `BackupMember`."""
        return join_chunks(self.entry.body_size, self.chunks())


class DirectoryStore:
    """A store, open for reading; see `BackupSource`. The digest of all lines is checked when it is opened."""

    seekable = True

    def __init__(self, path: str) -> None:
        self.name = path
        self.total_bytes: int | None = 0
        self._closing = ExitStack()
        try:
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._closing.callback(os.close, self._root)
            with self._file(INFO) as file:
                raw = file.read(INFO_LIMIT_BYTES + 1)
            if len(raw) > INFO_LIMIT_BYTES:
                raise ArchiveError(f"{path}: backup.json has more than {INFO_LIMIT_BYTES} bytes")
            self.info = BackupInfo.from_json(raw)
            self._safe_dir = SafeDir(os.dup(self._root))
            self._closing.callback(self._safe_dir.close)
            self.losses = Losses()
            self.closing = self._check_lines()
        except OSError as error:
            self.close()
            raise ArchiveError(f"{path}: cannot be read as a backup: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    @staticmethod
    def is_store(path: str) -> bool:
        """Whether a directory looks like a store."""
        return os.path.isfile(os.path.join(os.fsencode(path), LINES))

    def members(self, *, verify: bool = False) -> Iterator[DirectoryStoreMember]:
        """All members, in their order. Bodies that are not read are not checked, except with `verify`."""
        done = 0
        order = TreeOrder()
        files: dict[int, Entry] = {}
        for raw in self._lines():
            line = parse_store_line(raw)
            entry = line.entry
            if entry.type != VERITY:
                order.check(entry.path, entry.type == "dir")
                if entry.type == "file" and entry.flags & EXT4_VERITY_FL and not entry.is_link:
                    files[entry.inode] = entry
            elif entry.inode in files:
                file = files.pop(entry.inode)
                line = line._replace(entry=entry._replace(path=file.path, context=file.context))
            else:
                raise AlteredArchiveError("a verity tree without its file, or a second one", entry.shown)
            member = DirectoryStoreMember(line, done, self)
            done += member.data_size
            yield member
            if verify:
                for _ in member.chunks():
                    pass

    def member(self, path: bytes) -> DirectoryStoreMember:
        """The member of a tree path. NotFoundError if there is none."""
        for member in self.members():
            if member.entry.path == path and member.entry.type != VERITY:
                return member
        raise NotFoundError.at(decode_path(path), "No such member in the backup")

    def open_body(self, entry: Entry) -> int:
        """Open the body of an entry; returns a descriptor."""
        *directories, name = (TREE, *archive_path(entry.path).split(b"/"))
        if entry.type == VERITY:
            directories, name = [VERITY_DIRECTORY], b"%d" % entry.inode
        try:
            self._safe_dir.go(directories)
            fd = os.open(name, _READ, dir_fd=self._safe_dir.fd)
        except OSError as error:
            raise AlteredArchiveError(f"its body cannot be opened: {error.strerror}", entry.shown) from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise AlteredArchiveError("its body is not a regular file", entry.shown)
        return fd

    def close(self) -> None:
        """Close all files. May be called twice."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _file(self, name: bytes) -> BinaryIO:
        return os.fdopen(os.open(name, _READ, dir_fd=self._root), "rb", buffering=CHUNK_BYTES)

    def _lines(self) -> Iterator[bytes]:
        """The lines of the entries."""
        with self._file(LINES) as file:
            for _ in range(self.closing.members - self.closing.losses):
                yield file.readline(LINE_LIMIT_BYTES)

    def _check_lines(self) -> Closing:
        """The closing line. AlteredArchiveError if the lines before differ from those that were written."""
        digest = hashlib.sha256()
        members = losses = 0
        last = b""
        with self._file(LINES) as file:
            while raw := file.readline(LINE_LIMIT_BYTES):
                if last:
                    digest.update(last)
                    members += 1
                    losses += self._add_loss(last, losses)
                last = raw
        try:
            closing = parse_line(last)
        except AlteredArchiveError:
            closing = None
        if not isinstance(closing, Closing):
            raise TruncatedArchiveError(f"{self.name}: entries.jsonl has no closing line: it was cut short")
        found = members, losses, digest.hexdigest()
        if (closing.members, closing.losses, closing.sha256) != found or build_closing(closing) != last:
            raise AlteredArchiveError(f"{self.name}: entries.jsonl is not as it was written")
        return closing

    def _add_loss(self, raw: bytes, losses: int) -> bool:
        """Add the loss in a line; whether it is that of a loss. Only losses may follow one."""
        if raw.startswith(LOSS_START):
            self.losses.add(parse_loss(raw))
            return True
        if losses:
            raise AlteredArchiveError(f"{self.name}: entries.jsonl has an entry after the losses")
        if b'"unreadable":' in raw:
            line = parse_store_line(raw)
            if line.unreadable:
                self.losses.add(unreadable_contents(line.entry.path, line.entry.inode, line.unreadable))
        return False
