"""Names as GNU ls shows them; ls itself is the judge where it is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext4img.cli.error_report import error_lines, explain
from ext4img.cli.quoting import harmless, quote
from ext4img.errors import NotFoundError

NAMES = [
    b"plain", b"with space", b"it's", b"it's \"both\"", b'say "hi"', b"$HOME", b"`id`", b"a'b$c", b"back\\slash",
    b"star*", b"que?ry", b"#first", b"in#side", b"~home", b"a~", b"{", b"}", b"{a}", b"[x]", b"a=b", b"-dash", b"a;b",
    b"new\nline", b"\nfirst", b"last\n", b"tab\tand space", b"two\n\tin a row", b"\x1b[31mred\x1b[0m", b"\x7f\x01",
    b"quote'and\nline", b"\n'", b"'\n", b"'", b"\xff\xfe", b"ok\xffok", b"a\xc3", b"\xc3\xa4\xc3\xb6", b"\xe2\x82\xac",
    b"a,b", b"a:b", b"%41", b"a+b@c", b"!bang", b"a^b", b"<>", b"a&b|c", b"(x)",
]  # fmt: skip


@pytest.mark.skipif(shutil.which("ls") is None or sys.platform != "linux", reason="GNU ls is not there")
def test_quoting_is_that_of_gnu_ls(tmp_path: Path):
    for name in NAMES:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).touch()
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    for name in NAMES:
        done = subprocess.run(
            [b"ls", b"-1d", b"--quoting-style=shell-escape", b"--", name],
            cwd=tmp_path, env=env, capture_output=True, check=True,
        )  # fmt: skip
        assert quote(name) == done.stdout.decode().removesuffix("\n")


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_what_is_quoted_prints_and_is_one_line(name: bytes):
    shown = quote(name)
    assert shown.isprintable()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not there")
def test_a_shell_gives_the_name_back():
    words = b" ".join(quote(name).encode() for name in NAMES)
    done = subprocess.run(
        [b"bash", b"--norc", b"-c", b"printf '%s\\0' " + words], capture_output=True, check=True, cwd="/"
    )
    # A leading ~ and a lone { are quoted, so all come back as they are.
    assert done.stdout.split(b"\0")[:-1] == NAMES


def test_a_path_as_long_as_a_command_line():
    error = NotFoundError.at("/" + "a/" * 50_000)
    (line,) = error_lines(explain(error, "disk.img"), "ls")
    assert len(line) < 2100
    assert line.startswith("ext4img ls: disk.img: /a/a/")
    assert line.endswith("/a/: No such file or directory")


@pytest.mark.parametrize("dangerous", ["\x1b]0;title\x07", "\u202eexe.txt", "\x9b31m", "a\u2028b", "\u200b"])
def test_nothing_reaches_the_terminal_raw(dangerous: str):
    assert quote(dangerous).isprintable()
    assert harmless(dangerous).isprintable()


def test_messages_show_bytes():
    assert harmless("a\udcffb\n\u202e") == "a\\xffb\\x0a\\u202e"
