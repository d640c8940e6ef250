"""The release script's checks can fail, and what they ask for is there."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from ext4img import __version__
from tools.release import SDIST_NEEDS, check_changelog

ROOT = Path(__file__).parent.parent


def test_the_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == __version__


def test_the_changelog_is_checked():
    check_changelog("# Changelog\n\n## 1.2.0 - 2026-01-31\n", "1.2.0", allow_unreleased=False)
    check_changelog("# Changelog\n\n## Unreleased\n", "1.2.0", allow_unreleased=True)
    for text, unreleased in [
        ("## 1.2.0\n", False),
        ("## 1x2.0 - 2026-01-31\n", False),
        ("## Unreleased\n", False),
        ("", True),
    ]:
        with pytest.raises(SystemExit, match=r"CHANGELOG\.md has no section"):
            check_changelog(text, "1.2.0", allow_unreleased=unreleased)
    check_changelog((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), __version__, allow_unreleased=True)


def test_the_sdist_can_hold_what_it_needs():
    assert not [name for name in SDIST_NEEDS if not (ROOT / name).exists()]
