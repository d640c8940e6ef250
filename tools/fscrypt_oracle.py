"""Compare ext4img's fscrypt with two judges: xfstests' reference program and the running kernel.

    python -m tools.fscrypt_oracle --program PATH [--rounds N] [--seed N]
    python -m tools.fscrypt_oracle --kernel [--rounds N] [--seed N]

The program is fscrypt-crypt-util, one C file of xfstests (src/fscrypt-crypt-util.c) that follows the
definitions and needs no library; whoever wants the comparison compiles it, somewhere outside this
repository. Each round takes a random policy, key, nonce, inode number, UUID, position and lengths,
lets the program encrypt, and compares both ways. SM4 it does not have.

The kernel is asked through a loop mount (root, a kernel with ext4 encryption): each round makes an
image, has the kernel write files below a random policy with modes that it has, and decrypts the
bytes of the image.

Exit code 0 if nothing differs. All keys are made up for the round.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ext4img.crypto.codec import ContentsCipher, NamesCipher
from ext4img.crypto.keyring import Keyring
from ext4img.crypto.modes import MODES, PAIRS_V1, PAIRS_V2, Mode
from ext4img.crypto.policy import (
    DIRECT_KEY,
    IV_INO_LBLK_32,
    IV_INO_LBLK_64,
    EncryptionContext,
    Policy,
    build_context,
    parse_context,
)
from ext4img.names.nokey import parse_nokey_name
from tools import kernel_ioctl
from tools.loop_mount import loop_mounted, run

# What the program calls the modes; it has no SM4.
PROGRAM_NAMES = {
    1: "AES-256-XTS",
    4: "AES-256-CTS-CBC",
    5: "AES-128-CBC-ESSIV",
    6: "AES-128-CTS-CBC",
    9: "Adiantum",
    10: "AES-256-HCTR2",
}


class Case(NamedTuple):
    """One file or directory, with everything that its ciphertext depends on."""

    context: EncryptionContext
    raw_key: bytes
    inode_number: int
    fs_uuid: bytes
    block_size: int

    def __str__(self) -> str:
        """All that is needed to run it again; the key is made up."""
        return (
            f"{self.context.policy.describe()}; key {self.raw_key.hex()}, nonce {self.context.nonce.hex()}, "
            f"inode {self.inode_number}, uuid {self.fs_uuid.hex()}, block size {self.block_size}"
        )

    def keyring(self) -> Keyring:
        """A keyring that opens it."""
        keyring = Keyring()
        policy = self.context.policy
        keyring.add(self.raw_key, policy.key_id if policy.version == 1 else None)
        return keyring

    def contents_cipher(self) -> ContentsCipher:
        """ext4img's cipher for contents."""
        cipher = self.keyring().contents_cipher(self.context, self.inode_number, self.fs_uuid, self.block_size)
        assert cipher is not None
        return cipher

    def names_cipher(self) -> NamesCipher:
        """ext4img's cipher for names."""
        cipher = self.keyring().names_cipher(self.context, self.inode_number, self.fs_uuid)
        assert cipher is not None
        return cipher


def random_policy(
    chance: random.Random, block_size: int, pairs: frozenset[tuple[int, int]], short_keys: bool
) -> tuple[Policy, bytes]:
    """A policy that kernels take, with one of the pairs of modes, and a key for it.

    With `short_keys` the key may be shorter than the cipher's, where the kernel allows it.
    """
    version = chance.choice((1, 2, 2)) if pairs & PAIRS_V1 else 2
    contents, names = chance.choice(sorted(pairs & (PAIRS_V1 if version == 1 else PAIRS_V2)))
    flags = chance.randrange(4)
    log2_data_unit_size = 0
    if contents == 9:
        flags |= chance.choice((0, DIRECT_KEY))
    if contents == 1 and version == 2:
        flags |= chance.choice((0, IV_INO_LBLK_64, IV_INO_LBLK_32))
    if version == 2 and not flags & (IV_INO_LBLK_64 | IV_INO_LBLK_32):
        log2_data_unit_size = chance.choice((0, *range(9, block_size.bit_length())))
    modes = MODES[contents], MODES[names]
    short_keys = short_keys and version == 2
    least = max((mode.security_strength if short_keys else mode.key_size) for mode in modes)
    raw = chance.randbytes(chance.randint(least, 64))
    key = Keyring().add(raw)
    key_id = chance.randbytes(8) if version == 1 else key.identifier
    return Policy(version, contents, names, flags, key_id, log2_data_unit_size), raw


def random_case(chance: random.Random) -> Case:
    """A case out of thin air."""
    block_size = chance.choice((1024, 2048, 4096, 65536))
    # The program wants keys as long as the cipher's.
    pairs = frozenset(pair for pair in PAIRS_V2 if pair[0] in PROGRAM_NAMES)
    policy, raw = random_policy(chance, block_size, pairs, short_keys=False)
    context = parse_context(build_context(policy, chance.randbytes(16)))
    return Case(context, raw, chance.randrange(1, 1 << 32), chance.randbytes(16), block_size)


def random_name(chance: random.Random, length: int) -> bytes:
    """Any bytes that a name can be."""
    return bytes(chance.choice([byte for byte in range(1, 256) if byte != ord("/")]) for _ in range(length))


class Program:
    """xfstests' fscrypt-crypt-util."""

    def __init__(self, path: str) -> None:
        self.path = path

    def encrypt(self, case: Case, mode: Mode, plaintext: bytes, index: int, unit_size: int) -> bytes:
        """What it makes of `plaintext` under the case's contents or names mode."""
        policy = case.context.policy
        arguments = [
            f"--data-unit-index={index}",
            f"--data-unit-size={unit_size}",
            "--padding=1",
            f"--file-nonce={case.context.nonce.hex()}",
            f"--fs-uuid={case.fs_uuid.hex()}",
            f"--inode-number={case.inode_number}",
            f"--mode-num={mode.number}",
        ]
        if policy.version == 2:
            arguments.append("--kdf=HKDF-SHA512")
        elif not policy.is_direct_key:
            arguments.append("--kdf=AES-128-ECB")
        if policy.is_direct_key:
            arguments.append("--direct-key")
        if policy.is_iv_ino_lblk_64:
            arguments.append("--iv-ino-lblk-64")
        if policy.is_iv_ino_lblk_32:
            arguments.append("--iv-ino-lblk-32")
        # Throw-away keys: real ones never stand in argv.
        return run(self.path, *arguments, PROGRAM_NAMES[mode.number], case.raw_key.hex(), stdin=plaintext)

    def identifier(self, raw: bytes) -> bytes:
        """The key identifier that it computes."""
        return bytes.fromhex(run(self.path, "--kdf=HKDF-SHA512", "--dump-key-identifier", raw.hex()).decode().strip())


def differences_from_program(program: Program, chance: random.Random) -> Iterator[str]:
    """One round: some contents and some names of one random case."""
    case = random_case(chance)
    policy = case.context.policy
    if policy.version == 2 and program.identifier(case.raw_key) != policy.key_id:
        yield f"key identifier: {case}"
    contents = case.contents_cipher()
    size = contents.data_unit_size
    units = chance.choice((1, 2, 3, 17, 64, 65, 200))
    plaintext = chance.randbytes(min(units, max((1 << 19) // size, 1)) * size)
    index = chance.choice((0, 1, chance.randrange(1 << 20), (1 << 32) - 1 - len(plaintext) // size))
    expected = program.encrypt(case, policy.contents, plaintext, index, size)
    if contents.encrypt(plaintext, index) != expected:
        yield f"contents encrypted, {len(plaintext)} bytes from unit {index}: {case}"
    if contents.decrypt(expected, index) != plaintext:
        yield f"contents decrypted, {len(plaintext)} bytes from unit {index}: {case}"
    names = [random_name(chance, length) for length in chance.sample(range(1, 256), 8)]
    cipher = case.names_cipher()
    stored = cipher.encrypt(names)
    for name, text in zip(names, stored, strict=True):
        if program.encrypt(case, policy.filenames, name.ljust(len(text), b"\0"), 0, 4096) != text:
            yield f"name {name.hex()} encrypted: {case}"
    if cipher.decrypt(stored) != names:
        yield f"names decrypted: {case}"


def differences_from_kernel(chance: random.Random, directory: Path, pairs: frozenset[tuple[int, int]]) -> Iterator[str]:
    """One round: an image on which the kernel writes names and contents below a random policy.

    OSError (ENOPKG, EINVAL) where the kernel does not have its ciphers.
    """
    block_size = chance.choice((1024, 2048, 4096))
    policy, raw = random_policy(chance, block_size, pairs, short_keys=True)
    image = directory / "oracle.img"
    uuid = chance.randbytes(16)
    text = f"{uuid.hex()[:8]}-{uuid.hex()[8:12]}-{uuid.hex()[12:16]}-{uuid.hex()[16:20]}-{uuid.hex()[20:]}"
    features = "encrypt,stable_inodes,^has_journal"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-O", features, "-b", str(block_size), "-U", text, image, "16M")
    names = [random_name(chance, length) for length in chance.sample(range(1, 256), 12)]
    bodies = {name: chance.randbytes(chance.randint(1, 40 * block_size)) for name in names}
    written: list[tuple[bytes, Case, list[kernel_ioctl.FiemapExtent]]] = []
    with loop_mounted(image, "rw") as mount:
        descriptor = policy.key_id if policy.version == 1 else None
        name_of_key = kernel_ioctl.add_key(mount, raw, policy.version, descriptor)
        if name_of_key != policy.key_id:
            yield f"key identifier {name_of_key.hex()}: {policy.describe()}, key {raw.hex()}"
            return
        top = os.fsencode(os.path.join(mount, "d"))
        os.mkdir(top)
        kernel_ioctl.set_policy(
            top,
            policy.key_id,
            contents_mode=policy.contents_mode,
            filenames_mode=policy.filenames_mode,
            flags=policy.flags,
            log2_data_unit_size=policy.log2_data_unit_size,
        )
        for name, body in bodies.items():
            with kernel_ioctl.opened(os.path.join(top, name), os.O_RDWR | os.O_CREAT) as fd:
                os.write(fd, body)
                os.fsync(fd)
                context = kernel_ioctl.encryption_context(fd)
                assert context is not None
                case = Case(parse_context(context), raw, os.fstat(fd).st_ino, uuid, block_size)
                written.append((body, case, kernel_ioctl.fiemap(fd)))
        with kernel_ioctl.opened(top) as fd:
            context = kernel_ioctl.encryption_context(fd)
            assert context is not None
            parent = Case(parse_context(context), raw, os.fstat(fd).st_ino, uuid, block_size)
    with loop_mounted(image, "ro") as mount:
        shown = [parse_nokey_name(name) for name in os.listdir(os.path.join(os.fsencode(mount), b"d"))]
    stored = parent.names_cipher().encrypt(names)
    for ciphertext in stored:
        if not any(name and name.matches(ciphertext) for name in shown):
            yield f"name {ciphertext.hex()} is not what the kernel shows: {parent}"
    if sorted(parent.names_cipher().decrypt(stored)) != sorted(names):
        yield f"names: {parent}"
    with image.open("rb") as file:
        for body, case, extents in written:
            cipher = case.contents_cipher()
            plaintext = bytearray(-(-len(body) // block_size) * block_size)
            for extent in extents:
                length = min(extent.length, len(plaintext) - extent.logical)
                ciphertext = os.pread(file.fileno(), length, extent.physical)
                data = cipher.decrypt(ciphertext, extent.logical // cipher.data_unit_size)
                if cipher.encrypt(data, extent.logical // cipher.data_unit_size) != ciphertext:
                    yield f"contents encrypted: {case}"
                plaintext[extent.logical : extent.logical + length] = data
            if plaintext != body.ljust(len(plaintext), b"\0"):
                yield f"contents decrypted: {case}"


def kernel_has(pair: tuple[int, int], directory: Path) -> bool:
    """Whether the running kernel has the ciphers of a pair of modes."""
    chance = random.Random(0)
    try:
        list(differences_from_kernel(chance, directory, frozenset({pair})))
    except OSError as error:
        if error.errno not in (errno.ENOPKG, errno.EINVAL):
            raise
        return False
    return True


def main() -> int:
    """Run the rounds; 1 if anything differs."""
    parser = argparse.ArgumentParser(description="Compare ext4img's fscrypt with a reference program or the kernel.")
    parser.add_argument("--program", help="path of a compiled fscrypt-crypt-util")
    parser.add_argument("--kernel", action="store_true", help="ask the running kernel, through loop mounts")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    if not arguments.program and not arguments.kernel:
        parser.error("give --program, --kernel, or both")
    print(f"seed {arguments.seed}")
    chance = random.Random(arguments.seed)
    found: list[str] = []
    if arguments.program:
        program = Program(arguments.program)
        for _ in range(arguments.rounds):
            found += differences_from_program(program, chance)
        print(f"reference program: {arguments.rounds} rounds")
    if arguments.kernel:
        with tempfile.TemporaryDirectory(prefix="ext4img-oracle-") as scratch:
            pairs = frozenset(pair for pair in PAIRS_V2 if kernel_has(pair, Path(scratch)))
            for _ in range(arguments.rounds):
                found += differences_from_kernel(chance, Path(scratch), pairs)
        modes = sorted({MODES[number].name for pair in pairs for number in pair})
        print(f"kernel: {arguments.rounds} rounds; of the modes it has {', '.join(modes)}")
    for difference in found:
        print(difference, file=sys.stderr)
    print(f"{len(found)} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
