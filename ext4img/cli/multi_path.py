"""Commands with several PATHs: an error at one is reported, and the others continue."""

from __future__ import annotations

import sys
from types import TracebackType

from ext4img.cli.error_report import error_lines, explain
from ext4img.cli.exit_codes import Exit
from ext4img.errors import Ext4Error


class MultiPath:
    """A context manager entered once for each of `count` paths; `code` is the exit code at the end.

    The error of a single path is the command's error. Of several paths each error is reported at
    once, and the code is Exit.PARTLY.
    """

    def __init__(self, command: str, subject: str, count: int) -> None:
        self._command = command
        self._subject = subject
        self._count = count
        self._hinted: set[str] = set()
        self.code = Exit.DONE

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Ext4Error) or self._count == 1:
            return False
        reported = explain(error, self._subject)
        sys.stdout.flush()
        reported.hints = tuple(hint for hint in reported.hints if hint not in self._hinted)
        self._hinted.update(reported.hints)
        for line in error_lines(reported, self._command):
            print(line, file=sys.stderr)
        self.code = Exit.PARTLY
        return True
