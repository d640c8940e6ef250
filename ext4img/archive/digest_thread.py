"""SHA-256 of large chunks in a thread of its own, while the caller writes or decrypts them.

hashlib releases the interpreter's lock for more than 2 KiB, so both really run in parallel.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    from hashlib import _Hash

LARGE_BYTES: Final = 128 << 10  # for smaller chunks the hand-over costs more than it gains
_LOOK_AGAIN_SECONDS: Final = 0.1


class _Work(NamedTuple):
    digest: _Hash
    chunk: bytes | bytearray | memoryview


class DigestThread:
    """Digests chunks in their order, one at a time.

    A chunk's buffer may be reused once `update` for the next chunk, or `wait`, has returned.

    An exception may come at any moment (Ctrl-C), so nothing depends on two steps that are done both
    or not at all: what is finished is told by the thread, and each wait ends when the thread does.
    """

    def __init__(self) -> None:
        self._todo: SimpleQueue[_Work | None] = SimpleQueue()
        self._wake: SimpleQueue[None] = SimpleQueue()  # one more or less does no harm: it is only what ends a sleep
        self._thread: Thread | None = None
        self._given: _Work | None = None  # the last that was put into `_todo`
        self._finished: _Work | None = None  # the last that is done; the thread writes it
        self._error: BaseException | None = None

    def update(self, digest: _Hash, chunk: bytes | bytearray | memoryview) -> None:
        """Wait for the chunk before; then start digesting a large chunk, or digest a small one at once."""
        self.wait()
        if len(chunk) < LARGE_BYTES:
            digest.update(chunk)
            return
        if self._thread is None:
            thread = Thread(target=self._run, name="ext4img digest", daemon=True)
            thread.start()
            self._thread = thread
        work = _Work(digest, chunk)
        self._todo.put(work)
        self._given = work

    def wait(self) -> None:
        """Wait until the last chunk is digested."""
        while self._is_busy() and self._thread is not None and self._thread.is_alive():
            with suppress(Empty):
                self._wake.get(timeout=_LOOK_AGAIN_SECONDS)
        self._given = self._finished = None  # keep no buffer alive
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the thread, when it has done what it was given. May be called twice."""
        if self._thread is not None:
            self._todo.put(None)
            self._thread.join()
            self._thread = self._given = self._finished = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_busy(self) -> bool:
        return self._given is not None and self._given is not self._finished

    def _run(self) -> None:
        while (work := self._todo.get()) is not None:
            try:
                work.digest.update(work.chunk)
            except BaseException as error:  # noqa: BLE001 - raised again where the chunk is waited for
                self._error = error
                return
            self._finished = work
            del work
            self._wake.put(None)


def sha256_hex(data: bytes) -> str:
    """The SHA-256 of a small piece, in hex."""
    return hashlib.sha256(data).hexdigest()
