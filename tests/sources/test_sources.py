"""One suite for all sources: whatever bytes come from, the same reads give the same bytes."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ext4img
from ext4img.errors import ShortReadError, SourceError
from ext4img.sources import BytesSource, FileSource, SliceSource, Source, StreamSource, open_source
from tests.conftest import UnpackedImage

DATA = bytes(range(256)) * 40 + b"end"


class ShortReads(io.BytesIO):
    """A stream that never gives more than seven bytes at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(7 if size is None or size < 0 else min(size, 7))


def _file(directory: Path) -> Source:
    path = directory / "image"
    path.write_bytes(DATA)
    return FileSource(path)


def _descriptor(directory: Path) -> Source:
    path = directory / "image"
    path.write_bytes(DATA)
    return FileSource(os.open(path, os.O_RDONLY))


def _slice(directory: Path) -> Source:
    return SliceSource(BytesSource(b"before" + DATA + b"after"), 6, len(DATA))


MAKERS: dict[str, Callable[[Path], Source]] = {
    "file": _file,
    "descriptor": _descriptor,
    "bytes": lambda _: BytesSource(DATA),
    "bytearray": lambda _: BytesSource(bytearray(DATA)),
    "slice": _slice,
    "stream": lambda _: StreamSource(io.BytesIO(DATA)),
    "short reads": lambda _: StreamSource(ShortReads(DATA)),
}


@pytest.fixture(params=MAKERS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    with MAKERS[request.param](tmp_path) as made:
        yield made


def test_size(source: Source):
    assert source.size == len(DATA)


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (0, len(DATA)), (5, 4096), (len(DATA), 0), (len(DATA) - 3, 3)])
def test_reads_what_is_there(source: Source, offset: int, length: int):
    wanted = DATA[offset : offset + length]
    assert source.read_at(offset, length) == wanted
    buffer = bytearray(length)
    source.read_into(offset, memoryview(buffer))
    assert buffer == wanted


@pytest.mark.parametrize(("offset", "length"), [(len(DATA), 1), (len(DATA) - 1, 2), (1 << 60, 1), (0, len(DATA) + 1)])
def test_never_less_than_asked_for(source: Source, offset: int, length: int):
    with pytest.raises(ShortReadError, match="ends early"):
        source.read_at(offset, length)
    if length < 1 << 20:
        with pytest.raises(ShortReadError):
            source.read_into(offset, memoryview(bytearray(length)))


@given(st.lists(st.tuples(st.integers(0, len(DATA)), st.integers(0, 300)), max_size=20))
def test_order_of_reads_does_not_matter(reads: list[tuple[int, int]]):
    source = StreamSource(ShortReads(DATA))
    for offset, length in reads:
        if offset + length <= len(DATA):
            assert source.read_at(offset, length) == DATA[offset : offset + length]


def test_a_file_that_shrinks_is_a_short_read(tmp_path: Path):
    path = tmp_path / "image"
    path.write_bytes(DATA)
    with FileSource(path) as source:
        os.truncate(path, 100)
        with pytest.raises(ShortReadError):
            source.read_at(0, 200)


def test_closing_twice(source: Source):
    source.close()
    source.close()


def test_a_closed_file_says_so(tmp_path: Path):
    source = _file(tmp_path)
    source.close()
    with pytest.raises(SourceError, match="has been closed"):
        source.read_at(0, 1)


def test_a_view_closes_what_was_opened_for_it_alone(tmp_path: Path, fixture_image: Callable[[str], UnpackedImage]):
    image = fixture_image("plain-4k").path
    with FileSource(image) as source:
        ext4img.open(source).close()
        assert source.read_at(0, 1) is not None
    fs = ext4img.open(image)
    fs.close()
    fs.close()
    with pytest.raises(SourceError, match="has been closed"):
        list(fs.walk())


def test_what_the_caller_opened_stays_open():
    stream = io.BytesIO(DATA)
    open_source(stream).close()
    stream.seek(0)
    assert stream.read(1) == DATA[:1]


def test_no_image(tmp_path: Path):
    with pytest.raises(SourceError, match="No such file"):
        ext4img.open(tmp_path / "missing")
    with pytest.raises(SourceError, match="is a directory"):
        ext4img.open(tmp_path)
    with pytest.raises(SourceError, match="neither a regular file nor a block device"):
        ext4img.open("/dev/null")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SourceError, match="neither a regular file nor a block device"):
        ext4img.open(tmp_path / "fifo")
    with pytest.raises(SourceError):
        ext4img.open("nul\0in path")


def test_not_a_stream():
    with pytest.raises(SourceError, match="not a seekable binary file object"):
        open_source(object())  # type: ignore[arg-type]
    with Path(__file__).open(encoding="utf-8") as file:
        for text in (io.StringIO("text"), file):
            with pytest.raises(SourceError, match="a text file object; a binary one is needed"):
                ext4img.open(text)  # type: ignore[arg-type]


def test_offsets_outside():
    with pytest.raises(SourceError, match="outside"):
        open_source(DATA, len(DATA) + 1)
    with pytest.raises(SourceError, match="more than the"):
        open_source(DATA, 1, len(DATA))


def test_access_time_is_left_alone(tmp_path: Path):
    """O_NOATIME, where the file is ours: evidence is not touched."""
    path = tmp_path / "image"
    path.write_bytes(DATA)
    os.utime(path, ns=(1, 2))
    with FileSource(path) as source:
        source.read_at(0, 10)
    assert path.stat().st_atime_ns == 1


@pytest.mark.kernel
def test_block_device(tmp_path: Path):
    path = tmp_path / "image"
    path.write_bytes(DATA.ljust(16384, b"\0"))
    device = subprocess.run(
        ["losetup", "--find", "--show", "--read-only", path], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        with FileSource(device) as source:
            assert source.size == 16384
            assert source.read_at(1, 5000) == DATA[1:5001]
            with pytest.raises(ShortReadError):
                source.read_at(16384, 1)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
