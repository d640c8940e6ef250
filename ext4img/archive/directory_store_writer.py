"""Write entries and bodies as a directory store; see `directory_store`."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import BinaryIO, Final, Self

from ext4img.archive.backup_info import BackupInfo
from ext4img.archive.body import BodyStream
from ext4img.archive.digest_thread import DigestThread
from ext4img.archive.directory_store import INFO, LINES, TREE, VERITY_DIRECTORY
from ext4img.archive.directory_store_line import LINE_LIMIT_BYTES, DirectoryStoreLine, build_store_line
from ext4img.archive.entry import ROOT, VERITY, Entry
from ext4img.archive.loss import Loss, LossLines
from ext4img.archive.manifest_line import Closing, ManifestLine, build_closing
from ext4img.archive.member_paths import archive_path
from ext4img.archive.tree_order import TreeOrder
from ext4img.errors import AlteredArchiveError, ArchiveError, Ext4Error, LimitError
from ext4img.hostfs.safe_dir import SafeDir
from ext4img.hostfs.sync import sync_file_system
from ext4img.interruption import checkpoint

_BUFFER_BYTES: Final = 1 << 20
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryStoreWriter:
    """Writes a store, with the methods of `ArchiveWriter`. It appears at `path` when it is finished.

    Use it in a `with` statement. ArchiveError if `path` exists.
    """

    def __init__(self, path: str, info: BackupInfo) -> None:
        self._path = path
        parent, name = os.path.split(os.path.abspath(path))
        self._temporary = os.path.join(parent, f".{name[:200]}.{secrets.token_hex(4)}.partial")
        self._digests = DigestThread()
        self._order = TreeOrder()
        self._hash = hashlib.sha256()
        self._members = self._incomplete = 0
        self.position = 0
        self._closing = ExitStack()
        if os.path.lexists(path):
            raise ArchiveError(f"{path}: already exists")
        with self._os_errors():
            os.mkdir(self._temporary, 0o700)
        self._losses = LossLines()
        try:
            with self._os_errors():
                root = os.open(self._temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self._closing.callback(os.close, root)
                for below in (TREE, VERITY_DIRECTORY):
                    os.mkdir(below, 0o700, dir_fd=root)
                with os.fdopen(os.open(INFO, _NEW, 0o600, dir_fd=root), "wb") as file:
                    file.write(info.to_json())
                lines = os.open(LINES, _NEW, 0o600, dir_fd=root)
                self._lines: BinaryIO = self._closing.enter_context(os.fdopen(lines, "wb", _BUFFER_BYTES))
                self._root = root
                self._safe_dir = SafeDir(os.dup(root))
                self._closing.callback(self._safe_dir.close)
        except BaseException:
            self.close()
            raise

    def add(self, entry: Entry, body: BodyStream | None = None) -> None:
        """Write one entry and its body. ArchiveError or LimitError if the store cannot hold it."""
        with self._os_errors():
            if entry.type == VERITY:
                digest = self._write_body((VERITY_DIRECTORY,), b"%d" % entry.inode, entry, body)
            else:
                self._order.check(entry.path, entry.type == "dir")
                *directories, name = (TREE, *archive_path(entry.path).split(b"/"))
                digest = ""
                if entry.type == "dir":
                    self._make_directory(directories, name)
                elif entry.body_size:
                    digest = self._write_body(directories, name, entry, body)
            unreadable = tuple(sorted(body.unreadable)) if body is not None else ()
            raw = build_store_line(DirectoryStoreLine(entry, digest, unreadable))
            if len(raw) > LINE_LIMIT_BYTES:
                raise LimitError(f"{entry.shown!r}: a line of {len(raw)} bytes; the format allows {LINE_LIMIT_BYTES}")
            self._hash.update(raw)
            self._lines.write(raw)
        self._members += 1
        self._incomplete += bool(unreadable)
        self.position += entry.data_bytes

    def add_loss(self, loss: Loss) -> None:
        """Record a part of the image that could not be read; at any time before `finish`."""
        self._losses.add(loss)

    def add_unchanged(self, entry: Entry, line: ManifestLine, archive: int) -> None:
        """ArchiveError: a store is never incremental. Tools that deduplicate find what is unchanged."""
        raise ArchiveError(f"{self._path}: a directory store is not incremental")

    def finish(self, chain: tuple[str, ...] = (), last_write_s: int | None = None, *, changed: bool = False) -> Closing:
        """Write the closing line and rename the store to its path. `chain` is not used: it is for archives."""
        with self._os_errors():
            for raw in self._losses.lines():
                self._hash.update(raw)
                self._lines.write(raw)
            losses = self._losses.count
            digest = self._hash.hexdigest()
            closing = Closing(self._members + losses, 0, digest, self._incomplete, (), losses, last_write_s, changed)
            self._lines.write(build_closing(closing))
            self._lines.flush()
            sync_file_system(self._root, self._path)
            if os.path.lexists(self._path):
                raise ArchiveError(f"{self._path}: already exists")
            os.rename(self._temporary, self._path)
            self._temporary = ""
            self.close()
        return closing

    def close(self) -> None:
        """Close all files. An unfinished store is deleted."""
        self._digests.close()
        self._losses.close()
        unfinished, self._temporary = self._temporary, ""
        try:
            with self._os_errors():
                self._closing.close()
        except ArchiveError:
            if not unfinished:  # else the store is deleted: what is still buffered need not be written
                raise
        finally:
            if unfinished:
                shutil.rmtree(unfinished, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_directory(self, directories: Sequence[bytes], name: bytes) -> None:
        if name != ROOT:
            self._safe_dir.go(directories)
            os.mkdir(name, 0o700, dir_fd=self._safe_dir.fd)

    def _write_body(self, directories: Sequence[bytes], name: bytes, entry: Entry, body: BodyStream | None) -> str:
        """Write a body's data at its segments' offsets; return the digest of the data."""
        self._safe_dir.go(directories)
        digest = hashlib.sha256()
        fd = os.open(name, _NEW, 0o600, dir_fd=self._safe_dir.fd)
        try:
            os.ftruncate(fd, entry.body_size)
            segments = iter(entry.segments)
            offset = end = 0
            for chunk in body.chunks if body is not None else ():
                checkpoint()
                self._digests.update(digest, chunk)
                done = 0
                while done < len(chunk):
                    if offset == end:
                        offset, length = next(segments, (0, 0))
                        end = offset + length
                        if offset == end:
                            raise AlteredArchiveError("its body is longer than its segments", entry.shown)
                    part = chunk[done : done + end - offset]
                    written = os.pwrite(fd, part, offset)
                    offset += written
                    done += written
            self._digests.wait()
            if offset != end or next(segments, None) is not None:
                raise AlteredArchiveError("its body is shorter than its segments", entry.shown)
        finally:
            os.close(fd)
        return digest.hexdigest()

    @contextmanager
    def _os_errors(self) -> Iterator[None]:
        """Raise the host's errors as ArchiveError."""
        try:
            yield
        except Ext4Error:
            raise
        except OSError as error:
            raise ArchiveError(f"{self._path}: cannot be written: {error.strerror}") from error
