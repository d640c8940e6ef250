"""Standard output of a command: text, raw bytes, or JSON Lines; warnings and hints on standard error."""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

from ext4img.cli.error_report import CommandError
from ext4img.cli.exit_codes import Exit
from ext4img.cli.quoting import harmless, quote

_ESCAPED_SURROGATE = "\\ud"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Output:
    """Standard output, as bytes: names need not be UTF-8. `json` tells whether to write records.

    Names are written as GNU ls writes them: quoted on a terminal, unchanged into a pipe or file.
    """

    def __init__(self, json: bool = False) -> None:
        self.json = json
        self.binary: BinaryIO = sys.stdout.buffer
        self.is_terminal = sys.stdout.isatty()
        self._write = self.binary.write

    def write(self, data: bytes | memoryview) -> None:
        """Write bytes."""
        try:
            self._write(data)
        except OSError as error:
            raise _write_error(error) from error

    def line(self, text: str) -> None:
        """Write a line of text; the caller has escaped the names in it."""
        self.write(text.encode("utf-8", "surrogateescape") + b"\n")

    def name(self, name: bytes) -> bytes:
        """A name, quoted if this output is a terminal."""
        return quote(name).encode("utf-8", "surrogateescape") if self.is_terminal else name

    def record(self, record: dict[str, Any]) -> None:
        """Write one line of JSON, ASCII only."""
        import json

        line = json.dumps(record, separators=(",", ":"))
        if _ESCAPED_SURROGATE in line:  # of a pair, or of bytes that are not UTF-8, which are no text
            line = json.dumps(_without_lone_surrogates(record), separators=(",", ":"))
        self.write(line.encode() + b"\n")

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        import shutil

        return shutil.get_terminal_size().columns

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self.binary.flush()
        except OSError as error:
            raise _write_error(error) from error


def _without_lone_surrogates(value: Any) -> Any:
    """`value` with U+FFFD in place of each: text of messages, and what a hostile backup says."""
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_without_lone_surrogates(key): _without_lone_surrogates(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_lone_surrogates(item) for item in value]
    return value


def _write_error(error: OSError) -> Exception:
    """The error for a failed write; a closed pipe stays a BrokenPipeError."""
    if isinstance(error, BrokenPipeError):
        return error
    return CommandError(Exit.SYSTEM, f"cannot write standard output: {error.strerror}")


def text_fields(key: str, value: bytes | str) -> dict[str, str]:
    """`value` under `key`, as JSON can represent it.

    If it is not UTF-8, invalid bytes become U+FFFD and `KEY_base64` has the exact bytes.
    """
    raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    try:
        return {key: raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {key: raw.decode("utf-8", "replace"), f"{key}_base64": base64.b64encode(raw).decode()}


def text_list_fields(key: str, values: Iterable[str]) -> dict[str, list[str]]:
    """As text_fields, for a list of names, sorted: if any is not UTF-8, `KEY_base64` has all of them."""
    raw = [value.encode("utf-8", "surrogateescape") for value in values]
    raw.sort()
    shown = [value.decode("utf-8", "replace") for value in raw]
    if [value.encode() for value in shown] == raw:
        return {key: shown}
    return {key: shown, f"{key}_base64": [base64.b64encode(value).decode() for value in raw]}


def warn(text: str) -> None:
    """Write a line to standard error."""
    sys.stdout.flush()
    print(harmless(f"ext4img: {text}"), file=sys.stderr)


def warn_of_changes(label: str, changes: Sequence[str]) -> None:
    """Write to standard error why something may be a mixture of old and new."""
    for reason in changes:
        warn(f"{label}: {reason}")


def hint(text: str) -> None:
    """Write a hint to standard error, below the warning it belongs to."""
    print(f"  hint: {harmless(text)}", file=sys.stderr)
