"""What a command writes to standard output: text, raw bytes, or JSON Lines."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterable
from typing import Any, BinaryIO

from ext4img.cli.error_report import Failure
from ext4img.cli.exit_codes import Exit
from ext4img.cli.quoting import harmless, quote


class Output:
    """Standard output, as bytes: names need not be UTF-8. `json` is whether records were asked for.

    Names go out as GNU ls writes them: quoted on a terminal, as they are into a pipe or file.
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
            raise _cannot(error) from error

    def line(self, text: str) -> None:
        """A line of text; names in it have been made harmless by the caller."""
        self.write(text.encode("utf-8", "surrogateescape") + b"\n")

    def name(self, name: bytes) -> bytes:
        """A name as this output shows it."""
        return quote(name).encode("utf-8", "surrogateescape") if self.is_terminal else name

    def record(self, record: dict[str, Any]) -> None:
        """One line of JSON, ASCII only."""
        import json

        self.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        import shutil

        return shutil.get_terminal_size().columns

    def flush(self) -> None:
        """Write what is held."""
        try:
            self.binary.flush()
        except OSError as error:
            raise _cannot(error) from error


def _cannot(error: OSError) -> Exception:
    """The failure to write; a reader that went away is not one."""
    if isinstance(error, BrokenPipeError):
        return error
    return Failure(Exit.SYSTEM, f"standard output cannot be written: {error.strerror}")


def text_fields(key: str, value: bytes | str) -> dict[str, str]:
    """`value` under `key` as JSON can have it.

    Where it is not UTF-8 the odd bytes show as U+FFFD, and all of it is in `KEY_base64` besides.
    """
    raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    try:
        return {key: raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {key: raw.decode("utf-8", "replace"), f"{key}_base64": base64.b64encode(raw).decode()}


def text_list_fields(key: str, values: Iterable[str]) -> dict[str, list[str]]:
    """As text_fields for a sorted list of names: if one of them is not UTF-8 all are in `KEY_base64` too."""
    raw = [value.encode("utf-8", "surrogateescape") for value in values]
    raw.sort()
    shown = [value.decode("utf-8", "replace") for value in raw]
    if [value.encode() for value in shown] == raw:
        return {key: shown}
    return {key: shown, f"{key}_base64": [base64.b64encode(value).decode() for value in raw]}


def warn(text: str) -> None:
    """A line on standard error."""
    sys.stdout.flush()
    print(harmless(f"ext4img: {text}"), file=sys.stderr)


def hint(text: str) -> None:
    """A line of advice on standard error, below the warning that it is for."""
    print(f"  hint: {harmless(text)}", file=sys.stderr)
