"""Entries and bodies → the archive's bytes. docs/archive-format.md says what they are.

The same entries give the same bytes: nothing is taken from the clock, the host or the process.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from typing import BinaryIO, Final, Self, cast

from ext4img.archive.backup_info import BackupInfo
from ext4img.archive.digest_thread import DigestThread, sha256_hex
from ext4img.archive.encryption_records import build_filename
from ext4img.archive.entry import VERITY, Entry, Segments
from ext4img.archive.entry_codec import header_of
from ext4img.archive.manifest import ManifestWriter
from ext4img.archive.manifest_line import (
    NO_BODY,
    NO_MANIFEST_ONLY_FIELDS,
    ChainReference,
    ChangeKey,
    Closing,
    ManifestLine,
    ManifestOnlyFields,
    change_key_of,
    manifest_only_fields_of,
)
from ext4img.archive.member_paths import BACKUP_PATH, MANIFEST_PATH, VERITY_DIRECTORY, XATTR_DIRECTORY, archive_path
from ext4img.archive.output import write_all
from ext4img.archive.pax_writer import TarHeader, encode, padding
from ext4img.archive.sparse_map import encode_map
from ext4img.archive.tree_order import TreeOrder
from ext4img.errors import AlteredArchiveError
from ext4img.names.paths import decode_path
from ext4img.structs.inode import EXT4_VERITY_FL
from ext4img.structs.tar import BLOCK_BYTES, REGTYPE

RECORD_BYTES: Final = 20 * BLOCK_BYTES  # tar's blocking factor: the archive ends on a multiple
CONTROL_MODE: Final = 0o600
_BUFFER_BYTES: Final = 256 << 10  # less than a large chunk, which then goes out without being copied
_ZEROS: Final = bytes(BLOCK_BYTES)
Buffer = bytes | bytearray | memoryview


class BodyStream:
    """A file's data as it is read: the bytes of its segments one after the other.

    A chunk must stay as it is until the second one after it is drawn: it is digested meanwhile.

    `unreadable` may be filled while the chunks are drawn: (offset, length) in the file of what
    the source did not give, for which the chunks have zeros.
    """

    __slots__ = ("chunks", "unreadable")

    def __init__(self, chunks: Iterable[Buffer] = ()) -> None:
        self.chunks = chunks
        self.unreadable: list[tuple[int, int]] = []


class _Sink(io.RawIOBase):
    """What is below the writer's buffer. Once `output` is None all is dropped."""

    def __init__(self, output: BinaryIO) -> None:
        self.output: BinaryIO | None = output

    def writable(self) -> bool:
        return True

    def write(self, data: memoryview, /) -> int:  # type: ignore[override]
        if self.output is not None:
            write_all(self.output, data)
        return len(data)


class ArchiveWriter:
    """Writes members to `output` in the order in which they are added; `position` is in bytes.
    To be used in a `with` statement, or closed.

    The root comes first, then parents before children, names in byte order. After the whole tree
    come what verity files have past their end (entries of type "verity").
    """

    def __init__(self, output: BinaryIO, info: BackupInfo) -> None:
        self._sink = _Sink(output)
        self._output = io.BufferedWriter(cast("io.RawIOBase", self._sink), _BUFFER_BYTES)
        self._encdata = info.encdata
        self._manifest = ManifestWriter()
        self._digests = DigestThread()
        self._order = TreeOrder()
        self._verity: set[int] = set()  # files that have a tree
        self._after_tree = False
        self.position = 0
        try:
            self._control(BACKUP_PATH, 0, info.to_json())
        except BaseException:
            self.close()
            raise

    def add(self, entry: Entry, body: BodyStream | None = None) -> None:
        """Write one entry, its body with it. What cannot be stored is an ArchiveError or LimitError."""
        if entry.type == VERITY:
            self._add_verity(entry, body)
            return
        if self._after_tree:
            raise AlteredArchiveError("it comes after what follows the tree", entry.shown)
        self._order.check(entry.path, entry.type == "dir")
        data_bytes = entry.data_bytes
        sparse = data_bytes != entry.body_size
        before = encode_map(entry.segments, entry.body_size) if sparse else b""
        header, overflow = header_of(entry, len(before) + data_bytes, sparse, self._encdata)
        if overflow:
            self._control(XATTR_DIRECTORY + b"%d" % entry.inode, entry.inode, overflow)
        self._member(header, entry.inode, before, body, change_key_of(entry), manifest_only_fields_of(entry))
        if entry.flags & EXT4_VERITY_FL and entry.type == "file" and not entry.is_link:
            self._verity.add(entry.inode)

    def add_unchanged(self, entry: Entry, line: ManifestLine, archive: int) -> None:
        """Note a file whose member is in an earlier archive, where the manifest has `line` of it."""
        self._order.check(entry.path, is_directory=False)
        reference = ChainReference(
            archive, line.path if line.reference is None else line.reference.path, entry.atime_ns
        )
        filename = build_filename(entry.stored_name) if entry.stored_name is not None else None
        path = archive_path(entry.path)
        self._manifest.add(line._replace(path=path, filename=filename, name_hash=entry.name_hash, reference=reference))
        if entry.flags & EXT4_VERITY_FL:
            self._verity.add(entry.inode)

    def finish(self, chain: tuple[str, ...] = ()) -> Closing:
        """Write the manifest and the end; the archive is complete after this.

        `chain` are the archives that an incremental one builds on, by the SHA-256 of their manifests.
        """
        start = self.position
        closing = self._manifest.finish(start, chain)
        size = self._manifest.size
        self._write(encode(TarHeader(MANIFEST_PATH, REGTYPE, CONTROL_MODE, size=size)))
        for chunk in self._manifest.chunks():
            self._write(chunk)
        self._write(bytes(padding(size)))
        self._write(bytes(2 * BLOCK_BYTES))
        self._write(bytes(-self.position % RECORD_BYTES))
        self._output.flush()
        self.close()
        return closing

    def close(self) -> None:
        """Drop what is held; of an archive not finished nothing more is written."""
        self._sink.output = None
        self._manifest.close()
        self._digests.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add_verity(self, entry: Entry, body: BodyStream | None) -> None:
        if entry.inode not in self._verity:
            raise AlteredArchiveError("a verity tree of no file, or a second one", entry.shown)
        self._verity.remove(entry.inode)
        self._after_tree = True
        sparse = entry.data_bytes != entry.body_size
        before = encode_map(entry.segments, entry.body_size) if sparse else b""
        header = TarHeader(
            VERITY_DIRECTORY + b"%d" % entry.inode,
            REGTYPE,
            CONTROL_MODE,
            size=len(before) + entry.data_bytes,
            sparse_size=entry.body_size if sparse else None,
        )
        self._member(header, entry.inode, before, body)

    def _control(self, path: bytes, inode: int, data: bytes) -> None:
        """A member of the archive's own."""
        self._member(TarHeader(path, REGTYPE, CONTROL_MODE, size=len(data)), inode, b"", BodyStream((data,)))

    def _member(
        self,
        header: TarHeader,
        inode: int,
        before: bytes,
        body: BodyStream | None,
        change_key: ChangeKey | None = None,
        manifest_only: ManifestOnlyFields = NO_MANIFEST_ONLY_FIELDS,
    ) -> None:
        """Header, sparse map, body and padding, and the manifest's line about them."""
        offset = self.position
        header_bytes = encode(header)
        write = self._output.write
        write(header_bytes)
        sha256 = NO_BODY
        size = len(before)
        unreadable: Segments = ()
        if size or body is not None:
            digest = hashlib.sha256(before)
            write(before)
            if body is not None:
                for chunk in body.chunks:
                    size += len(chunk)
                    self._digests.update(digest, chunk)
                    write(chunk)
                self._digests.wait()
                unreadable = tuple(body.unreadable)
            write(_ZEROS[: -size % BLOCK_BYTES])
            sha256 = digest.hexdigest()
        self.position += len(header_bytes) + size + -size % BLOCK_BYTES
        if size != header.size:
            raise AlteredArchiveError(
                f"its body has {size} bytes, {header.size} were announced", decode_path(header.path)
            )
        self._manifest.add(
            ManifestLine(
                header.path.removesuffix(b"/"),
                inode,
                size,
                sha256,
                sha256_hex(header_bytes),
                offset,
                offset + len(header_bytes),
                change_key,
                *manifest_only,
                unreadable,
            )
        )

    def _write(self, data: Buffer) -> None:
        self._output.write(data)
        self.position += len(data)
