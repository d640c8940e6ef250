"""One member found by its path, plain or no-key, and its contents."""

from __future__ import annotations

import io
from typing import Any

import pytest

from ext4img import Archive
from ext4img.archive.decryption import EntryDecryptor
from ext4img.archive.key_check import check_keys
from ext4img.archive.lookup import file_contents, find_member
from ext4img.errors import AlteredArchiveError, IsDirectoryError, NoKeyError, NotFoundError, NotRegularFileError
from tests.archive.synthetic import KEY, Tree, encrypted_tree, plain_tree


def contents(archive: Archive, path: bytes, plaintext: EntryDecryptor | None = None, **options: Any) -> bytes:
    size, chunks = file_contents(find_member(archive, path, plaintext), plaintext, **options)
    data = bytearray(size)
    for offset, part in chunks:
        data[offset : offset + len(part)] = part
    assert len(data) == size
    return bytes(data)


def test_plain_paths_of_encrypted_files():
    tree = encrypted_tree()
    with Archive(io.BytesIO(tree.archive())) as archive:
        plaintext = EntryDecryptor(check_keys(archive, [KEY]), archive.info)
        for path, data in tree.plain.items():
            if path == b"secret/link":
                with pytest.raises(NotRegularFileError):
                    contents(archive, path, plaintext)
                continue
            assert contents(archive, b"/" + path, plaintext) == data
            if not path.startswith(b"secret/"):
                continue
            with pytest.raises(NotFoundError):
                find_member(archive, path)
            with pytest.raises(NotFoundError):
                find_member(archive, path + b"/below", plaintext)


def test_paths_as_they_are_shown():
    with Archive(io.BytesIO(encrypted_tree().archive())) as archive:
        plaintext = EntryDecryptor(check_keys(archive, [KEY]), archive.info)
        files = [member.entry for member in archive if member.entry.type == "file" and not member.entry.is_link]
        assert any(entry.is_encrypted and entry.body_size for entry in files)
        for entry in files:
            assert len(contents(archive, entry.path, ciphertext=True)) == entry.body_size
            if entry.is_encrypted:
                with pytest.raises(NoKeyError):
                    contents(archive, entry.path)
                assert len(contents(archive, entry.path, plaintext)) == entry.size


def test_all_of_a_plain_tree():
    tree = plain_tree()
    with Archive(io.BytesIO(tree.archive())) as archive:
        for entry, body in tree.members:
            if entry.type == "file" and not entry.is_link:
                size, chunks = file_contents(find_member(archive, entry.path), None)
                found = [(offset, bytes(part)) for offset, part in chunks]
                assert size == entry.body_size
                assert b"".join(part for _, part in found) == body
                assert [offset for offset, _ in found[:1]] == [offset for offset, _ in entry.segments[:1]]
            elif entry.is_link:
                first = find_member(archive, entry.path).entry
                assert (first.path, first.inode) == (entry.link_target, entry.inode)
            elif entry.type != "verity":
                with pytest.raises(IsDirectoryError if entry.type == "dir" else NotRegularFileError):
                    contents(archive, entry.path)


def test_a_further_name_of_another_file():
    tree = Tree()
    first = tree.add(b"a", "file", b"one", links=2)
    tree.add(b"b", "file", b"two", links=2)
    tree.add_link(b"c", first._replace(path=b"b"))
    with Archive(io.BytesIO(tree.archive())) as archive, pytest.raises(AlteredArchiveError, match="not the same file"):
        find_member(archive, b"c")
