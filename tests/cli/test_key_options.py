"""Keys and passphrases from files, variables and prompts; and that none of them is ever shown."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ext4img.cli.key_options import GivenKey
from ext4img.cli.main import main
from tests.cli.transcripts import REPOSITORY
from tests.conftest import UnpackedImage
from tests.fs.conftest import needs_e2fsprogs
from tests.images import FIXTURES
from tests.unlocking.test_vectors import VECTORS
from tools.loop_mount import run as make

ALICE = (FIXTURES / "sample-encrypted.alice.key").read_text(encoding="ascii").strip()
NOTES = "/home/alice/notes.txt"
CONTENTS = b"Remember the milk.\n"


def run(capfdbinary: pytest.CaptureFixture[bytes], *arguments: str | Path) -> tuple[int, bytes, bytes]:
    code = main([str(argument) for argument in arguments])
    printed = capfdbinary.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def sample(fixture_image: Callable[[str], UnpackedImage]) -> Path:
    return fixture_image("sample-encrypted").path


@pytest.mark.parametrize("form", ["hex", "HEX", "wrapped", "raw"])
def test_key_files(form: str, sample: Path, tmp_path: Path, capfdbinary):
    raw = bytes.fromhex(ALICE)
    forms = {
        "hex": ALICE.encode() + b"\n",
        "HEX": b"0x" + ALICE.upper().encode(),
        "wrapped": b"\n".join(ALICE[at : at + 60].encode() for at in range(0, len(ALICE), 60)) + b"\n",
        "raw": raw,
    }
    key = tmp_path / "a key"
    key.write_bytes(forms[form])
    assert run(capfdbinary, "cat", sample, NOTES, "--key-file", key) == (0, CONTENTS, b"")


def test_a_key_in_a_variable(sample: Path, capfdbinary, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALICE_KEY", ALICE)
    assert run(capfdbinary, "cat", sample, NOTES, "--key-env", "ALICE_KEY") == (0, CONTENTS, b"")


def test_a_descriptor_goes_with_one_key(sample: Path, tmp_path: Path, capfdbinary):
    key = tmp_path / "key"
    key.write_text(ALICE, encoding="ascii")
    for options in (["--key-descriptor", "0011223344556677"], ["--key-descriptor", "xx", "--key-file", str(key)]):
        assert run(capfdbinary, "ls", sample, *options)[0] == 2


def test_keys_go_on_when_one_opens_nothing(sample: Path, tmp_path: Path, capfdbinary):
    key, wrong = tmp_path / "alice.key", tmp_path / "wrong.key"
    key.write_text(ALICE, encoding="ascii")
    wrong.write_bytes(bytes(range(64)))
    code, out, err = run(capfdbinary, "keys", sample, "--json", "--key-file", wrong, "--key-file", key)
    assert code == 5
    opened = {record["key"]: record["opened_by"] for record in map(json.loads, out.splitlines())}
    assert sorted(opened.values()) == [[], [str(key)]]
    assert err.decode().startswith(f"ext4img: {wrong}: the key opens nothing on this image")


def secrets() -> list[Any]:
    """The passphrases of the fixtures, each with the image and the policy that it opens."""
    found = []
    for name in ("unlock-tools", "homed"):
        manifest = json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))
        for secret in manifest["passphrases"]:
            if secret["kind"] != "fscrypt-login":  # its protector is on another file system
                found.append(pytest.param(name, secret, id=f"{name}-{secret['kind']}-{secret['unlocks'][:8]}"))
    return found


@pytest.mark.parametrize(("name", "secret"), secrets())
def test_passphrases_open_what_they_should(
    name: str, secret: dict[str, str], fixture_image, tmp_path: Path, capfdbinary, monkeypatch
):
    image = fixture_image(name).path
    if secret["kind"] == "fscrypt-raw":
        key = tmp_path / "protector.key"
        key.write_bytes(bytes.fromhex(secret["hex"]))
        options = ["--key-file", str(key)]
    else:
        monkeypatch.setenv("SECRET", secret["passphrase"])
        options = ["--passphrase-env", "SECRET"]
        if "salt_hex" in secret:
            options += ["--salt", "0x" + secret["salt_hex"]]
    code, out, err = run(capfdbinary, "keys", image, "--json", *options)
    assert (code, err) == (0, b"")
    opened = {record["key"] for record in map(json.loads, out.splitlines()) if record["opened_by"]}
    assert secret["unlocks"] in opened


def test_a_wrong_passphrase(fixture_image, tmp_path: Path, capfdbinary):
    wrong = tmp_path / "passphrase"
    wrong.write_text("not the passphrase\n", encoding="ascii")
    code, out, err = run(capfdbinary, "ls", fixture_image("unlock-tools").path, "--passphrase-file", wrong)
    assert (code, out) == (5, b"")
    assert err.startswith(f"ext4img ls: {wrong}: ".encode())
    assert b"not the passphrase" not in err


def test_a_passphrase_is_asked_for_without_echo(fixture_image):
    """On a terminal of its own, since getpass asks the controlling one."""
    image = str(fixture_image("homed").path)
    command = [sys.executable, "-m", "ext4img", "keys", "--unlock", image]
    pid, leader = pty.fork()
    if pid == 0:
        os.chdir(REPOSITORY)
        os.execv(command[0], command)
    seen = b""
    while b"Passphrase: " not in seen:
        seen += os.read(leader, 4096)
    os.write(leader, b"correct horse battery\n")
    try:
        while part := os.read(leader, 4096):
            seen += part
    except OSError:  # EIO: the command has ended
        pass
    os.close(leader)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"Unlocked by: 'the passphrase from the prompt'" in seen
    assert b"horse" not in seen


def test_without_a_terminal_nothing_is_asked(sample: Path):
    done = subprocess.run(
        [sys.executable, "-m", "ext4img", "ls", "--unlock", str(sample)],
        cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, check=False, start_new_session=True,
    )  # fmt: skip
    assert done.returncode == 5
    assert done.stderr.startswith(b"ext4img ls: no terminal to ask on\n")


def test_keys_are_never_shown(sample: Path, tmp_path: Path, capfdbinary, monkeypatch):
    raw = bytes.fromhex(ALICE)
    monkeypatch.setenv("KEY", ALICE)
    monkeypatch.setenv("SPOILT", ALICE[:-1])
    target = tmp_path / "out"
    said = b""
    commands: list[list[str | Path]] = [
        ["info", sample],
        ["keys", sample, "--key-env", "KEY", "--json"],
        ["stat", sample, NOTES, "--key-env", "KEY"],
        ["metadata", sample, NOTES, "--key-env", "KEY"],
        ["cat", sample, "/missing", "--key-env", "KEY"],
        ["ls", sample, "--key-env", "SPOILT"],
        ["backup", sample, target, "--key-env", "KEY"],
        ["list", target, "--json"],
        ["restore", target, tmp_path / "tree", "--key-env", "SPOILT"],
    ]
    for arguments in commands:
        said += b"".join(run(capfdbinary, *arguments)[1:])
    said += target.read_bytes()
    for secret in (ALICE[:32].encode(), ALICE[-33:-1].encode(), raw[:16], raw[16:32], raw[-16:]):
        assert secret not in said
    assert "raw" not in repr(GivenKey("label", raw))


@needs_e2fsprogs
def test_a_backups_login_protector_is_on_another_image(
    fixture_image: Callable[[str], UnpackedImage], tmp_path: Path, capfdbinary, monkeypatch: pytest.MonkeyPatch
):
    """--fscrypt-dir takes an image for a backup, too."""
    login = next(tree for tree in VECTORS["fscrypt"] if "links" in tree)
    protectors = tmp_path / "root" / ".fscrypt" / "protectors"
    protectors.mkdir(parents=True)
    for name, data in login["protectors"].items():
        (protectors / name).write_bytes(bytes.fromhex(data))
    root, backup = tmp_path / "root.img", tmp_path / "a.tar"
    make("mke2fs", "-q", "-F", "-t", "ext4", "-d", tmp_path / "root", root, "8M")
    assert run(capfdbinary, "backup", "-q", fixture_image("unlock-tools").path, backup)[0] == 0
    monkeypatch.setenv("LOGIN", login["opens"][0]["passphrase"])
    dump = ("dump", backup, "/login/note.txt", "--passphrase-env", "LOGIN")
    code, _, error = run(capfdbinary, *dump)
    assert code
    assert b"its .fscrypt is needed too" in error
    assert run(capfdbinary, *dump, "--fscrypt-dir", root) == (0, b"written in login\n", b"")
