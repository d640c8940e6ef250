"""Each cipher against itself and against the library: inverses, and many at once as one by one."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from ext4img.crypto.adiantum import Adiantum
from ext4img.crypto.aes_xts import Xts
from ext4img.crypto.ciphers import contents_cipher, names_cipher
from ext4img.crypto.codec import ContentsCipher, NamesCipher
from ext4img.crypto.iv import IvScheme
from ext4img.crypto.modes import MODES, PAIRS_V2
from ext4img.errors import CorruptionError

UNIT_SIZES = (512, 1024, 2048, 4096, 8192, 65536)
CONTENTS_MODES = [MODES[number] for number, _ in sorted(PAIRS_V2 - {(1, 10)})]
NAMES_MODES = [MODES[number] for _, number in sorted(PAIRS_V2)]
name_of_mode = pytest.mark.parametrize("mode", CONTENTS_MODES, ids=lambda mode: mode.name)
name_of_names_mode = pytest.mark.parametrize("mode", NAMES_MODES, ids=lambda mode: mode.name)


def plain_ivs(size: int) -> IvScheme:
    return IvScheme(0, (1 << 64) - 1, bytes(size - 8), size)


@name_of_mode
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    unit_size=st.sampled_from(UNIT_SIZES),
    units=st.sampled_from((1, 2, 3, 63, 64, 65, 130, 257)),
    first=st.sampled_from((0, 1, 7, (1 << 32) - 5, (1 << 40) + 3)),
)
def test_many_units_are_as_one_by_one(mode, seed, unit_size, units, first):
    if units * unit_size > 1 << 21:
        units = (1 << 21) // unit_size
    chance = random.Random(seed)
    cipher = ContentsCipher(contents_cipher(mode)(chance.randbytes(mode.key_size)), plain_ivs(mode.iv_size), unit_size)
    plaintext = chance.randbytes(units * unit_size)
    ciphertext = cipher.encrypt(plaintext, first)
    assert cipher.decrypt(ciphertext, first) == plaintext
    for at in {0, units // 2, units - 1}:
        unit = slice(at * unit_size, (at + 1) * unit_size)
        assert cipher.encrypt(plaintext[unit], first + at) == ciphertext[unit]
        assert cipher.decrypt(ciphertext[unit], first + at) == plaintext[unit]


@pytest.mark.parametrize("unit_size", UNIT_SIZES)
def test_xts_is_the_librarys(unit_size: int):
    key = os.urandom(64)
    units = 128
    plaintext = os.urandom(units * unit_size)
    cipher = ContentsCipher(Xts(algorithms.AES, key), plain_ivs(16), unit_size)
    ciphertext = cipher.encrypt(plaintext, 1000)
    for at in range(units):
        iv = (1000 + at).to_bytes(16, "little")
        unit = slice(at * unit_size, (at + 1) * unit_size)
        theirs = Cipher(algorithms.AES(key), modes.XTS(iv)).encryptor().update(plaintext[unit])
        assert theirs == ciphertext[unit]


def test_xts_with_equal_halves():
    """OpenSSL refuses such keys, and so do kernels of today; old ones did not."""
    half = os.urandom(32)
    cipher = Xts(algorithms.AES, half * 2)
    plaintext, iv = os.urandom(4096), os.urandom(16)
    ecb = Cipher(algorithms.AES(half), modes.ECB()).encryptor()
    tweak = ecb.update(iv)
    first = bytes(a ^ b for a, b in zip(plaintext, tweak, strict=False))
    expected = bytes(a ^ b for a, b in zip(ecb.update(first), tweak, strict=True))
    assert cipher.encrypt(plaintext, 4096, iv)[:16] == expected
    assert cipher.decrypt(cipher.encrypt(plaintext, 4096, iv), 4096, iv) == plaintext


@name_of_mode
@pytest.mark.parametrize("units", [1, 200])
def test_into_buffers(mode, units):
    cipher = ContentsCipher(contents_cipher(mode)(os.urandom(mode.key_size)), plain_ivs(mode.iv_size), 1024)
    plaintext = os.urandom(units * 1024)
    ciphertext = cipher.encrypt(plaintext, 5)
    out = bytearray(len(plaintext))
    cipher.decrypt_into(ciphertext, 5, out)
    assert out == plaintext
    cipher.encrypt_into(out, 5, out)  # in place
    assert out == ciphertext
    odd = bytearray(b"x" + ciphertext + b"y")  # at an odd address, and only that
    inner = memoryview(odd)[1:-1]
    cipher.decrypt_into(inner, 5, inner)
    assert odd == b"x" + plaintext + b"y"
    assert cipher.decrypt(memoryview(bytearray(ciphertext)), 5) == plaintext


@name_of_mode
def test_nothing_and_part_of_a_unit(mode):
    cipher = ContentsCipher(contents_cipher(mode)(os.urandom(mode.key_size)), plain_ivs(mode.iv_size), 4096)
    assert cipher.encrypt(b"", 0) == cipher.decrypt(b"", 0) == b""
    cipher.decrypt_into(b"", 0, bytearray())
    with pytest.raises(CorruptionError, match="multiple of the data unit"):
        cipher.decrypt(bytes(4095), 0)


@name_of_mode
def test_threads_may_share_a_cipher(mode):
    cipher = ContentsCipher(contents_cipher(mode)(os.urandom(mode.key_size)), plain_ivs(mode.iv_size), 4096)
    plaintexts = [os.urandom(100 * 4096) for _ in range(4)]
    ciphertexts = [cipher.encrypt(text, 0) for text in plaintexts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert list(pool.map(lambda text: cipher.decrypt(text, 0), ciphertexts)) == plaintexts


@name_of_names_mode
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    names=st.lists(st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name), max_size=40),
    padding=st.sampled_from((4, 8, 16, 32)),
)
def test_names(mode, seed, names, padding):
    chance = random.Random(seed)
    cipher = NamesCipher(names_cipher(mode)(chance.randbytes(mode.key_size)), chance.randbytes(mode.iv_size), padding)
    stored = cipher.encrypt(names)
    assert cipher.decrypt(stored) == names
    for name, text in zip(names, stored, strict=True):
        assert len(text) == min(max(16, -(-len(name) // padding) * padding), 255)
        assert cipher.encrypt([name]) == [text]
        assert cipher.decrypt([text]) == [name]


@name_of_names_mode
def test_every_length_of_a_message(mode):
    """Symlink targets are longer than names; together with short ones, and in any order."""
    cipher = names_cipher(mode)(os.urandom(mode.key_size))
    iv = os.urandom(mode.iv_size)
    messages = [os.urandom(size) for size in (*range(300, 15, -1), 1039, 1040, 1041, 2064, 4093, 16)]
    ciphertexts = cipher.encrypt_names(messages, iv)
    assert [len(text) for text in ciphertexts] == [len(message) for message in messages]
    assert cipher.decrypt_names(ciphertexts, iv) == messages
    assert cipher.encrypt_names(messages[-6:], iv) == ciphertexts[-6:]
    assert [cipher.encrypt_names([message], iv)[0] for message in messages[-6:]] == ciphertexts[-6:]


@name_of_names_mode
def test_names_that_cannot_be(mode):
    cipher = NamesCipher(names_cipher(mode)(os.urandom(mode.key_size)), bytes(mode.iv_size), 4)
    assert cipher.decrypt([]) == cipher.encrypt([]) == []
    with pytest.raises(CorruptionError, match="15 bytes"):
        cipher.decrypt([bytes(16), bytes(15)])
    with pytest.raises(CorruptionError, match="256 bytes"):
        cipher.encrypt([b"x" * 256])
    target = b"x" * 4093
    assert cipher.decrypt(cipher.encrypt([target], max_length=4093)) == [target]


def test_adiantum_units_and_messages_are_one_cipher():
    cipher = Adiantum(os.urandom(32))
    message, tweak = os.urandom(512), os.urandom(32)
    assert cipher.encrypt(message, 512, tweak) == cipher.encrypt_names([message], tweak)[0]
