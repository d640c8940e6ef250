"""What is measured: one function a workload and reader, each run in a process of its own.

`python -m tools.bench.workloads NAME READER IMAGE` does the work once and prints what it counted,
so that two readers that did not do the same work are seen.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from collections.abc import Callable
from typing import Any

LOOKUPS = 20_000
RANDOM_READS = 20_000
READ_BYTES = 4096
CHUNK = 1 << 20
CIPHER_CHUNKS = 256
CIPHER_DIRECTORIES = 50
WORK: dict[tuple[str, str], Callable[[str], object]] = {}
Work = Callable[[str], object]


def workload(name: str, reader: str) -> Callable[[Work], Work]:
    """Enter a function under the name of its workload and of who does it."""

    def enter(function: Work) -> Work:
        WORK[name, reader] = function
        return function

    return enter


# ext4img


@workload("paths", "ext4img")
def _(image: str) -> object:
    import ext4img

    with ext4img.open(image) as fs:
        return sum(1 for _ in fs.paths())


@workload("attributes", "ext4img")
def _(image: str) -> object:
    import ext4img

    count = 0
    with ext4img.open(image) as fs:
        for path, i in fs.walk():
            _ = (
                str(path), i.number, i.mode, i.size, i.uid, i.gid, i.links, i.flags, i.generation,
                i.atime_ns, i.mtime_ns, i.ctime_ns, i.crtime_ns, i.xattrs(),
            )  # fmt: skip
            count += 1
    return count


@workload("scan", "ext4img")
def _(image: str) -> object:
    import ext4img

    with ext4img.open(image) as fs:
        return sum(1 for _ in fs.volume.inodes.scan())


def _sample_paths(image: str, most: int = LOOKUPS) -> list[str]:
    """The paths that the kernel's find gave, shuffled."""
    with open(f"{image.removesuffix('.img')}.sample", encoding="utf-8") as file:
        return file.read().splitlines()[:most]


@workload("columns", "ext4img")
def _(image: str) -> object:
    import ext4img

    with ext4img.open(image) as fs:
        return sum(int(arrays.in_use.sum()) for arrays in fs.volume.inodes.arrays())


@workload("lookups", "ext4img")
def _(image: str) -> object:
    import ext4img

    paths = _sample_paths(image)
    with ext4img.open(image) as fs:
        begun = time.perf_counter()
        numbers = sum(fs.path(path).inode.number for path in paths)
        return _each(begun, len(paths), numbers)


@workload("read all", "ext4img")
def _(image: str) -> object:
    import ext4img

    with ext4img.open(image) as fs:
        return sum(len(path.read_bytes()) for path, inode in fs.walk() if inode.is_file)


@workload("random reads", "ext4img")
def _(image: str) -> object:
    import ext4img

    with ext4img.open(image) as fs:
        file = fs.path("/many").open("rb")
        offsets = _offsets(file.size)
        begun = time.perf_counter()
        total = sum(len(file.pread(offset, READ_BYTES)) for offset in offsets)
        return _each(begun, len(offsets), total)


@workload("20,000 extents", "ext4img")
def _(image: str) -> object:
    return _ext4img_whole(image, "/many")


@workload("few extents", "ext4img")
def _(image: str) -> object:
    return _ext4img_whole(image, "/few")


def _ext4img_whole(image: str, path: str) -> object:
    import ext4img

    with ext4img.open(image) as fs:
        begun = time.perf_counter()
        file = fs.path(path).open("rb")
        buffer = memoryview(bytearray(CHUNK))
        total = 0
        while got := file.readinto(buffer):
            total += got
        return _rate(begun, total)


@workload("decrypt", "ext4img")
def _(image: str) -> object:
    import ext4img
    from tools.bench.images import KEY

    with ext4img.open(image) as fs:
        fs.add_key(KEY)
        file = fs.path("/secret/large.bin").open("rb")
        buffer = memoryview(bytearray(CHUNK))
        total = 0
        begun = time.perf_counter()
        while got := file.readinto(buffer):
            total += got
        return _rate(begun, total)


@workload("names", "ext4img")
def _(image: str) -> object:
    import ext4img
    from tools.bench.images import KEY

    with ext4img.open(image) as fs:
        fs.add_key(KEY)
        begun = time.perf_counter()
        count = sum(1 for _ in fs.paths("/secret/names"))
        return f"{count / (time.perf_counter() - begun):,.0f} names/s"


def _under(pair: tuple[int, int]) -> tuple[Any, Any]:
    """The ciphers of contents and names under a version 2 policy of these two modes."""
    from ext4img.crypto.keyring import Keyring
    from ext4img.crypto.policy import Policy, build_context, parse_context

    keyring = Keyring()
    key = keyring.add(hashlib.sha512(b"ext4img bench ciphers").digest())
    context = parse_context(build_context(Policy(2, *pair, 2, key.identifier), bytes(range(16))))
    contents = keyring.contents_cipher(context, 12, bytes(16), 4096)
    return contents, keyring.names_cipher(context, 12, bytes(16))


def _contents_of(pair: tuple[int, int]) -> Work:
    def run(_: str) -> object:
        contents = _under(pair)[0]
        buffer = memoryview(bytearray(CHUNK))
        total = 0
        begun = time.perf_counter()
        for chunk in range(CIPHER_CHUNKS):
            contents.decrypt_into(buffer, chunk * (CHUNK // 4096), buffer)
            total += len(buffer)
        return _rate(begun, total)

    return run


def _names_of(pair: tuple[int, int]) -> Work:
    def run(_image: str) -> object:
        names = _under(pair)[1]
        stored = [hashlib.sha256(b"%d" % number).digest()[: 16 + number % 2 * 16] for number in range(1000)]
        names.decrypt(stored)
        begun = time.perf_counter()
        for _ in range(CIPHER_DIRECTORIES):
            names.decrypt(stored)
        return f"{CIPHER_DIRECTORIES * len(stored) / (time.perf_counter() - begun):,.0f} names/s"

    return run


PAIRS: tuple[tuple[tuple[int, int], str, str], ...] = (
    ((1, 4), "AES-256-XTS", "AES-256-CTS"),
    ((5, 6), "AES-128-CBC-ESSIV", "AES-128-CTS"),
    ((9, 9), "Adiantum", "Adiantum"),
    ((1, 10), "", "AES-256-HCTR2"),
    ((7, 8), "SM4-XTS", "SM4-CTS"),
)
for _pair, _contents, _names in PAIRS:
    if _contents:
        WORK["contents", _contents] = _contents_of(_pair)
    WORK["names", _names] = _names_of(_pair)


# pytsk3


def _tsk(image: str) -> Any:
    import pytsk3

    return pytsk3.FS_Info(pytsk3.Img_Info(image))


@workload("attributes", "pytsk3")
def _(image: str) -> object:
    import pytsk3

    count = 0
    stack = [("", _tsk(image).open_dir("/"))]
    while stack:
        prefix, directory = stack.pop()
        for entry in directory:
            name = entry.info.name.name
            m = entry.info.meta
            if name in (b".", b"..") or m is None:
                continue
            path = prefix + "/" + name.decode("utf-8", "surrogateescape")
            _ = (
                path, m.addr, m.mode, m.size, m.uid, m.gid, m.nlink, m.flags, m.atime, m.atime_nano, m.mtime,
                m.mtime_nano, m.ctime, m.ctime_nano, m.crtime, m.crtime_nano,
            )  # fmt: skip
            count += 1
            if m.type == pytsk3.TSK_FS_META_TYPE_DIR and name != b"$OrphanFiles":
                stack.append((path, entry.as_directory()))
    return count


@workload("lookups", "pytsk3")
def _(image: str) -> object:
    paths = _sample_paths(image, 1000)
    fs = _tsk(image)
    begun = time.perf_counter()
    numbers = sum(fs.open(path).info.meta.addr for path in paths)
    return _each(begun, len(paths), numbers)


@workload("random reads", "pytsk3")
def _(image: str) -> object:
    file = _tsk(image).open("/many")
    offsets = _offsets(file.info.meta.size)
    begun = time.perf_counter()
    total = sum(len(file.read_random(offset, READ_BYTES)) for offset in offsets)
    return _each(begun, len(offsets), total)


# libfsext


def _libfsext(image: str) -> Any:
    import pyfsext

    volume = pyfsext.volume()
    volume.open(image)
    return volume


@workload("attributes", "libfsext")
def _(image: str) -> object:
    count = 0
    volume = _libfsext(image)
    stack = [("", volume.get_root_directory())]
    while stack:
        prefix, directory = stack.pop()
        for entry in directory.sub_file_entries:
            path = f"{prefix}/{entry.name}"
            mode = entry.file_mode
            _ = (
                path, entry.inode_number, mode, entry.size, entry.owner_identifier, entry.group_identifier,
                entry.number_of_links, entry.get_access_time_as_integer(), entry.get_modification_time_as_integer(),
                entry.get_inode_change_time_as_integer(), entry.get_creation_time_as_integer(),
            )  # fmt: skip
            count += 1
            if mode & 0xF000 == 0x4000:
                stack.append((path, entry))
    return count


@workload("lookups", "libfsext")
def _(image: str) -> object:
    paths = _sample_paths(image, 2000)
    volume = _libfsext(image)
    begun = time.perf_counter()
    numbers = sum(volume.get_file_entry_by_path(path).inode_number for path in paths)
    return _each(begun, len(paths), numbers)


@workload("random reads", "libfsext")
def _(image: str) -> object:
    file = _libfsext(image).get_file_entry_by_path("/many")
    offsets = _offsets(file.size)
    begun = time.perf_counter()
    total = sum(len(file.read_buffer_at_offset(READ_BYTES, offset)) for offset in offsets)
    return _each(begun, len(offsets), total)


@workload("read all", "libfsext")
def _(image: str) -> object:
    total = 0
    stack = [_libfsext(image).get_root_directory()]
    while stack:
        for entry in stack.pop().sub_file_entries:
            kind = entry.file_mode & 0xF000
            if kind == 0x4000:
                stack.append(entry)
            elif kind == 0x8000:
                while part := entry.read_buffer(CHUNK):
                    total += len(part)
    return total


# dissect.extfs


@workload("attributes", "dissect.extfs")
def _(image: str) -> object:
    from dissect.extfs import ExtFS

    count = 0
    with open(image, "rb") as file:
        stack = [("", ExtFS(file).get("/"))]
        while stack:
            prefix, directory = stack.pop()
            for name, inode in directory.listdir().items():
                if name in (".", ".."):
                    continue
                path = f"{prefix}/{name}"
                _ = (path, inode.inum, inode.inode.i_mode, inode.size, inode.atime_ns, inode.mtime_ns, inode.ctime_ns)
                count += 1
                if inode.inode.i_mode & 0xF000 == 0x4000:
                    stack.append((path, inode))
    return count


# The kernel, on a directory where the image is mounted


@workload("read all", "kernel")
def _(mount: str) -> object:
    import os

    total = 0
    for directory, _, files in os.walk(mount):
        for name in files:
            with open(os.path.join(directory, name), "rb", buffering=0) as file:
                while part := file.read(CHUNK):
                    total += len(part)
    return total


@workload("decrypt", "kernel")
def _(mount: str) -> object:
    total = 0
    buffer = bytearray(CHUNK)
    begun = time.perf_counter()
    with open(f"{mount}/secret/large.bin", "rb", buffering=0) as file:
        while got := file.readinto(buffer):
            total += got
    return _rate(begun, total)


# The limit


@workload("decrypt", "one context per unit")
def _(image: str) -> object:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = hashlib.sha512(b"any").digest()
    data = bytes(4096)
    begun = time.perf_counter()
    total = 0
    for number in range(16384):
        decryptor = Cipher(algorithms.AES(key), modes.XTS(number.to_bytes(16, "little"))).decryptor()
        total += len(decryptor.update(data))
    return _rate(begun, total)


def _offsets(size: int) -> list[int]:
    random.seed(2)
    return [random.randrange(size // READ_BYTES) * READ_BYTES for _ in range(RANDOM_READS)]


def _each(begun: float, count: int, seen: int) -> str:
    return f"{(time.perf_counter() - begun) / count * 1e6:.1f} us each ({seen})"


def _rate(begun: float, total: int) -> str:
    return f"{total / (time.perf_counter() - begun) / 1e6:,.0f} MB/s"


if __name__ == "__main__":
    print(WORK[sys.argv[1], sys.argv[2]](sys.argv[3]))
