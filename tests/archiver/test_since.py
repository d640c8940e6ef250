"""Which files an incremental backup takes for unchanged, where their times say too little.

The kernel writes the images; its own view of a snapshot, or debugfs's, is what a backup must hold.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import ext4img
from ext4img import Archive
from ext4img.archive.digest_thread import sha256_hex
from ext4img.archive.incremental_base import IncrementalBase
from ext4img.archive.manifest import parse_member
from ext4img.archive.manifest_line import build_closing, build_line
from ext4img.archive.open_backup import open_backup
from ext4img.archiver.create import BackupReport
from ext4img.volume.last_write import last_write_s
from tools.loop_mount import loop_mounted, run, sync_mount
from tools.snapshots import KINDS, LAYOUTS, Kind, one_round

FIXED_S = 1_230_768_000  # E2FSPROGS_FAKE_TIME: every time that mke2fs writes


def image_of(path: Path, *options: str, size: str = "16M") -> Path:
    run("mke2fs", "-q", "-F", "-t", "ext4", *options, path, size)
    return path


def backed_up(image: Path, since: Path | None = None, **options: object) -> BackupReport:
    """A backup beside the image, of the same name."""
    with ext4img.open(image) as fs:
        return ext4img.backup(fs, image.with_suffix(".tar"), since=since, **options)  # type: ignore[arg-type]


def in_backup(image: Path, path: bytes) -> bytes:
    """A file's contents in the image's backup, read through its chain."""
    with open_backup(image.with_suffix(".tar")) as backup:  # type: ignore[attr-defined]
        return bytes(backup.member(path).read())


def by_kernel(image: Path, path: str) -> bytes:
    """A file's contents as the kernel shows them; a dirty journal is replayed on a copy."""
    copy = image.with_suffix(".copy")
    shutil.copyfile(image, copy)
    with loop_mounted(copy, "rw") as mount:
        return Path(mount, path).read_bytes()


def sync_another_file(mount: str) -> None:
    """Commit the log, and with it the times of all files."""
    with open(f"{mount}/other", "ab") as file:
        file.write(b"x")
        os.fsync(file.fileno())


def as_if_tomorrow(image: Path, *fields: str) -> None:
    """Set times of the superblock, and that of its last write, to the next day."""
    day = int(time.time()) + 86_400
    for field in (*fields, "wtime"):
        run("env", f"E2FSPROGS_FAKE_TIME={day}", "debugfs", "-w", "-R", f"ssv {field} @{day}", image)


def checked(image: Path) -> None:
    run("bash", "-c", 'e2fsck -fy "$0" || test $? -eq 1', image)
    as_if_tomorrow(image, "lastcheck")


def replayed(image: Path) -> None:
    """Without a check, so s_lastcheck stays as it is."""
    run("bash", "-c", 'e2fsck -p "$0" || test $? -eq 1', image)
    as_if_tomorrow(image)


def mounted_again(image: Path) -> None:
    with loop_mounted(image, "rw"):
        pass
    as_if_tomorrow(image, "mtime")


@pytest.mark.kernel
@pytest.mark.parametrize("repair", [None, checked, replayed, mounted_again])
@pytest.mark.parametrize("layout", [(), ("-I", "128"), ("-O", "fast_commit")])
def test_contents_that_reached_the_disk_after_their_time(
    layout: tuple[str, ...], repair: Callable[[Path], None] | None, tmp_path: Path
):
    """An overwrite in place; another file's fsync commits its time. The page is written after the snapshot."""
    live, sunday, monday = (tmp_path / f"{name}.img" for name in ("live", "sunday", "monday"))
    image_of(live, *layout, size="24M")
    with loop_mounted(live, "rw") as mount:
        for _ in range(20):  # another test's sync(2) can write the page too early
            Path(mount, "db").write_bytes(b"A" * 8192)
            sync_mount(mount)
            with open(f"{mount}/db", "r+b") as file:
                file.write(b"B" * 4096)
                file.flush()
                sync_another_file(mount)
                shutil.copyfile(live, sunday)
            if by_kernel(sunday, "db")[:1] == b"A":
                break
        else:
            pytest.fail("the page was always written too early to show anything")
        sync_mount(mount)
        shutil.copyfile(live, monday)
    assert by_kernel(monday, "db")[:1] == b"B"
    if repair is not None:  # the base then looks as if it had been unmounted, a day after the snapshot
        repair(sunday)
        assert last_write_of(sunday) > time.time() + 80_000
    backed_up(sunday)
    with ext4img.open(monday) as fs, IncrementalBase(sunday.with_suffix(".tar"), fs.superblock.uuid) as base:
        assert base.last_write_s is not None
        assert base.last_write_s <= time.time()
    report = backed_up(monday, sunday.with_suffix(".tar"), racy_window_s=3600)
    assert in_backup(monday, b"db") == by_kernel(monday, "db")
    assert report.times_may_lag, "Monday's image was taken while it was mounted"


@pytest.mark.kernel
def test_contents_that_reached_the_disk_before_their_time(tmp_path: Path):
    """An overwrite in place and fdatasync(2), which leaves the change time in memory: nothing on the disk tells."""
    live, sunday, monday = (tmp_path / f"{name}.img" for name in ("live", "sunday", "monday"))
    image_of(live)
    with loop_mounted(live, "rw") as mount:
        Path(mount, "db").write_bytes(b"A" * 8192)
        sync_mount(mount)
        time.sleep(2.1)
        sync_another_file(mount)
        shutil.copyfile(live, sunday)
        with open(f"{mount}/db", "r+b") as file:
            file.write(b"B" * 4096)
            file.flush()
            os.fdatasync(file.fileno())
            shutil.copyfile(live, monday)
    assert by_kernel(monday, "db")[:1] == b"B"
    backed_up(sunday)
    by_times = backed_up(monday, sunday.with_suffix(".tar"), racy_window_s=0)
    assert by_times.times_may_lag, "a difference that times cannot show must at least be announced"
    monday.with_suffix(".tar").unlink()
    by_contents = backed_up(monday, sunday.with_suffix(".tar"), racy_window_s=0, compare="contents")
    assert in_backup(monday, b"db") == by_kernel(monday, "db")
    assert not by_contents.times_may_lag


@pytest.mark.kernel
def test_attributes_that_changed_within_a_tick(tmp_path: Path):
    """Inodes of 128 bytes have whole seconds: a change of mode in the same second leaves the time as it was."""
    live, sunday, monday = (tmp_path / f"{name}.img" for name in ("live", "sunday", "monday"))
    image_of(live, "-I", "128")
    with loop_mounted(live, "rw") as mount:
        for _ in range(10):
            time.sleep(1 - time.time() % 1 + 0.01)  # a second begins
            Path(mount, "f").write_bytes(b"the same")
            os.chmod(f"{mount}/f", 0o600)
            before = os.stat(f"{mount}/f").st_ctime_ns
            sync_mount(mount)
            shutil.copyfile(live, sunday)
            os.chmod(f"{mount}/f", 0o644)
            os.setxattr(f"{mount}/f", "user.note", b"new")
            if os.stat(f"{mount}/f").st_ctime_ns // 10**9 == before // 10**9:
                break
        sync_mount(mount)
        shutil.copyfile(live, monday)
    backed_up(sunday)
    backed_up(monday, sunday.with_suffix(".tar"))
    with open_backup(monday.with_suffix(".tar")) as backup:  # type: ignore[attr-defined]
        entry = backup.member(b"f").entry
    assert (entry.mode & 0o777, entry.xattrs) == (0o644, {"user.note": b"new"})


@pytest.fixture
def three_files(tmp_path: Path) -> Path:
    """A directory that mke2fs copies."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("a", "b", "c"):
        (tree / name).write_bytes(name.encode() * 3000)
    return tree


def reproducible(path: Path, tree: Path, step_s: int) -> Path:
    """An image as a build makes it: the times, the UUID and the generations say nothing."""
    uuid = "ac16ea36-9e78-5adc-92ff-3e6fd0ccedcc"
    options = f"-q -t ext4 -F -O ^has_journal -U {uuid} -E hash_seed={uuid} -d"
    run("env", f"E2FSPROGS_FAKE_TIME={FIXED_S}", "mke2fs", *options.split(), tree, path, "8M")
    for number, name in enumerate(("a", "b", "c")):
        for field in ("atime", "ctime", "mtime", "crtime"):
            run("debugfs", "-w", "-R", f"sif /{name} {field} @{FIXED_S + number * step_s}", path)
    as_if_tomorrow(path)  # so that only the files' own times and generations can tell
    return path


@pytest.mark.kernel
def test_reproducible_images(three_files: Path, tmp_path: Path):
    old = reproducible(tmp_path / "old.img", three_files, step_s=1)
    (three_files / "a").write_bytes(b"A" * 3000)
    (three_files / "b").chmod(0o600)
    new = reproducible(tmp_path / "new.img", three_files, step_s=1)
    backed_up(old)
    report = backed_up(new, old.with_suffix(".tar"))
    for name in ("a", "b", "c"):
        assert in_backup(new, name.encode()) == run("debugfs", "-R", f"cat /{name}", new)
    with open_backup(new.with_suffix(".tar")) as backup:  # type: ignore[attr-defined]
        assert backup.member(b"b").entry.mode & 0o777 == 0o600
    assert (report.unchanged, report.reread) == (1, 1)  # c


@pytest.mark.kernel
def test_equal_times_with_generations(three_files: Path, tmp_path: Path):
    """Generations alone are not enough: a tool may give each file its own, the same in every build."""
    old = reproducible(tmp_path / "old.img", three_files, step_s=0)
    (three_files / "a").write_bytes(b"A" * 3000)
    new = reproducible(tmp_path / "new.img", three_files, step_s=0)
    for image in (old, new):
        for number, name in enumerate(("a", "b", "c"), 1):
            run("debugfs", "-w", "-R", f"sif /{name} generation {number}", image)
    backed_up(old)
    report = backed_up(new, old.with_suffix(".tar"))
    assert in_backup(new, b"a") == run("debugfs", "-R", "cat /a", new)
    assert (report.unchanged, report.reread) == (2, 2)


@pytest.fixture(scope="module")
def settled_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = image_of(tmp_path_factory.mktemp("settled") / "settled.img", "-O", "^metadata_csum")
    with loop_mounted(image, "rw") as mount:
        Path(mount, "one").write_bytes(b"1" * 5000)
        sync_mount(mount)
        time.sleep(0.1)  # another tick
        Path(mount, "two").write_bytes(b"2" * 5000)
        sync_mount(mount)
        time.sleep(2.1)
        Path(mount, "empty").touch()
    return image


@pytest.fixture
def settled(settled_once: Path, tmp_path: Path) -> Path:
    """An image that the kernel unmounted two seconds after it had written the contents of two files."""
    return Path(shutil.copyfile(settled_once, tmp_path / "settled.img"))


@pytest.mark.kernel
def test_settled_files_are_not_read_again(settled: Path, tmp_path: Path):
    backed_up(settled)
    again = tmp_path / "again.img"
    shutil.copyfile(settled, again)
    found = {}
    for window_s in (0, 1, 3600):
        report = backed_up(again, settled.with_suffix(".tar"), racy_window_s=window_s, overwrite=True)
        assert report.unchanged == 2
        assert not report.times_may_lag
        found[window_s] = report.reread
    assert found == {0: 0, 1: 0, 3600: 2}
    report = backed_up(again, settled.with_suffix(".tar"), racy_window_s=0, compare="contents", overwrite=True)
    assert (report.unchanged, report.reread) == (2, 2)


@pytest.mark.kernel
def test_a_time_that_nobody_knows(settled: Path, tmp_path: Path):
    with open(settled, "r+b") as file:
        for offset in (0x30, 0x274):  # s_wtime, s_wtime_hi
            file.seek(1024 + offset)
            file.write(bytes(4 if offset == 0x30 else 1))
    backed_up(settled)
    again = tmp_path / "again.img"
    shutil.copyfile(settled, again)
    assert backed_up(again, settled.with_suffix(".tar"), racy_window_s=0).reread == 2


@pytest.mark.kernel
def test_a_base_of_an_earlier_version(settled: Path, tmp_path: Path):
    """It has neither the time of the last write nor that of the access: its files are stored again."""
    backed_up(settled)
    manifest = tmp_path / "manifest.jsonl"
    with Archive(settled.with_suffix(".tar")) as archive:
        lines = [parse_member(raw)._replace(header_atime_ns=None) for raw in archive.raw_manifest()]
        assert archive.closing is not None
        closing = archive.closing._replace(last_write_s=None)
    raw = b"".join(map(build_line, lines))
    manifest.write_bytes(raw + build_closing(closing._replace(sha256=sha256_hex(raw))))
    again = tmp_path / "again.img"
    shutil.copyfile(settled, again)
    assert backed_up(again, manifest, racy_window_s=0).unchanged == 0


@pytest.mark.kernel
def test_when_it_was_last_written(settled: Path):
    """The unmount's time, as dumpe2fs shows it; after a repair, no later than the last change."""

    def known(last_change_s: int) -> int | None:
        with ext4img.open(settled) as fs:
            return last_write_s(fs.volume, last_change_s)

    unmounted_s = last_write_of(settled)
    assert known(unmounted_s) == unmounted_s
    mounted_again(settled)
    assert last_write_of(settled) > unmounted_s
    assert known(unmounted_s) == unmounted_s, "nothing changed since the mount: it may have been for a repair"
    assert known(last_write_of(settled) + 1) == last_write_of(settled), "changes after the mount"


@pytest.mark.kernel
def test_a_mount_before_the_clock_was_set(tmp_path: Path):
    """s_wtime of a file system in use is the mount's time; the log has the true one."""
    live, snapshot = tmp_path / "live.img", tmp_path / "snapshot.img"
    image_of(live, "-O", "^metadata_csum")
    with loop_mounted(live, "rw") as mount:
        before_s = int(time.time())
        sync_another_file(mount)
        shutil.copyfile(live, snapshot)
    # In the superblock and in its copies in the log.
    contents = snapshot.read_bytes()
    copies = [at for at in range(0, len(contents), 1024) if contents[at + 0x38 : at + 0x3A] == b"\x53\xef"]
    with open(snapshot, "r+b") as file:
        for at in copies:
            file.seek(at + 0x30)
            file.write((before_s + 86_400).to_bytes(4, "little"))
    assert last_write_of(snapshot) == before_s + 86_400
    with ext4img.open(snapshot) as fs:
        assert fs.superblock.write_time == before_s + 86_400
        found = last_write_s(fs.volume, before_s)
    assert found is not None
    assert before_s <= found <= time.time()


def last_write_of(image: Path) -> int:
    """ "Last write time" of dumpe2fs, in seconds since 1970."""
    lines = run("dumpe2fs", "-h", image).decode().splitlines()
    text = next(line.split(":", 1)[1] for line in lines if line.startswith("Last write time"))
    return int(run("date", "-u", "-d", text, "+%s"))


@pytest.mark.kernel
@pytest.mark.parametrize("kind", KINDS)
def test_chains_of_random_snapshots(kind: Kind):
    """One round of each kind; `python -m tools.snapshots` runs more."""
    findings = one_round(kind, "times", LAYOUTS[KINDS.index(kind) % 3], seed=7)
    assert [finding.different for finding in findings] == [0, 0, 0]
    assert findings[0].reread == 0
