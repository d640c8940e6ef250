"""Every transcript comes out as it is written down; tests/cli/transcripts.py tells how to renew them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli import transcripts


@pytest.mark.parametrize("name", transcripts.names())
def test_transcript(name: str, tmp_path: Path):
    expected = transcripts.read(name)
    assert transcripts.play(expected, tmp_path) == expected
