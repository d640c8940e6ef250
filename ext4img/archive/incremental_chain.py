"""An incremental archive and the archives that it is based on, read as one backup."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Self

from ext4img.archive.encryption_records import parse_filename
from ext4img.archive.entry import VERITY
from ext4img.archive.input import MUST_BE_SEEKABLE, ArchiveSource
from ext4img.archive.loss import Losses
from ext4img.archive.manifest_line import ManifestLine, archive_in
from ext4img.archive.member import Member
from ext4img.archive.member_paths import BACKUP_PATH, XATTR_DIRECTORY, archive_path, tree_path
from ext4img.archive.reader import Archive
from ext4img.archive.tree_order import TreeOrder
from ext4img.errors import AlteredArchiveError, ArchiveError, Ext4Error, MissingArchiveError, NotFoundError
from ext4img.names.paths import decode_path

_MAX_FILES_SEARCHED = 10_000  # of a directory, for the archives of a chain


class IncrementalChain:
    """See `BackupSource`. `archive` is the newest; the others are looked for in `bases`, then beside it.

    A base is an archive file, or a directory with archives in it. Archives are identified by the
    SHA-256 of their manifests, whatever their names and order. MissingArchiveError names the one
    that was not found. `unrelated` has the names of given bases that the newest is not based on.
    """

    seekable = True

    def __init__(self, archive: Archive, bases: Sequence[ArchiveSource] = ()) -> None:
        self._newest = archive
        self.info = archive.info
        self.closing = archive.closing
        self._open_archives: dict[str, Archive] = {}
        self.unrelated: list[str] = []
        try:
            if archive.closing is None or not archive.seekable:
                raise ArchiveError(f"{archive.name}: an incremental archive {MUST_BE_SEEKABLE}")
            self._chain = archive.closing.chain
            needed = self._needed_archives()
            for base in bases:
                self._add_base(base, needed)
            if os.path.isfile(archive.name):
                self._search_directory(os.path.dirname(os.path.abspath(archive.name)), needed)
            for place, digest in enumerate(self._chain, 1):
                if digest in needed and digest not in self._open_archives:
                    others = f"; not of its chain: {', '.join(self.unrelated)}" if self.unrelated else ""
                    raise MissingArchiveError(
                        f"{archive.name}: it is based on an archive that is missing: number {place} of its chain,"
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
    def losses(self) -> Losses:
        """What the newest archive lacks of the image: what it takes from the others is complete."""
        return self._newest.losses

    @property
    def total_bytes(self) -> int | None:
        """The size of the newest archive."""
        return self._newest.total_bytes

    def members(self, *, verify: bool = False) -> Iterator[Member]:
        """All members of this backup, whichever archive stores them."""
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
                    raise AlteredArchiveError(
                        "the archive lacks a member that its manifest has", decode_path(line.path)
                    )
                if found.entry.type != VERITY:
                    order.check(found.entry.path, found.entry.type == "dir")
                yield found
        for _ in stored:
            raise AlteredArchiveError(f"{self.name}: it has members that its manifest does not have")

    def member(self, path: bytes) -> Member:
        """The member of a tree path. NotFoundError if there is none."""
        member_path = archive_path(path)
        before: ManifestLine | None = None
        for line in self._newest.manifest():
            if line.path == member_path:
                return self._newest.member_at(line, before) if line.reference is None else self._referenced(line)
            before = line
        raise NotFoundError.at(decode_path(path), "No such member in the archive")

    def close(self) -> None:
        """Close all archives of the chain."""
        for archive in self._open_archives.values():
            archive.close()
        self._newest.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _needed_archives(self) -> set[str]:
        """The archives of the chain that store a member of this backup."""
        needed = set()
        numbers = {archive_in(raw) for raw in self._newest.raw_manifest()}
        for number in numbers:
            if number is not None:
                if number >= len(self._chain):
                    raise ArchiveError(f"{self._newest.name}: its manifest refers to an archive beyond its chain")
                needed.add(self._chain[number])
        return needed

    def _add_base(self, base: ArchiveSource, needed: set[str]) -> None:
        """Open a given archive, or search a given directory."""
        if isinstance(base, (str, bytes, os.PathLike)) and os.path.isdir(base):
            self._search_directory(os.fsdecode(base), needed)
            return
        archive = Archive(base)
        if archive.closing is None:
            archive.close()
            raise ArchiveError(f"{archive.name}: a base archive {MUST_BE_SEEKABLE}")
        if archive.closing.sha256 not in self._chain:
            self.unrelated.append(archive.name)
        self._keep_if_needed(archive, needed)

    def _keep_if_needed(self, archive: Archive, needed: set[str]) -> None:
        digest = archive.closing.sha256 if archive.closing is not None else ""
        if digest in needed and digest not in self._open_archives:
            self._open_archives[digest] = archive
        else:
            archive.close()

    def _search_directory(self, directory: str, needed: set[str]) -> None:
        """Open the archives in a directory that are still needed."""
        if needed <= self._open_archives.keys():
            return
        try:
            names = sorted(os.listdir(directory))
        except OSError as error:
            raise ArchiveError(f"{directory}: {error.strerror}") from error
        for name in names[:_MAX_FILES_SEARCHED]:
            path = os.path.join(directory, name)
            if needed <= self._open_archives.keys() or not os.path.isfile(path):
                continue
            try:
                self._keep_if_needed(Archive(path), needed)
            except Ext4Error:
                continue  # not a readable archive: it cannot be one of the chain

    def _referenced(self, line: ManifestLine) -> Member:
        """An unchanged file's member from the archive that stores it, with this backup's name and access time."""
        assert line.reference is not None
        archive = self._open_archives[self._chain[line.reference.archive]]
        stored_line = line._replace(
            path=line.reference.path, filename=None, name_hash=None, symlink=None, reference=None
        )
        member = archive.member_at(stored_line)
        member.entry = member.entry._replace(
            path=tree_path(line.path, directory=False),
            stored_name=parse_filename(line.filename).name if line.filename is not None else None,
            name_hash=line.name_hash,
            atime_ns=line.reference.atime_ns,
        )
        return member
