"""What the commands say of every image, against what the kernel shows of it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ext4img.cli.main import main
from tests.conftest import UnpackedImage
from tests.manifest import USER_VISIBLE_FLAGS, Entry, assert_none, disk_bytes

FIELDS = {
    "ino": "inode",
    "generation": "generation",
    "type": "type",
    "mode": "mode",
    "uid": "uid",
    "gid": "gid",
    "nlink": "links",
    "atime_ns": "atime_ns",
    "mtime_ns": "mtime_ns",
    "ctime_ns": "ctime_ns",
    "crtime_ns": "crtime_ns",
}


def raw(record: dict[str, Any], key: str) -> bytes:
    """A name from a record: exact where it says so."""
    exact = record.get(f"{key}_base64")
    return base64.b64decode(exact) if exact is not None else record[key].encode()


def output(capfdbinary: pytest.CaptureFixture[bytes], *arguments: str | Path, code: int = 0) -> bytes:
    assert main([os.fspath(argument) for argument in arguments]) == code
    return capfdbinary.readouterr().out


def records(capfdbinary: pytest.CaptureFixture[bytes], *arguments: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output(capfdbinary, *arguments, "--json").splitlines()]


def key_options(image: UnpackedImage, directory: Path) -> list[str]:
    """Options that give all keys of the manifest, but those whose descriptor was made up."""
    options = []
    for number, key in enumerate(dict.fromkeys(key["hex"] for key in image.manifest.head["keys"])):
        path = directory / f"{number}.key"
        path.write_text(key, encoding="ascii")
        options += ["--key-file", str(path)]
    return options


def differences(entries: dict[bytes, Entry], found: list[dict[str, Any]], target: str):
    by_path = {raw(record, "path"): record for record in found}
    for path in sorted(entries.keys() ^ by_path.keys()):
        yield f"{path!r} is on one side only"
    for path in entries.keys() & by_path.keys():
        entry, record = entries[path], by_path[path]
        unstable = entry.get("unstable", ())
        for key, field in FIELDS.items():
            if key not in unstable and entry[key] != record[field]:
                yield f"{path!r} {field}: expected {entry[key]!r}, got {record[field]!r}"
        if entry.get("disk_size", entry["size"]) != record["size"]:
            yield f"{path!r} size: expected {entry['size']}, got {record['size']}"
        if (entry["flags"] ^ record["flags"]) & USER_VISIBLE_FLAGS:
            yield f"{path!r} flags: expected {entry['flags']:#x}, got {record['flags']:#x}"
        if entry.get("rdev") != record.get("rdev"):
            yield f"{path!r} rdev: expected {entry.get('rdev')}, got {record.get('rdev')}"
        if entry["encrypted"] != record.get("encrypted", False):
            yield f"{path!r} encrypted: {record.get('encrypted')}"
        if entry["type"] == "symlink" and disk_bytes(entry.get(target) or entry["target"]) != raw(record, "target"):
            yield f"{path!r} target: expected {entry.get(target) or entry['target']!r}, got {record['target']!r}"


def test_find_with_keys(image: UnpackedImage, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]):
    found = records(capfdbinary, "find", image.path, *key_options(image, tmp_path))
    assert_none(differences(image.manifest.by_path, found, "target"))


def test_find_without_keys(image: UnpackedImage, capfdbinary: pytest.CaptureFixture[bytes]):
    found = records(capfdbinary, "find", image.path)
    assert_none(differences(image.manifest.by_nokey_path, found, "nokey_target"))


def test_find_prints_raw_names(image: UnpackedImage, capfdbinary: pytest.CaptureFixture[bytes]):
    printed = output(capfdbinary, "find", "--print0", image.path).split(b"\0")
    assert sorted(printed[:-1]) == sorted(image.manifest.by_nokey_path)


def test_info(image: UnpackedImage, capfdbinary: pytest.CaptureFixture[bytes]):
    head = image.manifest.head
    [record] = records(capfdbinary, "info", image.path)
    assert (record["uuid"], record["block_size"], record["label"]) == (head["uuid"], head["block_size"], head["label"])
    # dumpe2fs saw the image before recovery; it prints "(none)" where there are none.
    passing = {"needs_recovery", "orphan_present", "(none)"}
    assert set(record["features"]) - passing == set(head["features"]) - passing
    assert record["unknown_features"] == []


def test_keys(image: UnpackedImage, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]):
    found = records(capfdbinary, "keys", image.path, *key_options(image, tmp_path))
    wanted = {key.get("identifier") or key["descriptor"] for key in image.manifest.head["keys"]}
    assert {record["key"] for record in found if record["opened_by"]} >= wanted & {record["key"] for record in found}
    directories = sum(record["directories"] for record in found)
    encrypted = [entry for entry in image.manifest.entries if entry["encrypted"]]
    assert directories == sum(entry["type"] == "dir" for entry in encrypted)


def test_contents_and_attributes(fixture_image, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]):
    """cat, xattr, stat and metadata of what is encrypted, path by path."""
    image = fixture_image("sample-encrypted")
    options = key_options(image, tmp_path)
    samples: dict[str, Entry] = {}
    for entry in image.manifest.entries:  # one of each kind, and all that has attributes
        samples.setdefault(f"{entry['type']} {entry['encrypted']}", entry)
        if entry["xattrs"] and len(samples) < 30:
            samples[entry["path"]] = entry
    assert len(samples) > 10
    for entry in samples.values():
        path = entry["path"]
        if entry["type"] == "file":
            contents = output(capfdbinary, "cat", image.path, path, *options)
            assert hashlib.sha256(contents).hexdigest() == entry["sha256"]
            if entry["encrypted"]:
                stored = output(capfdbinary, "cat", "--ciphertext", image.path, path, *options)
                assert hashlib.sha256(stored).hexdigest() == entry["ciphertext_sha256"]
        found = records(capfdbinary, "xattr", image.path, path, *options)
        assert {record["name"]: base64.b64decode(record["value_base64"]).hex() for record in found} == entry["xattrs"]
        [stat] = records(capfdbinary, "stat", image.path, path, *options)
        assert stat.get("stored_name") == entry.get("name_ct")
        [metadata] = records(capfdbinary, "metadata", image.path, path, *options)
        assert metadata["context"] == entry.get("context")
        if entry["encrypted"]:
            assert bytes.fromhex(metadata["metadata"]).endswith(bytes.fromhex(entry["context"]))
        if "name_ct" in entry:
            assert metadata["filename"].endswith(entry["name_ct"])
