"""Exit codes; docs/cli.md documents them for users."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of all commands."""

    DONE = 0
    PARTLY = 1
    """Partly done: stderr lists what could not be done."""
    USAGE = 2
    """Usage error."""
    NOT_EXT4 = 3
    """Not ext2, ext3 or ext4, or it has unsupported features."""
    DAMAGED = 4
    """The image is damaged or truncated."""
    KEY = 5
    """Key missing, wrong or malformed."""
    ARCHIVE = 6
    """The backup is truncated, damaged or unsafe, or not a backup."""
    NO_SUCH_PATH = 7
    """No such path or inode in the image or backup, or it has the wrong type."""
    SYSTEM = 8
    """Operating system error: the image cannot be read, or the target exists or cannot be written."""
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    """The reader of the output closed it, as for SIGPIPE; no message is printed."""
