"""Progress bars, drawn only if standard error is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ext4img.cli.quoting import harmless
from ext4img.interruption import checkpoint, deferred
from ext4img.progress import Progress

_REDRAW_SECONDS = 0.1


@contextmanager
def progress(what: str, quiet: bool = False) -> Iterator[Progress | None]:
    """A function to call with (bytes done, total bytes or None); None if no bar is drawn.

    The bar is removed when the block ends.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    # A bar hides the cursor of the terminal.
    with deferred(), Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(harmless(what), total=None)
        drawn = 0.0

        def update(done: int, total: int | None) -> None:
            nonlocal drawn
            checkpoint()
            now = time.monotonic()
            if now - drawn >= _REDRAW_SECONDS:
                drawn = now
                bars.update(task, completed=done, total=None if total is None else max(total, done))

        yield update
