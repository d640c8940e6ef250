"""The check of a whole volume: it finds what reading alone does not notice, because reading asks for less.

`run_check` goes through everything once and adds what is wrong to the volume's problems. It changes
nothing and repairs nothing; docs/checks.md lists what is checked.
"""

from ext4img.volume.check.run_check import CheckSummary, run_check

__all__ = ["CheckSummary", "run_check"]
