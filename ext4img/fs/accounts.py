"""Names of users and groups by the image's own /etc/passwd and /etc/group, never by the host's."""

from __future__ import annotations

from ext4img.errors import NotRegularFileError, PathError
from ext4img.fs.protocol import FileTree

PASSWD, GROUP = "/etc/passwd", "/etc/group"
MAX_FILE_BYTES = 16 << 20
"""What is read of either file; real ones have a few KiB."""


class Accounts:
    """Finds the names. Each file is read when it is first needed, and once."""

    def __init__(self, fs: FileTree) -> None:
        self._fs = fs
        self._names: dict[str, dict[int, str]] = {}

    def user(self, uid: int) -> str:
        """The name of a user. KeyError if /etc/passwd has none, or is not there."""
        try:
            return self._of(PASSWD)[uid]
        except KeyError:
            raise KeyError(f"uid not found in the image's {PASSWD}: {uid}") from None

    def group(self, gid: int) -> str:
        """The name of a group. KeyError if /etc/group has none, or is not there."""
        try:
            return self._of(GROUP)[gid]
        except KeyError:
            raise KeyError(f"gid not found in the image's {GROUP}: {gid}") from None

    def _of(self, path: str) -> dict[int, str]:
        names = self._names.get(path)
        if names is None:
            names = parse_accounts(self._read(path))
            self._names[path] = names
        return names

    def _read(self, path: str) -> bytes:
        try:
            inode = self._fs.resolve(path)[0]
            if not inode.is_file:
                raise NotRegularFileError.at(path)
            with inode.open() as file:
                return file.read(MAX_FILE_BYTES)
        except PathError:
            return b""


def parse_accounts(data: bytes) -> dict[int, str]:
    """Names by number, from lines of passwd(5) or group(5): name, password, number, more.

    The first line of a number counts, as for getpwuid(3); malformed lines are skipped.
    """
    names: dict[int, str] = {}
    for line in data.split(b"\n"):
        fields = line.split(b":")
        if len(fields) > 2 and fields[0] and fields[2].isdigit() and len(fields[2]) <= 10:
            names.setdefault(int(fields[2]), fields[0].decode("utf-8", "surrogateescape"))
    return names
