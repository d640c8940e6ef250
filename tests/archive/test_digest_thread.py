"""The digests of hashlib, whatever happens; and an exception at any moment never makes a wait endless."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from types import FrameType
from typing import Any

import pytest

from ext4img.archive import digest_thread
from ext4img.archive.digest_thread import LARGE_BYTES, DigestThread

LARGE = bytes(range(256)) * (LARGE_BYTES // 256)
MAX_STEPS = 2000


def test_small_and_large_chunks_in_their_order():
    digest = hashlib.sha256()
    with DigestThread() as digests:
        for chunk in (b"a", LARGE, LARGE[1:] + b"x", b"b", LARGE):
            digests.update(digest, chunk)
        digests.wait()
    assert digest.hexdigest() == hashlib.sha256(b"a" + LARGE + LARGE[1:] + b"x" + b"b" + LARGE).hexdigest()


class _Interrupt:
    """Raises KeyboardInterrupt before step number `at` of the module's code, as a signal's handler may."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.raised = False

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename != digest_thread.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not self.raised:
            self.left -= 1
            if not self.left:
                self.raised = True
                raise KeyboardInterrupt
        return self


def test_an_interrupt_at_every_step():
    """Between any two of its instructions; closing it then ends within a second or so, and the thread with it."""
    for at in range(1, MAX_STEPS):
        interrupt = _Interrupt(at)
        digests = DigestThread()
        digest = hashlib.sha256()
        before = sys.gettrace()
        try:
            sys.settrace(interrupt)
            for _ in range(2):
                digests.update(digest, LARGE)
            digests.wait()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        closing = threading.Thread(target=digests.close, daemon=True)
        closing.start()
        closing.join(5)
        assert not closing.is_alive(), f"closing it hangs after an interrupt at step {at}"
        if not interrupt.raised:
            break
    else:
        pytest.fail("it was never run to its end")
    assert at > 50


def test_an_error_of_the_thread_is_raised_where_it_is_waited_for():
    class Broken:
        def update(self, chunk: object) -> None:
            raise MemoryError("no room")

    with DigestThread() as digests:
        digests.update(Broken(), LARGE)  # type: ignore[arg-type]
        begun = time.monotonic()
        with pytest.raises(MemoryError, match="no room"):
            digests.wait()
        assert time.monotonic() - begun < 5
