"""Turns an exception into what the user sees: an exit code, one line, and hints."""

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
    LiveSourceError,
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

# The first matching class decides, so subclasses come before their bases.
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
_MAX_LINE_CHARACTERS, _HEAD, _TAIL = 4000, 1000, 1000  # of a line
_AROUND_DAMAGE = "--checks report skips damaged parts and reports all of them"
_HINTS: tuple[tuple[type[BaseException], str], ...] = (
    (ChecksumError, _AROUND_DAMAGE),
    (CorruptionError, _AROUND_DAMAGE),
    (ShortReadError, "the image is truncated: was it copied completely?"),
    (LiveSourceError, "read a snapshot of it, or remount it read-only; --live reads it as it is, and ends with 1"),
    (NoKeyError, "give the key with --key-file FILE, or use --unlock to enter a passphrase"),
    (WrongKeyError, "`ext4img keys IMAGE` lists the keys that the image needs"),
    (KeyFormatError, "a key is 16 to 64 raw bytes, the same in hexadecimal, or an fscrypt recovery code"),
    (
        TruncatedArchiveError,
        "the backup or a copy of it was interrupted; `restore --salvage` restores the part that exists",
    ),
    (MissingArchiveError, "--base PATH names an archive that it is based on, or a directory of such archives"),
    (UnsafeArchiveError, "nothing of this member was written"),
)


class CommandError(Exception):
    """Ends a command: `text` is one line without the program's name, `hints` are lines below it."""

    def __init__(self, code: Exit, text: str, *hints: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.hints = hints


def explain(error: BaseException, subject: str | None = None, *hints: str) -> CommandError:
    """The command error for an exception; `subject` is the image, archive or file being processed.

    `hints` replace the usual hint.
    """
    if isinstance(error, CommandError):
        return error
    code = next((code for kind, code in _CODES if isinstance(error, kind)), Exit.SYSTEM)
    if isinstance(error, ArchiveError) and isinstance(error.__cause__, OSError):
        code = Exit.SYSTEM  # the archive is fine; reading or writing it failed
    usual = next((text for kind, text in _HINTS if isinstance(error, kind)), None)
    text = _reason(error)
    if isinstance(error, (RestoreError, BuildError)):
        subject = None  # these name the target themselves
    if subject is not None and not text.startswith((subject, quote(subject))):
        text = f"{subject if subject == STDIN_NAME else quote(subject)}: {text}"
    notes = getattr(error, "__notes__", ())
    return CommandError(code, text, *(hints or ([usual] if usual else [])), *notes)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        why = error.strerror
        if error.errno == errno.ENOKEY and why == os.strerror(errno.ENOKEY):
            why = "encrypted, and no key was given for it"
        if isinstance(error.filename, (str, bytes)):
            return f"{quote(error.filename)}: {why}"
        return why
    return str(error) or type(error).__name__


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Turns library errors in this block into command errors about `subject`."""
    try:
        yield
    except Ext4Error as error:
        raise explain(error, subject) from error


def _shortened(text: str) -> str:
    """Drops the middle of a long line: a path may be very long, and the reason is at the end."""
    return text if len(text) <= _MAX_LINE_CHARACTERS else f"{text[:_HEAD]} … {text[-_TAIL:]}"


def error_lines(error: CommandError, command: str = "") -> Iterator[str]:
    """The lines for stderr: the error, then its hints."""
    program = f"ext4img {command}" if command else "ext4img"
    yield f"{program}: {_shortened(harmless(error.text))}"
    for hint in error.hints:
        yield f"  hint: {harmless(hint)}"
