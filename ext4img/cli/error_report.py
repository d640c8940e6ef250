"""From an exception to what is told: an exit code, one line, and advice where there is some."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ext4img.cli.exit_codes import Exit
from ext4img.cli.quoting import harmless, quote
from ext4img.errors import (
    ArchiveError,
    BuildError,
    ChecksumError,
    CorruptionError,
    Ext4Error,
    KeyFormatError,
    LimitError,
    MissingArchiveError,
    NoKeyError,
    NotExt4Error,
    PathError,
    RestoreError,
    ShortReadError,
    TruncatedArchiveError,
    UnsafeArchiveError,
    UnsupportedFeatureError,
    WrongKeyError,
)

# The first class that fits decides: subclasses stand before their bases.
_CODES: tuple[tuple[type[BaseException], Exit], ...] = (
    (NotExt4Error, Exit.NOT_EXT4),
    (UnsupportedFeatureError, Exit.NOT_EXT4),
    (CorruptionError, Exit.DAMAGED),
    (LimitError, Exit.DAMAGED),
    (ShortReadError, Exit.DAMAGED),
    (NoKeyError, Exit.KEY),
    (WrongKeyError, Exit.KEY),
    (KeyFormatError, Exit.KEY),
    (PathError, Exit.NO_SUCH_PATH),
    (ArchiveError, Exit.ARCHIVE),
    (RestoreError, Exit.SYSTEM),
    (BuildError, Exit.SYSTEM),
    (OSError, Exit.SYSTEM),
)
STDIN_NAME = "<stdin>"  # as Python calls it
_MOST_CHARACTERS, _HEAD, _TAIL = 4000, 1000, 1000  # of a line
_AROUND_DAMAGE = "--checks report reads around damage and tells all of it"
_ADVICE: tuple[tuple[type[BaseException], str], ...] = (
    (ChecksumError, _AROUND_DAMAGE),
    (CorruptionError, _AROUND_DAMAGE),
    (ShortReadError, "the image is cut short: was it copied in full?"),
    (NoKeyError, "give its key with --key-file FILE, or --unlock to be asked for a passphrase"),
    (WrongKeyError, "`ext4img keys IMAGE` lists the keys that the image wants"),
    (KeyFormatError, "a key is 16 to 64 raw bytes, the same in hexadecimal, or a recovery code of fscrypt"),
    (TruncatedArchiveError, "it was interrupted, or not copied in full; `restore --salvage` takes what there is"),
    (MissingArchiveError, "--base PATH names an archive that it builds on, or a directory where they are"),
    (UnsafeArchiveError, "nothing of this member was written"),
)


class Failure(Exception):
    """What ends a command: `text` is one line without the program's name, `advice` lines of hints."""

    def __init__(self, code: Exit, text: str, *advice: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.advice = advice


def explain(error: BaseException, subject: str | None = None, *advice: str) -> Failure:
    """The failure that an exception means; `subject` is the image, archive or file at work.

    `advice` replaces the usual one.
    """
    if isinstance(error, Failure):
        return error
    code = next((code for kind, code in _CODES if isinstance(error, kind)), Exit.SYSTEM)
    if isinstance(error, ArchiveError) and isinstance(error.__cause__, OSError):
        code = Exit.SYSTEM  # the archive is not to blame, but the place where it is or goes
    usual = next((text for kind, text in _ADVICE if isinstance(error, kind)), None)
    text = _why(error)
    if isinstance(error, (RestoreError, BuildError)):
        subject = None  # what is wrong is with the target, which these name
    if subject is not None and not text.startswith((subject, quote(subject))):
        text = f"{subject if subject == STDIN_NAME else quote(subject)}: {text}"
    return Failure(code, text, *(advice or ([usual] if usual else [])))


def _why(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        why = error.strerror
        if error.errno == errno.ENOKEY and why == os.strerror(errno.ENOKEY):
            why = "encrypted, and its key is not there"
        if isinstance(error.filename, (str, bytes)):
            return f"{quote(error.filename)}: {why}"
        return why
    return str(error) or type(error).__name__


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Errors of the library in this block are failures about `subject`."""
    try:
        yield
    except Ext4Error as error:
        raise explain(error, subject) from error


def _shortened(text: str) -> str:
    """A path may be as long as a command line; what is wrong with it stands at the end."""
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_HEAD]} … {text[-_TAIL:]}"


def lines(failure: Failure, command: str = "") -> Iterator[str]:
    """What stands on stderr: the failure, then its advice."""
    program = f"ext4img {command}" if command else "ext4img"
    yield f"{program}: {_shortened(harmless(failure.text))}"
    for advice in failure.advice:
        yield f"  hint: {harmless(advice)}"
