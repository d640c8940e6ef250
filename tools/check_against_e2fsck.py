"""`ext4img check` against e2fsck: `python -m tools.check_against_e2fsck DIR`.

Every image below DIR (raw, .gz, .bz2, .xz or .zst) is unpacked and judged by `e2fsck -fn` and by
`ext4img check`. e2fsck does not replay the journal when it may not write, and ext4img does, in
memory; so e2fsck judges a copy with a replayed journal, too. With --repaired, what `e2fsck -fy`
makes of an image is judged again, if e2fsck is content with it.

An alarm is an image that check calls damaged although e2fsck exits with 0, before or after replay.
A miss is one that check calls sound although e2fsck finds damage, before and after replay. Both are
printed with the other's words, numbers left out, so that they can be counted by kind.

The exit code is 1 if there is an alarm.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tools import debugfs
from tools.foreign_images import find_images, unpack

SOUND, DAMAGED, ALARM, MISS, UNJUDGED = "sound to both", "damaged to both", "alarm", "miss", "not judged"
SECONDS = 60.0
E2FSCK_FAILED = 8  # and more: it could not judge
_WORKERS = 2
_FAILED = subprocess.CompletedProcess((), 1, "", "")
_CHATTER = re.compile(
    r"^(e2fsck |Pass \d|Warning: skipping|(Fix|Clear|Optimize)\? no$|\s*$|.*\*{5}|.*\d+/\d+ files|.*IGNORED)"
)


class Verdict(NamedTuple):
    """What the two say of one image, in kinds: their words without numbers and names."""

    name: str
    verdict: str
    check_kinds: list[str]
    e2fsck_kinds: list[str]


def judge(image: Path, name: str, work: Path, e2fsck: str) -> Verdict:
    """Both judgements of an unpacked image, which stays as it is."""
    status, found = run_e2fsck(image, e2fsck)
    replayed = work / f"{image.name}-replayed"
    copy_sparse(image, replayed)
    _run(e2fsck, "-y", "-E", "journal_only", replayed)
    if _has_orphans(replayed):
        _run(e2fsck, "-p", replayed)
    status_replayed, found_replayed = run_e2fsck(replayed, e2fsck)
    replayed.unlink()
    problems = run_check(image)
    if problems is None:
        return Verdict(name, UNJUDGED, ["check did not end"], found_replayed)
    if problems:
        verdict = DAMAGED if status else ALARM
    else:
        verdict = MISS if status and status_replayed else SOUND
    return Verdict(name, verdict, kinds(problems), found_replayed if status_replayed else found)


def _has_orphans(image: Path) -> bool:
    if (_run("dumpe2fs", "-h", image) or _FAILED).returncode:
        return False
    return debugfs.superblock_facts(image).has_orphans


def run_e2fsck(image: Path, e2fsck: str = "e2fsck") -> tuple[int, list[str]]:
    """Its exit code, and its words by kind."""
    done = _run(e2fsck, "-f", "-n", image)
    if done is None:
        return E2FSCK_FAILED, ["did not end"]
    lines = [line.replace(str(image), "IMAGE") for line in (done.stderr + done.stdout).splitlines()]
    return done.returncode, kinds(line for line in lines if not _CHATTER.match(line)) or kinds(lines[-1:])


def run_check(image: Path) -> list[str] | None:
    """The problems that `ext4img check` reports, without remarks; None if it does not end or breaks."""
    done = _run(sys.executable, "-m", "ext4img", "check", "--quiet", "--json", image)
    if done is None or "Traceback" in done.stderr:
        return None
    if done.returncode and not done.stdout:
        return [done.stderr.removeprefix(f"ext4img check: {image}: ")]
    records: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    problems = [record["reason"] for record in records if record["kind"] == "problem"]
    return problems or (["exit code without a problem"] if done.returncode else [])


def kinds(lines: Any) -> list[str]:
    """Lines without their numbers and names, each once."""
    shortened = (re.sub(r"'[^']*'|\([^)]*\)", "", line) for line in lines)
    return list(dict.fromkeys(re.sub(r"0x[0-9a-f]+|[-+]?\d+", "#", line).strip()[:110] for line in shortened))


def verdicts(path: Path, name: str, repaired: bool, e2fsck: str) -> list[Verdict]:
    """The verdict on a packed image; and on what e2fsck makes of it."""
    with tempfile.TemporaryDirectory(prefix="judge-") as directory:
        work = Path(directory)
        raw = work / "image"
        try:
            unpack(path, raw)
        except (OSError, EOFError, ValueError) as error:
            return [Verdict(name, UNJUDGED, [str(error)], [])]
        found = [judge(raw, name, work, e2fsck)]
        if repaired:
            for _ in range(2):
                _run(e2fsck, "-f", "-y", raw)
            if run_e2fsck(raw, e2fsck)[0] == 0:
                found.append(judge(raw, f"{name} repaired", work, e2fsck))
        return found


def copy_sparse(source: Path, target: Path) -> None:
    """Copy an image; its holes stay holes."""
    done = _run("cp", "--sparse=always", source, target)
    if done is None or done.returncode:
        shutil.copyfile(source, target)


def _run(*command: object) -> subprocess.CompletedProcess[str] | None:
    words = [str(word) for word in command]
    try:
        return subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return None


def _all(directory: Path, repaired: bool, e2fsck: str) -> Iterator[Verdict]:
    images = [(path, str(path.relative_to(directory))) for path in find_images(directory)]
    with ThreadPoolExecutor(_WORKERS) as pool:
        for found in pool.map(lambda job: verdicts(job[0], job[1], repaired, e2fsck), images):
            yield from found


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="python -m tools.check_against_e2fsck", description=__doc__.split("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--repaired", action="store_true", help="also judge what e2fsck -fy makes of each image")
    parser.add_argument("--e2fsck", default="e2fsck", help="the e2fsck that judges")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for verdict in _all(options.directory, options.repaired, options.e2fsck):
        counts[verdict.verdict] += 1
        words = {ALARM: verdict.check_kinds, MISS: verdict.e2fsck_kinds, UNJUDGED: verdict.check_kinds}
        shown = words.get(verdict.verdict, [])
        if verdict.verdict == ALARM:
            shown = [*shown, *(f"e2fsck: {line}" for line in verdict.e2fsck_kinds)]
        if verdict.verdict == MISS:
            missed[verdict.e2fsck_kinds[0] if verdict.e2fsck_kinds else "?"] += 1
        if shown or verdict.verdict in words:
            print(f"{verdict.verdict}: {verdict.name}", flush=True)
            for line in shown[:6]:
                print(f"    {line}")
    print()
    for kind, count in missed.most_common():
        print(f"{count:4} missed: {kind}")
    print(", ".join(f"{counts[verdict]} {verdict}" for verdict in (SOUND, DAMAGED, ALARM, MISS, UNJUDGED)))
    return 1 if counts[ALARM] else 0


if __name__ == "__main__":
    sys.exit(main())
