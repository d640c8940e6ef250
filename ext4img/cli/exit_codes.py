"""Exit codes; the table in docs/cli.md is the promise."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """How a command ended."""

    DONE = 0
    PARTLY = 1
    """Not all could be done: what could not be was told on stderr."""
    USAGE = 2
    NOT_EXT4 = 3
    """No ext2, ext3 or ext4, or one with features that are not known."""
    DAMAGED = 4
    """The image contradicts its format, or is cut short."""
    KEY = 5
    """A key is missing, opens nothing, or is none."""
    ARCHIVE = 6
    """The backup is truncated, altered, unsafe, or none."""
    NO_SUCH_PATH = 7
    """A path inside the image or archive is not there, or not of the kind that is needed."""
    SYSTEM = 8
    """The operating system refused: an image that cannot be read, a target that cannot be written."""
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    """Whoever read the output stopped reading: the code of SIGPIPE, and nothing is said."""
