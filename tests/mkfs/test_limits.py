"""What can't be built is refused before the first byte, with the path that is to blame."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

import ext4img
from ext4img.errors import BuildError, UnsupportedFeatureError
from ext4img.mkfs import ENCRYPTION_CONTEXT, Node, Options, plan
from tests.mkfs.judges import assert_clean
from tests.mkfs.samples import (
    CASEFOLD_FL,
    CREATED_S,
    DIRECTORY,
    ENCRYPT_FL,
    FILE,
    ROOT,
    SYMLINK,
    VERITY_FL,
    build,
    context,
    encrypted_directory,
    encrypted_file,
)

IV_INO_LBLK_64 = 0x08
IV_INO_LBLK_32 = 0x10
ENCRYPTED = encrypted_directory((b"e",))
CIPHER_NAME = b"sixteen bytes or more"


def refusal(nodes: Iterable[Node], **options: object) -> str:
    with pytest.raises(BuildError) as caught:
        plan([ROOT, *nodes], Options(**options))  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([Node((b"d", b"f"), FILE)], "'/d/f': its directory has not come before it"),
        ([Node((b"f",), FILE), Node((b"f", b"g"), FILE)], "'/f/g': its directory has not"),
        ([Node((), DIRECTORY)], "'/': the root is one directory, and must come first"),
        ([Node((b"x" * 256,), FILE)], "a name of 256 bytes"),
        ([Node((b"",), FILE)], "'/': a name of 0 bytes"),
        ([Node((b"..",), FILE)], "'/..': not a valid name"),
        ([Node((b"a/b",), FILE)], "'/a/b': not a valid name"),
        ([Node((b"a\0b",), FILE)], "not a valid name"),
        ([Node((b"f",), FILE), Node((b"f",), DIRECTORY)], "'/f': duplicate name"),
        ([Node((b"f",), 0o644)], "'/f': mode 0o644 has no file type"),
        ([Node((b"d",), DIRECTORY, link_group=1)], "'/d': a directory can have only one name"),
        ([Node((b"f",), FILE, size=-1)], "'/f': -1 bytes"),
        ([Node((b"f",), FILE, size=1 << 45)], "'/f': 35184372088832 bytes: a file can have at most 17592186040320"),
        ([Node((b"f",), FILE, size=5, segments=((0, 9000),))], "'/f': contents reach byte 9000, past its size of 5"),
        ([Node((b"f",), FILE, size=5, segments=((-4096, 4096),))], "'/f': contents of 4096 bytes at -4096"),
        ([Node((b"f",), FILE, unwritten=((0, 1 << 50),))], "out of range"),
        ([Node((b"f",), FILE, uid=1 << 32)], "'/f': owner, group and project"),
        ([Node((b"f",), FILE, generation=-1)], "'/f': mode, flags or generation"),
        ([Node((b"f",), FILE, mtime_ns=10**20)], "'/f': time out of ext4's range: 100000000000 seconds"),
        ([Node((b"l",), SYMLINK)], "'/l': a symlink's target of 0 bytes"),
        ([Node((b"l",), SYMLINK, target=b"x" * 4096)], "'/l': a symlink's target of 4096 bytes"),
        ([Node((b"l",), SYMLINK, target=b"x\0y")], "'/l': a symlink's target can have no NUL bytes"),
        ([Node((b"b",), 0o060644, rdev=(4096, 0))], "'/b': device 4096:0 is out of range"),
        ([Node((b"f",), FILE, xattrs={(1, b"a"): bytes(65537)})], "'/f': extended attribute b'a': 65537 bytes"),
        ([Node((b"f",), FILE, xattrs={(256, b"a"): b""})], "'/f': extended attribute b'a' of namespace 256"),
        ([Node((b"f",), FILE, xattrs={(7, b"data"): b""})], "'/f': system.data is not an attribute"),
        ([Node((b"f",), FILE, xattrs={(1, b"%0250d" % n): b"" for n in range(20)})], "the names of 20 extended"),
        ([Node((b"l",), SYMLINK, target=b"t", flags=0x10)], "'/l': only files and directories can be immutable"),
        ([Node((b"f",), FILE, flags=CASEFOLD_FL)], "'/f': only directories are case-insensitive"),
        ([Node((b"d",), DIRECTORY, flags=VERITY_FL)], "'/d': only regular files have verity"),
        # encryption
        ([Node((b"f",), FILE, flags=ENCRYPT_FL)], "'/f': encrypt flag and encryption context require each other"),
        ([Node((b"f",), FILE, xattrs={ENCRYPTION_CONTEXT: context()})], "require each other"),
        (
            [Node((b"f",), FILE, flags=ENCRYPT_FL, xattrs={ENCRYPTION_CONTEXT: b"\x02"})],
            "'/f': encryption context of version 2 has 1 bytes",
        ),
        ([Node((b"p",), 0o010644, flags=ENCRYPT_FL, xattrs={ENCRYPTION_CONTEXT: context()})], "'/p': special files"),
        ([ENCRYPTED, Node((b"e", b"short"), 0o010644)], "'/e/short': an encrypted name has at least 16 bytes"),
        ([ENCRYPTED, Node((b"e", CIPHER_NAME), FILE)], "not encrypted, but in an encrypted directory"),
        (
            [ENCRYPTED, Node((b"e", CIPHER_NAME), FILE, flags=ENCRYPT_FL, xattrs={ENCRYPTION_CONTEXT: context(key=8)})],
            "its encryption policy is not that of its directory",
        ),
        ([encrypted_file((b"f",), 5000, segments=((0, 5000),))], "'/f': encrypted contents of 5000 bytes at 0 do not"),
        (
            [Node((b"l",), SYMLINK, flags=ENCRYPT_FL, target=b"\x05\0xx", xattrs={ENCRYPTION_CONTEXT: context()})],
            "'/l': the encrypted target does not begin with its length",
        ),
        (
            [
                encrypted_directory((b"c",), flags=ENCRYPT_FL | CASEFOLD_FL),
                Node((b"c", CIPHER_NAME), 0o010644, name_hash=b""),
            ],
            "a name needs its hash",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_nodes_that_cannot_be(nodes: list[Node], message: str):
    assert message in refusal(nodes)


def test_the_root_is_not_encrypted_and_not_missing():
    with pytest.raises(BuildError, match="'/': special files and the root can't be encrypted"):
        plan([Node((), DIRECTORY, flags=ENCRYPT_FL, xattrs={ENCRYPTION_CONTEXT: context()})])
    with pytest.raises(BuildError, match="the tree has no root"):
        plan([])
    with pytest.raises(BuildError, match="must come first"):
        plan([Node((), FILE)])


def test_names_of_one_file_are_at_most_65000():
    nodes = [Node((b"%d" % n,), 0o010644, link_group=1) for n in range(65_001)]
    plan([ROOT, *nodes[:-1]])
    assert "'/65000': more than 65000 names of one file" in refusal(nodes)


@pytest.mark.parametrize(
    ("node", "feature"),
    [
        (Node((b"f",), FILE, project_id=5), "project"),
        (Node((b"d",), DIRECTORY, flags=CASEFOLD_FL), "casefold"),
        (Node((b"f",), FILE, flags=VERITY_FL), "verity"),
        (Node((b"f",), FILE, size=1 << 31, segments=()), "large_file"),
        (Node((b"f",), FILE, size=1 << 43, unwritten=((0, 1 << 43),)), "huge_file"),
        (encrypted_file((b"f",)), "encrypt"),
        (Node((b"f",), FILE, xattrs={(1, b"a"): bytes(5000)}), "ea_inode"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_features_are_set_where_needed_and_missed_where_refused(node: Node, feature: str):
    options = Options(size=9 << 40 if node.unwritten else None)
    assert feature in plan([ROOT, node], options).features.names
    message = refusal([node], features=(f"^{feature}",))
    assert f"'/{node.path[0].decode()}'" in message
    assert f"the feature {feature}, which was refused" in message


@pytest.mark.parametrize("feature", ["quota", "bigalloc", "meta_bg", "^extent", "^filetype", "mmp", "what"])
def test_features_that_are_not_written(feature: str):
    with pytest.raises(UnsupportedFeatureError) as caught:
        plan([ROOT], Options(features=(feature,)))
    assert caught.value.names == (feature.removeprefix("^"),)


@pytest.mark.parametrize(
    "options",
    [
        {"block_size": 512},
        {"block_size": 3000},
        {"inode_size": 200},
        {"inode_size": 8192},
        {"label": "seventeen letters"},
        {"hash_version": "md5"},
        {"hash_seed": b"short"},
        {"password_salt": b""},
        {"reserved_percent": 51},
        {"spare_percent": -1},
        {"bytes_per_inode": 1},
        {"size": 0},
        {"size": 4096},
        {"size": 100_000},
        {"size": 1 << 62},
        {"journal_size": 1 << 20},
        {"created_s": -1},
        {"size": 20 << 40, "features": ("^64bit",)},
    ],
)
def test_options_out_of_range(options: dict[str, object]):
    refusal([], **options)


def test_128_byte_inodes_hold_less():
    assert "a project needs inodes" in refusal([Node((b"f",), FILE, project_id=5)], inode_size=128)
    late = Node((b"f",), FILE, mtime_ns=(1 << 31) * 10**9)
    assert "'/f': a time after 2038" in refusal([late], inode_size=128)


def test_what_claims_to_be_enormous():
    nodes = [Node((b"%d" % n,), FILE, unwritten=((0, 15 << 40),)) for n in range(3)]
    assert "more than 16 TiB: so large a file system is only made if its size is given" in refusal(nodes)


# Inode numbers


def numbers(image: Path) -> dict[str, int]:
    with ext4img.open(image) as fs:
        return {str(path): inode.number for path, inode in fs.walk("/")}


def test_numbers_are_kept_when_asked(tmp_path: Path):
    nodes = [
        Node((), DIRECTORY, inode=2),
        Node((b"a",), FILE, inode=11),
        Node((b"b",), FILE, inode=40_000),
        Node((b"c",), FILE),
        Node((b"d",), FILE, inode=12, link_group=1),
        Node((b"e",), 0, link_group=1),
    ]
    build(tmp_path / "kept", nodes, Options(keep_inodes=True, created_s=CREATED_S))
    assert_clean(tmp_path / "kept")
    assert numbers(tmp_path / "kept") == {
        "/": 2,
        "/a": 11,
        "/b": 40_000,
        "/c": 13,
        "/d": 12,
        "/e": 12,
        "/lost+found": 14,
    }
    build(tmp_path / "new", nodes, Options(created_s=CREATED_S))
    assert numbers(tmp_path / "new") == {"/": 2, "/lost+found": 11, "/a": 12, "/b": 13, "/c": 14, "/d": 15, "/e": 15}


@pytest.mark.parametrize("flag", [IV_INO_LBLK_64, IV_INO_LBLK_32])
def test_numbers_on_which_ciphertext_hangs_are_always_kept(flag: int, tmp_path: Path):
    tied = context(flags=0x02 | flag)
    nodes = [
        ROOT,
        Node((b"e",), DIRECTORY, flags=ENCRYPT_FL, xattrs={ENCRYPTION_CONTEXT: tied}, inode=500),
        Node((b"e", CIPHER_NAME), FILE, flags=ENCRYPT_FL, xattrs={ENCRYPTION_CONTEXT: tied}, inode=12, size=10),
        Node((b"f",), FILE, inode=12),
    ]
    made = build(tmp_path / "i", nodes, Options(created_s=CREATED_S))
    assert "stable_inodes" in made.features.names
    assert_clean(tmp_path / "i")
    with ext4img.open(tmp_path / "i") as fs:
        assert fs.path("/e").inode.number == 500
        assert {path.inode.number for path in fs.path("/e").iterdir()} == {12}
        assert fs.path("/f").inode.number == 13
    assert "depends on the inode number, which is not given" in refusal([nodes[1]._replace(inode=None)])
    assert "stable_inodes, which was refused" in refusal([nodes[1]], features=("^stable_inodes",))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([Node((b"a",), FILE, inode=10)], "'/a': inode number 10 is reserved"),
        ([Node((b"a",), FILE, inode=0)], "'/a': 0 is not a valid inode number"),
        ([Node((b"a",), FILE, inode=1 << 32)], "'/a': 4294967296 is not a valid inode number"),
        ([Node((b"a",), FILE, inode=20), Node((b"b",), FILE, inode=20)], "'/b': inode number 20 is also that of '/a'"),
    ],
)
def test_numbers_that_cannot_be(nodes: list[Node], message: str):
    assert message in refusal(nodes, keep_inodes=True)


def test_of_two_with_one_number_the_second_can_be_left_out(tmp_path: Path):
    errors: list[BuildError] = []
    nodes = [ROOT, Node((b"a",), FILE, inode=20), Node((b"b",), DIRECTORY, inode=20), Node((b"c",), FILE, inode=21)]
    build(tmp_path / "i", nodes, Options(keep_inodes=True), on_refusal=errors.append)
    assert [str(error) for error in errors] == ["'/b': inode number 20 is also that of '/a'"]
    assert_clean(tmp_path / "i")
    assert numbers(tmp_path / "i") == {"/": 2, "/lost+found": 11, "/a": 20, "/c": 21}


def test_the_root_has_its_number():
    with pytest.raises(BuildError, match="the root has inode number 2, not 3"):
        plan([Node((), DIRECTORY, inode=3)], Options(keep_inodes=True))


def test_a_number_too_high_for_the_size():
    said = refusal([Node((b"a",), FILE, inode=1 << 30)], keep_inodes=True, size=64 << 20)
    assert said.startswith("'/a': ")
    assert "inodes are needed, more than" in said
    assert said.endswith("inode number 1073741824 must be kept")
