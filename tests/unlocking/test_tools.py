"""The real fscrypt and e4crypt write directories on a loop mount; the kernel judges the keys we find.

A key that we unlock from the metadata on the unmounted image is handed to the kernel, which names it
by itself (FS_IOC_ADD_ENCRYPTION_KEY) and shows the plaintext that the tool's user had written.
"""

from __future__ import annotations

import array
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ext4img.crypto.kdf import key_descriptor
from ext4img.errors import NoKeyError, WrongKeyError
from ext4img.unlocking import e4crypt
from ext4img.unlocking.fscrypt_policy import open_policy
from ext4img.unlocking.protector_keys import ProtectorKeys
from ext4img.unlocking.secrets import Secrets

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="no loop devices here"),
    pytest.mark.skipif(
        not all(shutil.which(tool) for tool in ("mkfs.ext4", "debugfs", "unshare", "losetup")),
        reason="needs e2fsprogs and util-linux",
    ),
]

PASSPHRASE, RAW_KEY = b"tr\xc3\xb8st no-1 ", bytes(range(32))
PLAINTEXT = b"written while the tool held the key\n"

# include/uapi/linux/fscrypt.h
FS_IOC_ADD_ENCRYPTION_KEY = 0xC0506617
KEY_SPECIFIER = struct.Struct("=II32s")  # type, reserved, descriptor or identifier
DESCRIPTOR_TYPE, IDENTIFIER_TYPE = 1, 2

# Its own mount namespace, and an /etc of its own for fscrypt.conf: nothing of the machine is changed.
FSCRYPT_SCRIPT = r"""
set -eu
mount --make-rprivate /
mkdir overlay && mount -t tmpfs none overlay && mkdir overlay/up overlay/work
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$PWD/overlay/up,workdir=$PWD/overlay/work" /etc
cat > /etc/fscrypt.conf <<'CONF'
{"source": "custom_passphrase",
 "hash_costs": {"time": "2", "memory": "4096", "parallelism": "2", "truncation_fixed": true},
 "options": {"padding": "16", "contents": "AES_256_XTS", "filenames": "AES_256_CTS", "policy_version": "VERSION"},
 "use_fs_keyring_for_v1_policies": true, "allow_cross_user_metadata": false}
CONF
sed -i "s/VERSION/$VERSION/" /etc/fscrypt.conf
mkdir mnt && mount -o loop image mnt
trap 'umount mnt' EXIT
fscrypt setup mnt --quiet
mkdir mnt/custom mnt/raw mnt/both
fscrypt encrypt mnt/custom --quiet --no-recovery --source=custom_passphrase --name=Custom < passphrase
fscrypt encrypt mnt/raw --quiet --no-recovery --source=raw_key --name=Raw --key=rawkey
protector=$(cd mnt/.fscrypt/protectors && grep -l Custom *)
other=$(cd mnt/.fscrypt/protectors && grep -l Raw *)
fscrypt encrypt mnt/both --quiet --no-recovery --protector="mnt:$protector" < passphrase
policy=$(fscrypt status mnt/both | sed -n 's/^Policy: *//p')
fscrypt metadata add-protector-to-policy --quiet --protector="mnt:$other" --policy="mnt:$policy" \
    --unlock-with="mnt:$protector" --key=rawkey < passphrase
for directory in mnt/*; do
    [ "$directory" = mnt/lost+found ] || cp plaintext "$directory/note.txt"
done
"""


@contextmanager
def mounted(image: Path, target: Path, options: str = "loop") -> Iterator[Path]:
    target.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "ext4", "-o", options, str(image), str(target)], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True)


def make_image(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "encrypt", str(path)], check=True)
    return path


def debugfs(image: Path, command: str) -> bytes:
    return subprocess.run(["debugfs", "-R", command, str(image)], capture_output=True, check=True).stdout


def context_of(image: Path, path: str) -> bytes:
    """The on-disk encryption context of `path`; debugfs knows the kernel's xattr by the name "c"."""
    out = image.with_name("context")
    debugfs(image, f'ea_get -f "{out}" {path} c')
    return out.read_bytes()


def key_name(context: bytes) -> bytes:
    """struct fscrypt_context_v1 and _v2: the master key's name."""
    return context[4:12] if context[0] == 1 else context[8:24]


def metadata_reader(image: Path, kind: str, work: Path) -> Callable[[str], bytes | None]:
    """Files of the unmounted image, by debugfs."""

    def read(name: str) -> bytes | None:
        out = work / f"{kind}-{name}"
        debugfs(image, f'dump /.fscrypt/{kind}/{name} "{out}"')
        return out.read_bytes() if out.exists() and out.stat().st_size else None

    return read


def give_to_kernel(mount_point: Path, key: bytes, version: int) -> bytes:
    """Add `key` to the file system, and return the name that the kernel has for it."""
    kind, name = (DESCRIPTOR_TYPE, key_descriptor(key)) if version == 1 else (IDENTIFIER_TYPE, b"")
    # struct fscrypt_add_key_arg: specifier, raw_size, key_id, flags, 7 reserved words, raw.
    argument = array.array("B", KEY_SPECIFIER.pack(kind, 0, name) + struct.pack("=I36x", len(key)) + key)
    directory = os.open(mount_point, os.O_RDONLY)
    try:
        fcntl.ioctl(directory, FS_IOC_ADD_ENCRYPTION_KEY, argument, True)
    finally:
        os.close(directory)
    _, _, named = KEY_SPECIFIER.unpack_from(argument)
    return bytes(named[: 8 if version == 1 else 16])


@pytest.mark.skipif(not shutil.which("fscrypt"), reason="the fscrypt tool is not installed")
@pytest.mark.parametrize("version", [1, 2])
def test_directories_of_the_fscrypt_tool(tmp_path, version):
    image = make_image(tmp_path / "image")
    (tmp_path / "passphrase").write_bytes(PASSPHRASE + b"\n")
    (tmp_path / "rawkey").write_bytes(RAW_KEY)
    (tmp_path / "plaintext").write_bytes(PLAINTEXT)
    made = subprocess.run(
        ["unshare", "--mount", "sh", "-c", FSCRYPT_SCRIPT],
        cwd=tmp_path,
        env={**os.environ, "VERSION": str(version)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr

    by_passphrase, by_raw_key = Secrets(passphrases=(PASSPHRASE,)), Secrets(raw_keys=(RAW_KEY,))
    read = [metadata_reader(image, kind, tmp_path) for kind in ("policies", "protectors")]
    keys = ProtectorKeys()
    found: dict[str, bytes] = {}
    for name, secrets in (("custom", by_passphrase), ("raw", by_raw_key), ("both", by_raw_key)):
        policy_id = key_name(context_of(image, f"/{name}"))
        assert len(policy_id) == (8, 16)[version - 1]
        opened = open_policy(policy_id, read[0], read[1], secrets, keys)
        assert (opened.policy.options.policy_version, opened.policy.options.padding) == (version, 16)
        found[name] = opened.key
    both = key_name(context_of(image, "/both"))
    assert open_policy(both, read[0], read[1], by_passphrase).key == found["both"]
    with pytest.raises(WrongKeyError):
        open_policy(both, read[0], read[1], Secrets(passphrases=(PASSPHRASE.strip(),)))
    with pytest.raises(NoKeyError):
        open_policy(key_name(context_of(image, "/raw")), read[0], read[1], by_passphrase)

    with mounted(image, tmp_path / "check") as root:
        for name, key in found.items():
            assert not (root / name / "note.txt").exists()
            assert give_to_kernel(root, key, version) == key_name(context_of(image, f"/{name}"))
            assert (root / name / "note.txt").read_bytes() == PLAINTEXT


@pytest.mark.skipif(not shutil.which("e4crypt"), reason="e4crypt is not installed")
@pytest.mark.parametrize("salt", ["s:pepper", "0x00ff10", "692536e4-90df-4429-a01c-7e1745a1977e", None])
def test_directories_of_e4crypt(tmp_path, salt):
    """None is the file system's own salt, which the superblock keeps at byte 0x258 (s_encrypt_pw_salt)."""
    image = make_image(tmp_path / "image")
    with mounted(image, tmp_path / "mnt") as root:
        (root / "dir").mkdir()
        # A session keyring of its own, so that the key does not stay in that of whoever runs the tests.
        session = ["keyctl", "session", "-"] if shutil.which("keyctl") else []
        chosen = salt if salt is not None else str(root)
        subprocess.run(
            [*session, "e4crypt", "add_key", "-q", "-S", chosen, str(root / "dir")],
            input=PASSPHRASE + b"\n",
            capture_output=True,
            check=True,
        )
    if salt is None:
        with image.open("rb") as file:
            file.seek(1024 + 0x258)
            salt_bytes = file.read(16)
        assert any(salt_bytes)
    else:
        salt_bytes = e4crypt.parse_salt(salt)
    key = e4crypt.derive_key(PASSPHRASE, salt_bytes)
    assert key_descriptor(key) == key_name(context_of(image, "/dir"))
    with mounted(image, tmp_path / "mnt") as root:
        assert give_to_kernel(root, key, 1) == key_descriptor(key)
        (root / "dir" / "note.txt").write_bytes(PLAINTEXT)
        assert (root / "dir" / "note.txt").read_bytes() == PLAINTEXT
