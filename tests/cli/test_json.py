"""What JSON Lines look like whatever the names are: strict JSON, ASCII, and nothing lost."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ext4img.cli.output import text_fields, text_list_fields
from tests.archive.synthetic import Tree

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
