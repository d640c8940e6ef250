"""Where a signal may end the work.

An exception at just any moment, as Python raises one at Ctrl-C, may part two steps that belong
together: a file and the note that it has to be removed, a wait and what it waits for, the halves of an
import. So the command's signal handler asks here. Where nothing would be left behind it ends the
process at once. Inside `deferred` it only notes the signal, which is raised at the next
`checkpoint`, or at once inside `waiting`: in places where an error of the system may be raised, too.

Without such a handler, as in other programs that use the library, nothing here has any effect.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing's: this is imported before the command, see `ext4img.__main__`

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self, TypeVar

    _R = TypeVar("_R")


class Interruption(BaseException):
    """A signal that was noted, as an exception; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _State:
    """One for the process, as its signals are."""

    __slots__ = ("deferred", "noted", "waiting")

    def __init__(self) -> None:
        self.deferred = 0
        self.waiting = False
        self.noted = 0  # the number of a signal that is still to be raised


_state = _State()


def is_deferred() -> bool:
    """Whether there is something that has to be undone, so that the process must not simply end."""
    return _state.deferred > 0


def note(number: int) -> None:
    """Called by a signal handler: raise the signal at the next checkpoint, or here if something is waited for."""
    _state.noted = number
    if _state.waiting:
        checkpoint()


def checkpoint() -> None:
    """Raise a signal that was noted as Interruption, once."""
    if _state.noted:
        number, _state.noted = _state.noted, 0
        raise Interruption(number)


class deferred:
    """A block in which signals are only noted; one that met no checkpoint is raised at the end of the block."""

    def __enter__(self) -> Self:
        _state.deferred += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _state.deferred -= 1
        if kind is None and not _state.deferred:
            checkpoint()


class waiting:
    """A block that may last as long as others want, as reading a pipe does: a signal is raised at once."""

    __slots__ = ("_before",)

    def __enter__(self) -> Self:
        self._before = _state.waiting
        _state.waiting = True  # first: a signal that comes between the two is raised in `note`
        try:
            checkpoint()
        except Interruption:
            _state.waiting = self._before
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _state.waiting = self._before


def computed(function: Callable[[], _R]) -> _R:
    """What `function` returns, computed in a thread; a long call of a C library.

    A handler runs only between Python's own steps, so not during such a call, but while the thread is
    waited for.
    """
    from threading import Thread

    results: list[_R] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = Thread(target=run, name="ext4img computation", daemon=True)  # which no end of the process waits for
    with waiting():
        thread.start()
        thread.join()
    if errors:
        raise errors[0]
    return results[0]
