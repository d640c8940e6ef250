"""Whether NumPy is worth its import.

It takes about 0.1 s, longer than a one-shot command otherwise works. So as long as nobody has
imported it, what could be quicker with it goes the slow way, and what that has cost is added up:
once it has cost as much as the import, NumPy pays.
"""

from __future__ import annotations

import sys
from typing import Final

IMPORT_US: Final = 100_000


class _Forgone:
    us = 0.0


def worth_importing_numpy(saving_us: float) -> bool:
    """Whether to use NumPy for a piece of work that it would shorten by `saving_us` microseconds."""
    if "numpy" in sys.modules:
        return True
    _Forgone.us += saving_us
    return _Forgone.us >= IMPORT_US
