"""How long work reports how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int | None], None]
"""Called now and then with what is done and what there is in all, or None where that is not known.

The function that takes one says what it counts: bytes in most cases, inodes for a check. An
exception that the callback raises ends the work and reaches the caller.
"""
