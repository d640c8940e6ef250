"""An incremental archive and those that it builds on, as one backup."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Self

from ext4img.archive.encryption_records import parse_filename
from ext4img.archive.entry import VERITY
from ext4img.archive.input import ArchiveSource
from ext4img.archive.manifest_line import ManifestLine, archive_in
from ext4img.archive.member import Member
from ext4img.archive.member_paths import BACKUP_PATH, XATTR_DIRECTORY, archive_path, tree_path
from ext4img.archive.reader import Archive
from ext4img.archive.tree_order import TreeOrder
from ext4img.errors import AlteredArchiveError, ArchiveError, Ext4Error, MissingArchiveError, NotFoundError
from ext4img.names.paths import decode_path

_MAX_FILES_SEARCHED = 10_000  # of a directory, for the archives of a chain


class IncrementalChain:
    """See `BackupSource`. `archive` is the newest; the others are found among `bases`, then beside it.

    A base is an archive, or a directory with archives in it. Each is known by the SHA-256 of its
    manifest, so their names and order mean nothing; MissingArchiveError names the one that is not there.
    `unrelated` are names of bases that were given and that the newest does not build on.
    """

    seekable = True

    def __init__(self, archive: Archive, bases: Sequence[ArchiveSource] = ()) -> None:
        self._newest = archive
        self.info = archive.info
        self.closing = archive.closing
        self._known: dict[str, Archive] = {}
        self.unrelated: list[str] = []
        try:
            if archive.closing is None or not archive.seekable:
                what = "an incremental backup is read here and there: no stream will do, and no single frame of zstd"
                raise ArchiveError(f"{archive.name}: {what}")
            self._chain = archive.closing.chain
            needed = self._needed_archives()
            for base in bases:
                self._add_base(base, needed)
            if os.path.isfile(archive.name):
                self._search_directory(os.path.dirname(os.path.abspath(archive.name)), needed)
            for place, digest in enumerate(self._chain, 1):
                if digest in needed and digest not in self._known:
                    others = f"; not of its chain: {', '.join(self.unrelated)}" if self.unrelated else ""
                    raise MissingArchiveError(
                        f"{archive.name}: it builds on an archive that is missing: number {place} of its chain,"
                        f" manifest {digest}{others}"
                    )
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """For messages."""
        return self._newest.name

    @property
    def total_bytes(self) -> int | None:
        """The size of the newest archive."""
        return self._newest.total_bytes

    def members(self, *, verify: bool = False) -> Iterator[Member]:
        """All members of this point in time, wherever they are stored."""
        order = TreeOrder()
        stored = self._newest.stored_members(verify=verify)
        for line in self._newest.manifest():
            if line.reference is not None:
                member = self._referenced(line)
                order.check(member.entry.path, is_directory=False)
                yield member
                if verify:
                    member.finish(verify=True)
            elif line.path != BACKUP_PATH and not line.path.startswith(XATTR_DIRECTORY):
                found = next(stored, None)
                if found is None:
                    raise AlteredArchiveError("the manifest has more members than there are", decode_path(line.path))
                if found.entry.type != VERITY:
                    order.check(found.entry.path, found.entry.type == "dir")
                yield found
        for _ in stored:
            raise AlteredArchiveError(f"{self.name}: it has more members than its manifest")

    def member(self, path: bytes) -> Member:
        """The member of one tree path; NotFoundError."""
        needed = archive_path(path)
        before: ManifestLine | None = None
        for line in self._newest.manifest():
            if line.path == needed:
                return self._newest.member_at(line, before) if line.reference is None else self._referenced(line)
            before = line
        raise NotFoundError.at(decode_path(path), "No such member in the archive")

    def close(self) -> None:
        """Close all archives that were opened here, and the newest."""
        for archive in self._known.values():
            archive.close()
        self._newest.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _needed_archives(self) -> set[str]:
        """The archives that something is in."""
        needed = set()
        numbers = {archive_in(raw) for raw in self._newest.raw_manifest()}
        for number in numbers:
            if number is not None:
                if number >= len(self._chain):
                    raise ArchiveError(f"{self._newest.name}: members are said to be in an archive beyond its chain")
                needed.add(self._chain[number])
        return needed

    def _add_base(self, base: ArchiveSource, needed: set[str]) -> None:
        """An archive that was given, or what there is in a directory."""
        if isinstance(base, (str, bytes, os.PathLike)) and os.path.isdir(base):
            self._search_directory(os.fsdecode(base), needed)
            return
        archive = Archive(base)
        if archive.closing is None:
            archive.close()
            what = "what a backup builds on is read here and there: no stream will do, and no single frame of zstd"
            raise ArchiveError(f"{archive.name}: {what}")
        if archive.closing.sha256 not in self._chain:
            self.unrelated.append(archive.name)
        self._keep_if_needed(archive, needed)

    def _keep_if_needed(self, archive: Archive, needed: set[str]) -> None:
        digest = archive.closing.sha256 if archive.closing is not None else ""
        if digest in needed and digest not in self._known:
            self._known[digest] = archive
        else:
            archive.close()

    def _search_directory(self, directory: str, needed: set[str]) -> None:
        """Files of a directory may be what is still wanted."""
        if needed <= self._known.keys():
            return
        try:
            names = sorted(os.listdir(directory))
        except OSError as error:
            raise ArchiveError(f"{directory}: {error.strerror}") from error
        for name in names[:_MAX_FILES_SEARCHED]:
            path = os.path.join(directory, name)
            if needed <= self._known.keys() or not os.path.isfile(path):
                continue
            try:
                self._keep_if_needed(Archive(path), needed)
            except Ext4Error:
                continue  # whatever it is, it is no archive of the chain

    def _referenced(self, line: ManifestLine) -> Member:
        """The member of an unchanged file, in the archive that has it, with what is this backup's."""
        assert line.reference is not None
        archive = self._known[self._chain[line.reference.archive]]
        there = line._replace(path=line.reference.path, filename=None, name_hash=None, symlink=None, reference=None)
        member = archive.member_at(there)
        member.entry = member.entry._replace(
            path=tree_path(line.path, directory=False),
            stored_name=parse_filename(line.filename).name if line.filename is not None else None,
            name_hash=line.name_hash,
            atime_ns=line.reference.atime_ns,
        )
        return member
