"""One thing after the other, where a failure of one is told and the others go on."""

from __future__ import annotations

import sys
from types import TracebackType

from ext4img.cli.error_report import explain, lines
from ext4img.cli.exit_codes import Exit
from ext4img.errors import Ext4Error


class Attempts:
    """A context manager for each of `count` things asked for; `code` is how it all ended.

    Where only one thing was asked for its failure is the command's. Of several, each failure is
    told at once and the code is Exit.PARTLY.
    """

    def __init__(self, command: str, subject: str, count: int) -> None:
        self._command = command
        self._subject = subject
        self._count = count
        self._advised: set[str] = set()
        self.code = Exit.DONE

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Ext4Error) or self._count == 1:
            return False
        failure = explain(error, self._subject)
        sys.stdout.flush()
        advice = tuple(line for line in failure.advice if line not in self._advised)
        self._advised.update(advice)
        failure.advice = advice
        for line in lines(failure, self._command):
            print(line, file=sys.stderr)
        self.code = Exit.PARTLY
        return True
