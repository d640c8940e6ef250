"""A few rounds of tools/fscrypt_oracle.py against the running kernel."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ext4img.crypto.modes import PAIRS_V2
from tools.fscrypt_oracle import differences_from_kernel, kernel_has

pytestmark = pytest.mark.kernel


def test_random_policies(tmp_path: Path):
    pairs = frozenset(pair for pair in PAIRS_V2 if kernel_has(pair, tmp_path))
    assert (1, 4) in pairs
    for seed in range(6):
        assert list(differences_from_kernel(random.Random(seed), tmp_path, pairs)) == []
