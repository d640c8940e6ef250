"""What JSON Lines look like whatever the names are: strict JSON, ASCII, and nothing lost."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from ext4img.cli.output import Output, text_fields, text_list_fields
from tests.archive.synthetic import Tree
from tests.fs.conftest import needs_e2fsprogs
from tools.loop_mount import run

NAMES = st.lists(st.binary(max_size=20).map(lambda name: name.decode("utf-8", "surrogateescape")), unique=True)


def exact(record: dict[str, list[str]], key: str) -> list[bytes]:
    """The names back, as docs/cli.md has it."""
    coded = record.get(f"{key}_base64")
    return [base64.b64decode(name) for name in coded] if coded else [name.encode() for name in record[key]]


@given(NAMES)
def test_names_of_any_bytes(names: list[str]):
    fields = text_list_fields("xattrs", names)
    assert exact(json.loads(json.dumps(fields, ensure_ascii=False).encode()), "xattrs") == [
        name.encode("utf-8", "surrogateescape")
        for name in sorted(names, key=lambda n: n.encode("utf-8", "surrogateescape"))
    ]
    for name in names:
        single = text_fields("path", name)
        json.dumps(single, ensure_ascii=False).encode()


def test_list_has_no_lone_surrogates(tmp_path: Path):
    """Which RFC 8259 (section 8.2) leaves to chance, and jq and Go replace by others."""
    tree = Tree()
    tree.add(b"odd-\xff", "file", xattrs={"user.\udcff": b"", "user.a": b""})
    archive = tmp_path / "backup.tar"
    archive.write_bytes(tree.archive())
    done = subprocess.run(
        [sys.executable, "-m", "ext4img", "list", "--json", archive], capture_output=True, check=True, text=True
    )
    record = json.loads(done.stdout.splitlines()[-1])
    json.dumps(record, ensure_ascii=False).encode()
    assert base64.b64decode(record["path_base64"]) == b"odd-\xff"
    assert exact(record, "xattrs") == [b"user.a", b"user.\xff"]


@needs_e2fsprogs
def test_list_info_has_no_lone_surrogates(tmp_path: Path):
    """The paths of a partial backup are names, too."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / os.fsdecode(b"b\xffd")).write_bytes(b"x")
    image, archive = tmp_path / "n.img", tmp_path / "n.tar"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-d", tmp_path / "tree", image, "8M")
    command = [sys.executable, "-m", "ext4img"]
    subprocess.run([*command, "backup", "-q", image, archive, "--only", b"/b\xffd"], check=True)
    done = subprocess.run([*command, "list", "--info", "--json", archive], capture_output=True, check=True)
    record = json.loads(done.stdout)
    json.dumps(record, ensure_ascii=False).encode()
    assert record["only"] == ["b\ufffdd"]
    assert exact(record, "only") == [b"b\xffd"]


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
@example(["\U0001f600 \udcff \ud800"])
@example({"\ud83d": {"\udcff": ["\udcff"]}})
def test_no_record_has_lone_surrogates(value: object):
    """Whatever text gets there: a message with a name in it, a tool's name out of a hostile backup."""
    out = Output(json=True)
    lines: list[bytes] = []
    out._write = lines.append
    out.record({"value": value})
    json.dumps(json.loads(lines[0]), ensure_ascii=False).encode()
    assert lines[0].isascii()
