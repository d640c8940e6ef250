"""The three passes over logs made here, and over the kernel's rules for damage."""

from __future__ import annotations

import pytest

from ext4img.errors import ChecksumError, CorruptionError
from ext4img.structs.journal import JBD2_FLAG_DELETED, JBD2_MAGIC_BYTES
from ext4img.volume.problems import Checks, Problems
from ext4img.volume.recovery import journal_checksum
from ext4img.volume.recovery.journal import JournalCompat, JournalIncompat, read_journal_superblock
from ext4img.volume.recovery.journal_replay import replay_journal
from ext4img.volume.recovery.recovery_report import Replay
from ext4img.volume.recovery.revoke import follows
from tests.volume.recovery.journal_log import Log, MemoryJournal

VOLUME_BLOCKS = 1 << 40
V1, V2, V3 = JournalCompat.CHECKSUM, JournalIncompat.CSUM_V2, JournalIncompat.CSUM_V3
WIDE = JournalIncompat.BIT64
REVOKE = JournalIncompat.REVOKE
ASYNC = JournalIncompat.ASYNC_COMMIT
FORMATS = {
    "superblock-v1": {"version": 1},
    "plain": {},
    "64bit": {"incompat": WIDE},
    "checksum-v1": {"compat": V1},
    "checksum-v1-64bit": {"compat": V1, "incompat": WIDE},
    "checksum-v2": {"incompat": V2},
    "checksum-v2-64bit": {"incompat": V2 | WIDE},
    "checksum-v3": {"incompat": V3},
    "checksum-v3-64bit": {"incompat": V3 | WIDE},
}
by_format = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)


def replay(journal: MemoryJournal, checks: Checks = "strict", volume_blocks: int = VOLUME_BLOCKS) -> Replay:
    problems = Problems(checks)
    return replay_journal(journal, read_journal_superblock(journal, problems), volume_blocks, problems)


def shown(log: Log, checks: Checks = "strict") -> dict[int, bytes]:
    """What the overlay holds, without the zeros at the end of each block."""
    return {pblk: block.rstrip(b"\0") for pblk, block in replay(log.journal(), checks).overlay.items()}


def reported(log: Log | MemoryJournal, volume_blocks: int = VOLUME_BLOCKS) -> tuple[Replay, list[str]]:
    """A replay that goes on around damage, and what it says of it; the strict one must raise."""
    journal = log.journal() if isinstance(log, Log) else log
    with pytest.raises(CorruptionError):
        replay(journal, "strict", volume_blocks)
    problems = Problems("report")
    superblock = read_journal_superblock(journal, problems)
    done = replay_journal(journal, superblock, volume_blocks, problems)
    assert not done.complete
    assert problems
    return done, [problem.reason for problem in problems]


# What is sound


@by_format
def test_later_transactions_win(form):
    log = Log(**form)
    log.transaction({5: b"five", 6: b"six", 7: b"seven"})
    log.transaction({6: b"six again", 8: b"eight"})
    log.transaction({5: b"five at last"})
    assert shown(log) == {5: b"five at last", 6: b"six again", 7: b"seven", 8: b"eight"}
    done = replay(log.journal())
    assert (done.transactions, done.blocks, done.replaced) == (3, 6, 4)
    assert (done.first_sequence, done.end_sequence) == (10, 13)
    assert (done.torn, done.complete) == (False, True)


@by_format
def test_escaped_blocks_get_their_magic_back(form):
    log = Log(**form)
    log.transaction({5: JBD2_MAGIC_BYTES + b"and more", 6: JBD2_MAGIC_BYTES, 7: b"plain"})
    assert shown(log) == {5: JBD2_MAGIC_BYTES + b"and more", 6: JBD2_MAGIC_BYTES, 7: b"plain"}
    assert replay(log.journal()).escaped == 2


@by_format
@pytest.mark.parametrize("uuid_each", [False, True], ids=["one-uuid", "uuid-each"])
def test_tags_over_several_descriptors(form, uuid_each):
    log = Log(blocks=256, **form)
    contents = {100 + number: b"block %d" % number for number in range(70)}
    log.transaction(contents, per_descriptor=23, uuid_each=uuid_each)
    assert shown(log) == contents


def test_a_full_descriptor_needs_no_last_tag():
    """The tags end where the next would not fit, with the block's checksum after them."""
    log = Log(blocks=512, incompat=V3 | WIDE)
    contents = {number: b"%d" % number for number in range(1, 62)}  # (1024 - 12 - 4 - 16) / 16 = 62 tags
    log.transaction(contents)
    log.transaction({1: b"next"})
    assert shown(log) == contents | {1: b"next"}


@pytest.mark.parametrize("incompat", [WIDE, V2 | WIDE, V3 | WIDE])
def test_block_numbers_of_64_bits(incompat):
    log = Log(incompat=incompat)
    log.transaction({(3 << 32) + 5: b"far"}, revoked=[(3 << 32) + 6])
    assert shown(log) == {(3 << 32) + 5: b"far"}


def test_the_deleted_flag_means_nothing():
    log = Log()
    log.transaction({5: b"five"}, flags=JBD2_FLAG_DELETED)
    assert shown(log) == {5: b"five"}


@by_format
def test_a_revoke_silences_its_own_and_all_earlier_transactions(form):
    log = Log(**form)
    log.transaction({5: b"old", 6: b"old", 7: b"kept"})
    log.transaction({5: b"same"}, revoked=[5, 6])
    log.transaction({6: b"again"})
    assert shown(log) == {6: b"again", 7: b"kept"}
    done = replay(log.journal())
    assert (done.revoke_records, done.revoked) == (2, 3)


def test_revokes_count_though_the_feature_is_not_set():
    log = Log(incompat=0)
    log.transaction({5: b"old"})
    log.transaction({6: b"new"}, revoked=[5])
    assert shown(log) == {6: b"new"}


def test_the_latest_revoke_counts():
    log = Log(incompat=REVOKE)
    log.transaction({5: b"one"}, revoked=[5])
    log.transaction({5: b"two"})
    log.transaction({6: b"x"}, revoked=[5])
    log.transaction({5: b"three"})
    log.transaction({7: b"y"})
    assert shown(log) == {5: b"three", 6: b"x", 7: b"y"}


def test_revokes_of_an_uncommitted_transaction_do_not_count():
    log = Log(incompat=REVOKE)
    log.transaction({5: b"five"})
    log.transaction({6: b"six"}, revoked=[5], committed=False)
    assert shown(log) == {5: b"five"}
    assert replay(log.journal()).torn


@by_format
def test_the_log_runs_over_its_end(form):
    log = Log(blocks=20, first=3, start=12, **form)
    contents: dict[int, bytes] = {}
    for number in range(3):
        logged = {10 * number + place: b"%d/%d" % (number, place) for place in range(1, 4)}
        log.transaction(logged)
        contents |= logged
    assert log.at < 12
    assert shown(log) == contents


@pytest.mark.parametrize("form", [{}, {"incompat": V3 | WIDE}], ids=["plain", "checksum-v3"])
def test_sequence_numbers_run_over_2_to_the_32(form):
    log = Log(sequence=0xFFFFFFFE, **form)
    log.transaction({5: b"old", 6: b"old"})
    log.transaction({7: b"seven"}, revoked=[6])
    log.transaction({8: b"eight"}, revoked=[5])  # number 0
    log.transaction({6: b"new"})
    assert shown(log) == {6: b"new", 7: b"seven", 8: b"eight"}
    assert replay(log.journal()).end_sequence == 2


def test_order_of_sequence_numbers():
    """Kernel: tid_gt, by the sign of the difference."""
    assert follows(1, 0)
    assert follows(0, 0xFFFFFFFF)
    assert follows(0x7FFFFFFF, 0)
    assert not follows(0, 0)
    assert not follows(0x80000000, 0)
    assert not follows(0, 1)


def test_nothing_is_replayed_of_an_empty_log():
    log = Log(start=0)
    log.at = 1
    log.transaction({5: b"stale"})
    done = replay(log.journal())
    assert len(done.overlay) == 0
    assert done.transactions == 0


@by_format
def test_a_transaction_without_its_commit_block_is_left_out(form):
    log = Log(**form)
    log.transaction({5: b"five"})
    log.transaction({5: b"torn", 6: b"torn"}, committed=False)
    assert shown(log) == {5: b"five"}
    done = replay(log.journal())
    assert done.torn
    assert done.complete
    assert done.end_sequence == 11


@by_format
def test_the_log_ends_at_another_sequence_number(form):
    """What an earlier lap left behind, with older numbers, is the end."""
    log = Log(**form)
    log.transaction({5: b"five"})
    log.sequence = 3
    log.transaction({5: b"stale"})
    assert shown(log) == {5: b"five"}
    assert replay(log.journal()).complete


# Checksums


def test_crc32_of_a_transaction_is_the_unreflected_one():
    """CRC-32/MPEG-2 of the CRC catalogue (reveng), check value of "123456789"."""
    crc = journal_checksum.TransactionCrc32()
    crc.add(b"1234")
    crc.add(b"56789")
    assert crc.value == 0x0376E6E7


@pytest.mark.parametrize("incompat", [V2, V2 | WIDE, V3, V3 | WIDE])
def test_a_damaged_block_leaves_its_older_version(incompat):
    log = Log(incompat=incompat)
    log.transaction({5: b"older", 6: b"six"})
    where = log.transaction({5: b"newer", 7: b"seven"})
    log.transaction({8: b"eight"})
    log.blocks[where[5]][100] ^= 1
    done, reasons = reported(log)
    assert {pblk: block.rstrip(b"\0") for pblk, block in done.overlay.items()} == {
        5: b"older",
        6: b"six",
        7: b"seven",
        8: b"eight",
    }
    assert len(reasons) == 1
    with pytest.raises(ChecksumError, match="block 5"):
        shown(log)


@pytest.mark.parametrize("incompat", [V2, V3 | WIDE])
@pytest.mark.parametrize("kind", ["descriptor", "revoke"])
def test_a_damaged_descriptor_or_revoke_block_is_no_clean_end(incompat, kind):
    log = Log(incompat=incompat | REVOKE)
    log.transaction({5: b"five"})
    at = log.at
    log.transaction({5: b"newer", 6: b"six"}, revoked=[7])
    log.blocks[at if kind == "descriptor" else at + 3][-1] ^= 1
    log.transaction({8: b"eight"})
    done, reasons = reported(log)
    assert set(done.overlay) == {5}
    assert done.end_sequence == 11
    assert "checksum" in reasons[0]


def test_a_damaged_descriptor_that_is_older_than_the_log_is_its_end():
    """Blocks of an earlier life of the journal can carry the number that is expected next."""
    log = Log(incompat=V3)
    log.transaction({5: b"five"})
    log.time = 1
    at = log.at
    log.transaction({5: b"stale"})
    log.blocks[at][-1] ^= 1
    assert shown(log) == {5: b"five"}
    assert replay(log.journal()).complete


def test_a_damaged_descriptor_without_a_commit_block_is_told_and_not_raised():
    log = Log(incompat=V3)
    log.transaction({5: b"five"})
    at = log.at
    log.transaction({5: b"torn"}, committed=False)
    log.blocks[at][-1] ^= 1
    problems = Problems("strict")
    journal = log.journal()
    done = replay_journal(journal, read_journal_superblock(journal, problems), VOLUME_BLOCKS, problems)
    assert set(done.overlay) == {5}
    assert done.complete
    assert "after the last transaction" in problems[0].reason


@pytest.mark.parametrize("form", [{"compat": V1}, {"incompat": V2}, {"incompat": V3 | WIDE}])
def test_a_damaged_commit_block_ends_the_replay_and_is_told(form):
    log = Log(**form)
    log.transaction({5: b"five"})
    log.transaction({5: b"newer"}, committed=False)
    log.commit(h_chksum_0=0x12345678)
    log.transaction({6: b"six"})
    done, reasons = reported(log)
    assert set(done.overlay) == {5}
    assert done.overlay[5].rstrip(b"\0") == b"five"
    assert "transaction 11 checksum" in reasons[0]


def test_checksum_v1_sees_damaged_data():
    log = Log(compat=V1)
    log.transaction({5: b"five"})
    where = log.transaction({6: b"six"})
    log.blocks[where[6]][7] ^= 1
    done, _ = reported(log)
    assert set(done.overlay) == {5}


def test_checksum_v1_may_be_absent():
    """A commit block with neither type, size nor sum was written before the feature came on."""
    log = Log(compat=V1)
    log.transaction({5: b"five"}, committed=False)
    log.commit(h_chksum_type=0, h_chksum_size=0, h_chksum_0=0)
    assert shown(log) == {5: b"five"}


@pytest.mark.parametrize("incompat", [V2, V3])
def test_a_commit_block_of_which_only_the_first_sector_was_written(incompat):
    """Kernel: jbd2_commit_block_csum_verify_partial."""
    log = Log(incompat=incompat)
    at = log.at + 2
    log.transaction({5: b"five"})
    log.blocks[at][512:] = b"\xa5" * 512
    assert shown(log) == {5: b"five"}


@pytest.mark.parametrize("form", [{"compat": V1, "incompat": ASYNC}, {"incompat": V3 | ASYNC}])
def test_async_commit_interrupted(form):
    """The last commit block may reach the disk before its transaction does: no damage."""
    log = Log(**form)
    log.transaction({5: b"five"})
    log.transaction({5: b"newer"}, committed=False)
    log.commit(h_chksum_0=0x12345678)
    done = replay(log.journal())
    assert done.overlay[5].rstrip(b"\0") == b"five"
    assert done.complete
    assert done.torn


@pytest.mark.parametrize("form", [{"compat": V1, "incompat": ASYNC}, {"incompat": V3 | ASYNC}])
def test_async_commit_damaged(form):
    """With another commit behind it, it is one."""
    log = Log(**form)
    log.transaction({5: b"five"})
    log.transaction({5: b"newer"}, committed=False)
    log.commit(h_chksum_0=0x12345678)
    log.transaction({6: b"six"})
    done, _ = reported(log)
    assert set(done.overlay) == {5}


def test_checksums_are_not_looked_at_when_off():
    log = Log(incompat=V3)
    where = log.transaction({5: b"five"})
    log.blocks[where[5]][0] ^= 0xFF
    assert set(shown(log, "off")) == {5}


# What cannot be


def test_a_log_without_end():
    """Descriptors all round the ring: the kernel would go round for ever."""
    log = Log(blocks=32)
    for _ in range(31):
        log.put(log.header(1) + (9).to_bytes(4, "big") + bytes(2) + (2 | 8).to_bytes(2, "big"))
    done, reasons = reported(log)
    assert len(done.overlay) == 0
    assert "no end" in reasons[0]


def test_blocks_outside_the_volume_and_in_the_journal():
    log = Log()
    log.transaction({5: b"five", 100: b"outside", 7: b"the journal's own"})
    done, reasons = reported(log.journal(own=[7]), volume_blocks=100)
    assert set(done.overlay) == {5}
    assert len(reasons) == 2


def test_a_revoke_block_that_counts_too_far():
    log = Log(incompat=V3)
    log.transaction({5: b"five"})
    log.put(log.with_tail(log.header(5) + (0xFFFF).to_bytes(4, "big")))
    log.transaction({6: b"six"})
    done, reasons = reported(log)
    assert set(done.overlay) == {5, 6}
    assert "65535 bytes" in reasons[0]


def test_a_start_outside_the_journal():
    log = Log(blocks=16)
    log.change_superblock(s_start=1000)
    _, reasons = reported(log)
    assert "block 1000" in reasons[0]


@pytest.mark.parametrize("incompat", [0, V3])
def test_holes_and_unreadable_blocks_cost_what_is_in_them(incompat):
    log = Log(incompat=incompat)
    where = log.transaction({5: b"five", 6: b"six"})
    at = log.at
    log.transaction({7: b"seven"})
    journal = log.journal()
    journal.unreadable.add(at)
    done, _ = reported(journal)
    assert set(done.overlay) == {5, 6}
    journal.unreadable = {where[6]}
    if incompat:
        done, reasons = reported(journal)
        assert set(done.overlay) == {5, 7}
        assert "cannot be read" in reasons[0]
    journal.unreadable = set()
    journal.holes = {at}
    done, _ = reported(journal)
    assert set(done.overlay) == {5, 6}


# Cost


def test_reads_grow_with_the_log_and_not_with_its_square():
    """Neighbouring blocks are read together; each pass reads a descriptor once."""
    counts = []
    for transactions in (10, 20):
        log = Log(blocks=1024, incompat=V3)
        for number in range(transactions):
            log.transaction({100 * number + place: b"x" for place in range(1, 30)})
        journal = log.journal()
        replay(journal)
        counts.append(journal.reads)
    assert counts[1] <= 2 * counts[0] + 2
    assert counts[0] <= 10 * 5


def test_revoke_records_of_blocks_that_are_not_in_the_log_take_no_memory():
    log = Log(blocks=200, block_size=4096)
    log.transaction({5: b"five"})
    for number in range(150):
        log.revoke(range(1000 * number, 1000 * number + 1000))
    log.commit()
    problems = Problems("strict")
    journal = log.journal()
    done = replay_journal(journal, read_journal_superblock(journal, problems), VOLUME_BLOCKS, problems)
    assert done.revoke_records == 150_000
    assert len(done.overlay) == 0
