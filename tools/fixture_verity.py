"""An image of fs-verity files that the kernel's configuration here can't make: tests/fs/vectors/verity.

    python -m tools.fixture_verity

Trees, descriptors and digests are those of the tool `fsverity` (fsverity-utils); mke2fs puts them
behind the contents, where ext4 has them, and debugfs sets size and flag.
"""

from __future__ import annotations

import json
import lzma
import os
import tempfile
import uuid
from pathlib import Path

from tools.fixture_tree import lines
from tools.loop_mount import run

TARGET = Path(__file__).parent.parent / "tests" / "fs" / "vectors" / "verity"
BLOCK = 4096
ALIGNMENT = 65536
SIGNATURE = b"not a real signature, and longer than what is left of a line"
# name: size, hash algorithm, block size, salt, signature
FILES = {
    "sha256": (300_000, "sha256", 4096, "", b""),
    "sha256-salted-1k": (300_001, "sha256", 1024, "00112233", b""),
    "sha512-1k": (300_000, "sha512", 1024, "", b""),
    "sha512-salted": (100_000, "sha512", 4096, "ff" * 32, b""),
    "empty": (0, "sha256", 4096, "", b""),
    "one-block": (17, "sha512", 4096, "aa", b""),
    "aligned-and-signed": (131_072, "sha256", 4096, "", SIGNATURE),
    # The descriptor fills its block but for 3 bytes: its size stands in a block of its own.
    "size-apart": (5000, "sha256", 4096, "", b"s" * (BLOCK - 256 - 3)),
}


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def make(scratch: Path) -> tuple[bytes, dict[str, object]]:
    """The image, and what is true of its files."""
    source = scratch / "source"
    source.mkdir()
    facts: dict[str, object] = {}
    requests: list[str] = []
    for name, (size, algorithm, block_size, salt, signature) in FILES.items():
        data = lines(name, size)
        (scratch / "data").write_bytes(data)
        options = [f"--hash-alg={algorithm}", f"--block-size={block_size}", *([f"--salt={salt}"] if salt else [])]
        out = [f"--out-merkle-tree={scratch / 'tree'}", f"--out-descriptor={scratch / 'descriptor'}"]
        told = run("fsverity", "digest", scratch / "data", *options, *out, "--compact").decode().strip()
        tree, descriptor = (scratch / "tree").read_bytes(), bytearray((scratch / "descriptor").read_bytes())
        descriptor[4:8] = len(signature).to_bytes(4, "little")
        descriptor += signature
        stored = bytearray(_round_up(size, ALIGNMENT))
        stored[:size] = data
        stored += tree
        stored += bytes(_round_up(len(stored), BLOCK) - len(stored)) + descriptor
        stored += bytes(_round_up(len(stored) + 4, BLOCK) - 4 - len(stored)) + len(descriptor).to_bytes(4, "little")
        (source / name).write_bytes(stored)
        requests += [f"set_inode_field {name} size {size}", f"set_inode_field {name} flags 0x00180000"]
        facts[name] = {"digest": told, "algorithm": algorithm, "block_size": block_size, "salt": salt, "size": size}
    image = scratch / "image"
    identity = uuid.uuid5(uuid.NAMESPACE_URL, "ext4img/verity")
    options = [
        "-t",
        "ext4",
        "-b",
        str(BLOCK),
        "-O",
        "verity,^has_journal,^resize_inode",
        "-N",
        "32",
        "-U",
        str(identity),
    ]
    run("mke2fs", "-q", "-F", *options, "-E", f"hash_seed={identity}", "-d", source, image, "4M")
    run("debugfs", "-w", "-f", "-", image, stdin="\n".join([*requests, ""]).encode())
    version = run("fsverity", "--version").decode().strip()
    origin = f"trees, descriptors and digests by {version}, put onto an image of mke2fs by tools/fixture_verity.py"
    return image.read_bytes(), {"origin": origin, "files": facts}


def main() -> None:
    """Write image and facts."""
    os.environ["E2FSPROGS_FAKE_TIME"] = "1750000000"
    with tempfile.TemporaryDirectory(prefix="ext4img-verity-") as scratch:
        image, facts = make(Path(scratch))
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.with_suffix(".img.xz").write_bytes(lzma.compress(image, preset=9 | lzma.PRESET_EXTREME))
    TARGET.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
