"""Walk a tree that was extracted from an archive: entries from attributes, stat and the manifest."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

from ext4img.archive.encryption_records import parse_filename
from ext4img.archive.entry import NO_XATTRS, ROOT, TYPE_OF_MODE, VERITY, Entry, Segments
from ext4img.archive.entry_codec import (
    FILENAME,
    METADATA,
    SYMLINK,
    TYPEFLAG_OF_TYPE,
    XATTR_MEMBER_LIMIT_BYTES,
    entry_of,
    parse_overflow,
)
from ext4img.archive.inode_record import INODE
from ext4img.archive.loss import LOSS_START
from ext4img.archive.manifest_line import LINE_LIMIT_BYTES, ManifestLine, parse_line
from ext4img.archive.member_paths import (
    CONTROL,
    MANIFEST_PATH,
    VERITY_DIRECTORY,
    XATTR_DIRECTORY,
    archive_path,
    is_control,
    tree_path,
)
from ext4img.archive.tar_header import TarHeader
from ext4img.errors import AlteredArchiveError, ArchiveError
from ext4img.hostfs.safe_dir import SafeDir
from ext4img.names.nokey import parse_nokey_name
from ext4img.names.paths import decode_path
from ext4img.structs.fscrypt import FSCRYPT_SYMLINK_DATA
from ext4img.structs.inode import EXT4_VERITY_FL

_NO_RECORD: Final = (
    "it has no inode record: extract the archive as root with `tar --xattrs --xattrs-include='*'` and read it as root"
)
WalkItem = tuple[Entry, int, ManifestLine | None]
_ControlFile = Callable[[bytes, int], bytes | None]


class TreeWalk:
    """Walks the tree below `root`, an open directory. `done_bytes` is the total size of the files before."""

    def __init__(self, root: int, control_file: _ControlFile) -> None:
        self._root = root
        self._control_file = control_file
        self._with_attributes = _numbers(root, XATTR_DIRECTORY)
        self._with_verity = _numbers(root, VERITY_DIRECTORY)
        self._first_names: dict[tuple[int, int], Entry] = {}
        self._verity_files: list[Entry] = []
        self._is_directory = self._is_encrypted = False  # the last entry
        self.done_bytes = 0

    def entries(self) -> Iterator[WalkItem]:
        """(entry, descriptor, manifest line or None) in the archive's order.

        The descriptor of a regular file is open until the next entry is requested; otherwise it is -1.
        """
        with _ManifestFollower(self._root) as lines:
            safe_dir = SafeDir(os.dup(self._root))
            try:
                yield self._entry(safe_dir.fd, ROOT, lines, in_encrypted=False), -1, lines.at(ROOT)
                names = [self._names(safe_dir)]
                encrypted = [False]
                while names:
                    name = next(names[-1], None)
                    if name is None:
                        names.pop()
                        encrypted.pop()
                        if names:
                            safe_dir.leave()
                        continue
                    yield from self._visit(safe_dir, name, lines, encrypted[-1])
                    if self._is_directory:
                        safe_dir.step(name)
                        names.append(self._names(safe_dir))
                        encrypted.append(self._is_encrypted)
            finally:
                safe_dir.close()
        for entry in self._verity_files:
            yield from self._verity(entry)

    def _names(self, safe_dir: SafeDir) -> Iterator[bytes]:
        """The names in the current directory, as on the host, in the archive's order."""
        names = [os.fsencode(name) for name in os.listdir(safe_dir.fd)]
        if safe_dir.depth == 0:
            names = [name for name in names if name != CONTROL]
            return iter(sorted(names, key=lambda name: tree_path(name, directory=False)))
        return iter(sorted(names))

    def _visit(
        self, safe_dir: SafeDir, name: bytes, lines: _ManifestFollower, in_encrypted: bool
    ) -> Iterator[WalkItem]:
        path = tree_path(b"/".join((*safe_dir.names(), name)), directory=False)
        line = lines.at(path)
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=safe_dir.fd)
        reading = -1
        try:
            entry = self._entry(fd, path, lines, in_encrypted)
            self._is_directory, self._is_encrypted = entry.type == "dir", entry.is_encrypted
            if entry.type == "file" and not entry.is_link:
                reading = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
                entry = entry._replace(segments=_segments(reading, entry.body_size))
                self.done_bytes += entry.body_size
            yield entry, reading, line
            if entry.inode in self._with_verity and entry.flags & EXT4_VERITY_FL and not entry.is_link:
                self._verity_files.append(entry)
        finally:
            os.close(fd)
            if reading >= 0:
                os.close(reading)

    def _entry(self, fd: int, path: bytes, lines: _ManifestFollower, in_encrypted: bool) -> Entry:
        """The entry of the inode that `fd` refers to."""
        status = os.fstat(fd)
        file_id = (status.st_dev, status.st_ino)
        first = self._first_names.get(file_id)
        line = lines.at(path)
        if first is not None:
            return _further_name(first, path, line, in_encrypted)
        kind = stat.S_IFMT(status.st_mode)
        where = f"/proc/self/fd/{fd}"
        xattrs = {os.fsencode(key): os.getxattr(where, key) for key in os.listxattr(where)}
        if INODE.encode() not in xattrs:
            raise ArchiveError(_NO_RECORD, decode_path(path))
        ctime_ns = line.change_key.ctime_ns if line is not None and line.change_key is not None else status.st_ctime_ns
        body_size = status.st_size if kind == stat.S_IFREG else 0
        header = TarHeader(
            path=archive_path(path) + b"/" if kind == stat.S_IFDIR else archive_path(path),
            typeflag=TYPEFLAG_OF_TYPE[TYPE_OF_MODE[kind]],
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            size=body_size,
            times=(status.st_mtime_ns, status.st_atime_ns, ctime_ns),
            linkpath=os.readlink(b"", dir_fd=fd) if kind == stat.S_IFLNK else b"",
            rdev=(os.major(status.st_rdev), os.minor(status.st_rdev)),
            xattrs=xattrs,
        )
        number = _number_of(xattrs[INODE.encode()])
        overflow = NO_XATTRS
        if number in self._with_attributes:
            raw = self._control_file(b"xattrs/%d" % number, XATTR_MEMBER_LIMIT_BYTES)
            overflow = parse_overflow(raw or b"", decode_path(path))
        if kind == stat.S_IFLNK and METADATA.encode() in xattrs and SYMLINK.encode() not in xattrs:
            xattrs[SYMLINK.encode()] = _stored_target(header.linkpath, path, line)
        entry = entry_of(header, (), body_size, overflow)
        if in_encrypted or entry.stored_name is not None:
            stored_name = _name_record(entry.name, path, entry.stored_name, line) if in_encrypted else None
            entry = entry._replace(stored_name=stored_name)
        if status.st_nlink > 1 and kind != stat.S_IFDIR:
            entry = entry._replace(links=max(entry.links, status.st_nlink))
            self._first_names[file_id] = entry
        return entry

    def _verity(self, entry: Entry) -> Iterator[WalkItem]:
        fd = open_control(self._root, b"verity/%d" % entry.inode)
        if fd is None:
            return
        try:
            size = os.fstat(fd).st_size
            tree = Entry(
                path=entry.path,
                type=VERITY,
                mode=0,
                inode=entry.inode,
                body_size=size,
                segments=_segments(fd, size),
                context=entry.context,
            )
            yield tree, fd, None
        finally:
            os.close(fd)


class _ManifestFollower:
    """Reads the archive's manifest in step with the walk, as both have the same order."""

    def __init__(self, root: int) -> None:
        fd = open_control(root, MANIFEST_PATH.removeprefix(CONTROL + b"/"))
        self._file: BinaryIO | None = os.fdopen(fd, "rb") if fd is not None else None
        self._line: ManifestLine | None = None
        self._names: list[bytes] = []
        self._advance()

    def at(self, path: bytes) -> ManifestLine | None:
        """The line of a tree path, or None. Request paths in the tree's order; the last one may be repeated."""
        names = path.split(b"/") if path != ROOT else []
        while self._line is not None and self._names < names:
            self._advance()
        return self._line if self._line is not None and self._names == names else None

    def _advance(self) -> None:
        self._line = None
        while self._file is not None and self._line is None:
            raw = self._file.readline(LINE_LIMIT_BYTES)
            line = parse_line(raw) if raw and not raw.startswith(LOSS_START) else None
            if not isinstance(line, ManifestLine):
                self.close()
                return
            if not is_control(line.path):
                path = tree_path(line.path, directory=False) if line.path != ROOT else ROOT
                self._names = path.split(b"/") if path != ROOT else []
                self._line = line

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> _ManifestFollower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_control(root: int, name: bytes) -> int | None:
    """Open a regular file below `.ext4img/` for reading; None if there is none."""
    safe_dir = SafeDir(os.dup(root))
    try:
        *directories, last = (CONTROL + b"/" + name).split(b"/")
        for directory in directories:
            safe_dir.step(directory)
        fd = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=safe_dir.fd)
    except FileNotFoundError:
        return None
    finally:
        safe_dir.close()
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise AlteredArchiveError("it is not a regular file", decode_path(CONTROL + b"/" + name))
    return fd


def _numbers(root: int, directory: bytes) -> frozenset[int]:
    """The inode numbers of the files in a directory below `.ext4img/`."""
    safe_dir = SafeDir(os.dup(root))
    try:
        for name in directory.strip(b"/").split(b"/"):
            safe_dir.step(name)
        return frozenset(int(name) for name in os.listdir(safe_dir.fd) if name.isdecimal() and len(name) <= 10)
    except FileNotFoundError:
        return frozenset()
    finally:
        safe_dir.close()


def _number_of(line: bytes) -> int:
    """The inode number in an inode record, without checking the rest; 0 if there is none."""
    start = line.find(b'"number":') + len(b'"number":')
    digits = line[start : start + 11].split(b",")[0]
    return int(digits) if digits.isdigit() else 0


def _further_name(first: Entry, path: bytes, line: ManifestLine | None, in_encrypted: bool) -> Entry:
    """The entry of a hard link. The filename record of this name is in the manifest."""
    stored_name = name_hash = None
    if in_encrypted:
        stored_name = _name_record(path.rpartition(b"/")[2], path, None, line)
        name_hash = line.name_hash if line is not None else None
    return first._replace(
        path=path,
        size=0,
        body_size=0,
        segments=(),
        unwritten=(),
        link_target=first.path,
        is_link=True,
        xattrs=NO_XATTRS,
        context=None,
        stored_name=stored_name,
        stored_target=None,
        name_hash=name_hash,
    )


def _name_record(name: bytes, path: bytes, stored: bytes | None, line: ManifestLine | None) -> bytes:
    """The stored form of an encrypted name: the record that matches the shown name.

    The attribute of an inode has only one of its names, and it may be the record of another name.
    """
    shown = parse_nokey_name(name)
    if shown is None:
        raise AlteredArchiveError("its name is not a valid no-key name", decode_path(path))
    if stored is not None and shown.matches(stored):
        return stored
    if line is not None and line.filename is not None:
        recorded = parse_filename(line.filename).name
        if shown.matches(recorded):
            return recorded
    if shown.stored is None:
        raise AlteredArchiveError(f"no record has its long name ({FILENAME})", decode_path(path))
    return shown.stored


def _stored_target(shown: bytes, path: bytes, line: ManifestLine | None) -> bytes:
    """The stored form of an encrypted symlink's target if its attribute is missing."""
    if line is not None and line.symlink is not None:
        return line.symlink
    parsed = parse_nokey_name(shown)
    if parsed is None or parsed.stored is None:
        raise AlteredArchiveError(f"no record has its target ({SYMLINK})", decode_path(path))
    return FSCRYPT_SYMLINK_DATA.pack((len(parsed.stored),)) + parsed.stored


def _segments(fd: int, size: int) -> Segments:
    """The segments that have data according to the host."""
    segments = []
    offset = 0
    while offset < size:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole up to the end
            break
        offset = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        segments.append((start, offset - start))
    return tuple(segments)
