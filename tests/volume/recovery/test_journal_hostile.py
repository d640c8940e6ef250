"""Journals made to attack: only Ext4Error comes out, in bounded time, whatever the bytes are."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext4img.errors import Ext4Error
from ext4img.sources import BytesSource
from ext4img.structs.journal import JBD2_MAGIC_NUMBER, JOURNAL_HEADER
from ext4img.volume.problems import Problems
from ext4img.volume.recovery.journal import JournalCompat, JournalIncompat, read_journal_superblock
from ext4img.volume.recovery.journal_replay import replay_journal
from ext4img.volume.volume import Volume
from tests.volume.recovery.journal_log import Log

FORMATS = [
    {},
    {"version": 1},
    {"compat": JournalCompat.CHECKSUM, "incompat": JournalIncompat.ASYNC_COMMIT},
    {"incompat": JournalIncompat.CSUM_V2 | JournalIncompat.BIT64},
    {"incompat": JournalIncompat.CSUM_V3 | JournalIncompat.BIT64 | JournalIncompat.REVOKE},
    {"incompat": JournalIncompat.BIT64 | JournalIncompat.FAST_COMMIT, "fast_commit_blocks": 8},
]
CHECKS = ("strict", "report", "off")


def full_log(form: dict) -> Log:
    log = Log(blocks=64, start=40, **form)
    log.transaction({number: b"%d" % number for number in range(1, 9)}, per_descriptor=3)
    log.transaction({3: b"three", 20: b"twenty"}, revoked=[4, 5])
    log.transaction({21: b"more"})
    log.transaction({22: b"torn"}, committed=False)
    return log


changes = st.lists(st.tuples(st.integers(0, 63), st.integers(0, 1023), st.integers(0, 255)), min_size=1, max_size=12)
headers = st.lists(
    st.tuples(st.integers(0, 63), st.integers(0, 7), st.integers(8, 16), st.integers(0, 0xFFFFFFFF)), max_size=8
)


@settings(max_examples=300, deadline=None)
@given(form=st.sampled_from(FORMATS), checks=st.sampled_from(CHECKS), changes=changes, headers=headers)
def test_mutated_logs(form, checks, changes, headers):
    log = full_log(form)
    for index, offset, byte in changes:
        log.blocks[index][offset] = byte
    for index, kind, sequence, word in headers:
        log.blocks[index][:16] = JOURNAL_HEADER.pack((JBD2_MAGIC_NUMBER, kind, sequence)) + word.to_bytes(4, "big")
    journal = log.journal(own=range(50, 60))
    problems = Problems(checks)
    try:
        superblock = read_journal_superblock(journal, problems)
        done = replay_journal(journal, superblock, 100, problems)
    except Ext4Error:
        return
    assert all(pblk < 100 and not 50 <= pblk < 60 for pblk in done.overlay)
    assert len(done.overlay) <= 64
    for pblk in done.overlay:
        assert len(done.overlay[pblk]) == 1024
    assert journal.reads < 2000


@settings(max_examples=200, deadline=None)
@given(blocks=st.lists(st.binary(max_size=64), max_size=20), form=st.sampled_from(FORMATS), start=st.integers(0, 70))
def test_logs_of_anything(blocks, form, start):
    log = Log(blocks=64, **form)
    log.change_superblock(s_start=start)
    for data in blocks:
        log.put(log.header(len(data) % 6) + data)
    problems = Problems("report")
    journal = log.journal()
    done = replay_journal(journal, read_journal_superblock(journal, problems), 1000, problems)
    assert len(done.overlay) <= 64


def look_at(image: bytes, checks) -> None:
    """Open, list everything two levels deep, and read the beginnings of all files."""
    volume = Volume(BytesSource(image, "mutated"), checks=checks)
    seen = {2}
    directories = [2]
    while directories and len(seen) < 2000:
        inode = volume.inode(directories.pop())
        if not inode.is_dir:
            continue
        for entry in volume.directory(inode):
            if entry.inode in seen:
                continue
            seen.add(entry.inode)
            try:
                child = volume.inode(entry.inode)
                volume.xattrs(child)
                if child.is_dir:
                    directories.append(child.number)
                elif child.is_file:
                    volume.contents(child).read(0, 10_000)
            except Ext4Error:
                continue


@pytest.mark.parametrize("name", ["ext4-dirty", "ext4-fast-commit", "ext4-orphans"])
def test_mutated_images(fixture_image, name):
    """Bytes and words changed in the journal and in what recovery reads, with a fixed seed."""
    image = fixture_image(name).path.read_bytes()
    volume = Volume(BytesSource(image, name))
    block_size = volume.block_size
    journal_runs = volume.runs(volume.inode(volume.superblock.journal_inode))
    places = [pblk for run in journal_runs for pblk in range(run.pblk, run.pblk + min(run.length, 400))]
    places = [pblk for pblk in places if any(image[pblk * block_size : (pblk + 1) * block_size])]
    places += [block for block in range(64) if any(image[block * block_size : (block + 1) * block_size])]
    chance = random.Random(name)
    for _ in range(150):
        mutated = bytearray(image)
        for _ in range(chance.randint(1, 4)):
            at = chance.choice(places) * block_size + min(int(chance.expovariate(1 / 100)), block_size - 4)
            word = chance.choice([0, 1, 0xFFFF, 0xFFFFFFFF, 0x80000000, chance.getrandbits(32), chance.getrandbits(8)])
            if chance.random() < 0.5:
                mutated[at] ^= 1 << chance.randrange(8)
            else:
                mutated[at : at + 4] = word.to_bytes(4, chance.choice(["little", "big"]))
        try:
            look_at(bytes(mutated), chance.choice(CHECKS))
        except Ext4Error:
            continue
