"""Running a command and taking its measure: CPU and wall time, peak memory, and what it said."""

from __future__ import annotations

import os
import subprocess
import time
from typing import NamedTuple

RUNS = 3
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class Measured(NamedTuple):
    """The best of some runs. `cpu` and `wall` are seconds, children included; `said` is the last line, or how many.

    Peak memory is that of the largest process; a small one shows this program's own, some 20 MiB, as
    the kernel counts from before the exec.
    """

    cpu: float
    wall: float
    mebibytes: float
    said: str


def measure(command: list[str], runs: int = RUNS) -> Measured:
    """Run a command several times; standard output is read, as a user's pipe would.

    Python finds itself compiled, as an installed package is: the first run may have to do that.
    """
    return min((_once(command) for _ in range(runs)), key=lambda measured: measured.cpu)


def _once(command: list[str]) -> Measured:
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_ENVIRONMENT)
    assert process.stdout is not None
    last = b""
    lines = 0
    while part := process.stdout.read1(1 << 16):  # type: ignore[attr-defined]
        lines += part.count(b"\n")
        last = last[-200:] + part
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    said = last.strip().splitlines()[-1].decode(errors="replace")[-70:] if 0 < lines < 10 else f"{lines:,} lines"
    if process.returncode:
        said = f"FAILED with {process.returncode}"
    elif not lines:
        said = ""
    return Measured(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024, said)
