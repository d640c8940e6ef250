"""SHA-256 of large chunks in a thread of its own, while the caller writes or decrypts them.

hashlib releases the interpreter's lock for more than 2 KiB, so both really run in parallel.
"""

from __future__ import annotations

import hashlib
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from hashlib import _Hash

LARGE_BYTES: Final = 128 << 10  # for smaller chunks the hand-over costs more than it gains

_Work = tuple["_Hash", bytes | bytearray | memoryview]


class DigestThread:
    """Digests chunks in their order, one at a time.

    A chunk's buffer may be reused once `update` for the next chunk, or `wait`, has returned.
    """

    def __init__(self) -> None:
        self._todo: SimpleQueue[_Work | None] = SimpleQueue()
        self._done: SimpleQueue[None] = SimpleQueue()
        self._thread: Thread | None = None
        self._busy = False

    def update(self, digest: _Hash, chunk: bytes | bytearray | memoryview) -> None:
        """Wait for the chunk before; then start digesting a large chunk, or digest a small one at once."""
        self.wait()
        if len(chunk) < LARGE_BYTES:
            digest.update(chunk)
            return
        if self._thread is None:
            self._thread = Thread(target=self._run, name="ext4img digest", daemon=True)
            self._thread.start()
        self._busy = True
        self._todo.put((digest, chunk))

    def wait(self) -> None:
        """Wait until the last chunk is digested."""
        if self._busy:
            self._done.get()
            self._busy = False

    def close(self) -> None:
        """End the thread. May be called twice."""
        if self._thread is not None:
            self.wait()
            self._todo.put(None)
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while (work := self._todo.get()) is not None:
            digest, chunk = work
            digest.update(chunk)
            del work, digest, chunk  # keep no buffer alive
            self._done.put(None)


def sha256_hex(data: bytes) -> str:
    """The SHA-256 of a small piece, in hex."""
    return hashlib.sha256(data).hexdigest()
