"""Small files are read together, and each bad block is still its own file's."""

from __future__ import annotations

import io
from collections.abc import Callable

import ext4img
from ext4img import Archive, backup
from ext4img.archiver.read_ahead import WINDOW_BYTES, ReadAhead, ReadBatch
from ext4img.sources import BytesSource
from ext4img.volume.blocks import BlockReader
from tests.conftest import UnpackedImage
from tests.faulty_source import FaultySource

BLOCK = 4096
DATA = bytes(index * 7 & 0xFF for index in range(BLOCK)) * 64


class Counting(BytesSource):
    """Counts the reads."""

    _reads = 0

    def counted(self) -> int:
        return self._reads

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._reads += 1
        super().read_into(offset, buffer)


def test_neighbours_are_one_read():
    source = Counting(DATA)
    ahead = ReadAhead(BlockReader(source, BLOCK, 64))
    extents = [(20 * BLOCK, 100), (3 * BLOCK, BLOCK), (4 * BLOCK, 5000), (50 * BLOCK, 17), (3 * BLOCK, 12)]
    window = ReadBatch(ahead, extents)
    assert source.counted() == 0
    for offset, length in extents:
        assert bytes(window.get((offset, length)) or b"") == DATA[offset : offset + length]
    assert source.counted() == 3


def test_a_bad_block_leaves_the_others_to_be_read_alone():
    source = FaultySource(BytesSource(DATA), [(5 * BLOCK, 5 * BLOCK + 1)])
    ahead = ReadAhead(BlockReader(source, BLOCK, 64))
    found = ahead.read([(4 * BLOCK, 10), (5 * BLOCK, 10), (40 * BLOCK, 10)])
    assert found.keys() == {(40 * BLOCK, 10)}


def test_what_lies_outside_the_volume_is_left_to_who_reads_it_alone():
    ahead = ReadAhead(BlockReader(BytesSource(DATA), BLOCK, 64))
    assert ahead.read([(63 * BLOCK, 2 * BLOCK)]) == {}


def test_more_than_fits_is_not_read():
    blocks = 2 * WINDOW_BYTES // BLOCK
    ahead = ReadAhead(BlockReader(BytesSource(bytes(blocks * BLOCK)), BLOCK, blocks))
    extents = [(start, 60_000) for start in range(0, 2 * WINDOW_BYTES - 60_000, 60_000)]
    found = ahead.read(extents)
    assert 0 < sum(map(len, found.values())) <= WINDOW_BYTES


def test_the_last_window_stays_while_the_next_is_read():
    ahead = ReadAhead(BlockReader(BytesSource(DATA), BLOCK, 64))
    first, second = ReadBatch(ahead, [(BLOCK, 100)]), ReadBatch(ahead, [(9 * BLOCK + 1, 100)])
    kept = first.get((BLOCK, 100))
    second.get((9 * BLOCK + 1, 100))
    assert bytes(kept or b"") == DATA[BLOCK : BLOCK + 100]


def test_each_bad_block_is_its_own_files(fixture_image: Callable[[str], UnpackedImage]):
    """One small file after the other has a bad block; all others in the backup are whole."""
    image = BytesSource(fixture_image("plain-4k").path.read_bytes())
    with ext4img.open(image) as fs:
        small = [
            (bytes(path).lstrip(b"/"), inode.runs()[0].pblk * fs.block_size, inode.size)
            for path, inode in fs.walk("/")
            if inode.is_file and inode.links == 1 and 0 < inode.size <= fs.block_size and len(inode.runs()) == 1
        ]
        sound = archived(fs)
    assert len(small) > 20
    for path, start, size in small[:20]:
        bad = FaultySource(image, [(start, start + 1)])
        with ext4img.open(bad, checks="report") as fs:
            found = archived(fs)
            assert len(fs.problems) == 1
        body, unreadable = found.pop(path)
        assert unreadable == ((0, size),)
        assert body == bytes(size)
        assert found == {other: facts for other, facts in sound.items() if other != path}


def archived(fs: ext4img.FileSystem) -> dict[bytes, tuple[bytes, tuple[tuple[int, int], ...]]]:
    """Contents and unreadable parts of all files in a backup."""
    output = io.BytesIO()
    backup(fs, output)
    with Archive(io.BytesIO(output.getvalue())) as archive:
        return {
            member.entry.path: (b"".join(bytes(part) for _, part in member.chunks()), member.unreadable)
            for member in archive
        }
