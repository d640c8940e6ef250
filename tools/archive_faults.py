"""What becomes of backups that are killed, cut and altered: counts, of which one must be 0.

    python -m tools.archive_faults IMAGE [--key HEX]... [--mutations 500] [--kills 200] [--seed 1]

An archive of IMAGE is mutated and restored; backup and restore are killed with SIGKILL at chosen
points. "wrong" counts files that have got a name of their own and are not what they ought to be,
archives that look whole and are not, and paths outside the target.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import ext4img
from ext4img import backup, restore, verify

BACKUP = """
import sys, ext4img
from ext4img import backup
step = lambda done, total: print(done, flush=True)
with ext4img.open(sys.argv[1]) as fs:
    backup(fs, sys.argv[2], progress=step)
"""
RESTORE = """
import sys
from ext4img import restore
step = lambda done, total: print(done, flush=True)
restore(sys.argv[1], sys.argv[2], keys=[bytes.fromhex(key) for key in sys.argv[3:]], progress=step)
"""
Digests = dict[bytes, bytes]


def digests(root: Path) -> Digests:
    """SHA-256 of the files below a directory, targets of symlinks, by their paths."""
    found: Digests = {}
    for folder, _, names in os.walk(os.fsencode(root)):
        for name in names:
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            data = b""
            if stat.S_ISREG(mode):
                with open(path, "rb") as file:
                    data = hashlib.file_digest(file, "sha256").digest()
            elif stat.S_ISLNK(mode):
                data = os.readlink(path)
            found[os.path.relpath(path, os.fsencode(root))] = data
    return found


def wrong_files(root: Path, truth: Digests) -> int:
    """How many files below `root` have a name of their own and are not what they ought to be."""
    if not root.exists():
        return 0
    found = {path: data for path, data in digests(root).items() if b".partial" not in path}
    return sum(truth.get(path) != data for path, data in found.items())


def mutated(data: bytes, chance: random.Random) -> tuple[str, bytes]:
    """The archive with one thing wrong, and what that is."""
    kind = chance.choice(["bit", "byte", "cut", "zeros", "swapped blocks", "inserted", "removed"])
    at = chance.randrange(len(data))
    block = at // 512 * 512
    if kind == "bit":
        return kind, data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
    if kind == "byte":
        return kind, data[:at] + bytes([(data[at] + chance.randrange(1, 256)) % 256]) + data[at + 1 :]
    if kind == "cut":
        return kind, data[:at]
    if kind == "zeros":
        length = chance.choice([1, 512, 4096, 65536])
        return kind, data[:at] + bytes(len(data[at : at + length])) + data[at + length :]
    if kind == "swapped blocks":
        other = chance.randrange(len(data) // 512) * 512
        first, second = sorted((block, other))
        parts = (data[:first], data[second : second + 512], data[first + 512 : second], data[first : first + 512])
        return kind, b"".join((*parts, data[second + 512 :]))
    if kind == "inserted":
        return kind, data[:block] + chance.randbytes(512) + data[block:]
    return kind, data[:block] + data[block + 512 :]


def mutate(
    archive: Path, truth: Digests, keys: list[bytes], count: int, chance: random.Random, room: Path
) -> Counter[str]:
    """Restore so many mutations of an archive; outcomes by name."""
    data = archive.read_bytes()
    outcomes: Counter[str] = Counter()
    for number in range(count):
        kind, altered = mutated(data, chance)
        if altered == data:
            outcomes["the same bytes"] += 1
            continue
        path, target = room / "mutated.tar", room / f"m{number}"
        path.write_bytes(altered)
        try:
            report = restore(path, target, keys=keys)
            outcome = "restored, as nothing that counts was hit" if report.complete else "left out and told"
            if digests(target) != truth and report.complete:
                outcome = "wrong"
        except ext4img.Ext4Error:
            outcome = "refused"
            try:
                if verify(path).intact:
                    outcome = "wrong"
            except ext4img.Ext4Error:
                pass
        if wrong_files(target, truth):
            outcome = "wrong"
            print(f"wrong: mutation {number} ({kind})", file=sys.stderr)
        outcomes[outcome] += 1
        shutil.rmtree(target, ignore_errors=True)
    return outcomes


def kill(script: str, arguments: list[str], after: int) -> bool:
    """Run a script and kill it when it has printed so many lines; whether it still ran then."""
    child = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout:
        for _ in range(after):
            if not child.stdout.readline():
                break
        child.send_signal(signal.SIGKILL)
    return child.wait() == -signal.SIGKILL


def kills(
    image: Path, archive: Path, truth: Digests, keys: list[bytes], count: int, chance: random.Random, room: Path
) -> Counter[str]:
    """Kill backups and restores at so many points; outcomes by name."""
    outcomes: Counter[str] = Counter()
    members = verify(archive).members
    for number in range(count):
        after = chance.randrange(members)
        if number % 2:
            target = room / f"k{number}.tar"
            killed = kill(BACKUP, [str(image), str(target)], after)
            if target.exists():
                outcome = "backup complete" if verify(target).intact else "wrong"
            else:
                outcome = "backup: nothing there" if killed else "wrong"
            for left in room.glob(".k*.partial"):
                left.unlink()
            target.unlink(missing_ok=True)
        else:
            target = room / f"k{number}"
            kill(RESTORE, [str(archive), str(target), *(key.hex() for key in keys)], after)
            wrong = wrong_files(target, truth)
            restore(archive, target, keys=keys, resume=True)
            outcome = "wrong" if wrong or digests(target) != truth else "restore: resumed to the end"
            shutil.rmtree(target)
        outcomes[outcome] += 1
    return outcomes


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--key", action="append", default=[], type=bytes.fromhex, help="a master key of a test image")
    parser.add_argument("--mutations", type=int, default=500)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="ext4img-faults-") as name:
        room = Path(name)
        archive = room / "archive.tar"
        with ext4img.open(options.image) as fs:
            backup(fs, archive)
        restore(archive, room / "truth", keys=options.key)
        truth = digests(room / "truth")
        found = mutate(archive, truth, options.key, options.mutations, chance, room)
        found += kills(options.image, archive, truth, options.key, options.kills, chance, room)
    for outcome, count in sorted(found.items()):
        print(f"{count:6} {outcome}")
    if found["wrong"]:
        raise SystemExit(f"{found['wrong']} were wrong")


if __name__ == "__main__":
    main()
