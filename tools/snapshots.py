"""Snapshots of a file system that random writers change, for incremental backups. Needs root and loop mounts.

    python -m tools.snapshots [--seed NUMBER] [--rounds NUMBER] [--racy-window SECONDS]

Each round makes a file system, changes it at random and takes three snapshots of one kind, one of
them while pages are dirty. A full and two incremental backups of them are read back as chains and
compared with the snapshots. A difference is a finding; with `--racy-window 0` there must be some.

Kinds: `unmounted` (a copy after umount), `frozen` (while fsfreeze holds it), `crash` (a copy of the
backing file while it is in use, as a power cut or a cloud disk leaves it), `checked` and `mounted` (the
same, then repaired by e2fsck or by a mount).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import mmap
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

import ext4img
from ext4img.archiver.create import RACY_WINDOW_S, Compare
from ext4img.comparison.compare import compare
from tools.loop_mount import loop_mounted, run, sync_mount

Kind = Literal["unmounted", "frozen", "crash", "checked", "mounted"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
LAYOUTS: Final = (
    ("-b", "4096"),
    ("-b", "1024", "-I", "128"),
    ("-b", "4096", "-O", "fast_commit"),
    ("-b", "4096", "-O", "^has_journal"),
)
_SNAPSHOTS: Final = 3
_FILES: Final = 30
_STEPS: Final = 40
_SYNC_FILE_RANGE_ALL: Final = 7  # wait before, write, wait after
_FIFREEZE: Final = 0xC0045877
_FITHAW: Final = 0xC0045878


class Finding(NamedTuple):
    """One comparison of a chain with its snapshot: paths that differ, and unchanged files that were read again."""

    different: int
    reread: int


class _Writers:
    """Changes the files below `root` at random, in every way that a program can."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self.root = root
        self._chance = chance
        for number in range(_FILES):
            (root / f"f{number}").write_bytes(self._chance.randbytes(self._chance.choice((0, 40, 5000, 70_000))))
        self._library = ctypes.CDLL(None, use_errno=True)

    def work(self) -> None:
        """Some steps."""
        steps = [
            self._overwrite, self._overwrite, self._overwrite_and_write_back, self._overwrite_direct, self._map,
            self._append, self._truncate, self._attributes, self._rename, self._link, self._new, self._sync_another,
        ]  # fmt: skip
        for _ in range(_STEPS):
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                self._chance.choice(steps)(self.root / f"f{self._chance.randrange(_FILES)}")

    def _overwrite(self, path: Path) -> None:
        """In place and not synced: the page reaches the disk long after the change time."""
        with open(path, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(self._chance.randrange(size + 1))
            file.write(self._chance.randbytes(min(size, 100)))

    def _overwrite_and_write_back(self, path: Path) -> None:
        """In place; the page reaches the disk at once, long before the change time."""
        self._overwrite(path)
        with open(path, "r+b") as file:
            if self._chance.random() < 0.5:
                os.fdatasync(file.fileno())
            else:
                self._library.sync_file_range(file.fileno(), ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_ALL)

    def _overwrite_direct(self, path: Path) -> None:
        with mmap.mmap(-1, 4096) as page:  # aligned as O_DIRECT needs it
            page.write(self._chance.randbytes(4096))
            fd = os.open(path, os.O_RDWR | os.O_DIRECT)
            try:
                os.pwrite(fd, page, 0)
            finally:
                os.close(fd)

    def _map(self, path: Path) -> None:
        with open(path, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            if size:
                with mmap.mmap(file.fileno(), size) as pages:
                    pages[self._chance.randrange(size)] = self._chance.randrange(256)

    def _append(self, path: Path) -> None:
        with open(path, "ab") as file:
            file.write(self._chance.randbytes(3000))

    def _truncate(self, path: Path) -> None:
        os.truncate(path, self._chance.randrange(20_000))

    def _attributes(self, path: Path) -> None:
        path.chmod(self._chance.choice((0o600, 0o644, 0o755)))
        os.setxattr(path, "user.note", self._chance.randbytes(20))

    def _rename(self, path: Path) -> None:
        path.rename(self.root / f"f{self._chance.randrange(_FILES)}")

    def _link(self, path: Path) -> None:
        os.link(path, self.root / f"f{self._chance.randrange(_FILES)}")

    def _new(self, path: Path) -> None:
        path.write_bytes(self._chance.randbytes(self._chance.randrange(9000)))

    def _sync_another(self, path: Path) -> None:
        """Commits the log, and with it the change times of other files."""
        with open(self.root / "log", "ab") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())


def snapshots(directory: Path, kind: Kind, layout: tuple[str, ...], chance: random.Random) -> Iterator[Path]:
    """Three snapshots, taken while random writers change the file system."""
    live = directory / "live.img"
    with open(live, "wb") as file:
        file.truncate(24 << 20)
    run("mke2fs", "-q", "-F", "-t", "ext4", *layout, live)
    writers = None
    with contextlib.ExitStack() as mounted:
        mount = mounted.enter_context(loop_mounted(live, "rw"))
        for number in range(_SNAPSHOTS):
            if writers is None:
                writers = _Writers(Path(mount), chance)
                sync_mount(mount)
            writers.work()
            snapshot = directory / f"{number}.img"
            if kind == "unmounted":
                mounted.close()
                shutil.copyfile(live, snapshot)
                mount = mounted.enter_context(loop_mounted(live, "rw"))
                writers.root = Path(mount)
            elif kind == "frozen":
                with _frozen(mount):
                    shutil.copyfile(live, snapshot)
            else:
                shutil.copyfile(live, snapshot)
                if kind == "checked":
                    with contextlib.suppress(Exception):  # 1 means that it repaired something
                        run("e2fsck", "-fy", snapshot)
                elif kind == "mounted":
                    with loop_mounted(snapshot, "rw"):
                        pass
            if chance.random() < 0.5:
                sync_mount(mount)  # before the next changes, or not
            yield snapshot


@contextlib.contextmanager
def _frozen(mount: str) -> Iterator[None]:
    fd = os.open(mount, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _FIFREEZE, 0)
        try:
            yield
        finally:
            fcntl.ioctl(fd, _FITHAW, 0)
    finally:
        os.close(fd)


def one_round(
    kind: Kind, how: Compare, layout: tuple[str, ...], seed: int, window_s: int = RACY_WINDOW_S
) -> list[Finding]:
    """Back up three snapshots, each since the one before, and compare each chain with its snapshot."""
    findings = []
    with tempfile.TemporaryDirectory(prefix="ext4img-snapshots-") as name:
        directory = Path(name)
        before: Path | None = None
        for snapshot in snapshots(directory, kind, layout, random.Random(seed)):
            archive = snapshot.with_suffix(".tar")
            with ext4img.open(snapshot) as fs:
                report = ext4img.backup(fs, archive, since=before, compare=how, racy_window_s=window_s)
                findings.append(Finding(compare(archive, fs).different, report.reread))
            before = archive
    return findings


def main() -> int:
    """See the module's text; 1 for a difference."""
    parser = argparse.ArgumentParser(prog="python -m tools.snapshots", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=int(time.time()), help="(the time)")
    parser.add_argument("--rounds", type=int, default=20, help="of each kind and way of comparing (20)")
    parser.add_argument("--racy-window", type=int, default=RACY_WINDOW_S, help=f"in seconds ({RACY_WINDOW_S})")
    options = parser.parse_args()
    different = 0
    print(f"snapshots: SEED={options.seed} ROUNDS={options.rounds}")
    for kind in KINDS:
        for how in get_args(Compare):
            counts: Counter[str] = Counter()
            # Without a journal, a copy of a file system in use has no consistent metadata.
            layouts = [layout for layout in LAYOUTS if kind in ("unmounted", "frozen") or "^has_journal" not in layout]
            for number in range(options.rounds):
                layout = layouts[number % len(layouts)]
                for finding in one_round(kind, how, layout, options.seed + number, options.racy_window):
                    counts["chains"] += 1
                    counts["read again"] += finding.reread
                    counts["different"] += finding.different
            different += counts["different"]
            print(
                f"{kind:10} {how:9} {counts['chains']} chains, {counts['read again']} files read again,"
                f" {counts['different']} paths differ",
                flush=True,
            )
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
