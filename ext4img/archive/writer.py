"""Write entries and bodies as an archive; docs/archive-format.md has the format.

The same entries give the same bytes: nothing depends on the clock, the host or the process.
"""

from __future__ import annotations

import hashlib
import io
from typing import BinaryIO, Final, Self, cast

from ext4img.archive.backup_info import BackupInfo
from ext4img.archive.body import BodyStream, Buffer
from ext4img.archive.digest_thread import DigestThread, sha256_hex
from ext4img.archive.encryption_records import build_filename
from ext4img.archive.entry import VERITY, Entry, Segments
from ext4img.archive.loss import Loss
from ext4img.archive.manifest import ManifestWriter
from ext4img.archive.manifest_line import (
    NO_BODY,
    NO_MANIFEST_ONLY_FIELDS,
    ChainReference,
    ChangeKey,
    Closing,
    ManifestLine,
    change_key_of,
    header_atime_of,
    manifest_only_fields_of,
)
from ext4img.archive.member_paths import BACKUP_PATH, MANIFEST_PATH, VERITY_DIRECTORY, XATTR_DIRECTORY, archive_path
from ext4img.archive.output import write_all
from ext4img.archive.pax_writer import encode
from ext4img.archive.sparse_map import encode_map
from ext4img.archive.stored_form import stored_form
from ext4img.archive.tar_header import TarHeader, padding
from ext4img.archive.tree_order import TreeOrder
from ext4img.errors import AlteredArchiveError
from ext4img.names.paths import decode_path
from ext4img.structs.inode import EXT4_VERITY_FL
from ext4img.structs.tar import BLOCK_BYTES, REGTYPE

RECORD_BYTES: Final = 20 * BLOCK_BYTES  # tar's blocking factor: the archive ends on a multiple
CONTROL_MODE: Final = 0o600
_BUFFER_BYTES: Final = 256 << 10  # less than a large chunk, which is therefore written without a copy
_ZEROS: Final = bytes(BLOCK_BYTES)
_LineFacts = tuple[ChangeKey | None, int | None, bytes | None, bytes | None, bytes | None, Segments]
_NO_FACTS: Final[_LineFacts] = (None, None, *NO_MANIFEST_ONLY_FIELDS)


class _Sink(io.RawIOBase):
    """The stream below the writer's buffer. It discards all data once `output` is None."""

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

    Use it in a `with` statement, or close it. The root comes first, then parents before children,
    names in byte order. The verity trees (entries of type "verity") come after the whole tree.
    """

    def __init__(self, output: BinaryIO, info: BackupInfo) -> None:
        self._sink = _Sink(output)
        self._output = io.BufferedWriter(cast("io.RawIOBase", self._sink), _BUFFER_BYTES)
        self._encdata = info.encdata
        self._manifest = ManifestWriter()
        self._digests = DigestThread()
        self._order = TreeOrder()
        self._verity: set[int] = set()  # inodes of files whose verity tree is to come
        self._after_tree = False
        self.position = 0
        try:
            self._add_control(BACKUP_PATH, 0, info.to_json())
        except BaseException:
            self.close()
            raise

    def add(self, entry: Entry, body: BodyStream | None = None) -> None:
        """Write one entry and its body. ArchiveError or LimitError if the archive cannot store it."""
        if entry.type == VERITY:
            self._add_verity(entry, body)
            return
        if self._after_tree:
            raise AlteredArchiveError("a member of the tree after the verity trees", entry.shown)
        self._order.check(entry.path, entry.type == "dir")
        header, before, overflow = stored_form(entry, self._encdata)
        if overflow:
            self._add_control(XATTR_DIRECTORY + b"%d" % entry.inode, entry.inode, overflow)
        facts = (change_key_of(entry), header_atime_of(entry), *manifest_only_fields_of(entry))
        self._add_member(header, entry.inode, before, body, facts)
        if entry.flags & EXT4_VERITY_FL and entry.type == "file" and not entry.is_link:
            self._verity.add(entry.inode)

    def add_unchanged(self, entry: Entry, line: ManifestLine, archive: int) -> None:
        """Record an unchanged file, which archive number `archive` of the chain stores, by its `line` in the base."""
        self._order.check(entry.path, is_directory=False)
        reference = ChainReference(
            archive, line.path if line.reference is None else line.reference.path, entry.atime_ns
        )
        filename = build_filename(entry.stored_name) if entry.stored_name is not None else None
        path = archive_path(entry.path)
        self._manifest.add(line._replace(path=path, filename=filename, name_hash=entry.name_hash, reference=reference))
        if entry.flags & EXT4_VERITY_FL:
            self._verity.add(entry.inode)

    def add_loss(self, loss: Loss) -> None:
        """Record a part of the image that could not be read; at any time before `finish`."""
        self._manifest.add_loss(loss)

    def finish(self, chain: tuple[str, ...] = (), last_write_s: int | None = None, *, changed: bool = False) -> Closing:
        """Write the manifest and the archive's end. The archive is complete after this.

        `chain` has the archives that an incremental archive is based on, as SHA-256 of their manifests.
        `last_write_s`, `changed`: see `Closing`.
        """
        start = self.position
        closing = self._manifest.finish(start, chain, last_write_s, changed)
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
        """Release all resources. An unfinished archive stays incomplete: nothing more is written."""
        self._sink.output = None
        self._manifest.close()
        self._digests.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add_verity(self, entry: Entry, body: BodyStream | None) -> None:
        if entry.inode not in self._verity:
            raise AlteredArchiveError("a verity tree without its file, or a second one", entry.shown)
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
        self._add_member(header, entry.inode, before, body)

    def _add_control(self, path: bytes, inode: int, data: bytes) -> None:
        """Write one of the archive's own members."""
        self._add_member(TarHeader(path, REGTYPE, CONTROL_MODE, size=len(data)), inode, b"", BodyStream((data,)))

    def _add_member(
        self,
        header: TarHeader,
        inode: int,
        before: bytes,
        body: BodyStream | None,
        facts: _LineFacts = _NO_FACTS,
    ) -> None:
        """Write header, sparse map, body and padding, and add the manifest's line."""
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
                unreadable = tuple(sorted(body.unreadable))
            write(_ZEROS[: -size % BLOCK_BYTES])
            sha256 = digest.hexdigest()
        self.position += len(header_bytes) + size + -size % BLOCK_BYTES
        if size != header.size:
            raise AlteredArchiveError(f"its body has {size} bytes instead of {header.size}", decode_path(header.path))
        self._manifest.add(
            ManifestLine(
                header.path.removesuffix(b"/"),
                inode,
                size,
                sha256,
                sha256_hex(header_bytes),
                offset,
                offset + len(header_bytes),
                *facts,
                unreadable,
            )
        )

    def _write(self, data: Buffer) -> None:
        self._output.write(data)
        self.position += len(data)
