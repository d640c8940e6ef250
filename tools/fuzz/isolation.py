"""Runs in a forked worker, within bounds of time and memory, so that none can take the others along.

Seconds are those of the processor, as the machine may be busy with other things; what only waits is
stopped by the clock, later. Linux: fork, setrlimit, SIGPROF.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

MEMORY_BYTES = 1 << 30
SECONDS = 20.0
_CLOCK_FACTOR = 10  # the clock's seconds for one of the processor's: also for one long call in C


class TooSlow(BaseException):
    """Not an Exception, so that nothing on the way takes it for one of its own."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run: what the job returned, or how it failed (error, memory, time, died)."""

    job: Any
    seconds: float
    memory_bytes: int
    status: str
    detail: str
    result: Any = None

    @property
    def ok(self) -> bool:
        """Whether the job came back by itself."""
        return self.status == "ok"


def run_all(
    jobs: Iterable[Any],
    work: Callable[[Any], Any],
    seconds: float = SECONDS,
    memory_bytes: int = MEMORY_BYTES,
    batch: int = 200,
) -> Iterator[Outcome]:
    """`work(job)` for every job (JSON values, as are the results), `batch` of them in one worker."""
    left = list(jobs)
    while left:
        done = 0
        for outcome in _worker(left[:batch], work, seconds, memory_bytes):
            done += 1
            yield outcome
        left = left[max(done, 1) :]


def _worker(jobs: list[Any], work: Callable[[Any], Any], seconds: float, memory_bytes: int) -> Iterator[Outcome]:
    """Outcomes up to the first job that killed the worker, that one included."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            _serve(jobs, work, seconds, memory_bytes, writer)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        buffer = b""
        for job in jobs:
            begun = time.monotonic()
            while b"\n" not in buffer:
                left = begun + seconds * _CLOCK_FACTOR - time.monotonic()
                ready, _, _ = select.select([pipe], [], [], max(left, 0))
                piece = os.read(pipe.fileno(), 1 << 16) if ready else b""
                if not piece:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    took = time.monotonic() - begun
                    yield Outcome(job, took, 0, "died" if ready else "time", "the worker ended" if ready else "hung")
                    return
                buffer += piece
            line, _, buffer = buffer.partition(b"\n")
            told = json.loads(line)
            yield Outcome(job, told["seconds"], told["memory"], told["status"], told["detail"], told["result"])
    os.waitpid(child, 0)


def _serve(jobs: list[Any], work: Callable[[Any], Any], seconds: float, memory_bytes: int, writer: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _alarm)
    for job in jobs:
        begun = time.process_time()
        status, detail, result = "ok", "", None
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            result = work(job)
        except TooSlow:
            status, detail = "time", _short_traceback()
        except MemoryError:
            status, detail = "memory", _short_traceback()
        except Exception:  # noqa: BLE001 - this is the place that finds them
            status, detail = "error", _short_traceback()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        told = {
            "seconds": time.process_time() - begun,
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
            "status": status,
            "detail": detail,
            "result": result,
        }
        os.write(writer, json.dumps(told).encode() + b"\n")


def _alarm(number: int, frame: FrameType | None) -> None:
    raise TooSlow


def _short_traceback() -> str:
    return traceback.format_exc(limit=-8)[-3000:]
