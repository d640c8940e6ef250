"""What e2fsprogs say of a built image."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tools.loop_mount import run

# It takes times after 2310 for wrong ones, though images may have them; what it found is told before "Fix? no".
_SILENT = re.compile(
    r"Pass [1-5]|.*: \d+/\d+ files \([\d.]+% non-contiguous\), \d+/\d+ blocks$"
    r"|Timestamp\(s\) on inode \d+ beyond 2310-04-04 are likely pre-1970\.$|Fix\? no$"
)


def assert_clean(image: Path) -> None:
    """e2fsck -fn finds nothing to say: exit code 0, and no line but its passes and its last."""
    done = subprocess.run(
        ["e2fsck", "-fn", str(image)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL": "C"},
    )
    said = [line for line in done.stdout.splitlines() if line and not _SILENT.match(line)]
    assert (done.returncode, said[:20]) == (0, []), done.stderr


def head(image: Path) -> dict[str, str]:
    """What dumpe2fs -h prints, by its names."""
    lines = run("dumpe2fs", "-h", image).decode(errors="replace").splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def debugfs(image: Path, *commands: str) -> str:
    """Output of debugfs commands."""
    return run("debugfs", "-f", "-", image, stdin="\n".join([*commands, ""]).encode()).decode(errors="replace")
