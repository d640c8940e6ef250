"""Vectors that others have published, each with its origin: vectors/published.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from cryptography.hazmat.primitives.ciphers import algorithms

from ext4img.crypto.adiantum import Adiantum
from ext4img.crypto.aes_cts import CbcCts
from ext4img.crypto.aes_xts import Xts
from ext4img.crypto.hctr2 import Hctr2
from ext4img.crypto.polyval import Polyval
from ext4img.names.siphash import siphash24

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "published.json").read_text())
unhex = bytes.fromhex


def test_aes_256_xts_one_unit_and_many():
    v = VECTORS["xts"]
    cipher = Xts(algorithms.AES, unhex(v["key"]))
    plaintext, ciphertext, iv = unhex(v["plaintext"]), unhex(v["ciphertext"]), unhex(v["iv"])
    for count in (1, 100):
        assert cipher.encrypt(plaintext * count, 512, iv * count) == ciphertext * count
        assert cipher.decrypt(ciphertext * count, 512, iv * count) == plaintext * count


def test_sm4_xts():
    v = VECTORS["sm4_xts"]
    cipher = Xts(algorithms.SM4, unhex(v["key"]))
    whole = unhex(v["plaintext"]).ljust(512, b"\0")
    ciphertext = cipher.encrypt(whole, 512, unhex(v["iv"]))
    assert ciphertext[:32] == unhex(v["ciphertext"])
    assert cipher.decrypt(ciphertext, 512, unhex(v["iv"])) == whole


def test_sm4_cts():
    v = VECTORS["sm4_cbc"]
    cipher = CbcCts(algorithms.SM4, unhex(v["key"]))
    plaintext, cbc = unhex(v["plaintext"]), unhex(v["ciphertext"])
    expected = [cbc[16:] + cbc[:16], cbc[:16]]
    assert cipher.encrypt_names([plaintext, plaintext[:16]], unhex(v["iv"])) == expected
    assert cipher.decrypt_names(expected, unhex(v["iv"])) == [plaintext, plaintext[:16]]


def test_aes_128_cts():
    v = VECTORS["cts"]
    cipher = CbcCts(algorithms.AES, unhex(v["key"]))
    messages = [unhex(v["plaintext"])[: int(size)] for size in v["ciphertexts"]]
    ciphertexts = [unhex(text) for text in v["ciphertexts"].values()]
    assert cipher.encrypt_names(messages, bytes(16)) == ciphertexts
    assert cipher.decrypt_names(ciphertexts, bytes(16)) == messages


@pytest.mark.parametrize(("name", "make"), [("hctr2", Hctr2), ("adiantum", Adiantum)])
def test_wide_block_ciphers(name: str, make: type[Hctr2 | Adiantum]):
    for v in VECTORS[name]["vectors"]:
        cipher = make(unhex(v["key"]))
        plaintext, ciphertext, iv = unhex(v["plaintext"]), unhex(v["ciphertext"]), unhex(v["iv"])
        assert cipher.encrypt_names([plaintext], iv) == [ciphertext]
        assert cipher.decrypt_names([ciphertext], iv) == [plaintext]


def test_polyval():
    v = VECTORS["polyval"]
    state = numpy.zeros((1, 2), numpy.uint64)
    polyval = Polyval(unhex(v["key"]))
    for block in numpy.frombuffer(unhex(v["message"]), numpy.uint64).reshape(-1, 1, 2):
        state = polyval.absorb(state, block)
    assert state.tobytes() == unhex(v["digest"])


def test_siphash24():
    v = VECTORS["siphash24"]
    key = unhex(v["key"])
    assert siphash24(key, unhex(v["example"]["message"])) == int(v["example"]["hash"], 16)
    for length, expected in enumerate(v["by_length"]):
        assert siphash24(key, bytes(range(length))).to_bytes(8, "little") == unhex(expected)
