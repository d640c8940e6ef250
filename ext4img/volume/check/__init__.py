"""The check of a whole volume: what reading alone does not notice, because it asks for less.

`check` goes through everything once and leaves what is wrong in the volume's problems. It changes
nothing and repairs nothing; docs/checks.md lists what is looked at.
"""

from ext4img.volume.check.run_check import CheckSummary, check

__all__ = ["CheckSummary", "check"]
