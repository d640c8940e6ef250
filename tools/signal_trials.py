"""Signals at random moments: each command ends soon, with the signal's exit code, and leaves nothing half done.

    python -m tools.signal_trials [--seed NUMBER] [--rounds NUMBER] [COMMAND...]

For each command SIGINT and SIGTERM in turn come at random moments of a run, its start-up and its end
included. Judged are the exit code, the time until the process ends, standard error, and what is
there afterwards: nothing with a temporary name; what has its final name is complete, by the word of
`ext4img verify`, e2fsck or the sizes of the files. Needs mke2fs and e2fsck; no root.

A signal in the first milliseconds meets Python before any line of ext4img has run, and Python's own
manners; those runs are counted apart.
"""

from __future__ import annotations

import argparse
import lzma
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tools.loop_mount import SBIN

COMMAND = (sys.executable, "-m", "ext4img")
ENCRYPTED = Path(__file__).parent.parent / "tests" / "fixtures" / "sample-encrypted.img.xz"
LIMIT_SECONDS = 2.0
_TEMPORARY = (".partial", ".staging")
_PACKAGE_FILE = re.compile(rb"/ext4img/(?!__init__\.py|__main__\.py)")


class Trial(NamedTuple):
    """A command; `made` is the name of what it makes. `stdin`, `pipe`: a file through a pipe, output to a pipe."""

    arguments: tuple[str, ...]
    made: str | None = None
    stdin: str | None = None
    pipe: bool = False


TRIALS: dict[str, Trial] = {
    "backup": Trial(("backup", "a.img", "new.tar", "-q"), "new.tar"),
    "backup --compress": Trial(("backup", "a.img", "new.tar", "--compress", "zstd"), "new.tar"),
    "backup --since": Trial(("backup", "a.img", "new.tar", "--since", "a.tar"), "new.tar"),
    "backup --format dir": Trial(("backup", "a.img", "store", "--format", "dir"), "store"),
    "backup to a pipe": Trial(("backup", "a.img", "-"), None, None, True),
    "copy": Trial(("copy", "a.img", "new.img"), "new.img"),
    "extract": Trial(("extract", "a.img", "/", "out"), "out"),
    "restore": Trial(("restore", "a.tar", "out"), "out"),
    "restore from a stream": Trial(("restore", "-", "out"), "out", "a.tar"),
    "restore --image": Trial(("restore", "a.tar", "--image", "new.img"), "new.img"),
    "metadata --save": Trial(("metadata", "e.img", "/home/alice", "--save", "records"), "records"),
    "verify": Trial(("verify", "a.tar")),
    "check": Trial(("check", "a.img")),
    "find": Trial(("find", "a.img")),
}


def prepare(directory: Path, files: int = 1500, large: int = 24 << 20) -> None:
    """A sound image `a.img` with some files, its backup `a.tar`, and an encrypted image `e.img`."""
    (directory / "e.img").write_bytes(lzma.decompress(ENCRYPTED.read_bytes()))
    tree = directory / "tree"
    for number in range(files):
        path = tree / f"d{number % 40}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d\n" % number * (number % 2000))
    (tree / "large").write_bytes(os.urandom(1 << 20) * (large >> 20))
    mke2fs = shutil.which("mke2fs", path=f"{os.environ['PATH']}:{SBIN}") or "mke2fs"
    image = directory / "a.img"
    with open(image, "wb") as file:
        file.truncate(96 << 20)
    subprocess.run([mke2fs, "-q", "-t", "ext4", "-d", tree, "-F", image], check=True)
    shutil.rmtree(tree)
    subprocess.run([*COMMAND, "backup", "-q", image, directory / "a.tar"], check=True, stdout=subprocess.DEVNULL)


class Run(NamedTuple):
    """What came of a run: exit code (as a shell tells it), seconds from the signal to the end, messages."""

    code: int
    seconds: float
    said: bytes
    signal: int | None


def run(trial: Trial, directory: Path, number: int, after: float | None) -> Run:
    """Run the command in `directory`, and send it a signal after some seconds, if it still runs."""
    source = None
    if trial.stdin is not None:
        source = subprocess.Popen(["cat", trial.stdin], cwd=directory, stdout=subprocess.PIPE)
    process = subprocess.Popen(
        [*COMMAND, *trial.arguments],
        cwd=directory,
        stdin=source.stdout if source is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE if trial.pipe else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    if source is not None and source.stdout is not None:
        source.stdout.close()
    sink = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL) if trial.pipe else None
    if process.stdout is not None:
        process.stdout.close()
    sent: int | None = None
    if after is not None:
        try:
            process.wait(timeout=after)
        except subprocess.TimeoutExpired:
            sent = number
            process.send_signal(number)
    begun = time.monotonic()
    try:
        said = process.communicate(timeout=60)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        said = process.communicate()[1] + b"\n(did not end: killed)"
    seconds = time.monotonic() - begun
    for other in (source, sink):
        if other is not None:
            other.wait()
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    return Run(code, seconds, said, sent)


def faults(done: Run, trial: Trial, directory: Path) -> list[str]:
    """What is wrong with a run."""
    found = []
    if done.signal is None:
        if done.code:
            found.append(f"exit code {done.code} without a signal: {done.said!r}")
    else:
        if done.code != 128 + done.signal:
            found.append(f"exit code {done.code}")
        if done.seconds > LIMIT_SECONDS:
            found.append(f"ended after {done.seconds:.1f} s")
        if len(done.said.splitlines()) > 1 or b"Traceback" in done.said or b"ignored" in done.said:
            found.append(f"said {done.said.decode(errors='replace')}")
    found += [f"left {path.name}" for path in directory.rglob("*") if path.name.endswith(_TEMPORARY)]
    made = directory / trial.made if trial.made is not None else None
    if made is not None and made.exists() and not is_sound(made, directory, done.signal is None):
        found.append(f"{made.name} is not what it should be")
    return found


def is_sound(made: Path, directory: Path, finished: bool) -> bool:
    """Whether what was made is complete; files that were written to a directory each are."""
    if made.suffix == ".img":
        e2fsck = shutil.which("e2fsck", path=f"{os.environ['PATH']}:{SBIN}") or "e2fsck"
        return not subprocess.run([e2fsck, "-fn", made], capture_output=True, check=False).returncode
    if made.name == "out":
        return all(
            path.stat().st_size == len(b"%d\n" % int(path.name[1:])) * (int(path.name[1:]) % 2000)
            for path in made.glob("d*/f*")
        )
    if made.name == "records":
        return bool((made / "metadata.e5").stat().st_size)
    return not subprocess.run(
        [*COMMAND, "verify", "-q", made], cwd=directory, capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    ).returncode  # fmt: skip


def is_early(said: bytes) -> bool:
    """Whether Python's own manners ended it: in silence, or with a traceback from before the first import of ours."""
    return not said or (b"Traceback" in said and _PACKAGE_FILE.search(said) is None)


def clear(directory: Path) -> None:
    """Remove everything that `prepare` did not make."""
    for path in directory.iterdir():
        if path.name not in ("a.img", "a.tar", "e.img"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def one_round(trial: Trial, directory: Path, number: int, after: float) -> tuple[Run, list[str], bool]:
    """A run with a signal, its faults, and whether the signal came before ext4img had begun."""
    done = run(trial, directory, number, after)
    found = faults(done, trial, directory)
    clear(directory)
    early = done.signal is not None and is_early(done.said)
    return done, [] if early else found, early


def trials(names: list[str], seed: int, rounds: int, report: Callable[[str], None]) -> int:
    """All rounds of these trials; how many had faults."""
    randomly = random.Random(seed)
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        prepare(directory)
        for trial_name in names:
            trial = TRIALS[trial_name]
            begun = time.monotonic()
            undisturbed = run(trial, directory, 0, None)
            whole = time.monotonic() - begun
            assert not faults(undisturbed, trial, directory)
            clear(directory)
            counts: Counter[str] = Counter()
            slowest = 0.0
            for number in range(rounds):
                after = randomly.uniform(0.0, whole * 1.1)
                which = (signal.SIGINT, signal.SIGTERM)[number % 2]
                done, found, early = one_round(trial, directory, which, after)
                counts["early" if early else "ended before" if done.signal is None else "interrupted"] += 1
                slowest = max(slowest, done.seconds if done.signal is not None else 0.0)
                if found:
                    wrong += 1
                    report(f"  {trial_name}: {which.name} after {after:.3f} s: {'; '.join(found)}")
            told = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
            report(f"{trial_name:24} {rounds} rounds ({told}), slowest end {slowest:.2f} s")
    return wrong


def main() -> int:
    """See the module's text; 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tools.signal_trials", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("commands", nargs="*", help=f"of: {', '.join(TRIALS)}")
    options = parser.parse_args()
    print(f"signal trials: SEED={options.seed}", flush=True)
    wrong = trials(options.commands or list(TRIALS), options.seed, options.rounds, lambda line: print(line, flush=True))
    print(f"{wrong} runs with faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
