"""What of the errors of a target is about one entry, and what is its end."""

from __future__ import annotations

import errno
from typing import Final

# A name, path or kind of file that the target cannot have: that entry is left out, the rest goes on.
_ONE_ENTRY: Final = frozenset(
    (
        errno.EACCES,
        errno.EFBIG,
        errno.EILSEQ,
        errno.EINVAL,
        errno.EMLINK,
        errno.ENAMETOOLONG,
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
        errno.EPERM,
    )
)


def is_entry_error(error: OSError) -> bool:
    """Whether it is the entry that the target refuses, and not the target that is at its end."""
    return error.errno in _ONE_ENTRY
