"""Whether NumPy is worth its import.

The import takes about 0.1 s, longer than most one-shot commands work otherwise. While nothing has
imported it, work that it would shorten is done without it, and the time lost is added up. Once that
sum reaches the time of the import, NumPy is used.
"""

from __future__ import annotations

import sys
from typing import Final

IMPORT_US: Final = 100_000


class _TimeLost:
    us = 0.0


def worth_importing_numpy(saving_us: float) -> bool:
    """Whether to use NumPy for a piece of work that it would shorten by `saving_us` microseconds."""
    if "numpy" in sys.modules:
        return True
    _TimeLost.us += saving_us
    return _TimeLost.us >= IMPORT_US
