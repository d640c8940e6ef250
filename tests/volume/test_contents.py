"""Contents through runs: any range of any mapping is what a block-by-block reader makes of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ext4img.errors import SourceError
from ext4img.sources import BytesSource
from ext4img.volume.blocks import BlockReader
from ext4img.volume.contents import Contents
from ext4img.volume.problems import Problems
from ext4img.volume.runs import LOST, UNWRITTEN, WRITTEN, Run

SIZE = 1024
BLOCKS = 200
IMAGE = b"".join(bytes((number,)) * SIZE for number in range(BLOCKS))
# Gap before it in the file, length, how far behind the last one on the disk, state.
pieces = st.tuples(
    st.integers(0, 3), st.integers(1, 9), st.integers(-20, 40), st.sampled_from([WRITTEN, WRITTEN, UNWRITTEN, LOST])
)


def runs_of(made: list[tuple[int, int, int, int]]) -> tuple[Run, ...]:
    runs = []
    lblk, pblk = 0, 20
    for gap, length, jump, state in made:
        lblk += gap
        pblk = (pblk + jump) % (BLOCKS - 10)
        runs.append(Run(lblk, 0 if state == LOST else pblk, length, state))
        lblk, pblk = lblk + length, pblk + length
    return tuple(runs)


def block_by_block(runs: tuple[Run, ...], bad: set[int], size: int) -> bytes:
    plain = bytearray(size + 16 * SIZE)
    for run in runs:
        for at in range(run.length if run.state == WRITTEN else 0):
            if run.pblk + at not in bad and (run.lblk + at) * SIZE < size:
                start = (run.lblk + at) * SIZE
                plain[start : start + SIZE] = bytes((run.pblk + at,)) * SIZE
    return bytes(plain[:size])


class WithBadBlocks(BytesSource):
    """An image in which some blocks cannot be read."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__(IMAGE)
        self._bad = bad

    def read_at(self, offset: int, length: int) -> bytes:
        if any(offset < (block + 1) * SIZE and block * SIZE < offset + length for block in self._bad):
            raise SourceError("unreadable")
        return super().read_at(offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.read_at(offset, len(buffer))


@given(
    st.lists(pieces, max_size=12),
    st.integers(0, 150 * SIZE),
    st.lists(st.tuples(st.integers(0, 150 * SIZE), st.integers(0, 150 * SIZE)), min_size=1, max_size=5),
    st.sets(st.integers(0, BLOCKS - 1), max_size=2),
)
def test_any_range_of_any_mapping(
    made: list[tuple[int, int, int, int]], size: int, ranges: list[tuple[int, int]], bad: set[int]
):
    runs = runs_of(made)
    contents = Contents(BlockReader(WithBadBlocks(bad), SIZE, BLOCKS), Problems("report"), 12, runs, size)
    expected = block_by_block(runs, bad, size)
    for offset, length in ranges:
        assert contents.read(offset, length) == expected[offset : offset + length]
        buffer = memoryview(bytearray(b"\xee" * length))
        got = contents.read_into(offset, buffer)
        assert bytes(buffer[:got]) == expected[offset : offset + length]


@given(st.lists(pieces, max_size=12))
def test_what_is_lost_is_told(made: list[tuple[int, int, int, int]]):
    runs = runs_of(made)
    size = (runs[-1].end if runs else 0) * SIZE
    contents = Contents(BlockReader(BytesSource(IMAGE), SIZE, BLOCKS), Problems("report"), 12, runs, size)
    told = contents.read_stored_into(0, memoryview(bytearray(size)))
    assert told == [(run.lblk * SIZE, run.length * SIZE) for run in runs if run.state == LOST]
