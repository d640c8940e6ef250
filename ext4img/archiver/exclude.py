"""What is left out of a backup, beside the choice of paths."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import translate
from typing import Final

from ext4img.crypto.policy import parse_context
from ext4img.errors import CorruptionError, UnsupportedFeatureError

# The metadata of google/fscrypt: without it no passphrase opens what is encrypted.
_UNLOCK_DIRECTORY: Final = b".fscrypt"


@dataclass(frozen=True, slots=True)
class ExcludeFilter:
    """`exclude` are shell patterns: with a slash of whole paths, else of names; `*` takes slashes too.

    `encrypted_only` leaves out plain files, `policy` (a key's descriptor or identifier) all that
    is not under it. Plain directories stay in both cases, and so does `.fscrypt`.
    """

    exclude: tuple[str, ...] = ()
    encrypted_only: bool = False
    policy: bytes | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left out."""
        return not (self.exclude or self.encrypted_only or self.policy)

    def excludes(self, *paths: bytes) -> bool:
        """Whether one of the patterns fits one of the forms of a path."""
        for pattern in self.exclude:
            whole = "/" in pattern.strip("/")
            match = re.compile(translate(pattern.strip("/")).encode("utf-8", "surrogateescape"), re.DOTALL).match
            if any(match(path if whole else path.rpartition(b"/")[2]) for path in paths):
                return True
        return False

    def takes(self, path: bytes, is_directory: bool, context: bytes | None, in_policy: bytes | None) -> bool:
        """Whether an entry is taken; `in_policy` is the key of its directory's policy, if that is encrypted."""
        if not (self.encrypted_only or self.policy) or path.split(b"/", 1)[0] == _UNLOCK_DIRECTORY:
            return True
        key = key_of(context) or in_policy
        if key is None:
            return is_directory
        return self.policy is None or key == self.policy


def key_of(context: bytes | None) -> bytes | None:
    """What an encryption context names its key by; None without one."""
    if context is None:
        return None
    try:
        return parse_context(context, supported_only=False).policy.key_id
    except (CorruptionError, UnsupportedFeatureError):
        return None
