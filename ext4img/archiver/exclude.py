"""Which entries a backup skips, besides the choice of paths."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Final

from ext4img.crypto.policy import parse_context
from ext4img.errors import CorruptionError, UnsupportedFeatureError

# The metadata of google/fscrypt: without it no passphrase opens encrypted files.
_UNLOCK_DIRECTORY: Final = b".fscrypt"

_Match = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class ExcludeFilter:
    """Skips entries by pattern, by being plain, or by their policy.

    `exclude` holds shell patterns: one with a slash matches whole paths, another one names; `*`
    matches slashes, too. `encrypted_only` skips plain files, `policy` (a key's descriptor or
    identifier) everything that is not under that policy. Plain directories and `.fscrypt` are kept
    in both cases.
    """

    exclude: tuple[str, ...] = ()
    encrypted_only: bool = False
    policy: bytes | None = None
    _patterns: tuple[tuple[bool, _Match], ...] = field(init=False, repr=False, compare=False)
    """Compiled once, as they are tried on every name: whether a pattern is of whole paths, and its match."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_patterns", tuple(map(_compiled, self.exclude)))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is skipped."""
        return not (self.exclude or self.encrypted_only or self.policy)

    def excludes(self, *paths: bytes) -> bool:
        """Whether one of the patterns matches one of the forms of a path."""
        return any(
            match(path if whole else path.rpartition(b"/")[2]) for whole, match in self._patterns for path in paths
        )

    def includes(self, path: bytes, is_directory: bool, context: bytes | None, in_policy: bytes | None) -> bool:
        """Whether an entry is kept. `in_policy` is the key ID of its directory's policy, if that is encrypted."""
        if not (self.encrypted_only or self.policy) or path.split(b"/", 1)[0] == _UNLOCK_DIRECTORY:
            return True
        key = key_of(context) or in_policy
        if key is None:
            return is_directory
        return self.policy is None or key == self.policy


def _compiled(pattern: str) -> tuple[bool, _Match]:
    stripped = pattern.strip("/")
    regex = re.compile(translate(stripped).encode("utf-8", "surrogateescape"), re.DOTALL)
    return "/" in stripped, regex.match


def key_of(context: bytes | None) -> bytes | None:
    """The key ID that an encryption context names; None without a context, or where it is malformed."""
    if context is None:
        return None
    try:
        return parse_context(context, supported_only=False).policy.key_id
    except (CorruptionError, UnsupportedFeatureError):
        return None
