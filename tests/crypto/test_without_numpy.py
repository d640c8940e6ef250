"""One-shot work with AES does without NumPy, whose import would be most of its time."""

from __future__ import annotations

import subprocess
import sys

import pytest

PREPARE = """
import sys
from ext4img.names.dirhash import dirhashes
from ext4img.crypto.keyring import Keyring
from ext4img.crypto.policy import Policy, build_context, parse_context
keyring = Keyring()
policy = Policy(2, 1, 4, 0, keyring.add(bytes(range(64))).identifier)
context = parse_context(build_context(policy, bytes(16)))
contents = keyring.contents_cipher(context, 1, bytes(16), 4096)
names = keyring.names_cipher(context, 1, bytes(16))
data = bytes(range(256)) * 16 * 100
some = [b"name%d" % i for i in range(100)]
results = [contents.encrypt(data, 7), names.encrypt(some), dirhashes(some, 1, (0, 0, 0, 0))]
"""


def outcome(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_light_path_gives_the_same():
    digest = "import hashlib; print('numpy' in sys.modules, hashlib.sha256(repr(results).encode()).hexdigest())"
    light, heavy = outcome(PREPARE + digest).split(), outcome("import numpy" + PREPARE + digest).split()
    assert (light[0], heavy[0]) == ("False", "True")
    assert light[1] == heavy[1]


@pytest.mark.parametrize(
    "work",
    [
        "contents.decrypt(data, 0)",
        "contents.encrypt_into(data, 0, bytearray(len(data)))",
        "dirhashes(some, 2, (1, 2, 3, 4))",
    ],
)
def test_numpy_comes_when_it_pays(work: str):
    again = f"\nfor count in range(100000):\n    {work}\n    if 'numpy' in sys.modules: break\nprint(count)"
    assert 10 < int(outcome(PREPARE + again)) < 5000
