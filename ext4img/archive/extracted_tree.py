"""Read a tree that `tar --xattrs` extracted from an archive as a backup; also a copy of it with all attributes.

The records are in the attributes, the facts of the whole backup in `.ext4img/`. The manifest proves
the bodies of files without holes. Where the holes are is known only from the host; but a block of
zeros in an encrypted file is always a hole, as ciphertext is never all zeros.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Self

from ext4img.archive.backup_info import INFO_LIMIT_BYTES, BackupInfo
from ext4img.archive.body import CHUNK_BYTES, digest_of, join_chunks
from ext4img.archive.entry import VERITY, Entry, Segments
from ext4img.archive.extracted_tree_walk import TreeWalk, open_control
from ext4img.archive.loss import LOSS_START, Losses, parse_loss, unreadable_contents
from ext4img.archive.manifest_line import LINE_LIMIT_BYTES, ManifestLine, parse_line
from ext4img.archive.member_paths import CONTROL
from ext4img.errors import AlteredArchiveError, ArchiveError, NotFoundError
from ext4img.names.paths import decode_path


class TreeMember:
    """One file of the tree; see `BackupMember`. Its descriptor is open until the next member."""

    def __init__(self, entry: Entry, fd: int, offset: int, block_size: int, line: ManifestLine | None = None) -> None:
        self.entry = entry
        self.position = offset
        self.data_size = entry.body_size
        self.unreadable: Segments = line.unreadable if line is not None else ()
        self._fd = fd
        self._block_size = block_size
        self._line = line

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """See `BackupMember`. A body without holes must have its digest in the manifest."""
        entry = self.entry
        line = self._line
        digest = hashlib.sha256() if line is not None and line.data_size == entry.body_size else None
        buffer = memoryview(bytearray(CHUNK_BYTES))
        end = 0
        for start, length in entry.segments:
            if start != end:
                digest = None
            end = start + length
            for offset in range(start, end, CHUNK_BYTES):
                part = buffer[: min(CHUNK_BYTES, end - offset)]
                if os.preadv(self._fd, [part], offset) != len(part):
                    raise AlteredArchiveError("its body got shorter while it was read", entry.shown)
                if digest is not None:
                    digest.update(part)
                if entry.context is None:
                    yield offset, part.toreadonly()
                else:
                    yield from self._without_zeros(offset, part)
        if digest is None or line is None or end != entry.body_size:
            return
        if digest.hexdigest() != line.data_sha256:
            raise AlteredArchiveError("its contents are not those that were written", entry.shown)

    def read_digest(self) -> str:
        """See `BackupMember`."""
        return digest_of(self.chunks())

    def read(self) -> bytes:
        """See `BackupMember`."""
        return join_chunks(self.entry.body_size, self.chunks())

    def _without_zeros(self, offset: int, part: memoryview) -> Iterator[tuple[int, memoryview]]:
        """The runs of blocks in `part` that are not all zeros."""
        size = self._block_size
        zeros = memoryview(bytes(size))
        run_start: int | None = None
        for at in range(0, len(part), size):
            if part[at : at + size] != zeros:
                run_start = at if run_start is None else run_start
            elif run_start is not None:
                yield offset + run_start, part[run_start:at].toreadonly()
                run_start = None
        if run_start is not None:
            yield offset + run_start, part[run_start:].toreadonly()


class ExtractedTree:
    """See `BackupSource`, and the module. `path` is the directory that contains `.ext4img/`."""

    seekable = True
    total_bytes: int | None = None

    def __init__(self, path: str) -> None:
        self.name = path
        self._root = -1
        self._walk_to_member: Iterator[TreeMember] = iter(())
        try:
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            raw = self._control_file(b"backup.json", INFO_LIMIT_BYTES)
        except OSError as error:
            self.close()
            raise ArchiveError(f"{path}: cannot be read as a backup: {error.strerror}") from error
        if raw is None:
            self.close()
            raise ArchiveError(f"{path}: not a backup: the directory has no .ext4img/backup.json")
        self.info = BackupInfo.from_json(raw)

    @property
    def losses(self) -> Losses:
        """See `BackupSource`: those in the manifest. Nothing proves that it is the one that was written."""
        found = Losses()
        fd = open_control(self._root, b"manifest.jsonl")
        if fd is None:
            return found
        with open(fd, "rb") as file:
            while raw := file.readline(LINE_LIMIT_BYTES):
                if raw.startswith(LOSS_START):
                    found.add(parse_loss(raw))
                elif b'"unreadable":' in raw:
                    line = parse_line(raw)
                    if isinstance(line, ManifestLine) and line.unreadable:
                        found.add(unreadable_contents(line.path, line.inode, line.unreadable))
        return found

    def members(self, *, verify: bool = False) -> Iterator[TreeMember]:
        """All members of the tree. Bodies that are not read are not checked, except with `verify`."""
        walk = TreeWalk(self._root, self._control_file)
        for entry, fd, line in walk.entries():
            member = TreeMember(entry, fd, walk.done_bytes, self.info.block_size, line)
            yield member
            if verify:
                for _ in member.chunks():
                    pass

    def member(self, path: bytes) -> TreeMember:
        """One member, found by a walk of the tree. It can be read until the next one is requested."""
        self._walk_to_member = self.members()  # kept, as it has the file open
        for member in self._walk_to_member:
            if member.entry.path == path and member.entry.type != VERITY:
                return member
        raise NotFoundError.at(decode_path(path), "No such member in the backup")

    def close(self) -> None:
        """Close the directory. May be called twice."""
        self._walk_to_member = iter(())
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _control_file(self, name: bytes, limit: int) -> bytes | None:
        """The contents of a file below `.ext4img/`; None if there is none. AlteredArchiveError above `limit` bytes."""
        fd = open_control(self._root, name)
        if fd is None:
            return None
        with open(fd, "rb") as file:
            raw = file.read(limit + 1)
        if len(raw) > limit:
            raise AlteredArchiveError(f"it has more than {limit} bytes", decode_path(CONTROL + b"/" + name))
        return raw
