"""What SIGINT, SIGTERM and SIGHUP do: they end the process at once, or where work has to be undone, soon.

They have to be in force before the command is imported, so hardly anything is imported here.
"""

from __future__ import annotations

import os
import signal
from time import monotonic

from ext4img import interruption

TYPE_CHECKING = False

if TYPE_CHECKING:
    from types import FrameType
    from typing import Final, NoReturn

_WORDS: Final = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "terminated"}
_PATIENCE_SECONDS: Final = 2.0


class SignalHandler:
    """The handler of this process. `program` is what its message begins with."""

    def __init__(self) -> None:
        self.program = "ext4img"
        self._first: float | None = None

    def install(self) -> None:
        """Handle the signals from now on, to the end of the process; those that are ignored (nohup) stay so."""
        for number in _WORDS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not interruption.is_deferred():
            self._exit(number, "")
        if self._first is None:
            self._first = monotonic()
            interruption.note(number)
        elif monotonic() - self._first > _PATIENCE_SECONDS:
            self._exit(number, "; unfinished files may be left")

    def _exit(self, number: int, remark: str) -> NoReturn:
        """End the process: no exception, no `finally`, nothing that is buffered."""
        try:
            os.write(2, f"{self.program}: {word(number)}{remark}\n".encode())
        finally:
            os._exit(128 + number)


def word(number: int) -> str:
    """What a signal did to the command."""
    return _WORDS[signal.Signals(number)]


handler: Final = SignalHandler()
