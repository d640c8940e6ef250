"""fs-verity: digests of the kernel (fixture `verity`) and of fsverity-utils (vectors), and files that were altered."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

import ext4img
from ext4img.structs.inode import EXT4_INODE, EXT4_VERITY_FL
from ext4img.structs.verity import FSVERITY_DESCRIPTOR
from tests.conftest import UnpackedImage

VECTORS = Path(__file__).parent / "vectors" / "verity.json"
FACTS = json.loads(VECTORS.read_text(encoding="utf-8"))["files"]
IMAGE = lzma.decompress(VECTORS.with_suffix(".img.xz").read_bytes())
BLOCK = 4096


@pytest.mark.parametrize("name", FACTS)
def test_digests_of_fsverity_utils(name: str):
    """SHA-256 and SHA-512, salts, trees of up to three levels in blocks of 1 and 4 KiB, signatures."""
    facts = FACTS[name]
    with ext4img.open(IMAGE) as fs:
        verity = fs.path(name).inode.verify_verity()
    assert verity is not None
    assert verity.digest.hex() == facts["digest"]
    assert (verity.algorithm, verity.block_size) == (facts["algorithm"], facts["block_size"])
    assert (verity.salt.hex(), verity.data_size) == (facts["salt"], facts["size"])
    assert len(verity.root_hash) == len(verity.digest)
    if name == "aligned-and-signed":
        assert verity.signature.startswith(b"not a real signature")


@pytest.fixture
def kernels(fixture_image: Callable[[str], UnpackedImage]) -> UnpackedImage:
    """Files whose digests the kernel measured, plain and encrypted, by Linux 6.1."""
    return fixture_image("verity")


def test_digests_of_the_kernel(kernels: UnpackedImage):
    with ext4img.open(kernels.path) as fs:
        kernels.manifest.add_keys_to(fs)
        seen = 0
        for entry in kernels.manifest.entries:
            inode = fs.path(entry["path"]).inode
            if "verity_digest" not in entry:
                assert inode.verity is None
                assert inode.verify_verity() is None
                continue
            verity = inode.verify_verity()
            assert verity is not None
            assert verity.digest.hex() == entry["verity_digest"]
            seen += 1
        assert seen > 5


def test_an_encrypted_descriptor_needs_the_key(kernels: UnpackedImage):
    with ext4img.open(kernels.path) as fs:
        encrypted = [e for e in kernels.manifest.entries if "verity_digest" in e and e["encrypted"]]
        assert encrypted
        for entry in encrypted:
            with pytest.raises(ext4img.NoKeyError):
                fs.path(entry["nokey_path"]).inode.verity  # noqa: B018


def altered(name: str, offset: int, new: bytes) -> bytes:
    """The image with `new` at byte `offset` of a file."""
    with ext4img.open(IMAGE) as fs:
        run = next(run for run in fs.path(name).inode.runs() if run.lblk <= offset // BLOCK < run.end)
    at = (run.pblk - run.lblk) * BLOCK + offset
    return IMAGE[:at] + new + IMAGE[at + len(new) :]


def descriptor_at(name: str) -> int:
    with ext4img.open(IMAGE) as fs:
        verity = fs.path(name).inode.verity
        assert verity is not None
        return verity.descriptor_offset


@pytest.mark.parametrize("name", ["sha256", "sha512-1k"])
@pytest.mark.parametrize("block", [0, 1, 17, -1])
def test_altered_contents_are_found(name: str, block: int):
    size, count = FACTS[name]["block_size"], -(-FACTS[name]["size"] // FACTS[name]["block_size"])
    offset = block % count * size
    with ext4img.open(altered(name, offset + 5, b"\xff")) as fs:
        inode = fs.path(name).inode
        assert inode.verity is not None  # nobody looked
        with pytest.raises(ext4img.CorruptionError, match=f"contents at byte {offset} of the file") as caught:
            inode.verify_verity()
        place = caught.value.place
        assert place.inode == inode.number
        run = next(run for run in inode.runs() if run.lblk <= offset // BLOCK < run.end)
        assert place.block == run.pblk + offset // BLOCK - run.lblk
        assert place.block is not None
        assert place.offset == place.block * BLOCK + offset % BLOCK


def test_bytes_past_the_end_do_not_count():
    """As for the kernel, which clears the last page behind the end."""
    with ext4img.open(altered("one-block", 17, b"garbage")) as fs:
        assert fs.path("one-block").inode.verify_verity() is not None


@pytest.mark.parametrize("level_block", range(22))
def test_altered_trees_are_found(level_block: int):
    """300,000 bytes in blocks of 1 KiB with SHA-512: levels of 1, 2 and 19 blocks behind the 64 KiB boundary."""
    offset = 327_680 + level_block * 1024
    with ext4img.open(altered("sha512-1k", offset + 1, b"\xa5\x5a")) as fs:
        inode = fs.path("sha512-1k").inode
        with pytest.raises(ext4img.CorruptionError, match=f"tree nodes at byte {offset} "):
            inode.verify_verity()


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("version", b"\2", ext4img.CorruptionError),
        ("hash_algorithm", b"\3", ext4img.UnsupportedFeatureError),
        ("log_blocksize", b"\xff", ext4img.CorruptionError),
        ("log_blocksize", b"\0", ext4img.CorruptionError),
        ("salt_size", b"\x21", ext4img.CorruptionError),
        ("sig_size", b"\x01\0\0\0", ext4img.CorruptionError),
        ("data_size", b"\xff\xff\xff\xff\xff\xff\xff\x7f", ext4img.CorruptionError),
        ("reserved", b"\x01", ext4img.CorruptionError),
    ],
)
def test_impossible_descriptors(field: str, value: bytes, error: type[Exception]):
    at = descriptor_at("sha256") + FSVERITY_DESCRIPTOR.offset_of(field)
    with ext4img.open(altered("sha256", at, value)) as fs:
        with pytest.raises(error, match=field if error is ext4img.CorruptionError else "hash algorithm 3"):
            fs.path("sha256").inode.verity  # noqa: B018
        assert len(fs.path("sha256").read_bytes()) == FACTS["sha256"]["size"]


@pytest.mark.parametrize("field", ["root_hash", "salt_size"])
def test_another_descriptor(field: str):
    at = descriptor_at("sha256") + FSVERITY_DESCRIPTOR.offset_of(field)
    with ext4img.open(altered("sha256", at, b"\1")) as fs:
        verity = fs.path("sha256").inode.verity
        assert verity is not None
        assert verity.digest.hex() != FACTS["sha256"]["digest"]
        with pytest.raises(ext4img.CorruptionError, match="tree nodes at byte 327680 "):
            fs.path("sha256").inode.verify_verity()


@pytest.mark.parametrize("size", [0, 255, 16385, 0xFFFFFFFF, 5000])
def test_impossible_sizes_of_descriptors(size: int):
    end = descriptor_at("sha256") + BLOCK
    with ext4img.open(altered("sha256", end - 4, size.to_bytes(4, "little"))) as fs:
        inode = fs.path("sha256").inode
        with pytest.raises(ext4img.CorruptionError, match=r"verity descriptor|impossible"):
            inode.verity  # noqa: B018


def with_inode(name: str, **fields: int) -> bytes:
    """The image with other values in the name's inode (its checksum then is wrong)."""
    with ext4img.open(IMAGE) as fs:
        place = fs.volume.inodes.place(fs.path(name).inode.number)
        raw = bytearray(fs.volume.inodes.raw(fs.path(name).inode.number))
    assert place.offset is not None
    for field, value in fields.items():
        span = EXT4_INODE.span(field)
        raw[span.offset : span.offset + span.size] = value.to_bytes(span.size, "little")
    return IMAGE[: place.offset] + bytes(raw) + IMAGE[place.offset + len(raw) :]


def test_inodes_that_cannot_have_verity():
    for fields in (
        {"i_flags": EXT4_VERITY_FL},  # no extents
        {"i_size_lo": 400_000},  # the end lies behind the descriptor's place
        {"i_size_high": 0x7FFFFFFF},
    ):
        with ext4img.open(with_inode("sha256", **fields), checks="off") as fs:
            inode = fs.path("sha256").inode
            with pytest.raises(ext4img.CorruptionError):
                inode.verity  # noqa: B018


def test_a_hostile_size_is_refused_before_anything_is_hashed():
    """The descriptor agrees with an inode of 300 TB, but no tree for that lies before it."""
    with ext4img.open(with_inode("sha256", i_size_high=0), checks="off") as fs:
        assert fs.path("sha256").inode.verify_verity() is not None
    huge = 300 << 40
    data = with_inode("empty", i_size_lo=huge & 0xFFFFFFFF, i_size_high=huge >> 32)
    with ext4img.open(data, checks="off") as fs, pytest.raises(ext4img.CorruptionError, match="descriptor"):
        fs.path("empty").inode.verify_verity()


def test_plain_files_and_directories_have_none(fixture_image: Callable[[str], UnpackedImage]):
    with ext4img.open(fixture_image("plain-4k").path) as fs:
        assert all(inode.verity is None for _, inode in fs.walk())
