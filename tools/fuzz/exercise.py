"""One run through everything that reads an image. Only Ext4Error may come out of the library.

What is not an Ext4Error goes up from here as it is: a finding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice

import ext4img
from ext4img.errors import Ext4Error, NoKeyError, PathError
from ext4img.fs.filesystem import FileSystem
from ext4img.fs.inode import Inode
from ext4img.fs.path import Ext4Path
from ext4img.sources import Source
from ext4img.structs.inode import EXT4_VERITY_FL
from ext4img.volume.check import run_check
from ext4img.volume.problems import Checks
from ext4img.volume.volume import Journal

MOST_BYTES_READ = 128 << 20  # of contents, in one run
MOST_LOOKUPS = 60
MOST_ENTRIES = 200_000
WINDOW_BYTES = 1 << 20
Keys = Sequence[tuple[bytes, bytes | None]]


@dataclass(slots=True)
class Seen:
    """What one run showed: by path a digest of everything shown there, and what was complained of."""

    listing: dict[bytes, bytes] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)  # some of them, as text
    complete: bool = True
    bytes_read: int = 0

    @property
    def complained(self) -> bool:
        """Whether anything was said to be wrong."""
        return bool(self.errors or self.problems)

    @contextmanager
    def expected(self) -> Iterator[None]:
        """Errors that the library means to raise are noted, all others go up."""
        try:
            yield
        except NoKeyError:
            pass  # nothing is wrong with that
        except Ext4Error as error:
            str(error)
            self.errors.append(f"{type(error).__name__}: {error}")


def exercise(
    source: Source,
    keys: Keys,
    modes: Sequence[Checks] = ("report", "off", "strict"),
    journal: Journal = "replay",
    then: Callable[[FileSystem], None] | None = None,
    journal_device: Source | None = None,
) -> Seen:
    """Run through `source` in each mode, with `keys` in the first of them; what that one showed.

    `then` is called with each view when all was looked at.
    """
    first: Seen | None = None
    for checks in modes:
        seen = Seen()
        with (
            seen.expected(),
            ext4img.open(source, checks=checks, journal=journal, journal_device=journal_device) as fs,
        ):
            look_at(fs, seen, keys if first is None else ())
            if then is not None:
                with seen.expected():
                    then(fs)
            seen.problems = [str(problem) for problem in fs.problems]
        first = first or seen
    assert first is not None
    return first


def look_at(fs: FileSystem, seen: Seen, keys: Keys) -> None:
    """Everything an open image can be asked."""
    with seen.expected():
        for path, inode in islice(fs.walk("/"), MOST_ENTRIES):
            key = hashlib.sha256(bytes(path)).digest()  # of a path that can be very long
            digest = hashlib.sha256(key)
            _digest_entry(fs, path, inode, seen, digest)
            seen.listing[key] = digest.digest()
            if len(seen.paths) < MOST_LOOKUPS:
                seen.paths.append(str(path))
                _look_up(fs, path, b"found" + key, seen)
    with seen.expected():
        for text in islice(fs.paths("/"), MOST_ENTRIES):
            text.encode("utf-8", "surrogateescape")
    with seen.expected():
        for fields in fs.volume.inodes.scan():
            str(fields.mode_string)
    with seen.expected():
        for columns in fs.volume.inodes.arrays():
            columns.size.sum()
    with seen.expected():
        fs.path("/no such name").exists()
    with seen.expected():
        for path in islice(fs.path("/").glob("[!.]*"), MOST_LOOKUPS):
            with suppress(PathError):  # links may lead nowhere
                path.resolve()
    with seen.expected():
        fs.policies()
    with seen.expected():
        str(fs.protectors())
    if keys:
        for raw, descriptor in keys:
            with seen.expected():
                fs.add_key(raw, descriptor)
        with seen.expected():
            for path, inode in islice(fs.walk("/"), MOST_ENTRIES):
                if inode.is_encrypted:
                    _digest_entry(fs, path, inode, seen, hashlib.sha256())
    with seen.expected():
        run_check(fs.volume)


def _digest_entry(fs: FileSystem, path: Ext4Path, inode: Inode, seen: Seen, digest: hashlib._Hash) -> None:
    fields = inode.fields
    # Where things stand is not shown; what recovery and access do to some of it is no damage.
    shown = fields._replace(block_area=b"", inline_xattrs=b"", xattr_block=0, extra_size=0, sectors=0)
    digest.update(repr((inode.rdev, *shown)).encode("utf-8", "surrogateescape"))
    with seen.expected():
        digest.update(repr(sorted(inode.xattrs().items())).encode("utf-8", "surrogateescape"))
    with seen.expected():
        digest.update(repr(inode.encryption).encode())
    if inode.is_symlink:
        with seen.expected():
            digest.update(inode.readlink())
    if inode.is_file:
        with seen.expected():
            _read(inode, seen, digest)
        with seen.expected(), inode.open() as file:
            file.pread(0, 5000)
            file.pread(max(file.size - 100, 0), 100)
    if inode.flags & EXT4_VERITY_FL:
        with seen.expected():
            inode.verify_verity()
    with seen.expected():
        str(path.lstat())


def _read(inode: Inode, seen: Seen, digest: hashlib._Hash) -> None:
    with inode.open_ciphertext() as file:
        digest.update(repr(segments := file.segments()).encode())
        for offset, length in segments:
            for start in range(offset, offset + length, WINDOW_BYTES):
                count = min(WINDOW_BYTES, offset + length - start)
                if seen.bytes_read + count > MOST_BYTES_READ:
                    seen.complete = False
                    return
                seen.bytes_read += count
                digest.update(file.pread(start, count))


def _look_up(fs: FileSystem, path: Ext4Path, key: bytes, seen: Seen) -> None:
    """What the index says of a name belongs to what is shown."""
    seen.listing[key] = b""
    with seen.expected():
        try:
            seen.listing[key] = str(fs.path(bytes(path)).inode.number).encode()
        except PathError as error:
            seen.listing[key] = type(error).__name__.encode()
